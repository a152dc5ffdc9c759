"""Lets ``import fal`` in a user's file resolve to polyrank."""


def installed() -> bool:
    """Whether the aliases are in place."""
    return False


def install() -> None:
    """Puts the aliases in place."""

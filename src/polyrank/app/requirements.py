"""Whether this environment has what an app asks for."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement


def differences(requirements: list[str] | list[list[str]]) -> list[str]:
    """A line for every requirement that this environment does not meet; empty when all are.

    Option lines such as ``--extra-index-url`` and what follows them are not requirements; ``fal``
    and ``polyrank`` are met by polyrank.
    """
    lines = [
        line for layer in requirements for line in ([layer] if isinstance(layer, str) else layer)
    ]
    found = []
    after_option = False
    for line in lines:
        if line.startswith("-"):
            after_option = "=" not in line and " " not in line
            continue
        if after_option:
            after_option = False
            continue
        difference = _difference(line)
        if difference is not None:
            found.append(difference)
    return found


def _difference(line: str) -> str | None:
    try:
        wanted = Requirement(line)
    except InvalidRequirement:
        return f"{line}: not a requirement that can be checked here"
    if wanted.name in ("fal", "polyrank") or (wanted.marker and not wanted.marker.evaluate()):
        return None
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{line}: not installed"
    if wanted.specifier.contains(version, prereleases=True):
        return None
    return f"{line}: {version} is installed"

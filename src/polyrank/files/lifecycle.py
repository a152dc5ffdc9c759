"""A caller's wishes for a file: how long it is kept, and who may have it."""

from __future__ import annotations

import time
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polyrank.errors import InvalidInput

Decision = Literal["allow", "forbid", "hide"]
HEADERS = ("x-fal-object-lifecycle-preference", "x-fal-object-lifecycle")
LONGEST_S = 100 * 365 * 24 * 3600


class Rule(BaseModel):
    """What one user may."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    user: str = Field(max_length=256)
    decision: Decision


class Acl(BaseModel):
    """Who may have a file besides its owner: the rule of the user, else the default."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    default: Decision = "forbid"
    rules: tuple[Rule, ...] = Field(default=(), max_length=100)

    def decide(self, user: str | None) -> Decision:
        """What ``user`` may; None is somebody unknown."""
        return next((rule.decision for rule in self.rules if rule.user == user), self.default)


class Lifecycle(BaseModel):
    """The header ``X-Fal-Object-Lifecycle-Preference``: without wishes, a file is kept for good
    and its URL, which nobody can guess, is all that it takes to have it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    expiration_duration_seconds: float | None = Field(default=None, ge=0, le=LONGEST_S)
    initial_acl: Acl | None = None

    @property
    def lifetime_s(self) -> float | None:
        """How long the file is kept; None for good, which a duration of 0 means too."""
        return self.expiration_duration_seconds or None

    def ends_at(self, now: float | None = None) -> float | None:
        """When the file's life is over if it begins now."""
        if self.lifetime_s is None:
            return None
        return (time.time() if now is None else now) + self.lifetime_s


def parse(text: str | None) -> Lifecycle:
    """The wishes in the header's JSON. Raises InvalidInput if they cannot be understood."""
    if not text:
        return Lifecycle()
    try:
        return Lifecycle.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(
            f"X-Fal-Object-Lifecycle-Preference cannot be used: {where or 'JSON'}: {first['msg']}"
        ) from None

"""How long an uploaded file is kept, and who may read it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from polyrank.client.errors import ClientError

Expiration: TypeAlias = Literal["never", "immediate", "1h", "1d", "7d", "30d", "1y"] | int
Decision: TypeAlias = Literal["allow", "forbid", "hide"]

DAY_S = 86_400
SECONDS = {
    "never": None,
    "immediate": 60,
    "1h": 3600,
    "1d": DAY_S,
    "7d": 7 * DAY_S,
    "30d": 30 * DAY_S,
    "1y": 365 * DAY_S,
}


@dataclass(frozen=True)
class StorageACLRule:
    """What one user may do."""

    user: str
    decision: Decision


@dataclass(frozen=True)
class StorageACL:
    """Who may read a file: ``rules`` for the users they name, ``default`` for others."""

    default: Decision | None = None
    rules: list[StorageACLRule] | None = None


@dataclass(frozen=True)
class StorageSettings:
    """``expires_in`` is a name ("1h", "7d", …) or a number of seconds; "immediate" is a minute."""

    expires_in: Expiration | None = None
    initial_acl: StorageACL | None = None

    def __post_init__(self) -> None:
        value = self.expires_in
        if value is None or value in SECONDS:
            return
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            names = ", ".join(SECONDS)
            raise ClientError(f"expires_in is one of {names} or a number of seconds, not {value!r}")

    def headers(self) -> dict[str, str]:
        """The settings as uploads carry them."""
        wanted: dict[str, Any] = {}
        seconds = SECONDS.get(self.expires_in) if isinstance(self.expires_in, str) else None
        if isinstance(self.expires_in, int):
            seconds = self.expires_in
        if seconds is not None:
            wanted["expiration_duration_seconds"] = seconds
        if acl := self.initial_acl:
            rules = [vars(rule) for rule in acl.rules or []]
            named = {"default": acl.default, "rules": rules}
            wanted["initial_acl"] = {name: value for name, value in named.items() if value}
        if not wanted:
            return {}
        text = json.dumps(wanted)
        return {"x-fal-object-lifecycle": text, "x-fal-object-lifecycle-preference": text}

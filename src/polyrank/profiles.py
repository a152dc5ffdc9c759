"""Servers and their keys by name, in a TOML file that only its user can read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import ParseError

from polyrank.errors import PolyrankError

DEFAULT = "default"


class BadProfile(PolyrankError):
    """The file of profiles cannot be read, or has no such profile."""

    code = "bad_profile"


@dataclass(frozen=True)
class Profile:
    """A server's address and the key that it is called with."""

    name: str
    server: str | None = None
    key: str | None = None


class Profiles:
    """The profiles in one file. What a person wrote there beside them, comments too, stays.

    Example::

        profiles = Profiles(Path("config.toml"))
        profiles.save(Profile("lab", "https://lab.example", "id:secret"))
        profiles.use("lab")
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def current(self) -> str:
        """The name of the profile that is used when none is named."""
        return str(self._read().get("profile", DEFAULT))

    def names(self) -> list[str]:
        """The profiles that there are."""
        return sorted(self._table(self._read()))

    def get(self, name: str) -> Profile:
        """The profile of this name; an empty one if there is none."""
        entry = self._table(self._read()).get(name, {})
        if not isinstance(entry, MutableMapping):
            raise BadProfile(f"{self.path}: profiles.{name} is not a table")
        values = {field: entry.get(field) for field in ("server", "key")}
        for field, value in values.items():
            if value is not None and not isinstance(value, str):
                raise BadProfile(f"{self.path}: profiles.{name}.{field} is not a string")
        return Profile(name, **{k: None if v is None else str(v) for k, v in values.items()})

    def save(self, profile: Profile) -> None:
        """Keeps a profile under its name."""
        document = self._read()
        entry = self._table(document).setdefault(profile.name, tomlkit.table())
        for field, value in (("server", profile.server), ("key", profile.key)):
            if value is not None:
                entry[field] = value
            else:
                entry.pop(field, None)
        self._write(document)

    def use(self, name: str) -> None:
        """Makes a profile the current one. Raises BadProfile if there is none of this name."""
        document = self._read()
        self._require(document, name)
        document["profile"] = name
        self._write(document)

    def delete(self, name: str) -> None:
        """Forgets a profile. Raises BadProfile if there is none of this name."""
        document = self._read()
        self._require(document, name)
        del self._table(document)[name]
        if document.get("profile") == name:
            del document["profile"]
        self._write(document)

    def _require(self, document: tomlkit.TOMLDocument, name: str) -> None:
        known = sorted(self._table(document))
        if name not in known:
            there = ", ".join(known) or "none"
            raise BadProfile(f"there is no profile {name!r} in {self.path}; there are: {there}")

    def _table(self, document: tomlkit.TOMLDocument) -> MutableMapping[str, Any]:
        table = document.setdefault("profiles", tomlkit.table(is_super_table=True))
        if not isinstance(table, MutableMapping):
            raise BadProfile(f"{self.path}: profiles is not a table")
        return table

    def _read(self) -> tomlkit.TOMLDocument:
        try:
            return tomlkit.parse(self.path.read_text())
        except FileNotFoundError:
            return tomlkit.document()
        except (OSError, UnicodeDecodeError, ParseError) as error:
            raise BadProfile(f"{self.path} cannot be read: {error}") from error

    def _write(self, document: tomlkit.TOMLDocument) -> None:
        """Replaces the file in one step; mkstemp makes the new one readable by its owner alone."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name)
            with os.fdopen(descriptor, "w") as file:
                file.write(tomlkit.dumps(document))
            os.replace(temporary, self.path)
        except OSError as error:
            raise BadProfile(f"{self.path} cannot be written: {error}") from error

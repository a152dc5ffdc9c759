"""``key=value`` words of a command line as the arguments of a call."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyrank.errors import InvalidInput

WORD = re.compile(r"([^=:@]+)(:=|=@|=)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Upload:
    """The value of an argument is the URL that this file gets."""

    path: Path


def parse(words: list[str], base: str | None = None) -> dict[str, Any]:
    """The arguments in ``base``, a JSON object, and then in the words.

    ``key=text``, ``key:=json`` and ``key=@file``. Raises InvalidInput.
    """
    found = _object(base) if base is not None else {}
    for word in words:
        match = WORD.fullmatch(word)
        if match is None:
            raise InvalidInput(f"{word!r} is none of key=text, key:=json and key=@file")
        key, sign, value = match.groups()
        found[key] = _value(key, sign, value)
    return found


def _value(key: str, sign: str, value: str) -> Any:
    if sign == "=":
        return value
    if sign == ":=":
        try:
            return json.loads(value)
        except ValueError as error:
            raise InvalidInput(f"{key} is not JSON: {error}") from None
    path = Path(value).expanduser()
    if not path.is_file():
        raise InvalidInput(f"{key}: there is no file {path}")
    return Upload(path)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"--json is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"--json is an object, not {text[:40]}")
    return value

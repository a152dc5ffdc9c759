"""A text that a regular expression accepts, as far as one can be made from its parts."""

from __future__ import annotations

import re
from re import _constants as kinds  # type: ignore[attr-defined]  # the parsed form has no public name
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

_MEMBERS = {
    kinds.CATEGORY_DIGIT: "0",
    kinds.CATEGORY_WORD: "a",
    kinds.CATEGORY_SPACE: " ",
    kinds.CATEGORY_NOT_DIGIT: "a",
    kinds.CATEGORY_NOT_WORD: "-",
    kinds.CATEGORY_NOT_SPACE: "a",
}
_CANDIDATES = "a0A-_ .,:/@!#"


def matching(pattern: str, shortest: int = 0) -> str:
    """A text that ``pattern`` is found in, at least ``shortest`` long where repeats allow it."""
    try:
        parsed = parser.parse(pattern)
    except re.error:
        return pattern
    text = _text_of(parsed, 0)
    if len(text) < shortest:
        text = _text_of(parsed, shortest)
    return text


def _text_of(parsed: Any, more: int) -> str:
    return "".join(_part(kind, argument, more) for kind, argument in parsed)


def _part(kind: Any, argument: Any, more: int) -> str:
    if kind is kinds.LITERAL:
        return chr(argument)
    if kind is kinds.NOT_LITERAL:
        return next(each for each in _CANDIDATES if each != chr(argument))
    if kind is kinds.ANY:
        return "a"
    if kind is kinds.IN:
        return _member(argument)
    if kind in (kinds.MAX_REPEAT, kinds.MIN_REPEAT, kinds.POSSESSIVE_REPEAT):
        least, most, inner = argument
        return _text_of(inner, more) * min(max(int(least), more), int(most))
    if kind is kinds.SUBPATTERN:
        return _text_of(argument[3], more)
    if kind is kinds.ATOMIC_GROUP:
        return _text_of(argument, more)
    if kind is kinds.BRANCH:
        return _text_of(argument[1][0], more)
    return ""  # anchors and look-arounds add nothing


def _member(members: Any) -> str:
    kind, argument = members[0]
    if kind is kinds.NEGATE:
        refused = re.compile(f"[{''.join(_written(*each) for each in members[1:])}]")
        return next((each for each in _CANDIDATES if not refused.match(each)), "a")
    if kind is kinds.RANGE:
        return chr(argument[0])
    return chr(argument) if kind is kinds.LITERAL else _MEMBERS.get(argument, "a")


def _written(kind: Any, argument: Any) -> str:
    if kind is kinds.RANGE:
        return f"{re.escape(chr(argument[0]))}-{re.escape(chr(argument[1]))}"
    if kind is kinds.LITERAL:
        return re.escape(chr(argument))
    names = {"DIGIT": r"\d", "WORD": r"\w", "SPACE": r"\s"}
    return names.get(str(argument).removeprefix("CATEGORY_"), "")

"""Taking secrets out of text before it is kept: an app may print what it was given."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote

MASK = "[secret]"
# What is shorter stands in any text: `1` or `on` is nobody's secret.
MIN_LENGTH = 6


def redactor(values: Iterable[str]) -> Callable[[str], str]:
    """A function that masks these values in a line, also as JSON, URLs and base64 write them.

    Log lines come one by one, so each line of a value such as a PEM file is masked by itself.

    Example: ``redactor(["hf_abcdef"])("token hf_abcdef") == "token [secret]"``.
    """
    forms = {form for value in values for form in _forms(value)}
    if not forms:
        return lambda text: text
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    return lambda text: pattern.sub(MASK, text)


def _forms(value: str) -> Iterator[str]:
    for part in {value, *value.splitlines()}:
        part = part.strip()
        if len(part) >= MIN_LENGTH:
            yield part
            yield json.dumps(part)[1:-1]
            yield json.dumps(part, ensure_ascii=False)[1:-1]
            yield quote(part, safe="")
            yield base64.b64encode(part.encode(errors="replace")).decode().rstrip("=")

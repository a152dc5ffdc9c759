"""JSON objects whose keys read as attributes too."""

from __future__ import annotations

import json
from typing import Any


class JSONObject(dict[str, Any]):
    """A dict: ``out["image"]["url"]`` and ``out["image"].url`` are the same.

    A key that is also a method of dict (``items``, ``copy``, …) is read by index only.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            known = ", ".join(self) or "nothing"
            raise AttributeError(f"there is no {name!r} in this object; it has {known}") from None


def load(text: str | bytes) -> Any:
    """What JSON text says, with JSONObjects at every depth. Raises ValueError if it is not JSON."""
    return json.loads(text, object_hook=JSONObject)

"""What an endpoint may know about the request it is answering."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from polyrank.errors import RequestAborted


class Headers(Mapping[str, str]):
    """The headers of a request as the server has them, made text when they are read."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._raw = raw
        self._read: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        return self._text[name]

    def get(self, name: str, default: Any = None) -> Any:
        """One header, its name in lower case."""
        if self._read is not None:
            return self._read.get(name, default)
        wanted = name.encode("latin-1")
        found = [value for key, value in self._raw if key == wanted]
        return found[-1].decode("latin-1") if found else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._text)

    def __len__(self) -> int:
        return len(self._text)

    @property
    def _text(self) -> dict[str, str]:
        if self._read is None:
            self._read = {k.decode("latin-1"): v.decode("latin-1") for k, v in self._raw}
        return self._read


@dataclass
class _Flag:
    """What one thread sets and another reads; cheaper than an event that nobody waits for."""

    is_set: bool = False


@dataclass(frozen=True)
class RequestContext:
    """The request being answered: its id, endpoint, headers and the caller's file preferences."""

    request_id: str
    endpoint: str
    headers: Mapping[str, str] = field(default_factory=dict)
    _gone: _Flag = field(default_factory=_Flag, repr=False, compare=False)

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has hung up."""
        return self._gone.is_set

    def checkpoint(self) -> None:
        """Ends a plain method whose caller has hung up: call it once per step.

        A coroutine is cancelled by itself; a thread can only be asked. Raises RequestAborted.
        """
        if self._gone.is_set:
            raise RequestAborted("the caller went away")

    def cancel(self) -> None:
        """The caller has hung up."""
        self._gone.is_set = True

    @property
    def lifecycle_preference(self) -> dict[str, Any] | None:
        """The caller's wishes for the files made for them; None if there are none or not JSON."""
        text = self.headers.get("x-fal-object-lifecycle-preference")
        try:
            wishes = json.loads(text) if text else None
        except ValueError:
            return None
        return wishes if isinstance(wishes, dict) else None


current: ContextVar[RequestContext | None] = ContextVar("polyrank_request", default=None)

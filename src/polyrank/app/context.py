"""What an endpoint may know about the request it is answering."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from polyrank.errors import RequestAborted


@dataclass(frozen=True)
class RequestContext:
    """The request being answered: its id, endpoint, headers and the caller's file preferences."""

    request_id: str
    endpoint: str
    headers: Mapping[str, str] = field(default_factory=dict)
    _gone: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has hung up."""
        return self._gone.is_set()

    def checkpoint(self) -> None:
        """Ends a plain method whose caller has hung up: call it once per step.

        A coroutine is cancelled by itself; a thread can only be asked. Raises RequestAborted.
        """
        if self._gone.is_set():
            raise RequestAborted("the caller went away")

    def cancel(self) -> None:
        """The caller has hung up."""
        self._gone.set()

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

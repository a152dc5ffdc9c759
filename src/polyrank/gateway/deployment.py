"""One deployment: what it is at, told to everybody who follows it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

from polyrank.errors import PolyrankError
from polyrank.store.apps import Revision

Phase = Literal["waiting", "building", "starting", "switching", "draining"]
# Lines of a build that are kept for those who come late.
MOST_EVENTS = 10_000


class DeploymentFailed(PolyrankError):
    """A revision did not come up; the one before it, if any, serves on.

    Details: ``phase``, and ``lines``, the last that the app printed.
    """

    status = 422
    code = "deployment_failed"


class Deployment:
    """The events of one deployment: each is ``{"type": …, "time": …, …}``.

    The types are ``phase``, ``line`` (of the build or of the app's start), and at the end ``done``
    or ``failed``. ``on_change`` is called when it enters a phase or ends.
    """

    def __init__(
        self, id: str, revision: Revision, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.id = id
        self.revision = revision
        self.phase: Phase = "waiting"
        self.begun_at = time.time()
        self.ended_at: float | None = None
        self.error: str | None = None
        self._on_change = on_change
        self._events: list[dict[str, Any]] = []
        self._news = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether it has succeeded or failed."""
        return self.ended_at is not None

    @property
    def state(self) -> Literal["running", "done", "failed"]:
        """Whether it goes on, and how it has ended."""
        if not self.is_over:
            return "running"
        return "done" if self.error is None else "failed"

    def enter(self, phase: Phase, why: str = "") -> None:
        """The next phase begins."""
        self.phase = phase
        self._say("phase", phase=phase, detail=why)
        self._on_change()

    def add_line(self, text: str) -> None:
        """The build or the app has printed a line."""
        if len(self._events) < MOST_EVENTS:
            self._say("line", phase=self.phase, text=text)

    def succeed(self, **facts: Any) -> None:
        """The revision serves."""
        self._end("done", **facts)

    def fail(self, error: PolyrankError) -> None:
        """The revision does not serve, and why."""
        self.error = error.message
        self._end(
            "failed",
            phase=self.phase,
            detail=error.message,
            error_type=error.code,
            lines=error.details.get("lines", []),
        )

    async def follow(self, begin: int = 0) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """The events from number ``begin`` on, each with the number of the next, to the last."""
        position = begin
        while True:
            news = self._news
            while position < len(self._events):
                position += 1
                yield position, self._events[position - 1]
            if self.is_over:
                return
            await news.wait()

    def _end(self, kind: str, **fields: Any) -> None:
        self.ended_at = time.time()
        self._say(kind, **fields)
        self._on_change()

    def _say(self, kind: str, **fields: Any) -> None:
        self._events.append({"type": kind, "time": time.time(), **fields})
        news, self._news = self._news, asyncio.Event()
        news.set()

"""Who waits for news of a request, within one server."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator


class Notices:
    """Wakes those who watch a topic. A notice says that something changed, never what: whoever
    is woken looks into the store."""

    def __init__(self) -> None:
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def publish(self, topic: str) -> None:
        """Wakes all who watch ``topic`` now."""
        for event in self._watchers.get(topic, ()):
            event.set()

    @contextlib.contextmanager
    def watch(self, topic: str) -> Iterator[asyncio.Event]:
        """An event that is set at each notice from here on; clear it before looking."""
        event = asyncio.Event()
        self._watchers[topic].add(event)
        try:
            yield event
        finally:
            self._watchers[topic].discard(event)
            if not self._watchers[topic]:
                del self._watchers[topic]

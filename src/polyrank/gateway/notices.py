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
        self.is_closed = False

    def publish(self, topic: str) -> None:
        """Wakes all who watch ``topic`` now."""
        for event in self._watchers.get(topic, ()):
            event.set()

    def close(self) -> None:
        """There will be no more: wakes all, who then see ``is_closed``."""
        self.is_closed = True
        for topic in list(self._watchers):
            self.publish(topic)

    @contextlib.contextmanager
    def watch(self, *topics: str) -> Iterator[asyncio.Event]:
        """An event that is set at each notice from here on; clear it before looking."""
        event = asyncio.Event()
        for topic in topics:
            self._watchers[topic].add(event)
        try:
            yield event
        finally:
            for topic in topics:
                self._watchers[topic].discard(event)
                if not self._watchers[topic]:
                    del self._watchers[topic]

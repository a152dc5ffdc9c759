"""Who waits for news of a request, of an app or of all that is deployed, within one server."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator

# The topic of what the dashboard shows: replicas, how many requests wait and run, deployments.
FLEET = "fleet"


class Notices:
    """Wakes those who watch a topic. A notice says that something changed, never what: whoever
    is woken looks into the store."""

    def __init__(self) -> None:
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.is_closed = False

    def publish(self, *topics: str) -> None:
        """Wakes all who watch one of ``topics`` now."""
        for topic in topics:
            for event in self._watchers.get(topic, ()):
                event.set()

    def close(self) -> None:
        """There will be no more: wakes all, who then see ``is_closed``."""
        self.is_closed = True
        self.publish(*self._watchers)

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

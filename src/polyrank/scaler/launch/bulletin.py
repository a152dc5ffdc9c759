"""What is known of one replica, for any number of followers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from polyrank import reports
from polyrank.scaler.launch.base import Ended, Waiting

News = reports.Report | Waiting | Ended


class Bulletin:
    """The latest of each kind of news, told to those who come late; lines of requests are told to
    those who are there."""

    def __init__(self) -> None:
        self._known: dict[type, News] = {}
        self._followers: set[asyncio.Queue[News | None]] = set()
        self._is_closed = False

    def publish(self, news: News) -> None:
        """Tells everybody."""
        if not isinstance(news, reports.Line | reports.End):
            self._known[type(news)] = news
            if not isinstance(news, Waiting):
                self._known.pop(Waiting, None)
        for queue in self._followers:
            queue.put_nowait(news)

    async def follow(self) -> AsyncIterator[News]:
        """What is known and what follows, up to ``Ended`` or ``close``."""
        queue: asyncio.Queue[News | None] = asyncio.Queue()
        for news in [*self._known.values(), *([None] if self._is_closed else [])]:
            queue.put_nowait(news)
        self._followers.add(queue)
        try:
            while (news := await queue.get()) is not None:
                yield news
                if isinstance(news, Ended):
                    return
        finally:
            self._followers.discard(queue)

    def send_away(self) -> None:
        """Those who follow now are told no more."""
        for queue in self._followers:
            queue.put_nowait(None)

    def close(self) -> None:
        """Nothing more will be known."""
        self._is_closed = True
        self.send_away()

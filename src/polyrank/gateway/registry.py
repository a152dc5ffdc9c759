"""The apps that a server hosts, by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from polyrank.gateway.addresses import AppPath, split_app
from polyrank.gateway.answers import UnknownApp
from polyrank.gateway.dispatcher import Dispatcher
from polyrank.gateway.hosting import HostedApp


@dataclass(frozen=True)
class Entry:
    """An app, and who runs its queued requests."""

    app: HostedApp
    dispatcher: Dispatcher


class Registry:
    """Finds apps. While it ``expects`` one whose name is not known yet, those who ask for an
    unknown one wait: after a crash, clients are back before an app's file is loaded again."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._complete = asyncio.Event()
        self._complete.set()

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def expect(self) -> None:
        """An app is being loaded, and will be added or not."""
        self._complete.clear()

    def settle(self) -> None:
        """No app is being loaded any more."""
        self._complete.set()

    async def complete(self) -> None:
        """Waits until no app is being loaded."""
        await self._complete.wait()

    def add(self, entry: Entry) -> None:
        """An app is hosted from now on."""
        self._entries[entry.app.name] = entry

    def remove(self, name: str) -> Entry:
        """The app is hosted no more."""
        return self._entries.pop(name)

    def get(self, name: str) -> Entry | None:
        """The app of that name, if it is hosted now."""
        return self._entries.get(name)

    async def wait_for(self, name: str) -> Entry | None:
        """The app of that name, once it is loaded if it may be the one that is being loaded."""
        if name not in self._entries:
            await self._complete.wait()
        return self._entries.get(name)

    async def find(self, path: str) -> tuple[Entry, AppPath]:
        """The app that a path names, and the rest of the path. Raises UnknownApp."""
        wanted = split_app(path)
        if wanted is not None and (entry := await self.wait_for(wanted.app)) is not None:
            return entry, wanted
        known = ", ".join(self._entries) or "none"
        raise UnknownApp(f"there is no app {path.strip('/')!r} here; there is: {known}")

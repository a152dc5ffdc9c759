"""The connections to a keeper: whoever connects is told lines of JSON, and may send commands.

Standard library only: keepers use it.
"""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Callable, Iterable
from typing import Any

CHUNK = 1 << 16
# What a watcher who does not read may have waiting; beyond that, requests' lines pass it by.
MAX_WAITING = 4 << 20
LONGEST_COMMAND = 1 << 16
LOG_HAS_GROWN = b'{"type":"log"}\n'


class Watcher:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.waiting = bytearray()
        self.received = b""
        # It wants to be told once the log is longer than this.
        self.log_position: int | None = None


class Watchers:
    """All connections to one keeper.

    ``greet`` returns the lines that a new one is told, ``on_command`` gets what one sends, and
    ``on_change`` is called when one has come or gone.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        listening: socket.socket,
        greet: Callable[[], Iterable[bytes]],
        on_command: Callable[[Watcher, dict[str, Any]], None],
        on_change: Callable[[], None],
    ) -> None:
        self._selector = selector
        self._listening = listening
        self._greet = greet
        self._on_command = on_command
        self._on_change = on_change
        self._all: set[Watcher] = set()
        listening.setblocking(False)
        selector.register(listening, selectors.EVENT_READ, self._accept)

    def __len__(self) -> int:
        return len(self._all)

    def tell(self, line: bytes, *, is_dispensable: bool = False) -> None:
        """Tells everyone; who does not keep up misses what is dispensable."""
        for watcher in list(self._all):
            if not is_dispensable or len(watcher.waiting) < MAX_WAITING:
                self.send(watcher, line)

    def tell_of_log(self, position: int) -> None:
        """Tells those who wait for it that the log reaches until ``position``."""
        for watcher in list(self._all):
            if watcher.log_position is not None and watcher.log_position < position:
                watcher.log_position = None
                self.send(watcher, LOG_HAS_GROWN)

    def send(self, watcher: Watcher, line: bytes) -> None:
        """Tells one of them."""
        watcher.waiting += line
        self._flush(watcher)

    @property
    def have_been_told(self) -> bool:
        """Whether nothing waits to be sent."""
        return not any(watcher.waiting for watcher in self._all)

    def close(self) -> None:
        """Hangs up, and takes no more."""
        self._selector.unregister(self._listening)
        self._listening.close()
        for watcher in list(self._all):
            self._drop(watcher)

    def _accept(self, _: int) -> None:
        try:
            connection, _address = self._listening.accept()
        except OSError:
            return
        connection.setblocking(False)
        watcher = Watcher(connection)
        self._all.add(watcher)
        self._selector.register(
            connection, selectors.EVENT_READ, lambda events: self._serve(watcher, events)
        )
        self._on_change()
        for line in self._greet():
            self.send(watcher, line)

    def _serve(self, watcher: Watcher, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush(watcher)
        if events & selectors.EVENT_READ and watcher in self._all:
            self._receive(watcher)

    def _receive(self, watcher: Watcher) -> None:
        try:
            data = watcher.socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, watcher.received = (watcher.received + data).split(b"\n")
        if not data or len(watcher.received) > LONGEST_COMMAND:
            return self._drop(watcher)
        for line in lines:
            try:
                command = json.loads(line)
            except ValueError:
                return self._drop(watcher)
            if watcher in self._all:
                self._on_command(watcher, command)

    def _flush(self, watcher: Watcher) -> None:
        try:
            while watcher.waiting:
                sent = watcher.socket.send(watcher.waiting)
                del watcher.waiting[:sent]
        except BlockingIOError:
            pass
        except OSError:
            return self._drop(watcher)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if watcher.waiting else 0)
        key = self._selector.get_key(watcher.socket)
        if key.events != events:
            self._selector.modify(watcher.socket, events, key.data)

    def _drop(self, watcher: Watcher) -> None:
        if watcher in self._all:
            self._all.discard(watcher)
            self._selector.unregister(watcher.socket)
            watcher.socket.close()
            self._on_change()

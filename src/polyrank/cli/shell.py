"""``polyrank runners exec`` and ``shell``: a program beside a replica, with this terminal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from polyrank.cli.console import exit_status
from polyrank.cli.remote import ServerRefused
from polyrank.settings import ClientSettings

CHUNK = 1 << 15
STDIN, STDOUT, STDERR = 0, 1, 2
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def enter(*, id: str, command: Sequence[str], wants_terminal: bool | None) -> int:
    """Runs the command, or a shell, and returns its exit status.

    It has a terminal if this one is a terminal on both sides, unless ``wants_terminal`` says.
    """
    if wants_terminal is None:
        wants_terminal = os.isatty(STDIN) and os.isatty(STDOUT)
    status = 1

    @exit_status
    def run() -> None:
        nonlocal status
        try:
            words = list(command[1:] if command[:1] == ["--"] else command)
            status = asyncio.run(_run(id, words, wants_terminal))
        except KeyboardInterrupt:
            status = 128 + signal.SIGINT
        except asyncio.CancelledError:
            status = 128 + signal.SIGTERM

    return run() or status


async def _run(id: str, command: list[str], wants_terminal: bool) -> int:
    settings = ClientSettings()
    url = settings.server.rstrip("/")
    key = settings.key
    headers = {} if key is None else {"authorization": f"Key {key.get_secret_value()}"}
    order: dict[str, Any] = {"command": command}
    if wants_terminal:
        order |= {"term": os.environ.get("TERM", "xterm"), **_size()}
    try:
        async with connect(
            "ws" + url.removeprefix("http") + f"/runners/{id}/exec",
            additional_headers=headers,
            proxy=None if any(f"//{host}" in url for host in LOOPBACK) else True,
            max_size=None,
        ) as socket:
            await socket.send(json.dumps(order))
            return await _Session(socket).run(has_terminal=wants_terminal)
    except InvalidStatus as refused:
        raise ServerRefused(f"{url}: {_detail(refused)}") from refused
    except (OSError, InvalidHandshake, TimeoutError) as error:
        raise ServerRefused(
            f"{url} does not answer: {error}; `polyrank serve` starts a server"
        ) from error
    except ConnectionClosed as error:
        raise ServerRefused(f"{url}: the connection broke off: {error}") from error


class _Session:
    """This terminal at one end of a websocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._loop = asyncio.get_running_loop()

    async def run(self, *, has_terminal: bool) -> int:
        """Passes bytes on both ways until the program ends; its exit status."""
        with contextlib.ExitStack() as stack:
            if has_terminal and os.isatty(STDIN):
                stack.enter_context(raw_terminal(STDIN))
                stack.enter_context(self._resizing())
            # A signal that ends us must not leave the terminal as it is.
            me = asyncio.current_task()
            assert me is not None
            for signum in (signal.SIGTERM, signal.SIGHUP):
                self._loop.add_signal_handler(signum, me.cancel)
            typing = asyncio.create_task(self._send_input())
            try:
                return await self._receive()
            finally:
                typing.cancel()

    async def _receive(self) -> int:
        async for message in self._socket:
            if isinstance(message, bytes):
                _write(STDERR if message[0] == STDERR else STDOUT, message[1:])
                continue
            told = json.loads(message)
            if "error" in told:
                raise ServerRefused(told["error"])
            return int(told["exit_status"])
        raise ServerRefused("the server has ended the session")

    async def _send_input(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while data := await self._read():
                await self._socket.send(data)
            await self._socket.send(json.dumps({"end": True}))

    async def _read(self) -> bytes:
        """Some of our input."""
        ready: asyncio.Future[None] = self._loop.create_future()
        try:
            self._loop.add_reader(STDIN, _resolve, ready)
        except PermissionError:  # a file, which is always ready
            return os.read(STDIN, CHUNK)
        try:
            await ready
        finally:
            self._loop.remove_reader(STDIN)
        try:
            return os.read(STDIN, CHUNK)
        except OSError:  # the terminal is gone
            return b""

    @contextlib.contextmanager
    def _resizing(self) -> Iterator[None]:
        """Passes on how large the terminal is whenever that changes."""
        telling: set[asyncio.Task[None]] = set()

        def tell() -> None:
            task = self._loop.create_task(self._socket.send(json.dumps(_size())))
            telling.add(task)
            task.add_done_callback(telling.discard)

        self._loop.add_signal_handler(signal.SIGWINCH, tell)
        try:
            yield
        finally:
            self._loop.remove_signal_handler(signal.SIGWINCH)
            for task in telling:
                task.cancel()


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Keys go to the program as they are inside the block; then the terminal is as it was."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)  # what was typed ahead is kept
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _size() -> dict[str, int]:
    try:
        columns, rows = os.get_terminal_size(STDOUT)
    except OSError:
        columns, rows = 80, 24
    return {"rows": rows, "columns": columns}


def _write(fd: int, data: bytes) -> None:
    sys.stdout.flush()
    while data:
        data = data[os.write(fd, data) :]


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _detail(refused: InvalidStatus) -> str:
    try:
        return str(json.loads(refused.response.body or b"")["detail"])
    except (ValueError, TypeError, KeyError):
        return f"answered {refused.response.status_code}"

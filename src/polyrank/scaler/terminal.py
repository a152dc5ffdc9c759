"""A program in the world of a replica: its variables, its folder, its interpreter first.

It runs on a terminal of its own, or with pipes. Whoever has it reads what it writes at their own
pace, and it ends with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyrank.errors import PolyrankError
from polyrank.scaler import processes
from polyrank.scaler.launch.local import REPLICA

CHUNK = 1 << 15
# What a program gets to end in once nobody is there any more.
HANG_UP_S = 2.0
OUT, ERR = 1, 2


class NotEntered(PolyrankError):
    """A program could not be started in a replica's world."""

    status = 409
    code = "runner_not_entered"


@dataclass(frozen=True)
class Size:
    """The size of a terminal, in characters."""

    rows: int = 24
    columns: int = 80


@dataclass(frozen=True)
class World:
    """What a program finds around it."""

    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def of(cls, pid: int, python: str) -> World:
        """That of a process that runs. Raises NotEntered if it has ended."""
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            folder = Path(f"/proc/{pid}/cwd").readlink()
        except OSError as error:
            raise NotEntered(f"the replica has ended: {error}") from error
        pairs = (os.fsdecode(each).partition("=") for each in variables if each)
        environment = {name: value for name, _, value in pairs}
        environment.pop(REPLICA, None)  # it does not end with the replica
        path = environment.get("PATH", os.defpath)
        environment["PATH"] = os.pathsep.join([str(Path(python).parent), path])
        return cls(folder, environment)


class Program:
    """A program that runs, and its streams."""

    def __init__(
        self, pid: int, input_fd: int, outputs: Mapping[int, int], *, is_tty: bool
    ) -> None:
        """``outputs`` says which stream each descriptor that is read from carries."""
        self.pid = pid
        self._input_fd = input_fd
        self._outputs = dict(outputs)
        self._is_tty = is_tty
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(pid)
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._reap)
        for fd in {input_fd, *outputs}:
            os.set_blocking(fd, False)

    @classmethod
    def start(
        cls, command: Sequence[str], world: World, size: Size | None = None, term: str = ""
    ) -> Program:
        """Starts it: on a terminal of that size, or with pipes. Raises NotEntered."""
        if size is not None:
            world = World(world.folder, {**world.environment, "TERM": term or "xterm"})
        # A shell goes to the folder, for posix_spawn cannot, and becomes the program.
        words = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(world.folder), *command]
        try:
            start = cls._with_pipes if size is None else cls._on_terminal
            return start(words, world.environment, size or Size())
        except OSError as error:
            raise NotEntered(f"{command[0]} could not be started: {error}") from error

    @classmethod
    def _on_terminal(
        cls, words: Sequence[str], environment: Mapping[str, str], size: Size
    ) -> Program:
        ours, theirs = os.openpty()
        try:
            _set_size(ours, size)
            # The first terminal that the leader of a session opens is the session's own.
            actions = [
                (os.POSIX_SPAWN_OPEN, 0, os.ttyname(theirs), os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
            ]
            pid = processes.spawn_with(words, environment, actions)
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return cls(pid, ours, {ours: OUT}, is_tty=True)

    @classmethod
    def _with_pipes(cls, words: Sequence[str], environment: Mapping[str, str], _: Size) -> Program:
        theirs_in, ours_in = os.pipe2(os.O_CLOEXEC)
        ours_out, theirs_out = os.pipe2(os.O_CLOEXEC)
        ours_err, theirs_err = os.pipe2(os.O_CLOEXEC)
        theirs = {0: theirs_in, 1: theirs_out, 2: theirs_err}
        try:
            pid = processes.spawn(words, environment, theirs)
        except OSError:
            for fd in (ours_in, ours_out, ours_err):
                os.close(fd)
            raise
        finally:
            for fd in theirs.values():
                os.close(fd)
        return cls(pid, ours_in, {ours_out: OUT, ours_err: ERR}, is_tty=False)

    async def read(self, stream: int) -> AsyncGenerator[bytes, None]:
        """What it writes to ``OUT`` or ``ERR``, until its end. On a terminal, all is ``OUT``."""
        for fd in [fd for fd, carries in self._outputs.items() if carries == stream]:
            while data := await self._read_some(fd):
                yield data

    async def write(self, data: bytes) -> None:
        """Gives it something to read, when it reads."""
        left = memoryview(data)
        while left and self._input_fd >= 0:
            try:
                left = left[os.write(self._input_fd, left) :]
            except BlockingIOError:
                fd = self._input_fd
                await self._until(fd, self._loop.add_writer, self._loop.remove_writer)
            except OSError:  # it does not read any more
                return

    def end_input(self) -> None:
        """Nothing more is to come. On a terminal, that is said with Ctrl-D."""
        if not self._is_tty and self._input_fd >= 0:
            os.close(self._input_fd)
            self._input_fd = -1

    def resize(self, size: Size) -> None:
        """The terminal has another size; the program is told."""
        if self._is_tty and self._input_fd >= 0:
            _set_size(self._input_fd, size)

    async def wait(self) -> int:
        """Its exit status, as a shell has it."""
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        """Hangs up. If it is not impressed, it is killed, with its process group."""
        if not self._ended.done():
            self._signal(signal.SIGHUP)
            await asyncio.wait([self._ended], timeout=HANG_UP_S)
        if not self._ended.done():
            self._signal(signal.SIGKILL)
            await asyncio.wait([self._ended])
        for fd in {self._input_fd, *self._outputs} - {-1}:
            os.close(fd)
        self._input_fd = -1
        self._outputs.clear()

    def _signal(self, signum: signal.Signals) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signum)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._ended.set_result(128 - code if code < 0 else code)

    async def _read_some(self, fd: int) -> bytes:
        """Some bytes; none once it has ended, even if others still have its terminal."""
        while True:
            try:
                return os.read(fd, CHUNK)
            except BlockingIOError:
                if self._ended.done():
                    return b""
                await self._until(fd, self._loop.add_reader, self._loop.remove_reader)
            except OSError:  # a terminal that nobody has open any more
                return b""

    async def _until(
        self, fd: int, add: Callable[..., None], remove: Callable[[int], bool]
    ) -> None:
        """Waits until a descriptor is ready, or the program has ended."""
        ready: asyncio.Future[None] = self._loop.create_future()
        add(fd, _resolve, ready)
        try:
            either: list[asyncio.Future[Any]] = [ready, self._ended]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            remove(fd)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _set_size(fd: int, size: Size) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))

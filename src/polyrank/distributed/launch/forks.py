"""The processes of ranks on this machine, forked by one fork server per runner."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from polyrank.distributed.launch import protocol
from polyrank.distributed.launch.base import Exit, LineSink
from polyrank.distributed.launch.preload import Preload
from polyrank.distributed.rankspec import RankSpec
from polyrank.errors import SetupFailed

log = logging.getLogger("polyrank.distributed")

# How long a rank's exit status may lag behind its pidfd.
STATUS_LAG_S = 0.5
MAX_LINE = 1 << 20

LineHandler = Callable[[str], None]


class Forks:
    """The runner's end of its fork server."""

    def __init__(self, folder: Path, preload: Preload) -> None:
        self._folder = folder
        self._preload = preload
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket
        self._loop: asyncio.AbstractEventLoop
        self._started: asyncio.Future[protocol.Started]
        self._output: _Lines
        self._errors: deque[str] = deque(maxlen=40)
        self._processes: dict[int, ForkedProcess] = {}
        self._spawning: dict[int, asyncio.Future[None]] = {}
        self._last_key = 0

    async def start(self) -> dict[str, float]:
        """Starts the fork server, unless one runs, and waits until it has imported torch."""
        if self._server is not None:
            if self._server.poll() is None:
                return {}
            self._on_server_gone()  # its end has not been read from the socket yet
        begun = time.perf_counter()
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.create_future()
        self._spawn_server()
        self._loop.add_reader(self._control, self._on_message)
        started = await self._started
        total = time.perf_counter() - begun
        if started.problem:
            log.warning("%s, so every rank imports for itself", started.problem)
        phases = {"import_s": started.import_s}
        if self._preload.names:
            phases["preload_s"] = started.preload_s
        return {"spawn_s": total - sum(phases.values()), **phases}

    def _spawn_server(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        with theirs:
            self._server = subprocess.Popen(
                [
                    sys.executable,
                    "-P",  # the folder we happen to be in must not shadow a module
                    "-m",
                    "polyrank.distributed.launch.forkserver",
                    str(theirs.fileno()),
                    str(self._folder),
                    str(os.getpid()),
                    msgspec.json.encode(self._preload).decode(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=write_fd,
                stderr=write_fd,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": _python_path()},
            )
        os.close(write_fd)
        self._output = _Lines(self._loop, read_fd, self._on_server_line)

    async def launch(self, spec: RankSpec, on_line: LineSink) -> ForkedProcess:
        """Forks one rank. ``on_line(stream, line)`` gets its output, line by line."""
        self._last_key += 1
        key = self._last_key
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        process = ForkedProcess(
            self._loop,
            _Lines(self._loop, out_read, lambda line: on_line("stdout", line)),
            _Lines(self._loop, err_read, lambda line: on_line("stderr", line)),
        )
        self._processes[key] = process
        self._spawning[key] = self._loop.create_future()
        descriptors = spec.descriptors()
        message = protocol.Spawn(key, msgspec.msgpack.encode(spec), list(descriptors))
        fds = [out_write, err_write, *descriptors.values()]
        try:
            socket.send_fds(self._control, [protocol.encode(message)], fds)
            await self._spawning[key]
        except OSError as error:
            raise SetupFailed(f"the process that starts ranks is gone: {error}") from error
        except asyncio.CancelledError:
            process.kill()
            raise
        finally:
            del self._spawning[key]
            os.close(out_write)
            os.close(err_write)
        return process

    async def stop(self) -> None:
        """Closes the socket, which ends the fork server and with it every rank that is left."""
        if self._server is not None:
            await self._end_server(self._server)
        for process in self._processes.values():
            process.set_exit(Exit())
            process.close()
        self._processes.clear()

    async def _end_server(self, server: subprocess.Popen[bytes]) -> None:
        self._loop.remove_reader(self._control)
        self._control.close()
        pidfd = os.pidfd_open(server.pid)
        ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(pidfd, _resolve, ended)
        await ended
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        server.wait()
        self._server = None
        self._output.close()

    def _on_message(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, protocol.MAX_MESSAGE, protocol.MAX_FDS)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            return self._on_server_gone()
        match protocol.decode_from_server(data):
            case protocol.Started() as started:
                self._started.set_result(started)
            case protocol.Spawned(key, pid):
                process = self._processes[key]
                process.adopt(pid, fds[0])
                spawning = self._spawning.get(key)
                if spawning is None or spawning.done():
                    process.kill()  # whoever wanted it has been cancelled
                else:
                    spawning.set_result(None)
            case protocol.Exited(key, status):
                self._processes.pop(key).set_exit(_exit_of(status))
            case protocol.Frozen(key, signum):
                process = self._processes[key]
                log.warning(
                    "rank process %d was stopped by %s", process.pid, signal.Signals(signum).name
                )

    def _on_server_gone(self) -> None:
        self._loop.remove_reader(self._control)
        self._control.close()
        self._output.close()
        assert self._server is not None
        error = SetupFailed(
            "the process that starts ranks ended before it was ready"
            + "".join(f"\n  {line}" for line in self._errors)
        )
        if not self._started.done():
            self._started.set_exception(error)
        for spawning in self._spawning.values():
            if not spawning.done():
                spawning.set_exception(error)
        self._server.wait()
        self._server = None

    def _on_server_line(self, line: str) -> None:
        self._errors.append(line)
        log.debug("fork server: %s", line)


class ForkedProcess:
    """One forked rank: its pidfd and its output."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stdout: _Lines, stderr: _Lines) -> None:
        self.pid = 0
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self._loop = loop
        self._pidfd = -1
        self._outputs = (stdout, stderr)

    def adopt(self, pid: int, pidfd: int) -> None:
        """The process is there."""
        self.pid = pid
        self._pidfd = pidfd
        self._loop.add_reader(pidfd, self._on_pidfd)

    def kill(self) -> None:
        """Ends the process at once, frozen or not."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def drain(self) -> None:
        """Reads what the rank has written so far."""
        for output in self._outputs:
            output.drain()

    def set_exit(self, ended: Exit) -> None:
        """The process has ended, and how."""
        if not self.exited.done():
            self.drain()
            self.exited.set_result(ended)

    def close(self) -> None:
        """Closes every descriptor."""
        self._forget_pidfd()
        for output in self._outputs:
            output.close()

    def _on_pidfd(self) -> None:
        # The exit status comes from the fork server; if that is gone too, nobody knows it.
        self._forget_pidfd()
        self._loop.call_later(STATUS_LAG_S, self.set_exit, Exit())

    def _forget_pidfd(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


class _Lines:
    """Reads a pipe to its end and hands on its lines."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, on_line: LineHandler) -> None:
        self._loop = loop
        self._fd = fd
        self._on_line = on_line
        self._rest = b""
        os.set_blocking(fd, False)
        loop.add_reader(fd, self._read)

    def drain(self) -> None:
        """Reads all that is there now, and hands on an unfinished last line too."""
        if self._fd < 0:
            return
        while select.select([self._fd], [], [], 0)[0] and self._read():
            pass
        self._hand_on_rest()

    def close(self) -> None:
        """Hands on what is left and closes the pipe."""
        self.drain()
        self._end()

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self._end()
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._hand_on(line)
        if len(self._rest) > MAX_LINE:
            self._hand_on(self._rest)
            self._rest = b""
        return True

    def _end(self) -> None:
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._hand_on_rest()

    def _hand_on_rest(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            self._hand_on(rest)

    def _hand_on(self, line: bytes) -> None:
        # A progress bar redraws its line with carriage returns: the last state is the line.
        text = line.decode(errors="backslashreplace").rstrip("\r").rpartition("\r")[2]
        if text:
            self._on_line(text)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _exit_of(status: int) -> Exit:
    if os.WIFSIGNALED(status):
        return Exit(signal=signal.Signals(os.WTERMSIG(status)).name)
    return Exit(code=os.waitstatus_to_exitcode(status))


def _python_path() -> str:
    """The fork server finds polyrank where this process did."""
    own = str(Path(__file__).resolve().parents[3])
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([own, inherited]) if inherited else own

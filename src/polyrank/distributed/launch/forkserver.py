"""The process that imports torch once and forks the ranks of one runner.

Run as ``python -m polyrank.distributed.launch.forkserver FD FOLDER PARENT PRELOAD``; nobody
imports it. It also imports what PRELOAD (JSON) names. Should that make it unfit to be forked, it
starts itself again with the problem in place of the names, and tells the runner.

It has one thread and never touches a GPU, so forking it is safe, a rank starts in milliseconds,
and a group that died is back as soon as its ``setup`` is done.

It also guards the ranks: when the runner's process goes, however it goes, the socket ends and
every rank is killed, the runner's folder removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

import msgspec

from polyrank.distributed.launch import protocol
from polyrank.distributed.launch.preload import Preload, import_all
from polyrank.distributed.launch.protocol import Exited, Frozen, Spawn, Spawned, Started

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15


class ForkServer:
    """Forks ranks on request, reports how they end, and ends them all with the runner."""

    def __init__(self, control: socket.socket, folder: str, parent: int) -> None:
        self._control = control
        self._folder = folder
        self._parent = parent
        self._keys: dict[int, int] = {}

    def run(self, run_rank: Callable[[bytes, dict[str, int]], None]) -> None:
        """Serves until the runner closes the socket or dies."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(wake_read, select.POLLIN)
        while True:
            for fd, _ in poller.poll():
                if fd == wake_read:
                    os.read(wake_read, 4096)
                    self._reap()
                elif not self._serve_one(run_rank, wake_read, wake_write):
                    return

    def is_orphan(self) -> bool:
        """Whether the runner's process has ended."""
        return os.getppid() != self._parent

    def end(self) -> None:
        """Kills every rank and what they started, and removes the folder."""
        # The socket's end and the parent's death signal come at the same time: one of them ends.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for pid in self._keys:
            _kill_session(pid)
        for pid in self._keys:
            with contextlib.suppress(ChildProcessError):  # the signal came while it was reaped
                os.waitpid(pid, 0)
        self._keys.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _serve_one(self, run_rank: Callable[[bytes, dict[str, int]], None], *own: int) -> bool:
        data, fds, _, _ = socket.recv_fds(self._control, protocol.MAX_MESSAGE, protocol.MAX_FDS)
        if not data:
            return False
        message = protocol.decode_spawn(data)
        pid = os.fork()
        if pid == 0:
            _become_rank(run_rank, message, fds, [self._control.fileno(), *own])
        self._keys[pid] = message.key
        pidfd = os.pidfd_open(pid)
        self._send(Spawned(message.key, pid), [pidfd])
        for fd in (*fds, pidfd):
            os.close(fd)
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid not in self._keys:
                continue
            if os.WIFSTOPPED(status):
                self._send(Frozen(self._keys[pid], os.WSTOPSIG(status)))
            else:
                _kill_session(pid)
                self._send(Exited(self._keys.pop(pid), status))

    def _send(self, message: protocol.FromServer, fds: list[int] | None = None) -> None:
        try:
            socket.send_fds(self._control, [protocol.encode(message)], fds or [])
        except (BrokenPipeError, ConnectionResetError):
            pass  # the runner is gone; the next read says so


def _become_rank(
    run_rank: Callable[[bytes, dict[str, int]], None],
    message: Spawn,
    fds: list[int],
    inherited: list[int],
) -> None:
    """In the child: its own session, stdio and descriptors, and death with the fork server."""
    code = 1
    try:
        parent = os.getppid()
        os.setsid()
        die_with_parent(signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getppid() != parent:
            os._exit(1)
        for fd in inherited:
            os.close(fd)
        os.dup2(fds[0], 1)
        os.dup2(fds[1], 2)
        os.close(fds[0])
        os.close(fds[1])
        sys.stdout = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        run_rank(message.spec, dict(zip(message.fds, fds[2:], strict=True)))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def die_with_parent(signum: signal.Signals) -> None:
    """Asks the kernel for ``signum`` when the parent ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signum), 0, 0, 0)


def name_process(name: str) -> None:
    """The name that ``ps`` and ``nvidia-smi`` show."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def _kill_session(pid: int) -> None:
    """Kills a rank and whatever it started; a rank leads its own session and group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main() -> None:
    """Imports what every rank needs, then serves."""
    control_fd, folder, parent, wanted, *problem = sys.argv[1:]
    preload = msgspec.json.decode(wanted, type=Preload)
    server = ForkServer(socket.socket(fileno=int(control_fd)), folder, int(parent))

    def on_term(*_: object) -> None:
        # Also sent when the thread that started us ends; only the process's end matters.
        if server.is_orphan():
            server.end()
            os._exit(1)

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(signal.SIGTERM)
    if server.is_orphan():
        return server.end()
    gc.disable()  # nothing that is imported becomes garbage
    start = time.perf_counter()
    import torch.distributed  # noqa: F401

    from polyrank.distributed import rank
    from polyrank.distributed.rankspec import RankSpec

    def run_rank(spec_bytes: bytes, fds: dict[str, int]) -> None:
        spec = msgspec.msgpack.decode(spec_bytes, type=RankSpec)
        name_process(f"polyrank-r{spec.group}.{spec.rank}")
        rank.main(msgspec.structs.replace(spec, **fds))

    name_process("polyrank-fork")
    imported = time.perf_counter()
    if preload.names and (found := import_all(preload)):
        os.set_inheritable(int(control_fd), True)
        os.execv(sys.executable, [*sys.orig_argv[:-1], "{}", found])
    gc.freeze()  # forked ranks share these pages; collecting must not copy them
    gc.enable()
    server._send(Started(imported - start, time.perf_counter() - imported, "".join(problem)))
    try:
        server.run(run_rank)
    finally:
        server.end()


if __name__ == "__main__":
    main()

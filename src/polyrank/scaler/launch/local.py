"""Replicas on this machine: each with a keeper process, found again by the server that follows."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import msgspec

from polyrank import reports
from polyrank.scaler import processes
from polyrank.scaler.launch.base import Ended, LaunchFailed, ReplicaSpec
from polyrank.scaler.launch.bulletin import Bulletin, News
from polyrank.settings import ReplicaSettings

log = logging.getLogger("polyrank.scaler")

SOCKET = "keeper.sock"
EXIT = "exit.json"
# The end of this replica has been told to a server.
TOLD = "told"
LONGEST_LINE = 2**24
# A replica without a keeper is killed this long after its grace period.
LATE_S = 5.0
CONNECT_S = 5.0
# What is killed without a keeper is waited for this long.
KILLED_S = 10.0
# By this variable, whatever a replica has started can be found.
REPLICA = "POLYRANK_REPLICA"
# The server's own; the address of its database may hold a password.
NOT_FOR_APPS = ("POLYRANK_DATABASE_URL", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """How replicas are kept.

    ``linger_s`` is how long one runs on with no server there; one that does not end in its grace
    period is killed ``late_s`` later. The log of each takes at most
    ``log_files`` times ``log_bytes``; with ``output``, a pair of descriptors, there is none, and
    the replica writes there. Of those that have ended, ``keep_s`` and ``keep_count`` limit how
    long and how many are kept to be looked at.
    """

    linger_s: float = 600.0
    late_s: float = 5.0
    log_bytes: int = 8 * 2**20
    log_files: int = 4
    output: tuple[int, int] | None = None
    keep_s: float = 7 * 24 * 3600.0
    keep_count: int = 200

    @classmethod
    def of(cls, settings: ReplicaSettings) -> Self:
        """As the settings have it."""
        return cls(**settings.model_dump())


class _Hello(msgspec.Struct, frozen=True, tag="hello"):
    """A keeper's first line. There is no process if it could not be started."""

    pid: int
    started: int | None
    spec: dict[str, Any]


class _Over(msgspec.Struct, frozen=True, tag="ended"):
    """A keeper's last line."""

    reason: str
    exit_status: int


_decoder: msgspec.json.Decoder[reports.Report | _Hello | _Over] = msgspec.json.Decoder(
    reports.Report | _Hello | _Over
)


class LocalLauncher:
    """Starts replicas on this machine; ``folder`` is where they are noted, and their logs kept.

    One launcher at a time may use a folder: another's replicas are not to be taken from it.
    """

    def __init__(self, folder: Path, keeping: Keeping | None = None) -> None:
        """Raises LaunchFailed if another launcher uses the folder."""
        self.folder = folder
        self._keeping = keeping or Keeping()
        self._handles: dict[str, LocalHandle] = {}
        self._keepers: dict[int, asyncio.Future[None]] = {}  # those we are to reap, by pidfd
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # A lock of this process alone: with flock, a child that is about to become a keeper
            # would hold it a moment longer than a server that is killed.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(self._lock)
            raise LaunchFailed(
                f"another server runs replicas in {folder}; give this one a POLYRANK_DATA_DIR "
                "of its own"
            ) from None

    async def start(self, spec: ReplicaSpec) -> LocalHandle:
        """Starts a replica."""
        folder = self.folder / spec.id
        folder.mkdir(mode=0o700)
        listening = listen(folder)
        try:
            pidfd = self._start_keeper(spec, folder, listening)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            listening.close()
            raise LaunchFailed(f"the keeper of a replica could not be started: {error}") from error
        connection = dial(folder)
        # From here on it listens as long as the keeper lives.
        listening.close()
        try:
            handle = None if connection is None else await _greeted(folder, connection)
        except asyncio.CancelledError:
            if pidfd in self._keepers:
                processes.send(pidfd, signal.SIGTERM)
            raise
        if handle is None:
            why = _tail(folder / "keeper.log")
            shutil.rmtree(folder, ignore_errors=True)
            raise LaunchFailed(f"the keeper of a replica ended at once{why}")
        return self._add(handle)

    async def recover(self) -> list[LocalHandle]:
        """Those that a server before us has left; also those that have ended without it."""
        found = []
        for folder in sorted(self.folder.iterdir()):
            if not folder.is_dir() or folder.name in self._handles:
                continue
            connection = dial(folder)
            handle = None if connection is None else await _greeted(folder, connection)
            handle = handle or _of_the_past(folder)
            if handle is not None:
                found.append(self._add(handle))
        self.sweep()
        return found

    async def close(self, *, keep: bool) -> None:
        """Lets them go: with ``keep`` they run on, without it they are ended first."""
        handles = list(self._handles.values())
        if not keep:
            await asyncio.gather(*(handle.terminate() for handle in handles))
            await asyncio.gather(*self._keepers.values())
        await asyncio.gather(*(handle.let_go() for handle in handles))
        for pidfd in self._keepers:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
        os.close(self._lock)

    def sweep(self) -> None:
        """Deletes what is left of replicas that have ended, if it is old or there is much of it."""
        sweep(self.folder, self._keeping)

    def _add(self, handle: LocalHandle) -> LocalHandle:
        self._handles[handle.spec.id] = handle
        handle.listen(self._forget)
        return handle

    def _forget(self, handle: LocalHandle) -> None:
        self._handles.pop(handle.spec.id, None)
        self.sweep()

    def _start_keeper(self, spec: ReplicaSpec, folder: Path, listening: socket.socket) -> int:
        """Starts it with its order; its pidfd."""
        with contextlib.ExitStack() as stack:
            # What it is told is there as a whole, and in no file: the environment holds secrets.
            order = stack.enter_context(os.fdopen(os.memfd_create("order"), "wb", 0))
            order.write(json.dumps(self._order(spec, folder)).encode())
            order.seek(0)
            errors = stack.enter_context((folder / "keeper.log").open("ab", 0))
            out, err = self._keeping.output or (errors.fileno(), errors.fileno())
            # -P: the folder that we happen to be in must not shadow a module.
            pid = processes.spawn(
                [sys.executable, "-P", "-m", "polyrank.scaler.keeper"],
                {**os.environ, "PYTHONPATH": _python_path()},
                {0: order.fileno(), 1: out, 2: err, 3: listening.fileno()},
            )
        return self._reap_in_time(pid)

    def _reap_in_time(self, pid: int) -> int:
        """Takes a keeper's exit status when it has ended; its pidfd until then."""
        loop = asyncio.get_running_loop()
        pidfd = os.pidfd_open(pid)
        self._keepers[pidfd] = loop.create_future()

        def reap() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            os.waitpid(pid, 0)
            self._keepers.pop(pidfd).set_result(None)

        loop.add_reader(pidfd, reap)
        return pidfd

    def _order(self, spec: ReplicaSpec, folder: Path) -> dict[str, Any]:
        """What a keeper is told to run."""
        keeping = self._keeping
        is_kept = keeping.output is None
        described = {**_as_json(spec), "environment": {}}
        (folder / "spec.json").write_text(json.dumps(described))
        return {
            "folder": str(folder.resolve()),
            "spec": _as_json(spec),
            "command": command_of(spec, is_marked=is_kept),
            "cwd": str(spec.folder),
            "environment": environment_of(spec, is_unbuffered=is_kept),
            "startup_timeout_s": spec.startup_timeout_s,
            "grace_s": spec.grace_s,
            "linger_s": keeping.linger_s,
            "late_s": keeping.late_s,
            "log": {"max_bytes": keeping.log_bytes, "files": keeping.log_files}
            if is_kept
            else None,
        }


class LocalHandle:
    """A replica of this machine, as its keeper tells of it."""

    def __init__(
        self,
        folder: Path,
        hello: _Hello,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None,
    ) -> None:
        """Without ``streams`` there is no keeper any more."""
        self.folder = folder
        self._spec = _from_json(hello.spec)
        self._streams = streams
        self._pid = hello.pid or None
        self._pidfd: int | None = None
        if hello.pid and hello.started is not None:
            self._pidfd = processes.open_same(hello.pid, hello.started)
        self._bulletin = Bulletin()
        self._over = asyncio.Event()
        self._grace_s = self._spec.grace_s
        self._listening: asyncio.Task[None]

    @property
    def spec(self) -> ReplicaSpec:
        """What was started."""
        return self._spec

    @property
    def pid(self) -> int | None:
        """The process, until it has ended."""
        return None if self._over.is_set() else self._pid

    def listen(self, on_over: Callable[[LocalHandle], None]) -> None:
        """Hears what the keeper tells, until the end; then calls ``on_over``."""
        self._listening = asyncio.get_running_loop().create_task(self._listen(on_over))

    def follow(self) -> AsyncIterator[News]:
        """What is known so far, and what follows until the end."""
        return self._bulletin.follow()

    async def terminate(self) -> None:
        """Ends it in order; the keeper sees to it that it ends."""
        self._send({"do": "terminate"})
        await self._over.wait()

    def kill(self) -> None:
        """Ends it at once."""
        self._send({"do": "kill"})

    async def let_go(self) -> None:
        """Hears no more of it; those who follow are sent away."""
        self._listening.cancel()
        await asyncio.wait([self._listening])
        self._bulletin.close()
        self._close()

    def _send(self, command: dict[str, Any]) -> None:
        if self._streams is not None:
            self._streams[1].write(json.dumps(command).encode() + b"\n")

    async def _listen(self, on_over: Callable[[LocalHandle], None]) -> None:
        ended = None
        async for message in self._messages():
            if isinstance(message, _Over):
                ended = Ended(message.reason, message.exit_status)
            elif not isinstance(message, _Hello):
                self._publish(message)
        ended = ended or _noted_end(self.folder) or await self._end_without_keeper()
        (self.folder / TOLD).touch()
        self._over.set()
        self._close()
        self._publish(ended)
        on_over(self)

    async def _messages(self) -> AsyncIterator[reports.Report | _Hello | _Over]:
        if self._streams is None:
            return
        reader, _ = self._streams
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                try:
                    yield _decoder.decode(line)
                except msgspec.MsgspecError as error:
                    # A keeper may be of another version than we are.
                    log.debug("not understood from %s: %s", self._spec.id, error)

    def _publish(self, news: reports.Report | Ended) -> None:
        if isinstance(news, reports.Loaded):
            self._grace_s = news.limits.grace_s
        self._bulletin.publish(news)

    async def _end_without_keeper(self) -> Ended:
        """The replica is asked to end when its keeper dies, by the kernel; we see to it, and to
        what it has started."""
        if self._pidfd is not None:
            processes.send(self._pidfd, signal.SIGTERM)
            if not await _gone(self._pidfd, 2 * self._grace_s + LATE_S):
                processes.send(self._pidfd, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):  # one may hang in the kernel
            async with asyncio.timeout(KILLED_S):
                await _kill_all_of(self._spec.id)
        ended = Ended("its keeper was killed, and it ended with it", 128 + signal.SIGKILL)
        if self._pid is None:
            ended = Ended("the server ended before it was started", 1)
        with contextlib.suppress(OSError):
            noted = {"reason": ended.reason, "exit_status": ended.exit_status, "time": time.time()}
            (self.folder / EXIT).write_text(json.dumps(noted))
        return ended

    def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def command_of(spec: ReplicaSpec, *, is_marked: bool) -> list[str]:
    """The command line of a replica; ``is_marked`` has it print records (``polyrank.records``)."""
    command = [spec.python, "-m", "polyrank.app.replica", spec.ref]
    command += ["--host", spec.host, "--options", json.dumps(dict(spec.options))]
    if spec.module is not None:
        command += ["--module", spec.module]
    if spec.ranks is not None:
        command += ["--ranks", str(spec.ranks)]
    if spec.verbose:
        command.append("--verbose")
    if is_marked:
        command.append("--marked")
    return command


def environment_of(spec: ReplicaSpec, *, is_unbuffered: bool = False) -> dict[str, str]:
    """All variables of a replica."""
    environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_APPS}
    if spec.python != sys.executable:
        # It would shadow what is in the app's own environment.
        environment.pop("PYTHONPATH", None)
    if is_unbuffered:
        environment["PYTHONUNBUFFERED"] = "1"
    if spec.device is not None:
        environment["POLYRANK_DEVICE"] = spec.device
    if spec.gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(spec.gpus)
    return {**environment, **spec.environment, REPLICA: spec.id}


def sweep(folder: Path, keeping: Keeping) -> None:
    """Of the replicas noted in ``folder`` deletes those whose end has been told, but the latest."""
    ended = []
    for path in folder.glob(f"*/{TOLD}"):
        with contextlib.suppress(FileNotFoundError):
            ended.append((path.stat().st_mtime, path.parent))
    ended.sort(reverse=True)
    oldest = time.time() - keeping.keep_s
    for number, (when, replica) in enumerate(ended):
        if number >= keeping.keep_count or when < oldest:
            shutil.rmtree(replica, ignore_errors=True)


def listen(folder: Path) -> socket.socket:
    """The socket at which those who watch the replica of a folder connect."""
    listening = _unix_socket()
    _in_folder(folder, listening.bind)
    listening.listen(64)
    return listening


def dial(folder: Path) -> socket.socket | None:
    """A connection to the keeper of a replica, if there is one."""
    connection = _unix_socket()
    connection.settimeout(CONNECT_S)
    try:
        _in_folder(folder, connection.connect)
    except OSError:
        connection.close()
        return None
    return connection


async def _greeted(folder: Path, connection: socket.socket) -> LocalHandle | None:
    """The replica behind a connection, if its keeper comes to say so."""
    connection.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LONGEST_LINE)
    line = b""
    try:
        line = await reader.readline()
    except OSError:
        pass
    finally:
        if not line:
            writer.close()
    if not line:
        return None
    hello = _decoder.decode(line)
    assert isinstance(hello, _Hello)
    return LocalHandle(folder, hello, (reader, writer))


def _of_the_past(folder: Path) -> LocalHandle | None:
    """A replica without a keeper, unless its end is known; what is half made is deleted."""
    if (folder / TOLD).exists():
        return None
    spec = _read_json(folder / "spec.json")
    if spec is None:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    process = _read_json(folder / "replica.json") or {"pid": 0, "started": None}
    return LocalHandle(folder, _Hello(process["pid"], process["started"], spec), None)


def _noted_end(folder: Path) -> Ended | None:
    noted = _read_json(folder / EXIT)
    return None if noted is None else Ended(noted["reason"], noted["exit_status"])


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def _as_json(spec: ReplicaSpec) -> dict[str, Any]:
    described = {field.name: getattr(spec, field.name) for field in fields(spec)}
    gpus = None if spec.gpus is None else list(spec.gpus)
    plain = {"folder": str(spec.folder), "gpus": gpus, "options": dict(spec.options)}
    plain["secrets"] = list(spec.secrets)
    return described | plain | {"environment": dict(spec.environment)}


def _from_json(described: Mapping[str, Any]) -> ReplicaSpec:
    known = {field.name for field in fields(ReplicaSpec)}
    given = {name: value for name, value in described.items() if name in known}
    gpus = None if given["gpus"] is None else tuple(given["gpus"])
    return ReplicaSpec(**{**given, "folder": Path(given["folder"]), "gpus": gpus})


def _unix_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def _in_folder(folder: Path, act: Callable[[str], None]) -> None:
    """Calls ``act`` with the path of the keeper's socket: one by way of a descriptor, for the path
    of a socket must be short."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        act(f"/proc/self/fd/{fd}/{SOCKET}")
    finally:
        os.close(fd)


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()[-10:]
    except OSError:
        return ""
    return "".join(f"\n  {line}" for line in lines)


async def _gone(pidfd: int, limit_s: float | None = None) -> bool:
    """Waits until a process has ended; whether it has within the limit."""
    loop = asyncio.get_running_loop()
    gone: asyncio.Event = asyncio.Event()
    loop.add_reader(pidfd, gone.set)
    try:
        async with asyncio.timeout(limit_s):
            await gone.wait()
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)


async def _kill_all_of(replica: str) -> None:
    """Kills a replica without a keeper, and all that it has started."""
    while found := processes.with_variable(REPLICA, replica):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                try:
                    processes.send(pidfd, signal.SIGKILL)
                    await _gone(pidfd)
                finally:
                    os.close(pidfd)


def _python_path() -> str:
    """The keeper finds polyrank where this process did."""
    own = str(Path(__file__).resolve().parents[3])
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([own, inherited]) if inherited else own

"""The process that keeps one replica: ``python -m polyrank.scaler.keeper``.

Nobody imports this module, and it imports little: there is one keeper per replica, and it outlives
the server that started it. It gets what to run as JSON on stdin, and a socket that listens as
descriptor 3. Whoever connects is told how the replica is and what follows, and may have it ended.
When nobody has been connected for a while, it ends the replica by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from polyrank.records import LineReader, encode, record
from polyrank.redaction import redactor
from polyrank.scaler import processes
from polyrank.scaler.oom import oom_kills
from polyrank.scaler.segments import SegmentWriter
from polyrank.scaler.watchers import Watcher, Watchers

LISTENING_FD = 3
REPORT_FD = 3  # of the replica
PR_SET_CHILD_SUBREAPER = 36
CHUNK = 1 << 16
# How long the processes that a replica leaves behind may take to be gone once they are killed.
STRAGGLERS_S = 10.0
# What watchers get to read the end.
LAST_MOMENT_S = 2.0
# The reports that make up the state; any other is a line of a request.
STATES = {b'{"type":"%s"' % kind.encode(): kind for kind in ("loaded", "loading", "ready")}


class Keeper:
    """One loop over the replica's pipes, the watchers, signals and deadlines."""

    def __init__(self, order: dict[str, Any], listening: socket.socket) -> None:
        self._order = order
        self._folder = Path(order["folder"])
        environment = order["environment"]
        secrets = order["spec"].get("secrets", ())
        self._mask = redactor(environment[name] for name in secrets if name in environment)
        self._selector = selectors.DefaultSelector()
        self._deadlines: dict[str, tuple[float, Callable[[], None]]] = {}
        self._state: dict[str, bytes] = {}  # what a new watcher is told, by kind
        self._pid = 0
        self._grace_s = float(order["grace_s"])
        self._log: SegmentWriter | None = None
        self._lost_lines = 0
        self._pipes: dict[int, Callable[[bytes], None]] = {}
        self._why = ""  # why we have the replica end, if we do
        self._has_killed = False
        self._end: dict[str, Any] | None = None
        self._is_over = False
        self._kills_before = oom_kills()
        self._watchers = Watchers(
            self._selector, listening, self._state.values, self._obey, self._count_watchers
        )

    def run(self) -> None:
        """Keeps the replica until it has ended, and everybody has been told."""
        # What the replica's processes leave behind becomes ours, to be ended and reaped.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._wake_on_signals()
        self._count_watchers()
        try:
            self._start()
        except OSError as error:
            what = self._order["command"][0]
            self._end = {"reason": f"{what} could not be started: {error}", "exit_status": 127}
            self._tell_state("hello", self._hello(0))
            self._conclude()
        while not self._is_over:
            for key, events in self._selector.select(self._next_deadline_s()):
                key.data(events)
            self._meet_deadlines()
        with contextlib.suppress(OSError):
            (self._folder / "keeper.sock").unlink()
        self._watchers.close()

    # The start

    def _start(self) -> None:
        descriptors = {REPORT_FD: self._pipe(_Lines(self._hear))}
        if self._order["log"] is not None:
            self._log = SegmentWriter(self._folder, **self._order["log"])
            for fd, stream in ((1, "stdout"), (2, "stderr")):
                descriptors[fd] = self._pipe(_Output(LineReader(stream), self._write_log))
        command = [*self._order["command"], "--report-fd", str(REPORT_FD)]
        command += ["--parent", str(os.getpid())]
        try:
            os.chdir(self._order["cwd"])
            self._pid = processes.spawn(command, self._order["environment"], descriptors)
        finally:
            for fd in descriptors.values():
                os.close(fd)
        self._note(f"started as process {self._pid}")
        hello = self._hello(self._pid)
        write_json(
            self._folder / "replica.json", {name: hello[name] for name in ("pid", "started")}
        )
        self._tell_state("hello", hello)
        if (limit_s := self._order["startup_timeout_s"]) is not None:
            self._expect_ready_within(limit_s)

    def _hello(self, pid: int) -> dict[str, Any]:
        started = processes.start_time(pid)
        return {"type": "hello", "pid": pid, "started": started, "spec": self._order["spec"]}

    def _pipe(self, feed: Callable[[bytes], None]) -> int:
        """The end to write to of a pipe whose other end is read; ``b""`` is fed at its end."""
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read_fd, False)
        self._pipes[read_fd] = feed
        self._selector.register(read_fd, selectors.EVENT_READ, lambda _: self._read(read_fd))
        return write_fd

    def _read(self, fd: int) -> bool:
        """Reads some of a pipe; whether there may be more now."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        self._pipes[fd](data)
        if not data:
            del self._pipes[fd]
            self._selector.unregister(fd)
            os.close(fd)
        return bool(data)

    # While it runs

    def _hear(self, line: bytes) -> None:
        """The replica reports something."""
        kind = next((kind for start, kind in STATES.items() if line.startswith(start)), None)
        if kind is None:
            line = self._mask(line.decode(errors="replace")).encode()
            return self._watchers.tell(line, is_dispensable=True)
        if kind == "loaded":
            limits = json.loads(line)["limits"]
            self._grace_s = float(limits["grace_s"])
            if (limit_s := limits["startup_timeout_s"]) is not None:
                self._expect_ready_within(limit_s)
        elif kind == "ready":
            self._deadlines.pop("startup", None)
        self._state[kind] = line
        self._watchers.tell(line)

    def _expect_ready_within(self, limit_s: float) -> None:
        why = f"the app was not ready within its startup_timeout of {limit_s:g} s"
        self._set_deadline("startup", limit_s, lambda: self._kill(why))

    def _note(self, message: str) -> None:
        self._write_log([record("keeper", "INFO", message)])

    def _write_log(self, records: Iterable[dict[str, Any]]) -> None:
        if self._log is None:
            return
        for each in records:
            try:
                if self._lost_lines:
                    lost = f"{self._lost_lines} lines could not be written here"
                    self._log.write(encode(record("keeper", "WARN", lost)))
                    self._lost_lines = 0
                self._log.write(encode(each | {"message": self._mask(each["message"])}))
            except OSError:  # a full disk is no reason to end a replica
                self._lost_lines += 1
        self._watchers.tell_of_log(self._log.position)

    def _obey(self, watcher: Watcher, command: dict[str, Any]) -> None:
        match command.get("do"):
            case "terminate":
                self._terminate("it was asked to end")
            case "kill":
                self._kill("it was killed on request")
            case "tell of log" if self._log is not None:
                watcher.log_position = int(command["position"])
                self._watchers.tell_of_log(self._log.position)

    def _count_watchers(self) -> None:
        if len(self._watchers):
            self._deadlines.pop("linger", None)
        elif "linger" not in self._deadlines:
            why = "no server has been there for it"
            linger_s = self._order["linger_s"]
            self._set_deadline("linger", linger_s, lambda: self._terminate(why))

    # The end

    def _terminate(self, why: str) -> None:
        """Has the replica end in order. It counts its grace period itself, once for requests and
        once for teardown; past both we end it."""
        if self._why or self._end is not None:
            return
        self._why = why
        self._note(why)
        self._signal(signal.SIGTERM)
        late_s = 2 * self._grace_s + self._order["late_s"]
        too_late = f"{why}, and killed when it had not after {late_s:g} s"
        self._set_deadline("grace", late_s, lambda: self._kill(too_late))

    def _kill(self, why: str) -> None:
        if self._end is None:
            self._why = why
            self._has_killed = True
            self._note(why)
            self._signal(signal.SIGKILL)

    def _signal(self, signum: signal.Signals) -> None:
        if self._pid:  # not reaped yet: the number is still its own
            os.kill(self._pid, signum)

    def _reap(self) -> None:
        """Takes the exit status of the replica and of what it has left behind."""
        while (pid := _exited_child()) is not None:
            if pid == self._pid:
                # Until it is reaped, no other process group can have its number.
                with contextlib.suppress(OSError):
                    os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if pid == self._pid:
                self._pid = 0
                self._end = self._judge(os.waitstatus_to_exitcode(status))
                self._deadlines.clear()
                self._set_deadline("stragglers", STRAGGLERS_S, self._conclude)
        if self._end is not None and "ended" not in self._state:
            left = processes.children(os.getpid())
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                self._conclude()

    def _judge(self, code: int) -> dict[str, Any]:
        """Why the replica has ended, by what we did and what the kernel tells."""
        if code >= 0:
            reason = f"the replica ended with exit status {code}"
        else:
            reason = f"the replica was ended by {_signal_name(-code)}"
        if code == -signal.SIGKILL and not self._has_killed and self._has_been_short_of_memory():
            reason += ", as there was no memory left"
        if self._why:
            reason = self._why if self._has_killed else f"{self._why}: {reason}"
        return {"reason": reason, "exit_status": 128 - code if code < 0 else code}

    def _has_been_short_of_memory(self) -> bool:
        kills = oom_kills()
        return kills is not None and self._kills_before is not None and kills > self._kills_before

    def _conclude(self) -> None:
        """The replica and all that it started are gone: notes it and tells everybody."""
        assert self._end is not None
        for fd in list(self._pipes):
            while self._read(fd):
                pass
        self._note(self._end["reason"])
        write_json(self._folder / "exit.json", {**self._end, "time": time.time()})
        self._deadlines.clear()
        self._tell_state("ended", {"type": "ended", **self._end})
        self._set_deadline("last moment", LAST_MOMENT_S, self._finish)

    def _finish(self) -> None:
        self._is_over = True

    def _tell_state(self, kind: str, message: dict[str, Any]) -> None:
        self._state[kind] = encode(message)
        self._watchers.tell(self._state[kind])

    # The loop

    def _wake_on_signals(self) -> None:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: None)

        def on_signal(_: int) -> None:
            arrived = os.read(read_fd, CHUNK)
            if signal.SIGCHLD in arrived:
                self._reap()
            if signal.SIGTERM in arrived or signal.SIGINT in arrived:
                self._terminate("its keeper was asked to end")

        self._selector.register(read_fd, selectors.EVENT_READ, on_signal)

    def _set_deadline(self, name: str, after_s: float, act: Callable[[], None]) -> None:
        self._deadlines[name] = (time.monotonic() + after_s, act)

    def _next_deadline_s(self) -> float | None:
        if "ended" in self._state and self._watchers.have_been_told:
            self._finish()
            return 0.0
        if not self._deadlines:
            return None
        return max(0.0, min(when for when, _ in self._deadlines.values()) - time.monotonic())

    def _meet_deadlines(self) -> None:
        now = time.monotonic()
        for name, (when, act) in list(self._deadlines.items()):
            if when <= now and name in self._deadlines:
                del self._deadlines[name]
                act()


class _Lines:
    """Cuts reports apart."""

    def __init__(self, hear: Callable[[bytes], None]) -> None:
        self._hear = hear
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._hear(line + b"\n")


class _Output:
    """Passes the records of one stream on."""

    def __init__(
        self, reader: LineReader, write: Callable[[Iterable[dict[str, Any]]], None]
    ) -> None:
        self._reader = reader
        self._write = write

    def __call__(self, data: bytes) -> None:
        self._write(self._reader.feed(data) if data else self._reader.end())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file that is there as a whole or not at all."""
    beside = path.with_name(f"{path.name}.new")
    with contextlib.suppress(OSError):
        beside.write_text(json.dumps(content))
        beside.replace(path)


def _exited_child() -> int | None:
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def main() -> None:
    """Reads what to run, and keeps it."""
    text = sys.stdin.buffer.read()
    os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
    os.closerange(LISTENING_FD + 1, os.sysconf("SC_OPEN_MAX"))
    os.set_inheritable(LISTENING_FD, False)
    Keeper(json.loads(text), socket.socket(fileno=LISTENING_FD)).run()


if __name__ == "__main__":
    main()

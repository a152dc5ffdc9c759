"""Processes by number: started with a few descriptors and no others, found again, ended surely.

Standard library only: keepers use it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

# Above the descriptors that children are given, so that none is overwritten before it is copied.
SAFE_FD = 16
RESET_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGHUP, signal.SIGCHLD)


def spawn(
    command: Sequence[str], environment: Mapping[str, str], descriptors: Mapping[int, int]
) -> int:
    """Starts a process in a session of its own; its id. Raises OSError.

    It gets our descriptors under the numbers that ``descriptors`` has as keys, and of the others
    only those standard streams that are not among them.
    """
    copies = {
        fd: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, SAFE_FD)
        for fd, source in descriptors.items()
    }
    try:
        actions = [(os.POSIX_SPAWN_DUP2, copy, fd) for fd, copy in copies.items()]
        return spawn_with(command, environment, actions)
    finally:
        for copy in copies.values():
            os.close(copy)


def spawn_with(
    command: Sequence[str], environment: Mapping[str, str], actions: Sequence[tuple[Any, ...]]
) -> int:
    """The same, with actions of posix_spawn instead of descriptors."""
    return os.posix_spawnp(
        command[0],
        list(command),
        dict(environment),
        file_actions=actions,
        setsid=True,
        setsigmask=[],
        setsigdef=RESET_SIGNALS,
    )


def start_time(pid: int) -> int | None:
    """When a process was started, in the kernel's ticks; with its number, that is who it is."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def open_same(pid: int, started: int) -> int | None:
    """A pidfd of the process, unless it has ended and its number is another's by now."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    if start_time(pid) == started:
        return pidfd
    os.close(pidfd)
    return None


def send(pidfd: int, signum: signal.Signals) -> None:
    """Sends a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signum)


def children(parent: int) -> list[int]:
    """The processes that have ``parent`` as their parent; those that have ended are left out."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(name))
    return found


def with_variable(name: str, value: str) -> list[int]:
    """The processes that were started with this environment variable, as far as we may look."""
    wanted = f"{name}={value}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if wanted in file.read().split(b"\0"):
                        found.append(int(entry))
    return found


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the third one, the state, on."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().decode(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []

"""What every launcher of replicas offers: start one, follow it, end it, find those of before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from polyrank.errors import PolyrankError
from polyrank.reports import Report


class LaunchFailed(PolyrankError):
    """A replica could not be started; it never ran."""

    status = 503
    code = "runner_scheduling_failure"


@dataclass(frozen=True, kw_only=True)
class ReplicaSpec:
    """One replica to be started.

    ``app`` is the full name, ``python`` the interpreter of the app's environment, ``folder`` the
    app's files: the working directory, and where modules are looked for first. ``ref`` is
    ``FILE[::Class]``, from there. ``environment`` is added to that of the server. ``gpus`` are
    UUIDs; with none, no GPU is visible unless ``gpus`` is None: then it sees what the server sees.
    ``secrets`` are the names of variables whose values are masked where the app prints them.
    ``num_gpus`` is for launchers that choose the machine, and with it the GPUs, themselves.
    ``host`` is the address that it serves at; one on a network serves its server only.
    """

    id: str
    app: str
    revision: str
    python: str
    folder: Path
    ref: str
    module: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    gpus: tuple[str, ...] | None = ()
    num_gpus: int = 0
    host: str = "127.0.0.1"
    ranks: int | None = None
    device: str | None = None
    verbose: bool = False
    # Both until the app says its own limits.
    startup_timeout_s: float | None = None
    grace_s: float = 5.0


@dataclass(frozen=True)
class Waiting:
    """A replica has not begun to load its app: what it waits for, for people."""

    reason: str


@dataclass(frozen=True)
class Ended:
    """A replica has ended. ``exit_status`` is as a shell has it: 128 + n after signal n."""

    reason: str
    exit_status: int


class Handle(Protocol):
    """A replica that was started."""

    @property
    def spec(self) -> ReplicaSpec:
        """What was started."""
        ...

    @property
    def pid(self) -> int | None:
        """The process, if it runs on this machine."""
        ...

    def follow(self) -> AsyncIterator[Report | Waiting | Ended]:
        """What the replica has reported so far and then what follows; the last is its ``Ended``.

        Any number may follow, at any time: ``Loaded``, the latest ``Loading``, ``Ready`` and
        ``Ended`` are told to all of them, a ``Line`` to those who follow when it comes. Where a
        place has to be found first, ``Waiting`` tells why it takes long.
        """
        ...

    async def terminate(self) -> None:
        """Ends it in order, or at once when the app's grace period is over; returns when it has
        ended."""
        ...

    def kill(self) -> None:
        """Ends it at once; ``follow`` tells when it has ended."""
        ...


class Launcher(Protocol):
    """Starts replicas."""

    async def start(self, spec: ReplicaSpec) -> Handle:
        """Starts one. Raises LaunchFailed if there is nothing to be followed then."""
        ...

    async def recover(self) -> Sequence[Handle]:
        """Those that a server before this one has left; ones that ended meanwhile say so."""
        ...

    async def close(self, *, keep: bool) -> None:
        """Lets them go: with ``keep`` they run on, without it they are ended first."""
        ...

"""An app as the server sees it: its limits, its replicas, and why a request of it waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from polyrank.errors import ReplicaUnreachable
from polyrank.gateway.answers import UnknownApp
from polyrank.gateway.replicas import HostedReplica, Replicas, Slot
from polyrank.gateway.traffic import Traffic
from polyrank.gateway.upstream import Upstream
from polyrank.reports import Limits, Loading, Ready

# How much of the average the latest request's duration is.
WEIGHT = 0.2
STARTING = "starting replica"


class ReplicaDown(ReplicaUnreachable):
    """The app did not come up, and is not up yet. Details: ``retry_after_s``."""

    code = "runner_scheduling_failure"


class HostedApp:
    """One app behind its name (``local/hello``), and the replicas that serve it.

    ``on_change`` is called when those who wait may have another reason to, ``on_use`` when other
    requests than before run or wait for a place. Whoever keeps the replicas sets ``on_demand``,
    called when somebody may have to wait for a place, ``on_idle``, when a replica has nothing to do
    any more, ``on_lost``, with the id of a replica that does not listen any more, ``on_unfit``, of
    one that has answered that it cannot go on, and ``census``, which tells the state and machine
    type of each.
    """

    def __init__(
        self, name: str, limits: Limits, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self.limits = limits
        self.routes: list[dict[str, Any]] = []
        # Its OpenAPI document, for when no replica runs.
        self.openapi: dict[str, Any] | None = None
        self.replicas = Replicas(
            on_demand=lambda: self.on_demand(),
            on_lost=self._is_lost,
            on_unfit=lambda replica: self.on_unfit(replica.id),
            on_use=lambda: self.on_use(),
            on_idle=lambda: self.on_idle(),
        )
        self.on_demand: Callable[[], None] = lambda: None
        self.on_idle: Callable[[], None] = lambda: None
        self.on_lost: Callable[[str], None] = lambda id: None
        self.on_unfit: Callable[[str], None] = lambda id: None
        self.on_use: Callable[[], None] = lambda: None
        self.census: Callable[[], list[tuple[str, str]]] = self._count_replicas
        self.traffic = Traffic()
        self._on_change = on_change
        self._starting: dict[str, str] = {}  # what the start of each is at
        self._failure = ""
        self._starts_at = 0.0
        self._without = STARTING
        self._usual_s: float | None = None

    @property
    def state(self) -> str:
        """``ready``, ``failed`` or what the start is at."""
        if self.replicas.is_open:
            return "ready"
        return "failed" if self._has_failed else self._waits_for

    def without_replica(self, why: str = STARTING) -> None:
        """Why there is none while none starts, for people."""
        if why != self._without:
            self._without = why
            self._on_change()

    def is_starting(self, id: str, what: str = STARTING) -> None:
        """A replica is on its way; ``what`` it is at."""
        self._starting[id] = what
        self._failure = ""
        self._on_change()

    def is_loading(self, id: str, report: Loading) -> None:
        """A replica's ``setup`` says how far it is."""
        what = f": {report.what}" if report.what else ""
        self._starting[id] = f"loading {report.fraction:.0%}{what}".replace("%", " %")
        self._on_change()

    def is_ready(self, id: str, report: Ready, limits: Limits | None = None) -> None:
        """A replica serves, within ``limits`` or else those of the app."""
        self._starting.pop(id, None)
        self.routes = report.routes
        self._failure = ""
        upstream = Upstream(report.host, report.port, report.token)
        limit = (limits or self.limits).multiplexing
        self.replicas.add(HostedReplica(id, upstream, limit, tells_ends=report.ends))
        self._on_change()

    def is_gone(self, id: str, reason: str = "", pause_s: float = 0.0) -> None:
        """A replica has ended; with a reason if it never served. The next comes in ``pause_s``."""
        self._starting.pop(id, None)
        self.replicas.remove(id)
        if reason:
            self._failure = reason
            self._starts_at = time.monotonic() + pause_s
        if self._has_failed:
            self.replicas.fail(self._down())
        self._on_change()

    def _count_replicas(self) -> list[tuple[str, str]]:
        serving = ["running" if each.running else "idle" for each in self.replicas]
        return [(state, "") for state in [*("pending" for _ in self._starting), *serving]]

    def close(self) -> None:
        """The app is served no more: connections to its replicas end, and waits for one."""
        self.replicas.close(UnknownApp(f"{self.name} is not served here any more"))
        for replica in self.replicas:
            replica.upstream.close()

    async def take(self, hint: str | None = None, *, weight: int = 1) -> Slot:
        """Waits for a place at a replica; see ``Replicas.take``. Raises ReplicaDown if the last
        start has failed."""
        if self._has_failed:
            raise self._down()
        return await self.replicas.take(hint, weight=weight)

    def note_duration(self, seconds: float) -> None:
        """A request of the app took this long."""
        usual_s = seconds if self._usual_s is None else self._usual_s
        self._usual_s = usual_s + WEIGHT * (seconds - usual_s)

    def reason(self, position: int) -> str:
        """Why a request with ``position`` others before it waits, for people."""
        if not self.replicas.is_open:
            if self._has_failed:
                return f"the replica did not start: {self._failure}"
            return self._waits_for
        ahead = f"{position} ahead" if position else "next"
        if self._usual_s is None:
            return ahead
        rounds = position // max(1, self.replicas.places) + 1
        return f"{ahead}, about {max(1, round(rounds * self._usual_s))} s"

    @property
    def _has_failed(self) -> bool:
        return bool(self._failure) and not self._starting and not self.replicas.is_open

    @property
    def _waits_for(self) -> str:
        return next(iter(self._starting.values()), self._without)

    def _down(self) -> ReplicaDown:
        left_s = max(1.0, self._starts_at - time.monotonic())
        return ReplicaDown(f"{self.name} did not start: {self._failure}", retry_after_s=left_s)

    def _is_lost(self, replica: HostedReplica) -> None:
        self.is_gone(replica.id)
        self.on_lost(replica.id)

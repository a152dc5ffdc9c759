"""``/metrics``, for Prometheus: what the server sees of its apps, and what they count themselves.

Everything is gathered when it is asked for; what requests cost is in ``traffic``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from prometheus_client import Metric, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from polyrank import __version__
from polyrank.app.metrics import ASKED, MEDIA_TYPE, PATH
from polyrank.errors import ReplicaUnreachable
from polyrank.gateway import families
from polyrank.gateway.answers import UnknownApp
from polyrank.gateway.callers import Caller, require
from polyrank.gateway.hosting import HostedApp
from polyrank.gateway.registry import Registry
from polyrank.gateway.replicas import HostedReplica
from polyrank.store.keys import Scope
from polyrank.store.requests import Requests

# How long a replica may take to say what it counts, and how much that may be.
REPLICA_S = 5.0
REPLICA_BYTES = 16 * 2**20


class Metrics:
    """The handlers of these routes. A key with the scope API opens what is its owner's."""

    def __init__(self, apps: Registry, requests: Requests) -> None:
        self._apps = apps
        self._requests = requests
        self._process = ProcessCollector(registry=None)
        # What else the server's administrators are told.
        self.more: Callable[[], Awaitable[list[Metric]]] | None = None

    def routes(self) -> list[BaseRoute]:
        """The routes, for the server's own pages."""
        return [
            Route("/metrics", self.of_server, methods=["GET"]),
            Route("/metrics/{app:path}", self.of_app, methods=["GET"]),
        ]

    async def of_server(self, request: Request) -> Response:
        """The server's process, and the apps of the key's owner; of all owners for an admin's."""
        caller = require(request, Scope.API)
        apps = [entry.app for entry in self._apps if _is_theirs(caller, entry.app)]
        queued = await self._requests.queue_sizes()
        info = InfoMetricFamily("polyrank", "The server.", {"version": __version__})
        found = [*families.of_apps(apps, queued), info, *self._process.collect()]
        if caller.is_admin and self.more is not None:
            found += await self.more()
        return _answer(found)

    async def of_app(self, request: Request) -> Response:
        """What the replicas of an app count with prometheus_client, marked with their ids."""
        caller = require(request, Scope.API)
        name = request.path_params["app"].strip("/")
        entry = await self._apps.wait_for(name)
        if entry is None or not _is_theirs(caller, entry.app):
            raise UnknownApp(f"no app {name!r} of this key's owner is here")
        return _answer(await _gather(entry.app))


def _is_theirs(caller: Caller, app: HostedApp) -> bool:
    return caller.is_admin or app.name.rpartition("/")[0] == caller.owner


class _Gathered(Collector):
    """Families that are complete already."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


def _answer(found: Iterable[Metric]) -> Response:
    return Response(generate_latest(_Gathered(found)), media_type=MEDIA_TYPE)


async def _gather(app: HostedApp) -> list[Metric]:
    replicas = list(app.replicas)
    texts = await asyncio.gather(*(_ask(each) for each in replicas))
    up = GaugeMetricFamily(
        "polyrank_replica_up",
        "Whether the replica has said what it counts.",
        labels=["application", "replica"],
    )
    merged: dict[str, Metric] = {}
    for replica, text in zip(replicas, texts, strict=True):
        up.add_metric([app.name, replica.id], text is not None)
        marks = {"application": app.name, "replica": replica.id}
        for family in text_string_to_metric_families(text or ""):
            known = merged.setdefault(
                family.name, Metric(family.name, family.documentation, family.type, family.unit)
            )
            for sample in family.samples:
                labels = {_kept(name, marks): value for name, value in sample.labels.items()}
                known.samples.append(sample._replace(labels={**labels, **marks}))
    return [up, *merged.values()]


def _kept(label: str, marks: Iterable[str]) -> str:
    """The name of an app's own label; Prometheus renames those that collide in the same way."""
    return f"exported_{label}" if label in marks else label


async def _ask(replica: HostedReplica) -> str | None:
    """What a replica counts, as text; None if it does not say."""
    try:
        async with asyncio.timeout(REPLICA_S):
            exchange = await replica.upstream.send("GET", PATH.encode(), [(ASKED, b"1")], b"")
            try:
                body = await exchange.body(REPLICA_BYTES)
            finally:
                exchange.release()
    except (TimeoutError, ReplicaUnreachable):
        return None
    return body.decode() if exchange.status == 200 else None

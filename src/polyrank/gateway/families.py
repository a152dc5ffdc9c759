"""What a server sees of its apps, as families of Prometheus metrics.

Those named ``fal_app_…`` are what the reference platform exports, so that its users' dashboards
work unchanged: gauges, of now or of the last minute. Those named ``polyrank_…`` are counters and
histograms, which miss nothing between two scrapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from polyrank.gateway.hosting import HostedApp
from polyrank.gateway.traffic import BOUNDS_S, Completed, by_bucket, cumulated
from polyrank.scaler.gpus import Device

_Counts = GaugeMetricFamily | CounterMetricFamily

APP = "application"
BUCKETS = (*(f"{bound:g}" for bound in BOUNDS_S), "+Inf")


def of_apps(apps: Sequence[HostedApp], queued: Mapping[str, int]) -> list[Metric]:
    """All families of some apps; ``queued`` are the requests of each that wait in the store."""
    return [
        *(_runners(apps), _queue_size(apps, queued), _concurrent(apps)),
        *_of_the_last_minute(apps),
        *_since_the_start(apps),
        *_durations(apps),
    ]


def of_gpus(devices: Iterable[Device]) -> Metric:
    """The GPUs of this machine."""
    family = GaugeMetricFamily(
        "polyrank_gpus", "GPUs: leased to a replica, free, or broken.", labels=["state"]
    )
    states = Counter(
        "broken" if each.broken else "leased" if each.owner else "free" for each in devices
    )
    for state in ("broken", "free", "leased"):
        family.add_metric([state], states[state])
    return family


def of_deployments(
    outcomes: Mapping[tuple[str, str], int], serving: Mapping[str, int]
) -> list[Metric]:
    """What was deployed: revisions of each app by state, and the number of the one that serves."""
    counts = GaugeMetricFamily(
        "polyrank_app_revisions", "Revisions that were deployed.", labels=[APP, "state"]
    )
    for (app, state), count in sorted(outcomes.items()):
        counts.add_metric([app, state], count)
    current = GaugeMetricFamily(
        "polyrank_app_revision", "The number of the revision that serves.", labels=[APP]
    )
    for app, number in sorted(serving.items()):
        current.add_metric([app], number)
    return [counts, current]


def _runners(apps: Iterable[HostedApp]) -> Metric:
    family = GaugeMetricFamily(
        "fal_app_runners", "Replicas, by what they are at.", labels=[APP, "state", "machine_type"]
    )
    for app in apps:
        for (state, machine_type), count in sorted(Counter(app.census()).items()):
            family.add_metric([app.name, state, machine_type], count)
    return family


def _queue_size(apps: Iterable[HostedApp], queued: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily("fal_app_queue_size", "Requests that wait.", labels=[APP])
    for app in apps:
        family.add_metric([app.name], queued.get(app.name, 0) + len(app.replicas.waiting()))
    return family


def _concurrent(apps: Iterable[HostedApp]) -> Metric:
    family = GaugeMetricFamily(
        "fal_app_concurrent_requests", "Requests that replicas work on.", labels=[APP]
    )
    for app in apps:
        family.add_metric([app.name], sum(each.running for each in app.replicas))
    return family


def _of_the_last_minute(apps: Iterable[HostedApp]) -> list[Metric]:
    received = GaugeMetricFamily(
        "fal_app_requests_received", "Requests of the last minute.", labels=[APP, "method"]
    )
    completed = GaugeMetricFamily(
        "fal_app_requests_completed",
        "Requests that ended in the last minute.",
        labels=[APP, "method", "status"],
    )
    latency = GaugeMetricFamily(
        "fal_app_request_latency",
        "Requests of the last minute that a replica worked on for at most le seconds.",
        labels=[APP, "le"],
    )
    for app in apps:
        came, ended = app.traffic.minute()
        _add(app.name, came, received, ended, completed)
        for bound, count in _buckets(by_bucket(ended)):
            latency.add_metric([app.name, bound], count)
    return [received, completed, latency]


def _since_the_start(apps: Iterable[HostedApp]) -> list[Metric]:
    received = CounterMetricFamily(
        "polyrank_app_requests_received", "Requests that were taken in.", labels=[APP, "method"]
    )
    completed = CounterMetricFamily(
        "polyrank_app_requests_completed",
        "Requests that have ended.",
        labels=[APP, "method", "status"],
    )
    for app in apps:
        came, ended = app.traffic.all()
        _add(app.name, came, received, ended, completed)
    return [received, completed]


def _durations(apps: Iterable[HostedApp]) -> list[Metric]:
    latency = HistogramMetricFamily(
        "polyrank_app_request_latency_seconds",
        "How long replicas worked on the requests that have ended.",
        labels=[APP],
    )
    wait = HistogramMetricFamily(
        "polyrank_app_request_wait_seconds",
        "How long the requests that have ended had waited for a replica.",
        labels=[APP],
    )
    for app in apps:
        traffic = app.traffic
        _, ended = traffic.all()
        latency.add_metric([app.name], _buckets(by_bucket(ended)), traffic.ran_s)
        wait.add_metric([app.name], _buckets(traffic.waited), traffic.waited_s)
    return [latency, wait]


def _add(
    app: str,
    came: Mapping[str, int],
    received: _Counts,
    ended: Mapping[Completed, int],
    completed: _Counts,
) -> None:
    """Adds counts to a family of what came and to one of what ended."""
    for method, count in sorted(came.items()):
        received.add_metric([app, method], count)
    by_status: Counter[tuple[str, int]] = Counter()
    for key, count in ended.items():
        by_status[key.method, key.status] += count
    for (method, status), count in sorted(by_status.items()):
        completed.add_metric([app, method, str(status)], count)


def _buckets(counts: list[int]) -> list[tuple[str, int]]:
    return list(zip(BUCKETS, cumulated(counts), strict=True))

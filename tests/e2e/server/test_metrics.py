"""What Prometheus is told: by the server of its apps, and by the apps of themselves."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from polyrank_program import ROOT
from prometheus_client.parser import text_string_to_metric_families
from served import APP, platform

from polyrank import reports
from polyrank.store.keys import Scope

REMOTE = {"x-forwarded-for": "203.0.113.7"}


class Scraped:
    """Samples by name and labels."""

    def __init__(self, answer: httpx.Response) -> None:
        answer.raise_for_status()
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        self.families = list(text_string_to_metric_families(answer.text))
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._values.get((name, frozenset(labels.items())))

    def applications(self) -> set[str]:
        """Those that are told of."""
        labels = (dict(labels) for _, labels in self._values)
        return {each["application"] for each in labels if "application" in each}


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[tuple[Any, httpx.AsyncClient]]:
    """A server and a client for it."""
    async with (
        platform(tmp_path / "polyrank.db") as (server, address),
        httpx.AsyncClient(base_url=address, timeout=60, trust_env=False) as client,
    ):
        yield server, client


async def scrape(client: httpx.AsyncClient, path: str = "", **headers: str) -> Scraped:
    return Scraped(await client.get("/metrics" + path, headers=headers))


async def test_direct_calls_are_counted_by_how_they_end(here: Any) -> None:
    _, client = here
    for path, number in (("", 3), ("", 4), ("/odd", 2), ("/nowhere", 1)):
        await client.post(f"/run/{APP}{path}", json={"number": number})
    await client.get(f"/run/{APP}/openapi.json")  # only asks
    seen = await scrape(client)
    for name in ("fal_app_requests_completed", "polyrank_app_requests_completed_total"):
        counts = [
            seen(name, application=APP, method="POST", status=status)
            for status in ("200", "422", "404")
        ]
        assert counts == [2, 1, 1]
    assert seen("fal_app_requests_received", application=APP, method="POST") == 4
    assert seen("polyrank_app_requests_received_total", application=APP, method="POST") == 4
    assert seen("fal_app_request_latency", application=APP, le="+Inf") == 4
    assert seen("polyrank_app_request_latency_seconds_count", application=APP) == 4
    assert (seen("polyrank_app_request_latency_seconds_sum", application=APP) or 0) > 0
    assert seen("polyrank_app_request_wait_seconds_bucket", application=APP, le="1") == 4
    assert seen("fal_app_runners", application=APP, state="idle", machine_type="") == 1
    assert (seen("process_resident_memory_bytes") or 0) > 1e6


async def test_a_caller_who_hangs_up_is_a_499(here: Any) -> None:
    server, client = here
    with pytest.raises(httpx.ReadTimeout):
        await client.post(f"/run/{APP}/work", json={"seconds": 20}, timeout=0.3)
    await server.apps.get(APP).app.replicas.drain("only")
    seen = await scrape(client)
    status = {"application": APP, "method": "POST", "status": "499"}
    assert seen("polyrank_app_requests_completed_total", **status) == 1


async def test_queued_requests_are_counted_where_they_wait_run_and_end(here: Any) -> None:
    server, client = here
    async with contextlib.AsyncExitStack() as calls:
        for _ in range(server.apps.get(APP).app.replicas.places):  # all of them are taken
            call = client.stream("POST", f"/run/{APP}/stream", json={"number": 10_000})
            answer = await calls.enter_async_context(call)
            assert answer.status_code == 200, "its first event is there"
        ids = [
            (await client.post(f"/queue/{APP}", json={"number": 1})).json()["request_id"]
            for _ in range(3)
        ]
        seen = await scrape(client)
        assert seen("fal_app_queue_size", application=APP) == 3
        assert seen("fal_app_concurrent_requests", application=APP) == 4
        assert seen("fal_app_runners", application=APP, state="running", machine_type="") == 1
        await client.put(f"/queue/{APP}/requests/{ids.pop()}/cancel")
    for id in ids:
        async with client.stream("GET", f"/queue/{APP}/requests/{id}/status/stream") as told:
            await told.aread()  # until it is done
    await server.apps.get(APP).app.replicas.drain("only")
    seen = await scrape(client)
    assert seen("fal_app_queue_size", application=APP) == 0
    ended = {"application": APP, "method": "POST"}
    hung_up, cancelled = 4, 1
    status_499 = seen("polyrank_app_requests_completed_total", **ended, status="499")
    assert status_499 == hung_up + cancelled
    assert seen("polyrank_app_requests_completed_total", **ended, status="200") == 2
    assert seen("polyrank_app_requests_received_total", **ended) == 4 + 3
    ran = seen("polyrank_app_request_latency_seconds_count", application=APP)
    assert ran == hung_up + 2, "one was cancelled before it ran"
    assert seen("polyrank_app_request_wait_seconds_count", application=APP) == 4 + 3


async def test_a_key_sees_the_apps_of_its_owner_and_an_admins_all(here: Any) -> None:
    server, client = here
    server.host("ann/painter", reports.Limits())
    headers = {}
    for owner, scope in (("ann", Scope.API), ("root", Scope.ADMIN)):
        _, credential = await server.keys.create(owner=owner, scopes=[scope])
        headers[owner] = {**REMOTE, "authorization": f"Key {credential}"}
    assert (await client.get("/metrics", headers=REMOTE)).status_code == 401
    assert (await scrape(client, **headers["ann"])).applications() == {"ann/painter"}
    assert (await scrape(client, **headers["root"])).applications() == {APP, "ann/painter"}
    assert (await client.get(f"/metrics/{APP}", headers=headers["ann"])).status_code == 404
    assert (await client.get(f"/metrics/{APP}", headers=headers["root"])).status_code == 200


def test_what_an_app_counts_itself_is_told_with_its_replica(
    start_server: Callable[..., Any],
) -> None:
    server = start_server(str(ROOT / "tests/programs/counting_app.py"))
    with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as client:
        for pixels in (10, 32):
            client.post("/run/local/counting", json={"pixels": pixels}).raise_for_status()
        seen = Scraped(client.get("/metrics/local/counting"))
        [family] = [each for each in seen.families if each.name == "painted_pixels"]
        [painted] = [each for each in family.samples if each.name == "painted_pixels_total"]
        assert painted.value == 42
        replica = painted.labels["replica"]
        assert painted.labels == {
            "application": "local/counting",
            "exported_application": "of the app's own",
            "replica": replica,
        }
        marks = {"application": "local/counting", "replica": replica}
        assert seen("polyrank_replica_up", **marks) == 1
        assert (seen("process_resident_memory_bytes", **marks) or 0) > 1e6
        sly = {"x-polyrank-metrics": "1"}
        assert client.get("/run/local/counting/metrics", headers=sly).status_code == 404

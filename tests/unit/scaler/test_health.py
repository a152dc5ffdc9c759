"""When a replica counts as lost, by its health check."""

import asyncio
from pathlib import Path

import pytest

import polyrank
from polyrank.app import projects
from polyrank.app.health import health_check_of
from polyrank.errors import AppError, ReplicaUnreachable
from polyrank.reports import HealthCheck
from polyrank.scaler.health import Health, HealthWatch


def test_failures_in_a_row_count_once_the_start_period_is_over() -> None:
    health = Health(HealthCheck("/ready", start_period_s=30, failure_threshold=3), ready_at=100.0)
    assert health.next_at == 115.0
    health.failed(115.0)
    assert health.failures == 0 and health.next_at == 130.0
    health.failed(130.0)
    health.failed(145.0)
    assert not health.is_lost
    health.succeeded(160.0)
    assert health.failures == 0
    for at in (175.0, 190.0, 205.0):
        assert not health.is_lost
        health.failed(at)
    assert health.is_lost


def test_a_success_ends_the_start_period() -> None:
    health = Health(HealthCheck("/ready", start_period_s=1000, failure_threshold=1), ready_at=0.0)
    health.failed(1.0)
    assert not health.is_lost
    health.succeeded(2.0)
    health.failed(3.0)
    assert health.is_lost


def test_without_regularly_it_is_called_when_asked_and_after_failures() -> None:
    check = HealthCheck("/ready", start_period_s=0, failure_threshold=3, regularly=False)
    health = Health(check, ready_at=0.0)
    assert health.next_at is None
    health.ask(50.0)
    assert health.next_at == 50.0
    health.failed(51.0)
    assert health.next_at == 66.0
    health.succeeded(66.0)
    assert health.next_at is None


def test_an_answer_may_ask_for_a_call_before_it_is_due() -> None:
    health = Health(HealthCheck("/ready"), ready_at=0.0)
    health.ask(3.0)
    assert health.next_at == 3.0
    health.ask(4.0)
    assert health.next_at == 3.0


async def test_a_watch_calls_until_the_replica_is_lost() -> None:
    answers: list[int | Exception] = [200, 500, 204, 503, ReplicaUnreachable("it is gone"), 500]
    called: list[tuple[str, str]] = []

    async def call(method: str, path: str) -> int:
        called.append((method, path))
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    check = HealthCheck("/ready", start_period_s=0, failure_threshold=3)
    why = await HealthWatch(check, call, interval_s=0.001).run()
    assert why == "its health check /ready failed 3 times: it answered 500"
    assert answers == [] and set(called) == {("POST", "/ready")}


async def test_a_watch_waits_for_an_answer_in_time_only() -> None:
    async def call(method: str, path: str) -> int:
        await asyncio.Event().wait()
        return 200

    check = HealthCheck("/r", start_period_s=0, timeout_s=0.01, failure_threshold=1)
    why = await HealthWatch(check, call, interval_s=0.001).run()
    assert why == "its health check /r failed 1 times: it did not answer within 0.01 s"


async def test_a_watch_that_is_not_regular_waits_to_be_asked() -> None:
    called = asyncio.Event()

    async def call(method: str, path: str) -> int:
        called.set()
        return 500

    check = HealthCheck("/ready", start_period_s=0, failure_threshold=1, regularly=False)
    watch = HealthWatch(check, call)
    running = asyncio.create_task(watch.run())
    await asyncio.sleep(0)  # it has begun
    assert not called.is_set()
    watch.ask()
    assert "answered 500" in await running


class Checked(polyrank.App):
    health_check = "an attribute of the author's own"

    @polyrank.endpoint("/ready", health_check=polyrank.HealthCheck(failure_threshold=5))
    def ready(self) -> None: ...

    @polyrank.endpoint("/")
    def work(self) -> None: ...


def test_an_endpoints_health_check_has_defaults() -> None:
    assert health_check_of(Checked) == HealthCheck("/ready", failure_threshold=5)
    assert health_check_of(polyrank.App) is None


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('{path = "/health"}', HealthCheck("/health", "GET")),
        ('{path = "/ready", timeout_seconds = 1}', HealthCheck("/ready", timeout_s=1)),
    ],
)
def test_pyproject_may_name_another(tmp_path: Path, table: str, expected: HealthCheck) -> None:
    assert health_check_of(projects.load(projects.find("checked", project(tmp_path, table)))) == (
        expected
    )


def test_a_health_check_of_what_is_not_there_is_refused(tmp_path: Path) -> None:
    cls = projects.load(projects.find("checked", project(tmp_path, '{path = "/gone"}')))
    with pytest.raises(AppError, match=r"does not answer /gone \(/ready\)"):
        health_check_of(cls)


def project(folder: Path, table: str) -> Path:
    (folder / "checked_app.py").write_text(
        "import polyrank\n"
        "class Checked(polyrank.App):\n"
        "    @polyrank.endpoint('/ready')\n"
        "    def health_check(self) -> None: ...\n"
    )
    (folder / "pyproject.toml").write_text(
        f'[tool.polyrank.apps.checked]\nref = "checked_app.py"\nhealth_check = {table}\n'
    )
    return folder

"""polyrank.client, blocking and async, against a real server."""

import asyncio
import itertools
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from polyrank import client as polyrank_client
from polyrank.client import (
    AsyncClient,
    ClientError,
    ClientHTTPError,
    ClientTimeoutError,
    Completed,
    InProgress,
    Queued,
    ServerUnreachable,
    StreamFailed,
    SyncClient,
)

APP = "local/queue-app"


class Blocking:
    """An async client whose calls are waited for, so that one test tells of both."""

    def __init__(self, client: Any, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        return self._wrap(value) if callable(value) else value

    def _wrap(self, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if hasattr(result, "__aiter__"):
                return self._values(result)
            if asyncio.iscoroutine(result):
                result = self._runner.run(result)
            is_handle = hasattr(result, "request_id") and hasattr(result, "iter_events")
            return Blocking(result, self._runner) if is_handle else result

        return call

    def _values(self, iterator: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._runner.run(anext(iterator))
                except StopAsyncIteration:
                    return
        finally:
            self._runner.run(iterator.aclose())


def make(kind: str, server: Any, **options: Any) -> Iterator[Any]:
    if kind == "sync":
        with SyncClient(server=server.address, **options) as client:
            yield client
        return
    with asyncio.Runner() as runner:
        client = AsyncClient(server=server.address, **options)
        yield Blocking(client, runner)
        runner.run(client.close())


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, shared_server: Any) -> Iterator[Any]:
    yield from make(request.param, shared_server)


@pytest.fixture(params=["sync", "async"])
def restarted(request: pytest.FixtureRequest, server: Any) -> Iterator[tuple[Any, Any]]:
    """A client of a server that a test may kill."""
    for client in make(request.param, server):
        yield client, server


def test_run_gives_the_answer_of_an_endpoint(client: Any) -> None:
    assert client.run(APP, arguments={"number": 21}) == {"double": 42}
    assert client.run(APP, {"number": 3}, path="/odd").odd == 3


def test_a_bare_name_is_the_app_that_runs_here(client: Any) -> None:
    assert client.run("queue-app", {"number": 1}) == {"double": 2}
    with pytest.raises(ClientError, match="names no app"):
        client.run("local//x", {})


def test_submit_get_and_read_a_result_either_way(client: Any) -> None:
    handle = client.submit(APP, arguments={"number": 8}, path="/paint")
    result = handle.get()
    assert result["image"]["url"] == result["image"].url
    assert result.image.file_name.endswith(".png")
    assert client.result(APP, handle.request_id) == result
    assert isinstance(client.status(APP, handle.request_id), Completed)
    assert client.get_handle(APP, handle.request_id).get() == result


def test_statuses_come_as_they_change(client: Any) -> None:
    handle = client.submit(APP + "/work", {"seconds": 0.3})
    seen = list(handle.iter_events(with_logs=True))
    assert isinstance(seen[-1], Completed)
    assert seen[-1].metrics["inference_time"] >= 0.3
    assert {type(status) for status in seen[:-1]} <= {Queued, InProgress}
    assert [type(each) for each in client.iter_events(APP, handle.request_id)] == [Completed]


def test_subscribe_tells_what_happens(client: Any) -> None:
    seen: list[Any] = []
    result = client.subscribe(
        APP,
        {"seconds": 0.3},
        path="/work",
        on_enqueue=seen.append,
        on_queue_update=seen.append,
        priority="low",
        hint="here",
    )
    assert result.pid > 0
    assert isinstance(seen[0], str) and isinstance(seen[-1], Completed)


def test_errors_say_what_is_wrong_and_where(client: Any) -> None:
    for call in (client.run, client.subscribe):
        with pytest.raises(ClientHTTPError) as caught:
            call(APP + "/odd", {"number": 2})
        error = caught.value
        assert error.status_code == 422
        assert error.detail[0]["loc"] == ["body", "number"]
        assert "number: must be odd" in str(error)
        assert error.request_id and error.request_id in str(error)
        assert error.response.json()["detail"] == error.detail
    with pytest.raises(ClientHTTPError, match="there is no app 'local/nothing' here") as caught:
        client.run("local/nothing", {})
    assert (caught.value.status_code, caught.value.error_type) == (404, "app_not_found")


def test_threads_may_share_a_client(shared_server: Any) -> None:
    with SyncClient(server=shared_server.address) as client, ThreadPoolExecutor(16) as pool:
        numbers = range(64)
        results = pool.map(lambda number: client.subscribe(APP, {"number": number}), numbers)
        assert [result.double for result in results] == [2 * number for number in numbers]


def test_arguments_that_are_no_json_are_refused_before_anything_is_sent(client: Any) -> None:
    with pytest.raises(ClientError, match="upload files"):
        client.run(APP, {"number": b"bytes"})


def test_stream_gives_events_as_they_come(client: Any) -> None:
    events = list(client.stream(APP, {"number": 3}))
    assert [event.step for event in events] == [0, 1, 2]
    assert list(client.stream(APP + "/stream", {"number": 1})) == [{"step": 0}]


def test_a_stream_that_fails_says_why_after_its_events(client: Any) -> None:
    events = client.stream(APP, {"number": 2}, path="/stumble")
    assert [next(events)["step"] for _ in range(2)] == [0, 1]
    with pytest.raises(StreamFailed, match="too far"):
        next(events)


def test_what_is_no_stream_is_an_error_with_the_apps_reason(client: Any) -> None:
    with pytest.raises(ClientHTTPError, match="number") as caught:
        next(client.stream(APP, {}))
    assert caught.value.status_code == 422
    with pytest.raises(ClientError, match="call it with run"):
        next(client.stream(APP, {"number": 1}, path="/slow"))


def test_a_stream_that_is_left_early_ends_the_work(client: Any) -> None:
    events = client.stream(APP, {"number": 10**6})
    assert [event.step for event in itertools.islice(events, 2)] == [0, 1]
    events.close()
    for _ in range(4):  # as many as run at once: none of the slots is taken
        assert client.run(APP, {"number": 1}, start_timeout=30) == {"double": 2}


def test_cancel_stops_the_work(client: Any, tmp_path: Path) -> None:
    log = tmp_path / "steps"
    handle = client.submit(APP + "/work", {"seconds": 60, "log": str(log)})
    for status in handle.iter_events():
        if isinstance(status, InProgress):
            handle.cancel()
    with pytest.raises(ClientHTTPError) as caught:
        handle.get()
    assert caught.value.status_code == 499
    with pytest.raises(ClientHTTPError, match="ALREADY_COMPLETED"):
        handle.cancel()
    with pytest.raises(ClientHTTPError, match="NOT_FOUND"):
        client.cancel(APP, "no-such-request")


def test_a_client_timeout_cancels_and_names_the_request(client: Any) -> None:
    ids: list[str] = []
    begun = time.monotonic()
    with pytest.raises(ClientTimeoutError) as caught:
        client.subscribe(
            APP, {"seconds": 60}, path="/work", client_timeout=0.7, on_enqueue=ids.append
        )
    assert time.monotonic() - begun < 10
    assert caught.value.request_id == ids[0] and ids[0] in str(caught.value)
    handle = client.get_handle(APP, ids[0])
    with pytest.raises(ClientHTTPError) as ended:
        handle.get()
    assert ended.value.status_code == 499


def test_a_client_timeout_holds_though_the_server_keeps_talking(client: Any) -> None:
    lines: list[Any] = []

    def on_update(status: Any) -> None:
        lines.extend(getattr(status, "logs", None) or ())

    begun = time.monotonic()
    with pytest.raises(ClientTimeoutError):
        client.subscribe(
            APP + "/chatty",
            {"seconds": 60},
            with_logs=True,
            on_queue_update=on_update,
            client_timeout=1.0,
        )
    assert 1.0 <= time.monotonic() - begun < 10
    assert len(lines) > 5 and lines[0]["message"] == "still at work"


def test_the_events_of_a_queued_request_are_there_however_late(client: Any) -> None:
    handle = client.submit(APP + "/stream", {"number": 3})
    assert [event.step for event in handle.stream()] == [0, 1, 2]
    assert [event.step for event in handle.stream()] == [0, 1, 2]
    with pytest.raises(ClientError, match="handle's stream"):
        handle.get()
    failed = client.submit(APP + "/odd", {"number": 2})
    with pytest.raises(StreamFailed, match="must be odd"):
        list(failed.stream())


def test_a_kept_stream_is_run_once(client: Any, tmp_path: Path) -> None:
    for _ in range(2):
        events = client.stream(APP, {"number": 3}, idempotency_key=tmp_path.name)
        assert [event.step for event in events] == [0, 1, 2]


def test_a_timeout_of_run_ends_it(client: Any) -> None:
    with pytest.raises(ClientTimeoutError):
        client.run(APP + "/work", {"seconds": 60}, timeout=0.5)
    assert client.run(APP, {"number": 1}) == {"double": 2}


def test_one_idempotency_key_is_one_request(client: Any, tmp_path: Path) -> None:
    key = tmp_path.name
    first, second = (client.submit(APP, {"number": 5}, idempotency_key=key) for _ in range(2))
    assert first.request_id == second.request_id
    assert client.submit(APP, {"number": 5}).request_id != first.request_id
    for _ in range(2):
        assert client.run(APP, {"number": 5}, idempotency_key=key + "run").double == 10


def test_a_header_that_cannot_be_sent_is_told(client: Any) -> None:
    with pytest.raises(ClientError, match="cannot be asked"):
        client.run(APP, {}, headers={"x-mine": "two\nlines"})


def test_headers_reach_the_app(shared_server: Any) -> None:
    with SyncClient(key="id:secret", server=shared_server.address) as client:
        headers = client.run(APP + "/caller", {}, headers={"X-Mine": "yes"})
    assert headers["x-mine"] == "yes"
    assert headers["user-agent"].startswith("polyrank-client")


def test_nobody_there_is_told_with_what_to_do() -> None:
    with SyncClient(server="http://127.0.0.1:9", attempts=1) as client:
        with pytest.raises(ServerUnreachable, match="POLYRANK_SERVER"):
            client.run(APP, {})
    with pytest.raises(ClientError, match="is not the address of a server"):
        SyncClient(server="127.0.0.1:8080").run(APP, {})


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_server_on_this_machine_is_reached_past_any_proxy(
    shared_server: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    for client in make(kind, shared_server):
        assert client.run(APP, {"number": 2}) == {"double": 4}


def test_a_server_that_is_killed_while_one_waits_is_asked_again(restarted: Any) -> None:
    client, server = restarted
    handle = client.submit(APP + "/work", {"seconds": 1})
    statuses = handle.iter_events()
    next(statuses)
    server.end(signal.SIGKILL)
    again = threading.Thread(target=server.start_again)
    again.start()
    assert isinstance(list(statuses)[-1], Completed)
    again.join()
    assert handle.get().pid > 0


def test_the_functions_of_the_module_use_the_environment(
    shared_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYRANK_SERVER", shared_server.address)
    for owner in (polyrank_client.sync_client, polyrank_client.async_client):
        monkeypatch.delitem(vars(owner), "_flows", raising=False)
    assert polyrank_client.run(APP, {"number": 2}) == {"double": 4}

    async def twice() -> list[Any]:
        return [await polyrank_client.run_async(APP, {"number": 3}) for _ in range(2)]

    async def closing() -> None:
        assert await twice() == [{"double": 6}] * 2
        await polyrank_client.async_client.close()

    asyncio.run(closing())
    asyncio.run(closing())  # a second event loop
    polyrank_client.sync_client.close()

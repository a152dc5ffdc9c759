"""The reference platform's JavaScript client, as npm has it, against our server."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from polyrank_program import ROOT

from .conftest import ServerProcess
from .node import WAYS, Run, run_node

APP = ROOT / "tests" / "programs" / "client_app.py"


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    return start_server(f"{APP}::ClientApp")


@pytest.fixture(params=WAYS)
def run(server: ServerProcess, request: pytest.FixtureRequest) -> Run:
    """What a program says, in each way to reach the server."""
    return partial(run_node, server.address, request.param)


@pytest.fixture
def run_once(server: ServerProcess) -> Run:
    """What a program says; for what does not depend on the way."""
    return partial(run_node, server.address, "proxy")


def test_run(run: Run) -> None:
    ((data, has_id),) = run(
        """
        const { data, requestId } = await fal.run("local/client-app", { input: { number: 1 } });
        say([data, requestId.length > 0]);
        """
    )
    assert data == {"sum": 2}
    assert has_id


def test_run_without_input(run_once: Run) -> None:
    (headers,) = run_once('say((await fal.run("local/client-app/headers")).data)')
    assert headers["user-agent"].startswith("@fal-ai/client/")


def test_subscribe_polls(run: Run) -> None:
    statuses, result = run(
        """
        const statuses = [];
        const { data, requestId } = await fal.subscribe("local/client-app", {
          input: { number: 1 },
          pollInterval: 20,
          onEnqueue: (id) => statuses.push(id),
          onQueueUpdate: (update) => statuses.push(update.status),
        });
        say([statuses[0] === requestId, statuses.at(-1)]);
        say(data);
        """
    )
    assert statuses == [True, "COMPLETED"]
    assert result == {"sum": 2}


def test_subscribe_streams_the_status(run: Run) -> None:
    statuses, result = run(
        """
        const statuses = [];
        const { data } = await fal.subscribe("local/client-app/steps", {
          mode: "streaming",
          input: { file: "/dev/null", steps: 20 },
          onQueueUpdate: (update) => statuses.push(update.status),
        });
        say(statuses);
        say(data);
        """
    )
    assert statuses[-2:] == ["IN_PROGRESS", "COMPLETED"]
    assert set(statuses[:-2]) <= {"IN_QUEUE"}
    assert result == {"steps": 20}


@pytest.mark.parametrize("mode", ["polling", "streaming"])
def test_what_the_app_prints_is_in_the_log(run: Run, mode: str) -> None:
    ((line,),) = run(
        """
        const lines = new Set();
        await fal.subscribe("local/client-app", {
          mode: argument,
          input: { number: 7 },
          logs: true,
          pollInterval: 20,
          onQueueUpdate: ({ logs }) => {
            for (const line of logs ?? []) lines.add(JSON.stringify(line));
          },
        });
        say([...lines].map((line) => JSON.parse(line)));
        """,
        mode,
    )
    assert line["message"] == "adding one to 7"
    assert (line["level"], line["source"]) == ("STDOUT", "USER")


def test_the_queue_step_by_step(run: Run) -> None:
    submitted, seen, same, completed, result = run(
        """
        const submitted = await fal.queue.submit("local/client-app", { input: { number: 1 } });
        say(submitted);
        const requestId = submitted.request_id;
        const stream = await fal.queue.streamStatus("local/client-app", { requestId });
        const seen = [];
        for await (const status of stream) seen.push(status.status);
        say(seen);
        say((await stream.done()).status === "COMPLETED");
        say(await fal.queue.status("local/client-app", { requestId, logs: true }));
        say(await fal.queue.result("local/client-app", { requestId }));
        """
    )
    assert submitted["status"] == "IN_QUEUE"
    assert seen[-1] == "COMPLETED" and same
    assert (completed["error"], completed["error_type"]) == (None, None)
    assert result == {"data": {"sum": 2}, "requestId": submitted["request_id"]}


def test_the_urls_of_a_submitted_request_lead_back_here(run: Run, server: ServerProcess) -> None:
    urls, status = run(
        """
        const { response_url, status_url, cancel_url } =
          await fal.queue.submit("local/client-app", { input: { number: 1 } });
        say([response_url, status_url, cancel_url]);
        say((await fetch(status_url)).ok);
        """
    )
    assert all(url.startswith(f"{server.address}/queue/local/client-app/requests/") for url in urls)
    assert status


def test_cancel_stops_the_work(run: Run, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    (failed,) = run(
        """
        const input = { file: argument, steps: 6000 };
        const { request_id: requestId } =
          await fal.queue.submit("local/client-app/steps", { input });
        const stream = await fal.queue.streamStatus("local/client-app", { requestId });
        for await (const { status } of stream) {
          if (status === "IN_PROGRESS") await fal.queue.cancel("local/client-app", { requestId });
        }
        say(await failure(fal.queue.result("local/client-app", { requestId })));
        """,
        marks,
    )
    assert (failed["name"], failed["status"]) == ("ApiError", 499)
    assert failed["body"]["error_type"] == "client_cancelled"
    assert not marks.exists() or marks.read_text().count("\n") < 3000


def test_stream(run: Run) -> None:
    events, last = run(
        """
        const stream = await fal.stream("local/client-app", { input: { number: 3 } });
        const events = [];
        for await (const event of stream) events.push(event);
        say(events);
        say(await stream.done());
        """
    )
    assert events == [{"step": 0}, {"step": 1}, {"step": 2}]
    assert last == {"step": 2}


def test_a_stream_that_cannot_begin_is_an_error(run: Run) -> None:
    (failed,) = run(
        """
        const stream = await fal.stream("local/client-app", { input: { number: "many" } });
        say(await failure(stream.done()));
        """
    )
    assert (failed["name"], failed["status"]) == ("ValidationError", 422)
    assert failed["body"]["detail"][0]["loc"] == ["body", "number"]


def test_a_stream_that_breaks_off_says_why_in_its_last_event(run_once: Run) -> None:
    (last,) = run_once(
        """
        const stream = await fal.stream("local/client-app/broken", { input: { number: 2 } });
        say(await stream.done());
        """
    )
    assert last["error"] == "out of paint"


def test_errors_carry_status_reason_and_id(run: Run) -> None:
    invalid, refused, bug, no_app, no_path, no_request = run(
        """
        say(await failure(fal.run("local/client-app", { input: { number: -1 } })));
        say(await failure(fal.run("local/client-app/teapot")));
        say(await failure(fal.subscribe("local/client-app/bug", {})));
        say(await failure(fal.run("local/nothing")));
        say(await failure(fal.run("local/client-app/nothing")));
        say(await failure(fal.queue.result("local/client-app", { requestId: "nothing" })));
        """
    )
    assert (invalid["name"], invalid["status"]) == ("ValidationError", 422)
    assert invalid["body"]["detail"][0]["loc"] == ["body", "number"]
    assert (refused["name"], refused["status"]) == ("ApiError", 418)
    assert refused["body"]["detail"] == "it is a teapot"
    assert bug["status"] == 500 and "missing" in bug["body"]["detail"]
    assert no_app["status"] == 404 and "local/nothing" in no_app["body"]["detail"]
    assert no_path["status"] == 404 and "/nothing" in no_path["body"]["detail"]
    assert no_request["status"] == 404
    assert all(failed["hasId"] for failed in (invalid, refused, bug, no_app, no_path))


def test_a_result_that_is_not_there_yet(run_once: Run) -> None:
    (early,) = run_once(
        """
        const input = { file: "/dev/null", steps: 6000 };
        const { request_id: requestId } =
          await fal.queue.submit("local/client-app/steps", { input });
        say(await failure(fal.queue.result("local/client-app", { requestId })));
        await fal.queue.cancel("local/client-app", { requestId });
        """
    )
    assert early["status"] == 400
    assert "still in progress" in early["body"]["detail"]


def test_a_subscriber_whose_time_is_up_cancels(run: Run) -> None:
    failed, status = run(
        """
        let requestId;
        say(await failure(fal.subscribe("local/client-app/steps", {
          input: { file: "/dev/null", steps: 6000 },
          timeout: 300,
          onEnqueue: (id) => { requestId = id; },
        })));
        const stream = await fal.queue.streamStatus("local/client-app", { requestId });
        say(await stream.done());
        """
    )
    assert "timed out" in failed["message"]
    assert status["error_type"] == "client_cancelled"


def test_an_aborted_run_stops_the_work(run_once: Run, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    failed, taken = run_once(
        """
        const input = { file: argument, steps: 6000 };
        const abortSignal = AbortSignal.timeout(500);
        say(await failure(fal.run("local/client-app/steps", { input, abortSignal })));
        // All four slots are free again: four calls run side by side.
        const four = [1, 2, 3, 4].map(() =>
          fal.run("local/client-app/steps", { input: { file: "/dev/null", steps: 1 } }));
        say((await Promise.all(four)).map(({ data }) => data.steps));
        """,
        marks,
    )
    assert failed["name"] == "TimeoutError"
    assert taken == [1, 1, 1, 1]
    assert 0 < marks.read_text().count("\n") < 3000


def test_a_start_timeout_ends_what_waits_and_is_not_retried(run_once: Run) -> None:
    queued, direct = run_once(
        """
        const input = { file: "/dev/null", steps: 6000 };
        const busy = await Promise.all([1, 2, 3, 4].map(() =>
          fal.queue.submit("local/client-app/steps", { input })));
        for (const { request_id: requestId } of busy) {
          const stream = await fal.queue.streamStatus("local/client-app", { requestId });
          await new Promise((resolve) => stream.on("data", ({ status }) => {
            if (status === "IN_PROGRESS") resolve();
          }));
          stream.abort();
        }
        const late = { input: { number: 1 }, startTimeout: 1.1 };
        const [queued, direct] = await Promise.allSettled([
          fal.subscribe("local/client-app", late),
          fal.run("local/client-app", late),
        ]);
        for (const { reason } of [queued, direct]) say([reason.status, reason.isUserTimeout]);
        for (const { request_id: requestId } of busy) {
          await fal.queue.cancel("local/client-app", { requestId });
        }
        """
    )
    assert queued == [504, True]
    assert direct == [504, True]


def test_a_503_is_tried_again(run_once: Run, tmp_path: Path) -> None:
    (data,) = run_once(
        """
        const input = { file: argument };
        say((await fal.run("local/client-app/third-time", { input })).data);
        """,
        tmp_path / "tries",
    )
    assert data == {"tries": 3}


def test_what_a_caller_wishes_reaches_the_app(run: Run) -> None:
    (headers,) = run(
        """
        const { data } = await fal.subscribe("local/client-app/headers", {
          priority: "low",
          hint: "style-7",
          startTimeout: 30,
          headers: { "X-Campaign": "spring" },
          storageSettings: { expiresIn: "1h" },
        });
        say(data);
        """
    )
    assert headers["x-fal-queue-priority"] == "low"
    assert headers["x-fal-runner-hint"] == "style-7"
    assert headers["x-fal-request-timeout"] == "30"
    assert headers["x-campaign"] == "spring"
    assert json.loads(headers["x-fal-object-lifecycle-preference"]) == {
        "expiration_duration_seconds": 3600
    }
    assert "authorization" not in headers

"""Realtime connections of the npm client: msgpack over a websocket, opened with a token."""

from collections.abc import Callable
from functools import partial

import pytest
from polyrank_program import ROOT

from .conftest import ServerProcess
from .node import WAYS, Run, run_node

APP = ROOT / "tests" / "programs" / "live_app.py"


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    return start_server(f"{APP}::LiveApp")


@pytest.fixture(params=WAYS)
def run(server: ServerProcess, request: pytest.FixtureRequest) -> Run:
    """What a program says, in each way to reach the server for its tokens."""
    return partial(run_node, server.address, request.param)


def test_an_input_is_answered(run: Run) -> None:
    first, second = run(
        """
        const results = [];
        await new Promise((resolve, reject) => {
          const connection = fal.realtime.connect("local/live-app", {
            throttleInterval: 0,
            onError: reject,
            onResult: (result) => {
              results.push(result);
              if (results.length === 2) { connection.close(); resolve(); }
              else connection.send({ number: 2 });
            },
          });
          connection.send({ number: 1 });
        });
        results.forEach(say);
        """
    )
    assert (first, second) == ({"double": 2}, {"double": 4})


def test_one_input_is_answered_by_a_stream_of_pictures(run: Run) -> None:
    (frames,) = run(
        """
        const frames = [];
        await new Promise((resolve, reject) => {
          const connection = fal.realtime.connect("local/live-app", {
            path: "/frames",
            maxBuffering: 4,
            onError: reject,
            onResult: ({ step, image }) => {
              frames.push([step, image instanceof Uint8Array, image.length]);
              if (step === 2) { connection.close(); resolve(); }
            },
          });
          connection.send({ number: 3 });
        });
        say(frames);
        """
    )
    assert frames == [[0, True, 1000], [1, True, 1000], [2, True, 1000]]


def test_a_bad_input_is_an_error_and_the_connection_goes_on(run: Run) -> None:
    failed, result = run(
        """
        await new Promise((resolve) => {
          const connection = fal.realtime.connect("local/live-app/realtime", {
            throttleInterval: 0,
            onError: ({ name, body }) => {
              if (!body) return;  // told of every close that is its own
              say([name, body.type, body.reason]);
              connection.send({ number: 3 });
            },
            onResult: (result) => { say(result); connection.close(); resolve(); },
          });
          connection.send({ number: "many" });
        });
        """
    )
    assert failed[:2] == ["ApiError", "x-fal-error"]
    assert "number" in failed[2]
    assert result == {"double": 6}


def test_a_token_of_a_provider(run: Run) -> None:
    asked, result = run(
        """
        const tokenProvider = async (app) => {
          say(app);
          const answer = await fetch(`${address}/tokens/`, {
            method: "POST",
            headers: { "content-type": "application/json" },
            body: JSON.stringify({ allowed_apps: [app], token_expiration: 60 }),
          });
          return answer.json();
        };
        await new Promise((resolve, reject) => {
          const connection = fal.realtime.connect("local/live-app", {
            tokenProvider,
            tokenExpirationSeconds: 60,
            onError: reject,
            onResult: (result) => { say(result); connection.close(); resolve(); },
          });
          connection.send({ number: 5 });
        });
        process.exit(0);  // the client would wait to fetch its next token
        """
    )
    assert asked == "local/live-app/realtime"
    assert result == {"double": 10}

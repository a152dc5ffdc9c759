"""A webhook that the npm client asks for, received by the program that asked."""

from collections.abc import Callable

import pytest
from polyrank_program import ROOT

from .conftest import ServerProcess
from .node import WAYS, run_node

APP = ROOT / "tests" / "programs" / "client_app.py"


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    return start_server(f"{APP}::ClientApp")


@pytest.mark.parametrize("way", WAYS)
def test_the_webhook_is_told_how_the_request_ended(server: ServerProcess, way: str) -> None:
    submitted, headers, told = run_node(
        server.address,
        way,
        """
        import { createServer } from "node:http";
        import { once } from "node:events";

        const receiver = createServer().listen(0, "127.0.0.1");
        await once(receiver, "listening");
        const webhookUrl = `http://127.0.0.1:${receiver.address().port}/hook?job=7&at=a/b`;
        const { request_id } = await fal.queue.submit("local/client-app", {
          input: { number: 1 },
          webhookUrl,
        });
        const [request, response] = await once(receiver, "request");
        const body = (await request.toArray()).join("");
        response.end();
        say(request_id);
        say([request.url, Object.keys(request.headers)]);
        say(JSON.parse(body));
        receiver.close();
        """,
    )
    url, names = headers
    assert url == "/hook?job=7&at=a/b"
    assert {"x-fal-webhook-signature", "x-fal-webhook-timestamp"} <= set(names)
    assert told == {
        "request_id": submitted,
        "gateway_request_id": submitted,
        "status": "OK",
        "payload": {"sum": 2},
    }

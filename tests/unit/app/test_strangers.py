"""A replica on a network answers to its server only, over HTTP and over websockets."""

from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from polyrank.app.strangers import TokenGuard
from polyrank.reports import TOKEN_HEADER

TOKEN = {TOKEN_HEADER.decode(): "right"}


async def headers(request: Request) -> PlainTextResponse:
    return PlainTextResponse(" ".join(request.headers))


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("let in")
    await websocket.close()


@pytest.fixture
def client() -> Iterator[TestClient]:
    api = Starlette(routes=[Route("/", headers), WebSocketRoute("/ws", socket)])
    with TestClient(TokenGuard(api, "right")) as made:
        yield made


@pytest.mark.parametrize("given", [{}, {TOKEN_HEADER.decode(): "wrong"}, {"x-other": "right"}])
def test_a_stranger_is_refused(client: TestClient, given: dict[str, str]) -> None:
    assert client.get("/", headers=given).status_code == 401
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws", headers=given):
        pass


def test_the_server_is_let_in_and_the_app_does_not_see_the_token(client: TestClient) -> None:
    answer = client.get("/", headers=TOKEN)
    assert answer.status_code == 200
    assert TOKEN_HEADER.decode() not in answer.text
    with client.websocket_connect("/ws", headers=TOKEN) as websocket:
        assert websocket.receive_text() == "let in"

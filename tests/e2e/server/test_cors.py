"""What a browser asks before, and reads after, a call from a page of another origin."""

import httpx
import pytest

from .conftest import ServerProcess

PAGE = "http://localhost:3000"


@pytest.fixture
def server(shared_server: ServerProcess) -> ServerProcess:
    return shared_server


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/run/local/queue-app"),
        ("POST", "/queue/local/queue-app"),
        ("PUT", "/queue/local/queue-app/requests/1/cancel"),
        ("GET", "/queue/local/queue-app/requests/1/status/stream"),
        ("POST", "/proxy"),
    ],
)
def test_a_preflight_allows_what_clients_send(server, method: str, path: str) -> None:
    asked = "accept,authorization,content-type,x-fal-queue-priority,x-fal-target-url"
    answer = httpx.options(
        server.address + path,
        headers={
            "origin": PAGE,
            "access-control-request-method": method,
            "access-control-request-headers": asked,
        },
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert method in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == asked


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/run/local/queue-app", {"number": 1}),
        ("POST", "/run/local/queue-app", {"number": "one"}),
        ("POST", "/run/local/nothing", {}),
        ("POST", "/queue/local/queue-app", {"number": 1}),
        ("GET", "/queue/local/queue-app/requests/nothing", None),
        ("GET", "/health", None),
    ],
)
def test_a_page_may_read_every_answer(server, method: str, path: str, body: object) -> None:
    headers = {"origin": PAGE}
    answer = httpx.request(method, server.address + path, json=body, headers=headers)
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
    assert {"x-fal-request-id", "x-fal-error-type", "x-fal-request-timeout-type"} <= set(exposed)
    assert "access-control-allow-credentials" not in answer.headers


def test_a_target_that_is_no_address_is_refused(server) -> None:
    answer = httpx.post(f"{server.address}/proxy", headers={"x-fal-target-url": "http://["})
    assert answer.status_code == 422
    assert "x-fal-target-url" in answer.json()["detail"]

"""App ids and URLs."""

import pytest

from polyrank.client.endpoints import AppId, Endpoints, InvalidApp
from polyrank.client.errors import ClientError


@pytest.mark.parametrize(
    ("text", "app", "path"),
    [
        ("local/hello", "local/hello", ""),
        ("local/hello/a/b", "local/hello", "a/b"),
        ("hello", "local/hello", ""),
        ("123-hello", "123/hello", ""),
        ("workflows/me/flow/run", "workflows/me/flow", "run"),
        ("/local/hello/", "local/hello", ""),
    ],
)
def test_an_id_names_an_app_and_a_path(text: str, app: str, path: str) -> None:
    assert AppId.parse(text) == AppId(app, path)


@pytest.mark.parametrize("text", ["", "/", "a//b", "comfy/me"])
def test_what_names_no_app_is_refused(text: str) -> None:
    with pytest.raises(InvalidApp):
        AppId.parse(text)


def test_urls_of_a_request_leave_the_endpoints_path_out() -> None:
    urls = Endpoints("http://h:1/")
    assert urls.run("local/a/b", "/c d") == "http://h:1/run/local/a/b/c%20d"
    assert urls.queue("a", "", "http://me/?x=1&y") == (
        "http://h:1/queue/local/a?fal_webhook=http%3A%2F%2Fme%2F%3Fx%3D1%26y"
    )
    assert urls.request("local/a/b", "i/d") == "http://h:1/queue/local/a/requests/i%2Fd"


def test_websockets_are_where_calls_are() -> None:
    urls = Endpoints("https://h")
    assert urls.websocket("o/a", "/realtime", None, None) == "wss://h/run/o/a/realtime"
    assert urls.websocket("o/a", "ws", "t", 3).endswith("/ws?fal_jwt_token=t&max_buffering=3")
    with pytest.raises(ClientError, match="1 to 60"):
        urls.websocket("o/a", "", None, 61)


@pytest.mark.parametrize(
    ("server", "is_loopback"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080", True),
        ("http://localhost:1", True),
        ("https://example.com", False),
        ("http://10.0.0.1", False),
    ],
)
def test_a_server_on_this_machine_is_reached_without_a_proxy(
    server: str, is_loopback: bool
) -> None:
    assert Endpoints(server).is_loopback is is_loopback


def test_the_key_is_for_the_server_only() -> None:
    urls = Endpoints("http://h:1")
    assert urls.is_home("http://h:1/files/x")
    assert not urls.is_home("http://h:2/files/x") and not urls.is_home("https://h:1/")

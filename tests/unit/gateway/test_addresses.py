"""Which face, app and path a URL means."""

import pytest

from polyrank.errors import InvalidInput
from polyrank.gateway.addresses import AppPath, Target, find_target, split_app


@pytest.mark.parametrize(
    ("host", "path", "target"),
    [
        ("127.0.0.1:8080", "/run/local/hello", Target("run", "/local/hello", "/run")),
        ("127.0.0.1:8080", "/queue/local/hello/", Target("queue", "/local/hello/", "/queue")),
        ("127.0.0.1:8080", "/run", Target("run", "/", "/run")),
        ("127.0.0.1:8080", "/running", Target("", "/running", "")),
        ("127.0.0.1:8080", "/", Target("", "/", "")),
        ("queue.example.org", "/local/hello", Target("queue", "/local/hello", "")),
        ("queue.fal.run:443", "/local/hello", Target("queue", "/local/hello", "")),
        ("fal.run", "/local/hello", Target("run", "/local/hello", "")),
        ("ws.fal.run", "/local/hello", Target("ws", "/local/hello", "")),
        ("127.0.0.1:8080", "/ws/local/hello", Target("ws", "/local/hello", "/ws")),
    ],
)
def test_faces(host: str, path: str, target: Target) -> None:
    assert find_target(path, [(b"host", host.encode())]) == target


def find_proxied(wanted: str) -> Target:
    return find_target("/proxy", [(b"host", b"localhost"), (b"x-fal-target-url", wanted.encode())])


@pytest.mark.parametrize(
    ("wanted", "target"),
    [
        (
            "https://queue.fal.run/local/hello/requests/1/status?logs=1",
            Target("queue", "/local/hello/requests/1/status", "/queue", b"logs=1"),
        ),
        ("https://fal.run/local/hello", Target("run", "/local/hello", "/run", b"")),
        ("https://fal.run/local/a%20b", Target("run", "/local/a b", "/run", b"")),
        ("https://rest.fal.ai/tokens/", Target("", "/tokens/", "", b"")),
        ("http://127.0.0.1:1/queue/local/hello", Target("queue", "/local/hello", "/queue", b"")),
        ("https://rest.fal.ai", Target("", "/", "", b"")),
    ],
)
def test_a_proxys_header_says_where_the_caller_wants_to_go(wanted: str, target: Target) -> None:
    assert find_proxied(wanted) == target


@pytest.mark.parametrize("wanted", ["http://[", "local/hello", "file:///etc/passwd", "https://"])
def test_a_proxys_header_that_is_no_address_is_refused(wanted: str) -> None:
    with pytest.raises(InvalidInput, match="x-fal-target-url"):
        find_proxied(wanted)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("/local/hello", AppPath("local/hello", "/")),
        ("/local/hello/", AppPath("local/hello", "/")),
        ("/local/hello/a/b", AppPath("local/hello", "/a/b")),
        ("/workflows/ann/flow/run", AppPath("workflows/ann/flow", "/run")),
        ("/comfy/ann", None),
        ("/hello", None),
        ("/", None),
        ("//hello", None),
    ],
)
def test_apps_and_their_paths(path: str, split: AppPath | None) -> None:
    assert split_app(path) == split

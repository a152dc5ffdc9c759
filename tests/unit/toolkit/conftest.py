import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from polyrank.toolkit import urls


class Site:
    """A real web server on the loopback: pages by path, and what was asked of it."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        self.let_go = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append((self.headers["Host"], self.path))
                if self.path == "/never":
                    site.let_go.wait()
                    self.close_connection = True
                    return
                status, headers, body = site.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def page(self, path: str, body: bytes = b"", status: int = 200, **headers: str) -> str:
        names = {name.replace("_", "-").title(): value for name, value in headers.items()}
        self.pages[path] = (status, names, body)
        return self.url + path


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    site.let_go.set()
    site.server.shutdown()
    thread.join()
    site.server.server_close()


@pytest.fixture
def loopback_allowed() -> Iterator[None]:
    policy = urls.URLPolicy(allowed_networks=("127.0.0.0/8",), timeout_s=20)
    with urls.use_policy(policy):
        yield

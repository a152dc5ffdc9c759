"""The server that the commands about deployments talk to: the profile's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx

from polyrank.client.sse import Decoder
from polyrank.errors import PolyrankError
from polyrank.settings import ClientSettings

TIMEOUT = httpx.Timeout(120.0, connect=10.0)


class ServerRefused(PolyrankError):
    """The server has answered with an error, or not at all."""


class Remote:
    """A server, by its address and a key for it. A context manager."""

    def __init__(self, settings: ClientSettings | None = None) -> None:
        settings = settings or ClientSettings()
        self.url = settings.server.rstrip("/")
        key = settings.key
        headers = {} if key is None else {"authorization": f"Key {key.get_secret_value()}"}
        address = httpx.URL(self.url)
        is_loopback = address.host in ("localhost", "127.0.0.1", "::1")
        self._client = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=TIMEOUT,
            # What the environment says of proxies is not about this machine.
            mounts={f"all://{address.netloc.decode()}": None} if is_loopback else {},
        )

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of an answer; None if it is empty. Raises ServerRefused."""
        with self._reaching():
            answer = self._client.request(method, path, **options)
        return self._content(answer)

    def owner(self) -> str:
        """Whose apps the key opens."""
        return str(self.call("GET", "/auth/whoami")["owner"])

    def events(self, path: str, **options: Any) -> Iterator[dict[str, Any]]:
        """The server-sent events at a path, to the last. Raises ServerRefused."""
        decoder = Decoder()
        timeout = httpx.Timeout(None, connect=10.0)
        with self._reaching(), self._client.stream("GET", path, timeout=timeout, **options) as got:
            if got.status_code >= 400:
                got.read()
                self._content(got)
            for chunk in got.iter_bytes():
                for event in decoder.feed(chunk):
                    yield json.loads(event.data)

    def lines(self, path: str, **options: Any) -> Iterator[dict[str, Any]]:
        """JSON lines as they come. Raises ServerRefused."""
        timeout = httpx.Timeout(None, connect=10.0)
        with self._reaching(), self._client.stream("GET", path, timeout=timeout, **options) as got:
            if got.status_code >= 400:
                got.read()
                self._content(got)
            for line in got.iter_lines():
                if line:
                    yield json.loads(line)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerRefused(
                f"{self.url} does not answer: {str(error) or type(error).__name__}; "
                "`polyrank serve` starts a server, `polyrank profile` chooses one"
            ) from error

    def _content(self, answer: httpx.Response) -> Any:
        try:
            content = answer.json() if answer.content else None
        except ValueError:
            raise ServerRefused(f"what answers at {self.url} is no polyrank server") from None
        if answer.status_code >= 400:
            detail = content.get("detail") if isinstance(content, dict) else content
            text = detail if isinstance(detail, str) else json.dumps(detail)
            hint = "; `polyrank auth login` keeps a key" if answer.status_code == 401 else ""
            raise ServerRefused(f"{self.url}: {text}{hint}")
        return content

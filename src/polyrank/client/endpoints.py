"""Where things are: an app's id, and the URLs of a server's faces."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urlsplit

from polyrank.client.errors import ClientError

# First segments of an id that are part of its owner's name.
NAMESPACES = ("workflows", "comfy")
OLD_ID = re.compile(r"([0-9]+)-([a-zA-Z0-9-]+)")
PORT = re.compile(r":\d*$")
MAX_BUFFERING = range(1, 61)


class InvalidApp(ClientError, ValueError):
    """A text that names no app."""

    status = 422
    code = "invalid_app"


@dataclass(frozen=True)
class AppId:
    """An app, and the path of one of its endpoints: ``owner/name[/path]``.

    A bare ``name`` is the app of that name that ``polyrank run`` serves: ``local/name``.
    """

    app: str
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> AppId:
        """Reads an id. Raises InvalidApp."""
        parts = text.strip("/").split("/")
        if not all(parts):
            raise InvalidApp(f"{text!r} names no app; an app is owner/name, or name for local/name")
        if len(parts) == 1:
            old = OLD_ID.fullmatch(parts[0])
            parts = [old[1], old[2]] if old else ["local", parts[0]]
        size = 3 if parts[0] in NAMESPACES else 2
        if len(parts) < size:
            raise InvalidApp(f"{text!r} names no app; it has an owner and a namespace, but no name")
        return cls("/".join(parts[:size]), "/".join(parts[size:]))

    def joined(self, path: str = "") -> str:
        """App and path in a URL, with ``path`` below the id's own."""
        segments = [self.app, self.path, path.strip("/")]
        return quote("/".join(segment for segment in segments if segment))


@dataclass(frozen=True)
class Endpoints:
    """The URLs below a server's address."""

    server: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.server)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClientError(
                f"{self.server!r} is not the address of a server, as http://127.0.0.1:8080 is"
            )

    @property
    def host(self) -> str:
        """The server's host, as it stands in URLs."""
        return PORT.sub("", urlsplit(self.server).netloc.rpartition("@")[2])

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine: no proxy leads there."""
        host = urlsplit(self.server).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    def at(self, path: str) -> str:
        """A path of the server itself."""
        return f"{self.server.rstrip('/')}/{path.lstrip('/')}"

    def run(self, application: str, path: str) -> str:
        """Where an endpoint is called directly."""
        return self.at(f"run/{AppId.parse(application).joined(path)}")

    def queue(self, application: str, path: str, webhook_url: str | None = None) -> str:
        """Where a request is submitted."""
        query = f"?{urlencode({'fal_webhook': webhook_url})}" if webhook_url else ""
        return self.at(f"queue/{AppId.parse(application).joined(path)}") + query

    def request(self, application: str, request_id: str) -> str:
        """A submitted request; it is found by its id, whatever endpoint it is for."""
        app = quote(AppId.parse(application).app)
        return self.at(f"queue/{app}/requests/{quote(request_id, safe='')}")

    def websocket(
        self, application: str, path: str, token: str | None, max_buffering: int | None
    ) -> str:
        """Where a websocket endpoint is."""
        if max_buffering is not None and max_buffering not in MAX_BUFFERING:
            raise ClientError(f"max_buffering is 1 to 60, not {max_buffering}")
        query = {"fal_jwt_token": token, "max_buffering": max_buffering}
        given = urlencode({name: value for name, value in query.items() if value is not None})
        url = "ws" + self.run(application, path).removeprefix("http")
        return f"{url}?{given}" if given else url

    def is_home(self, url: str) -> bool:
        """Whether a URL leads to this server, which may know the key."""
        return urlsplit(url)[:2] == urlsplit(self.server)[:2]

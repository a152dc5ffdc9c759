"""What a URL asks for: which face of the server, which app, which path of it."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import SplitResult, unquote, urlsplit

from starlette.types import Scope

from polyrank.errors import InvalidInput

# Parts of the server that are addressed by the first segment of a path.
FACES = ("run", "queue", "ws")
# First segments of an app's id that are part of its owner's name.
NAMESPACES = ("workflows", "comfy")
# Parameters of a URL's query that are the server's business.
OURS = ("fal_webhook", "fal_jwt_token", "fal_max_queue_length")
# Hosts of the reference platform, whose callers reach us through a proxy.
PLATFORM_DOMAINS = ("fal.ai", "fal.run", "fal.media", "falrun.com")
FILES_HOST = "v3.fal.media"
KEY_VALUE_HOST = "kv.fal.media"


@dataclass(frozen=True)
class Target:
    """A face of the server ("run", "queue", "ws" or "" for its own pages) and the path below it.

    ``prefix`` is what stands before that path in URLs that lead back here. ``query`` is set where
    it is not the request's own.
    """

    face: str
    path: str
    prefix: str
    query: bytes | None = None


@dataclass(frozen=True)
class AppPath:
    """An app and a path of it: ``local/hello/greet`` is the path ``/greet`` of ``local/hello``."""

    app: str
    path: str


def find_target(path: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> Target:
    """Reads the face off the path (``/queue/…``), else off the host name (``queue.…``).

    The header ``x-fal-target-url`` comes first: in it, JavaScript clients that go through a proxy
    say where they want to go; raises InvalidInput if that is no URL. Names of headers are in lower
    case, as ASGI has them.

    Example: ``find_target("/queue/local/hello").face == "queue"``.
    """
    host = b""
    for name, value in headers:
        if name == b"host":
            host = value
        elif name == b"x-fal-target-url":
            return _find_proxied(value.decode("latin-1"))
    first, _, rest = path.removeprefix("/").partition("/")
    if first in FACES:
        return Target(first, f"/{rest}", f"/{first}")
    called = host.partition(b":")[0].decode("latin-1").lower()
    if called == KEY_VALUE_HOST:
        return Target("", path if first == "kv" else f"/kv{path}", "")
    face = called.partition(".")[0]
    if face in ("queue", "ws"):
        return Target(face, path, "")
    is_run = called.endswith(("fal.run", "falrun.com"))
    return Target("run" if is_run else "", path, "")


def _find_proxied(url: str) -> Target:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidInput(f"x-fal-target-url is an http or https URL, not {url!r}")
    there = [(b"host", parts.netloc.encode("latin-1"))]
    target = find_target(unquote(parts.path) or "/", there)
    # The caller reached us under our own name, where a face is found by its prefix only.
    prefix = f"/{target.face}" if target.face else ""
    return replace(target, prefix=prefix, query=parts.query.encode("latin-1"))


@functools.lru_cache(maxsize=1024)
def split_app(path: str) -> AppPath | None:
    """The app and its path, in ``/[namespace/]owner/name[/path]``; None if it names no app."""
    parts = path.strip("/").split("/")
    size = 3 if parts[0] in NAMESPACES else 2
    if len(parts) < size or not all(parts[:size]):
        return None
    return AppPath("/".join(parts[:size]), "/" + "/".join(parts[size:]))


def for_the_app(query: str) -> str:
    """The query without what it says to the server: a receiver's address, a token, a limit."""
    if "fal_" not in query:
        return query
    return "&".join(part for part in query.split("&") if part.partition("=")[0] not in OURS)


@functools.lru_cache(maxsize=1024)
def files_base(scheme: str, host: str) -> str:
    """The address at which whoever reached us as ``host`` finds files.

    Example: ``files_base("http", "localhost:8080") == "http://localhost:8080"``.
    """
    name = host.partition(":")[0].lower()
    if any(name == domain or name.endswith(f".{domain}") for domain in PLATFORM_DOMAINS):
        return f"https://{FILES_HOST}"
    return f"{scheme}://{host}"


def place(scope: Scope, app: str) -> list[tuple[bytes, bytes]]:
    """Where the caller found the app, as headers for it: its answers hold URLs that lead back."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    return list(_place(host, scope["scheme"], bool(scope.get("face_prefix")), app))


def app_url(scope: Scope, app: str) -> str:
    """The URL at which the caller found the app."""
    host, scheme, prefix = (value.decode("latin-1") for _, value in place(scope, app))
    return f"{scheme}://{host}{prefix}"


@functools.lru_cache(maxsize=1024)
def _place(host: bytes, scheme: str, has_prefix: bool, app: str) -> tuple[tuple[bytes, bytes], ...]:
    prefix = "/run/" if has_prefix else "/"
    return (
        (b"x-forwarded-host", host.removeprefix(b"queue.").removeprefix(b"ws.")),
        (b"x-forwarded-proto", scheme.encode()),
        (b"x-forwarded-prefix", f"{prefix}{app}".encode()),
    )

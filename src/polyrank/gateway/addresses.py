"""What a URL asks for: which face of the server, which app, which path of it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from polyrank.errors import InvalidInput

# Parts of the server that are addressed by the first segment of a path.
FACES = ("run", "queue")
# First segments of an app's id that are part of its owner's name.
NAMESPACES = ("workflows", "comfy")


@dataclass(frozen=True)
class Target:
    """A face of the server ("run", "queue" or "" for its own pages) and the path below it.

    ``prefix`` is what stands before that path in URLs that lead back here; ``query`` the query
    string, where it is not the request's own.
    """

    face: str
    path: str
    prefix: str
    query: str | None = None


@dataclass(frozen=True)
class AppPath:
    """An app and a path of it: ``local/hello/greet`` is the path ``/greet`` of ``local/hello``."""

    app: str
    path: str


def find_target(host: str, path: str, target_url: str | None = None) -> Target:
    """Reads the face off the path (``/queue/…``), else off the host name (``queue.…``).

    ``target_url`` is the header ``x-fal-target-url``, in which JavaScript clients that go through
    a proxy say where they want to go. Raises InvalidInput if that is no URL.

    Example: ``find_target("localhost", "/queue/local/hello").face == "queue"``.
    """
    if target_url:
        return _find_proxied(target_url)
    first, _, rest = path.removeprefix("/").partition("/")
    if first in FACES:
        return Target(first, f"/{rest}", f"/{first}")
    name = host.partition(":")[0]
    if name.startswith("queue."):
        return Target("queue", path, "")
    return (
        Target("run", path, "")
        if name.endswith(("fal.run", "falrun.com"))
        else Target("", path, "")
    )


def _find_proxied(url: str) -> Target:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidInput(f"x-fal-target-url is a URL, not {url!r}") from None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidInput(f"x-fal-target-url is an http or https URL, not {url!r}")
    found = find_target(parts.netloc, parts.path or "/")
    # The caller reached us under our own name, where a face is found by its prefix only.
    prefix = f"/{found.face}" if found.face else ""
    return Target(found.face, found.path, prefix, parts.query)


def split_app(path: str) -> AppPath | None:
    """The app and its path, in ``/[namespace/]owner/name[/path]``; None if it names no app."""
    parts = path.strip("/").split("/")
    size = 3 if parts[0] in NAMESPACES else 2
    if len(parts) < size or not all(parts[:size]):
        return None
    return AppPath("/".join(parts[:size]), "/" + "/".join(parts[size:]))

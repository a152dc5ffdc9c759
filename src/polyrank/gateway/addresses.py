"""What a URL asks for: which face of the server, which app, which path of it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

# First segments of an app's id that are part of its owner's name.
NAMESPACES = ("workflows", "comfy")
# Hosts of the reference platform, whose callers reach us through a proxy.
PLATFORM_DOMAINS = ("fal.ai", "fal.run", "fal.media", "falrun.com")
FILES_HOST = "v3.fal.media"
KEY_VALUE_HOST = "kv.fal.media"


@dataclass(frozen=True)
class Target:
    """A face of the server ("run", "queue" or "" for its own pages) and the path below it.

    ``prefix`` is what stood before that path, for URLs that lead back here.
    """

    face: str
    path: str
    prefix: str


@dataclass(frozen=True)
class AppPath:
    """An app and a path of it: ``local/hello/greet`` is the path ``/greet`` of ``local/hello``."""

    app: str
    path: str


def find_target(host: str, path: str, target_url: str | None = None) -> Target:
    """Reads the face off the path (``/queue/…``), else off the host name (``queue.…``).

    ``target_url`` is the header ``x-fal-target-url``, in which JavaScript clients that go through
    a proxy say where they want to go.

    Example: ``find_target("localhost", "/queue/local/hello").face == "queue"``.
    """
    if target_url:
        parts = urlsplit(target_url)
        return find_target(parts.netloc, parts.path)
    first, _, rest = path.removeprefix("/").partition("/")
    if first in ("run", "queue"):
        return Target(first, f"/{rest}", f"/{first}")
    name = host.partition(":")[0]
    if name == KEY_VALUE_HOST:
        return Target("", path if first == "kv" else f"/kv{path}", "")
    if name.startswith("queue."):
        return Target("queue", path, "")
    return (
        Target("run", path, "")
        if name.endswith(("fal.run", "falrun.com"))
        else Target("", path, "")
    )


def files_base(scheme: str, host: str) -> str:
    """The address at which whoever reached us as ``host`` finds files.

    Example: ``files_base("http", "localhost:8080") == "http://localhost:8080"``.
    """
    name = host.partition(":")[0].lower()
    if any(name == domain or name.endswith(f".{domain}") for domain in PLATFORM_DOMAINS):
        return f"https://{FILES_HOST}"
    return f"{scheme}://{host}"


def split_app(path: str) -> AppPath | None:
    """The app and its path, in ``/[namespace/]owner/name[/path]``; None if it names no app."""
    parts = path.strip("/").split("/")
    size = 3 if parts[0] in NAMESPACES else 2
    if len(parts) < size or not all(parts[:size]):
        return None
    return AppPath("/".join(parts[:size]), "/" + "/".join(parts[size:]))

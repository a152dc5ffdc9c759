"""Keeps web pages from driving a server that needs no key.

On its own machine a server lets in whoever calls, and a browser on that machine calls for every
page that it shows. A page of another site gives itself away by its Origin, by Sec-Fetch-Site, or,
when its name was made to lead here (DNS rebinding), by its Host: headers that no page can choose.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from polyrank.gateway.callers import Forbidden, is_loopback

# The reference platform's names, by which its clients reach this server through a proxy. No
# stranger can make them lead here.
PLATFORM = ("fal.run", "fal.ai", "fal.media", "falrun.com")


def check_browser(headers: Mapping[bytes, bytes], allowed_origins: Collection[str] = ()) -> None:
    """Raises Forbidden if a page of another site is behind a request to this machine."""
    host = _text(headers, b"host") or "localhost"
    known = {urlsplit(allowed).netloc for allowed in allowed_origins}
    if not (_is_here(host) or _is_platform(host) or host in known):
        raise Forbidden(
            f"no key, and {host!r} may be the name of a web page's site: call 127.0.0.1 or "
            "localhost, send a key, or name its origin in POLYRANK_ALLOWED_ORIGINS"
        )
    origin = _text(headers, b"origin")
    if origin is not None:
        netloc = origin.partition("://")[2]
        if not (_is_here(netloc) or netloc == host or origin in allowed_origins):
            raise Forbidden(
                f"a web page of {origin!r} has no key; POLYRANK_ALLOWED_ORIGINS can let it in"
            )
        return
    if _text(headers, b"sec-fetch-site") == "cross-site":
        raise Forbidden("a web page of another site has no key")


@functools.lru_cache(maxsize=1024)  # each request names a host, and almost all the same
def _is_here(netloc: str) -> bool:
    name = _name(netloc)
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)


def _is_platform(netloc: str) -> bool:
    name = _name(netloc)
    return any(name == known or name.endswith(f".{known}") for known in PLATFORM)


def _name(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1").lower()

"""Opening a URL that a caller gave: limited in size and time, and only at public addresses.

The address that was checked is the one that is connected to, so a name that answers differently
the second time gains nothing; every redirect is checked anew. Proxies of the environment are not
used, as nobody could check what they connect to.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass

import httpx

from polyrank.errors import InvalidInput
from polyrank.toolkit import addresses, datauri
from polyrank.toolkit.exceptions import FileTooLarge, UnreadableURL, UnsafeURL

DEFAULT_PORTS = {"http": 80, "https": 443}
DEFAULT_TYPE = "application/octet-stream"
# What any site may be told that another redirects to.
HARMLESS = ("accept", "accept-encoding", "if-range", "range", "user-agent")
ANY_ADDRESS = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True, kw_only=True)
class URLPolicy:
    """How URLs are opened.

    Beside public addresses, those in ``allowed_networks`` (``10.0.0.0/8``) are, and whatever
    addresses the ``allowed_hosts`` have (``files.lan``, or ``*.lan`` for all below it).
    """

    max_bytes: int = 256 * 2**20
    timeout_s: float = 60.0
    max_redirects: int = 5
    allowed_networks: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for network in self.allowed_networks:
            ipaddress.ip_network(network)  # a slip is found here, not in the middle of a request

    def allows(self, host: str) -> bool:
        """Whether the host is one that may have any address."""
        host = host.lower().rstrip(".")
        return any(
            host.endswith(known[1:]) if known.startswith("*.") else host == known
            for known in (each.lower() for each in self.allowed_hosts)
        )


DEFAULT_POLICY = URLPolicy()
_policy: ContextVar[URLPolicy] = ContextVar("polyrank_url_policy", default=DEFAULT_POLICY)


@dataclass(frozen=True)
class Opened:
    """What was behind a URL."""

    data: bytes
    content_type: str


@contextlib.contextmanager
def use_policy(policy: URLPolicy) -> Iterator[None]:
    """Opens URLs by this policy inside the ``with`` block, in this task or thread."""
    token = _policy.set(policy)
    try:
        yield
    finally:
        _policy.reset(token)


def current_policy() -> URLPolicy:
    """The policy that URLs are opened by here."""
    return _policy.get()


def open_url(url: str, policy: URLPolicy | None = None) -> Opened:
    """What is behind an http(s) URL or in a data URI. Raises an InvalidInput that says why not."""
    policy = policy or current_policy()
    if datauri.is_data_uri(url):
        return _read_data_uri(url, policy)
    # A thread with a loop of its own: the caller's thread may be running one already.
    with ThreadPoolExecutor(1, "polyrank-open-url") as thread:
        return thread.submit(asyncio.run, open_url_async(url, policy)).result()


async def open_url_async(url: str, policy: URLPolicy | None = None) -> Opened:
    """``open_url`` for coroutines."""
    policy = policy or current_policy()
    if datauri.is_data_uri(url):
        return _read_data_uri(url, policy)
    try:
        async with asyncio.timeout(policy.timeout_s):
            return await _read(url, policy)
    except TimeoutError:
        raise UnreadableURL(f"{_short(url)} did not arrive in {policy.timeout_s:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
        reason = str(error) or type(error).__name__
        raise UnreadableURL(f"{_short(url)} cannot be opened: {reason}") from error


def _read_data_uri(uri: str, policy: URLPolicy) -> Opened:
    # Base64 makes four characters of three bytes.
    if len(uri) * 3 // 4 > policy.max_bytes + len("data:application/octet-stream;base64,"):
        raise _too_large("the data URI", policy)
    return Opened(*datauri.read(uri))


@contextlib.asynccontextmanager
async def opened(
    url: str, policy: URLPolicy | None = None, headers: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[httpx.Response, httpx.URL]]:
    """The answer of an http(s) URL once no redirect is left, whatever its status, and the URL that
    gave it; its body is the caller's to read, and to limit.

    ``headers`` may hold a secret of the site's: no other site that it redirects to is told them.
    """
    policy = policy or current_policy()
    first = here = httpx.URL(url.strip())
    sent = dict(headers or {})
    for _ in range(policy.max_redirects + 1):
        if _origin(here) != _origin(first):
            sent = {name: value for name, value in sent.items() if name.lower() in HARMLESS}
        async with _answer(here, policy, sent) as response:
            if not response.has_redirect_location:
                yield response, here
                return
            here = here.join(response.headers["location"])
    raise UnreadableURL(f"{_short(first)}: more than {policy.max_redirects} redirects")


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or DEFAULT_PORTS.get(url.scheme)


async def _read(url: str, policy: URLPolicy) -> Opened:
    async with opened(url, policy) as (response, _):
        if not response.is_success:
            raise UnreadableURL(f"{_short(url)} answered {response.status_code}")
        data = await _body(response, url, policy)
        return Opened(data, response.headers.get("content-type") or DEFAULT_TYPE)


@contextlib.asynccontextmanager
async def _answer(
    url: httpx.URL, policy: URLPolicy, headers: Mapping[str, str]
) -> AsyncIterator[httpx.Response]:
    """The answer of the first address of the host that takes a connection."""
    if url.scheme not in DEFAULT_PORTS or not url.host:
        raise UnsafeURL(f"{_short(url)} is not opened: only http, https and data URLs are")
    host = url.raw_host.decode("ascii")
    port = url.port or DEFAULT_PORTS[url.scheme]
    networks = ANY_ADDRESS if policy.allows(host) else policy.allowed_networks
    found = await addresses.resolve(host, port, networks)
    async with contextlib.AsyncExitStack() as stack:
        for number, address in enumerate(found, 1):
            try:
                response = await stack.enter_async_context(_at(address, url, policy, headers))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if number == len(found):
                    raise
            else:
                break
        yield response


@contextlib.asynccontextmanager
async def _at(
    address: str, url: httpx.URL, policy: URLPolicy, headers: Mapping[str, str]
) -> AsyncIterator[httpx.Response]:
    trust = _certificates() if url.scheme == "https" else False
    async with (
        httpx.AsyncClient(verify=trust, trust_env=False, timeout=policy.timeout_s) as client,
        client.stream(
            "GET",
            url.copy_with(host=address),
            headers={"User-Agent": "polyrank", **headers, "Host": url.netloc.decode("ascii")},
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        ) as response,
    ):
        yield response


async def _body(response: httpx.Response, url: str, policy: URLPolicy) -> bytes:
    if int(response.headers.get("content-length", "0")) > policy.max_bytes:
        raise _too_large(_short(url), policy)
    data = bytearray()
    async for chunk in response.aiter_bytes():  # unpacked: a compressed bomb counts in full
        data += chunk
        if len(data) > policy.max_bytes:
            raise _too_large(_short(url), policy)
    return bytes(data)


@functools.cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _too_large(what: str, policy: URLPolicy) -> InvalidInput:
    return FileTooLarge(
        f"{what} holds more than {policy.max_bytes} bytes", max_bytes=policy.max_bytes
    )


def _short(url: httpx.URL | str) -> str:
    text = str(url)
    return text if len(text) <= 200 else f"{text[:200]}…"

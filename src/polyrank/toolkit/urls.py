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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass

import httpx

from polyrank.errors import InvalidInput
from polyrank.toolkit import addresses, datauri
from polyrank.toolkit.exceptions import FileTooLarge, UnreadableURL, UnsafeURL

DEFAULT_PORTS = {"http": 80, "https": 443}
DEFAULT_TYPE = "application/octet-stream"
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
            return await _follow(httpx.URL(url.strip()), policy)
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


async def _follow(url: httpx.URL, policy: URLPolicy) -> Opened:
    for _ in range(policy.max_redirects + 1):
        outcome = await _get(url, policy)
        if isinstance(outcome, Opened):
            return outcome
        url = outcome
    raise UnreadableURL(f"{_short(url)}: more than {policy.max_redirects} redirects")


async def _get(url: httpx.URL, policy: URLPolicy) -> Opened | httpx.URL:
    """One request; the URL to go on with if it is a redirect."""
    if url.scheme not in DEFAULT_PORTS or not url.host:
        raise UnsafeURL(f"{_short(url)} is not opened: only http, https and data URLs are")
    host = url.raw_host.decode("ascii")
    port = url.port or DEFAULT_PORTS[url.scheme]
    unreachable: httpx.TransportError | None = None
    networks = ANY_ADDRESS if policy.allows(host) else policy.allowed_networks
    for address in await addresses.resolve(host, port, networks):
        try:
            return await _get_at(address, url, policy)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            unreachable = error
    raise unreachable or UnreadableURL(f"there is no host {host!r}")


async def _get_at(address: str, url: httpx.URL, policy: URLPolicy) -> Opened | httpx.URL:
    trust = _certificates() if url.scheme == "https" else False
    async with (
        httpx.AsyncClient(verify=trust, trust_env=False, timeout=policy.timeout_s) as client,
        client.stream(
            "GET",
            url.copy_with(host=address),
            headers={"Host": url.netloc.decode("ascii"), "User-Agent": "polyrank"},
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        ) as response,
    ):
        if response.has_redirect_location:
            return url.join(response.headers["location"])
        if not response.is_success:
            raise UnreadableURL(f"{_short(url)} answered {response.status_code}")
        data = await _body(response, url, policy)
        return Opened(data, response.headers.get("content-type") or DEFAULT_TYPE)


async def _body(response: httpx.Response, url: httpx.URL, policy: URLPolicy) -> bytes:
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

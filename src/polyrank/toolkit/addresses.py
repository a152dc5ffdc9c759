"""Which network addresses a URL given by a caller may lead to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

from polyrank.toolkit.exceptions import UnreadableURL, UnsafeURL

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# ::a.b.c.d, long out of use, holds the unspecified and the loopback address too.
IPV4_COMPATIBLE = ipaddress.IPv6Network("::/96")
# Not public either, though the standard library (or the registry it follows) does not say so:
# protocol assignments and site-local addresses, and where two clouds keep a machine's secrets.
NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "fec0::/10")
)


async def resolve(host: str, port: int, allowed_networks: Sequence[str] = ()) -> list[str]:
    """The addresses of ``host``. Raises UnsafeURL unless every one is public or allowed."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UnreadableURL(f"there is no host {host!r}") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not is_allowed(address, allowed_networks):
            raise UnsafeURL(
                f"{host} is not opened: it is in a private or reserved network "
                "(POLYRANK_ALLOWED_HOSTS or a URLPolicy can allow it)"
            )
    return addresses


def is_allowed(address: str, allowed_networks: Sequence[str] = ()) -> bool:
    """Whether the address is public, or in a network that is allowed."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if any(ip in ipaddress.ip_network(network) for network in allowed_networks):
        return True
    return all(_is_public(one) for one in _reached(ip))


def _is_public(ip: Address) -> bool:
    if any(ip in network for network in NOT_PUBLIC):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _reached(ip: Address) -> list[Address]:
    """The addresses that packets to ``ip`` may end at: some IPv6 ones stand for an IPv4 one."""
    if isinstance(ip, ipaddress.IPv4Address):
        return [ip]
    if ip.ipv4_mapped is not None:
        return [ip.ipv4_mapped]
    if ip in IPV4_COMPATIBLE or ip in NAT64:
        return [ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)]
    if ip.sixtofour is not None:
        return [ip, ip.sixtofour]
    if ip.teredo is not None:
        return [ip, *ip.teredo]
    return [ip]

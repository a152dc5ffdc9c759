"""Prints the tables. ``python -m benchmarks.server [--seconds 5] [--without-peers]``.

Load comes from wrk (Debian: ``apt install wrk``), one thread: a client in Python would be slower
than what it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.__main__ import machine
from benchmarks.peers.servers import PEERS, Peer
from benchmarks.server import calls, history, queued

BARE = Peer(
    "uvicorn + Starlette", "starlette", "python -m uvicorn with_starlette:app --port {port}"
)
OURS = Peer(
    "polyrank run",
    "polyrank",
    "polyrank run with_polyrank_plain.py --port {port}",
    path="/run/local/plain",
)


def install(folder: Path, *, with_peers: bool) -> list[tuple[Peer, Path]]:
    """The servers to measure, and where their commands are; those that do not install are told."""
    others = [peer for peer in PEERS if peer.requirements] if with_peers else []
    found = []
    for peer in (BARE, OURS, *others):
        try:
            found.append((peer, peer.install(folder.resolve())))
        except subprocess.CalledProcessError as failure:
            print(f"{peer.name} is left out, it does not install here: {failure}", file=sys.stderr)
    return found


async def measure(servers: list[tuple[Peer, Path]], seconds: float) -> None:
    """Prints one table after the other."""
    print(f"{machine()}; wrk -t1, {seconds:g} s each after 2 s of warm-up\n", flush=True)
    await calls.no_ops(servers, seconds)
    await calls.events(servers[:2])
    await calls.idle(servers[1])
    await queued.rates(servers[1][1], seconds)
    await history.leases()


def main() -> None:
    """Reads the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--environments", type=Path, default=Path("build/peers"))
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk: apt install wrk")
    servers = install(args.environments, with_peers=not args.without_peers)
    asyncio.run(measure(servers, args.seconds))


if __name__ == "__main__":
    main()

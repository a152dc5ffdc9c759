"""Prints one table: polyrank beside its peers. ``python -m benchmarks.peers [NAME …]``."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from benchmarks.peers import rows
from benchmarks.peers.servers import PEERS, Peer, Server

ROWS = (
    "what else used the CPU, in the 5 s before",
    "start to the first good answer",
    "no-op, one caller: median / p99",
    "no-op, 32 callers",
    "caller hangs up after 0.2 s of 5 s",
    "limit of 1 s on 5 s of work",
    "worker killed: its caller gets",
    "worker killed: the next right answer",
)
LONG_S = 60
SHORT_S = 1


async def measure(peer: Peer, commands: Path) -> list[str]:
    """A column of the table."""
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as folder:
        others = f"{psutil.cpu_percent(5):.0f} %"
        # Started first: it also warms the page cache, so that no peer's start is a first start.
        async with Server(peer, commands, Path(folder), SHORT_S) as server:
            limit = await rows.timed_out(server)
        async with Server(peer, commands, Path(folder), LONG_S) as server:
            return [
                others,
                f"{server.start_s:.1f} s",
                await rows.latency(server),
                await rows.throughput(server),
                await rows.hang_up(server),
                limit,
                *await rows.worker_killed(server),
            ]


def version(peer: Peer, commands: Path) -> str:
    """The version that is measured."""
    code = f"from importlib.metadata import version; print(version({peer.package!r}))"
    return subprocess.check_output([commands / "python", "-c", code], text=True).strip()


def machine() -> str:
    """Where and when."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return (
        f"{os.cpu_count()} cores ({cpu}), Python {platform.python_version()}, "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, "
        f"load average {os.getloadavg()[0]:.2f} before the first measurement"
    )


def main() -> None:
    """Installs, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(peer.package for peer in PEERS))
    parser.add_argument("--environments", type=Path, default=Path("build/peers"))
    args = parser.parse_args()
    installed, left_out = [], []
    for peer in PEERS:
        if args.names and peer.package not in args.names:
            continue
        try:
            installed.append((peer, peer.install(args.environments.resolve())))
        except subprocess.CalledProcessError as failure:
            said = (failure.stderr or b"").decode(errors="replace").splitlines()
            why = next((line for line in reversed(said) if line.startswith("ERROR")), str(failure))
            left_out.append(f"{peer.name} is left out, it does not install here: {why}")
    header, columns = machine(), {}
    for peer, commands in installed:
        print(f"measuring {peer.name}", file=sys.stderr, flush=True)
        try:
            column = asyncio.run(measure(peer, commands))
        except (RuntimeError, OSError, EOFError) as failure:
            left_out.append(f"{peer.name} is left out: {failure}")
        else:
            columns[f"{peer.name} {version(peer, commands)}"] = column
    print(f"{header}\n\n| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for row, cells in zip(ROWS, zip(*columns.values(), strict=True), strict=True):
        print(f"| {row} | {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    for line in left_out:
        print(f"\n{line}")


if __name__ == "__main__":
    main()

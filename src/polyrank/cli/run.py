"""``polyrank run``: one app on this machine, in one terminal."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import uvloop
import watchfiles
from rich.console import Console
from rich.markup import escape

from polyrank import logs
from polyrank.app import projects
from polyrank.app.sample import Call
from polyrank.cli.platform import OWNER, Platform, arguments_for
from polyrank.cli.signals import ended_by_signals
from polyrank.errors import AppError, PolyrankError
from polyrank.reports import Ready
from polyrank.scaler.local import Gone

console = Console(stderr=True, highlight=False)


def run(
    ref: str,
    *,
    host: str,
    port: int,
    device: str | None,
    ranks: int | None,
    reload: bool,
    verbose: bool,
    tls: bool,
) -> int:
    """Serves the app until a signal ends it; returns the exit status."""
    try:
        found = projects.find(ref, Path.cwd())
    except AppError as error:
        return refuse(error)
    logs.configure(verbose=verbose)
    arguments = arguments_for(found, device, ranks, verbose)
    watched = found.file.parent if reload else None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(serve(Platform(arguments, host, port, tls=tls), watched))
        except PolyrankError as error:
            return refuse(error)


def refuse(error: PolyrankError) -> int:
    """Says what is wrong; the exit status of a command that cannot be carried out."""
    console.print("[red]error:[/red]", escape(str(error)), soft_wrap=True)
    return 2


async def serve(platform: Platform, watched: Path | None = None) -> int:
    """Serves until a signal, or until the app fails to start with no one watching its files."""
    failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    was_ready = False

    def on_report(report: Any) -> None:
        nonlocal was_ready
        if isinstance(report, Ready):
            was_ready = True
            show(platform, report)
        elif isinstance(report, Gone) and not platform.is_ending:
            if not was_ready and watched is None and not failed.done():
                failed.set_result(report.exit_status)
            elif report.reason and not report.was_ready:
                console.print(f"{report.reason}; change its file to try again", markup=False)

    platform.listeners.append(on_report)
    # The signals' way of ending it holds until all has ended: a second one comes meanwhile.
    with ended_by_signals(lambda _: platform.end()):
        async with platform.running():
            watching = asyncio.ensure_future(_watch(platform, watched))
            failed.add_done_callback(lambda _: platform.end())
            try:
                await platform.ended.wait()
            finally:
                watching.cancel()
    return failed.result() if failed.done() else 0


async def _watch(platform: Platform, folder: Path | None) -> None:
    """Starts the replica again whenever a Python file below ``folder`` changes."""
    if folder is None:
        return
    async for _ in watchfiles.awatch(folder, watch_filter=watchfiles.PythonFilter()):
        console.print("files changed; starting again")
        await platform.restart()


def show(platform: Platform, ready: Ready) -> None:
    """Prints the address, and a curl line for every route."""
    address = platform.app_url
    console.print(f"{platform.app_name} is ready at {address}", markup=False, style="bold")
    for route in ready.routes:
        path = "" if route["path"] == "/" else route["path"]
        if route["websocket"]:
            line = f"  websocket {address}{path}".replace("http", "ws", 1)
            console.print(line, soft_wrap=True)
            continue
        call = Call(path, route["content_type"], route["body"])
        line = call.curl(address, stream="stream" in path)
        console.print(f"  {line}", soft_wrap=True, markup=False)
    page = f"{platform.url}/playground/{OWNER}/{platform.app_name}"
    console.print(f"  playground {page}", soft_wrap=True, markup=False)
    if platform.ca_file is not None:
        console.print(f"  callers trust {platform.ca_file}, e.g. curl --cacert", soft_wrap=True)
    console.print("Ctrl-C ends it; twice, at once.")

"""``polyrank run``: one app on this machine, in one terminal."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from polyrank.app import projects
from polyrank.app.sample import Call
from polyrank.cli.replica import ReplicaProcess, arguments_for
from polyrank.errors import AppError
from polyrank.scaler.local import ReplicaArguments

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
) -> int:
    """Serves the app until a signal ends it; returns the exit status."""
    try:
        found = projects.find(ref, Path.cwd())
    except AppError as error:
        console.print("[red]error:[/red]", escape(str(error)), soft_wrap=True)
        return 2
    arguments = arguments_for(found, host, port, device, ranks, verbose)
    supervisor = Supervisor(arguments)
    # The terminal sends Ctrl-C to the replica too; it ends, and then so do we.
    signal.signal(signal.SIGINT, lambda *_: supervisor.note_end())
    signal.signal(signal.SIGTERM, lambda *_: supervisor.end(signal.SIGTERM))
    if reload:
        threading.Thread(target=supervisor.watch, args=(found.file.parent,), daemon=True).start()
    return supervisor.run()


class Supervisor:
    """Keeps one replica; starts it again when files change."""

    def __init__(self, arguments: ReplicaArguments) -> None:
        self._arguments = arguments
        self._replica: ReplicaProcess | None = None
        self._ending = False
        self._changed = threading.Event()

    def run(self) -> int:
        """Runs replicas one after the other until asked to end."""
        while True:
            self._changed.clear()
            self._replica = ReplicaProcess(self._arguments)
            announcement = self._replica.wait_ready()
            if announcement is not None:
                show(announcement)
            status = self._replica.wait()
            if self._ending or not self._changed.is_set():
                return 0 if self._ending and status in (0, 130, 143) else status
            console.print("files changed; starting again")

    def note_end(self) -> None:
        """The replica has been told to end by the terminal."""
        self._ending = True

    def end(self, signum: int) -> None:
        """Passes a signal on to the replica and ends with it."""
        self._ending = True
        if self._replica is not None:
            self._replica.signal(signum)

    def watch(self, folder: Path) -> None:
        """Ends the replica whenever a Python file below ``folder`` changes."""
        import watchfiles  # only --reload needs it

        for _ in watchfiles.watch(folder, watch_filter=watchfiles.PythonFilter()):
            self._changed.set()
            if self._replica is not None:
                self._replica.signal(signal.SIGTERM)


def show(announcement: dict[str, Any]) -> None:
    """Prints the address, and a curl line for every route."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(announcement["host"], announcement["host"])
    host = f"[{host}]" if ":" in host else host
    address = f"http://{host}:{announcement['port']}"
    console.print(f"{announcement['app']} is ready at {address}", markup=False, style="bold")
    for route in announcement["routes"]:
        if route["websocket"]:
            line = f"  websocket {address}{route['path']}".replace("http", "ws", 1)
            console.print(line, soft_wrap=True)
            continue
        call = Call(route["path"], route["content_type"], route["body"])
        line = call.curl(address, stream="stream" in route["path"])
        console.print(f"  {line}", soft_wrap=True, markup=False)
    console.print(f"  schema {address}/openapi.json, documentation {address}/docs", soft_wrap=True)
    console.print("Ctrl-C ends it; twice, at once.")

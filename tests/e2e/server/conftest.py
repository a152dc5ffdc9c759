"""A server in front of one replica, each a process of its own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from polyrank_program import ROOT

APP = ROOT / "tests" / "programs" / "queue_app.py"

SERVE = """
import asyncio, signal, sys, uvloop
from pathlib import Path
from polyrank.app import projects
from polyrank.cli.platform import Platform, arguments_for
from polyrank.cli.signals import ended_by_signals
from polyrank.reports import Ready

async def main():
    database, app, files, port = sys.argv[1:]
    kept = {"database_url": database, "files_url": files or None}
    arguments = arguments_for(projects.find(app, Path.cwd()))
    platform = Platform(arguments, "127.0.0.1", int(port), **kept)

    def on_report(report):
        if isinstance(report, Ready):
            print("replica", platform.replica_pid, flush=True)

    platform.listeners.append(on_report)
    with ended_by_signals(lambda _: platform.end()):
        async with platform.running():
            print("serving on", platform.url, flush=True)
            await platform.ended.wait()

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


class ServerProcess:
    """A server that can be killed and started again on the same database."""

    def __init__(
        self,
        database: str,
        app: str = f"{APP}::QueueApp",
        files: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = {**os.environ, **(environment or {})}
        self._command = [sys.executable, "-c", SERVE, database, app, files]
        self.start()

    def start(self, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [*self._command, str(port)],
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        address = re.fullmatch(r"serving on (\S+)\n", line)
        assert address is not None, line
        self.address = address[1]

    def start_again(self) -> None:
        """On the port that it had."""
        self.start(int(self.address.rpartition(":")[2]))

    def replica_pid(self) -> int:
        """The process id of the replica that serves now."""
        [pid] = [
            child.pid
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if "polyrank.app.replica" in child.cmdline()
        ]
        return pid

    def end(self, signum: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(signum)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    files = str(tmp_path / "files")
    process = ServerProcess(f"sqlite:///{tmp_path / 'polyrank.db'}", files=files)
    yield process
    process.end()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for tests that do it no harm."""
    folder = tmp_path_factory.mktemp("server")
    process = ServerProcess(f"sqlite:///{folder / 'polyrank.db'}")
    yield process
    process.end()


@pytest.fixture(scope="module")
def start_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers of other apps (``FILE::Class``), for all tests of a module."""
    started: list[ServerProcess] = []

    def start(
        app: str, environment: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> ServerProcess:
        folder = folder or tmp_path_factory.mktemp("server")
        database = f"sqlite:///{folder / 'polyrank.db'}"
        started.append(ServerProcess(database, app, str(folder / "files"), environment))
        return started[-1]

    yield start
    for process in started:
        process.end()

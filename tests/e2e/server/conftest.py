"""A server in front of one replica, each a process of its own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from polyrank_program import ROOT

from polyrank.app.projects import AppRef
from polyrank.cli.replica import ReplicaArguments, ReplicaProcess

APP = ROOT / "tests" / "programs" / "queue_app.py"

SERVE = """
import asyncio, sys, uvicorn
from polyrank.gateway.server import Server, build
from polyrank.gateway.upstream import Replica

class Announcing(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print("serving on", self.servers[0].sockets[0].getsockname()[1], flush=True)

async def main():
    database, address, slots = sys.argv[1:]
    replica = Replica("local/queue-app", address, slots=int(slots))
    server = Server(database, {"local/queue-app": replica})
    config = uvicorn.Config(build(server), port=0, log_level="warning")
    await Announcing(config).serve()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def replica() -> Iterator[str]:
    """The address of a replica of tests/programs/queue_app.py."""
    process = ReplicaProcess(ReplicaArguments(AppRef(APP, "QueueApp")))
    announcement = process.wait_ready()
    assert announcement is not None
    yield f"http://127.0.0.1:{announcement['port']}"
    process.end()


class ServerProcess:
    """A server that can be killed and started again on the same database."""

    def __init__(self, database: str, replica: str, slots: int = 4) -> None:
        self._command = [sys.executable, "-c", SERVE, database, replica, str(slots)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, text=True, env={**os.environ}
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        port = re.fullmatch(r"serving on (\d+)\n", line)
        assert port is not None, line
        self.address = f"http://127.0.0.1:{port[1]}"

    def end(self, signum: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(signum)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def server(replica: str, tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(f"sqlite:///{tmp_path / 'polyrank.db'}", replica)
    yield process
    process.end()

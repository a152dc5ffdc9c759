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

APP = ROOT / "tests" / "programs" / "queue_app.py"

SERVE = """
import asyncio, contextlib, sys, uvicorn
from polyrank.gateway.server import Server, build
from polyrank.gateway.upstream import Replica
from polyrank.scaler.local import LocalReplica, ReplicaArguments

class Announcing(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print("serving on", self.servers[0].sockets[0].getsockname()[1], flush=True)

async def main():
    database, app, name, slots = sys.argv[1:]
    replica = Replica(name, slots=int(slots))
    server = Server(database, {name: replica})

    async def on_ready(announcement):
        replica.is_at(f"http://127.0.0.1:{announcement['port']}")
        print("replica", kept.pid, flush=True)

    async def on_gone(reason):
        replica.is_gone()

    kept = LocalReplica(ReplicaArguments(app), on_ready, on_gone)
    keeping = asyncio.create_task(kept.keep())
    try:
        await Announcing(uvicorn.Config(build(server), port=0, log_level="warning")).serve()
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

asyncio.run(main())
"""


class ServerProcess:
    """A server that can be killed and started again on the same database."""

    def __init__(
        self,
        database: str,
        app: str = f"{APP}::QueueApp",
        name: str = "local/queue-app",
        slots: int = 4,
    ) -> None:
        self._command = [sys.executable, "-c", SERVE, database, app, name, str(slots)]
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
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(f"sqlite:///{tmp_path / 'polyrank.db'}")
    yield process
    process.end()

"""The peers, their environments and their running servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from benchmarks.peers.client import Caller, describe

APPS = Path(__file__).parent / "apps"
START_LIMIT_S = 180
END_LIMIT_S = 15


@dataclass(frozen=True)
class Peer:
    """A server to measure: what to install, how its users start it, where it answers."""

    name: str
    package: str
    command: str
    requirements: tuple[str, ...] = ()
    path: str = "/"
    environment: dict[str, str] = field(default_factory=dict)

    def install(self, folder: Path) -> Path:
        """Makes its environment unless it is there; the folder of its commands."""
        if not self.requirements:  # polyrank itself, from this checkout
            return Path(sys.executable).parent
        made = folder / self.package / ".installed"
        wanted = "\n".join(self.requirements)
        if not made.exists() or made.read_text() != wanted:
            home = str(made.parent)
            pip = [f"{home}/bin/python", *"-m pip install -q --disable-pip-version-check".split()]
            subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
            subprocess.run([*pip, *self.requirements], check=True, stderr=subprocess.PIPE)
            made.write_text(wanted)
        return made.parent / "bin"


PEERS = (
    Peer(
        "polyrank",
        "polyrank",
        "polyrank run with_polyrank.py --port {port} --device cpu",
        path="/run/local/sampler-app",
    ),
    Peer("LitServe", "litserve", "python with_litserve.py", ("litserve==0.2.19",)),
    Peer(
        "Ray Serve",
        "ray",
        "python with_ray.py",
        ("ray[serve]==2.60.0",),
        environment={"RAY_USAGE_STATS_ENABLED": "0"},
    ),
    Peer(
        "BentoML",
        "bentoml",
        "bentoml serve with_bentoml:Sampler --host 127.0.0.1 --port {port}",
        ("bentoml==1.4.39",),
        environment={"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Peer(
        "mosec",
        "mosec",
        "python with_mosec.py --address 127.0.0.1 --port {port} --timeout {timeout_ms}",
        ("mosec==0.9.8",),
        path="/inference",
    ),
)


class Server:
    """A peer's server in processes of its own; ``async with`` starts it and ends all of them."""

    def __init__(self, peer: Peer, commands: Path, folder: Path, timeout_s: int) -> None:
        """``folder`` is its home and holds all that it writes."""
        self._peer, self._commands, self._folder = peer, commands, folder
        self._timeout_s = timeout_s
        self._family: set[psutil.Process] = set()
        self._logs = 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    async def __aenter__(self) -> Self:
        """Starts it and waits for its first good answer; ``start_s`` is how long that took."""
        start = time.perf_counter()
        program, *arguments = self._peer.command.format(
            port=self._port, timeout_ms=self._timeout_s * 1000
        ).split()
        with open(self._folder / "server.log", "w") as output:
            self.process = psutil.Popen(
                [self._commands / program, *arguments],
                cwd=APPS,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            await self.first_good_answer(START_LIMIT_S, [])
        except BaseException as failure:
            await self.__aexit__(None, None, None)
            if not isinstance(failure, TimeoutError):
                raise
            lines = (self._folder / "server.log").read_text(errors="replace").splitlines()
            raise RuntimeError(f"no good answer; its log ends: {' / '.join(lines[-3:])}") from None
        self.start_s = time.perf_counter() - start
        self._note_family()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._note_family()
        with contextlib.suppress(psutil.NoSuchProcess):
            self.process.send_signal(signal.SIGTERM)
        _, left = await asyncio.to_thread(psutil.wait_procs, self._family, END_LIMIT_S)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await asyncio.to_thread(psutil.wait_procs, left, END_LIMIT_S)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port}{self._peer.path}"

    def caller(self) -> Caller:
        """Somebody who calls it."""
        return Caller(self._port, self._peer.path)

    def new_log(self) -> Path:
        """A file for the steps of one request."""
        self._logs += 1
        log = self._folder / f"steps-{self._logs}"
        log.touch()
        return log

    async def first_good_answer(self, limit_s: float, refusals: list[str]) -> None:
        """Calls the no-op until it is answered right, each time on a new connection and for at
        most a second; notes in ``refusals`` what else it got, each kind once."""
        async with asyncio.timeout(limit_s):
            while True:
                try:
                    async with asyncio.timeout(1), self.caller() as caller:
                        answer = await caller.post({"steps": 0, "log": ""})
                    if answer.is_right(steps=0):
                        return
                    refusal = str(answer)
                except (OSError, EOFError, TimeoutError) as failure:
                    refusal = describe(failure)
                if refusal not in refusals:
                    refusals.append(refusal)
                await asyncio.sleep(0.02)

    def _note_family(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family |= {self.process, *self.process.children(recursive=True)}

    def _environment(self) -> dict[str, str]:
        own = {} if self._peer.requirements else {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        path = f"{self._commands}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        home = str(self._folder)
        return {
            "PATH": path,
            "HOME": home,
            "TMPDIR": home,
            "PORT": str(self._port),
            "REQUEST_TIMEOUT_S": str(self._timeout_s),
            **own,
            **self._peer.environment,
        }

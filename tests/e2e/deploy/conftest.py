"""A server that apps are deployed to, and the command line that deploys them."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from polyrank_program import POLYRANK, ROOT, Program

APP = """
import asyncio
import os
from pathlib import Path

import polyrank
from pydantic import BaseModel

VERSION = "{version}"


class Work(BaseModel):
    seconds: float = 0.0


class Greeter(polyrank.App):
    app_name = "greeter"
    {options}

    def setup(self):
        print("setting up", VERSION, flush=True)
        {setup}

    @polyrank.endpoint("/")
    async def greet(self, work: Work) -> dict:
        await asyncio.sleep(work.seconds)
        return {{"version": VERSION, "pid": os.getpid(), "text": Path("words.txt").read_text()}}

    @polyrank.endpoint("/end")
    def end(self) -> dict:
        os._exit(7)
"""


class Project:
    """An app's folder, written by a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.write()

    def write(self, version: str = "one", *options: str, setup: str = "pass") -> None:
        """Another version of the app."""
        text = APP.format(version=version, options="\n    ".join(options) or "pass", setup=setup)
        (self.folder / "app.py").write_text(text)
        (self.folder / "words.txt").write_text(f"words of {version}")


class Installation:
    """A ``polyrank serve`` with a data folder of its own, and what talks to it."""

    def __init__(self, data: Path, *arguments: str, **environment: str) -> None:
        self.data = data
        self.environment = {"POLYRANK_DATA_DIR": str(data), "POLYRANK_SLOTS": "8", **environment}
        self.arguments = arguments
        self.start(0)

    def start(self, port: int) -> None:
        """Starts the server, perhaps again on the port that it had."""
        self.program = Program(
            "serve", "--port", str(port), *self.arguments, cwd=ROOT, **self.environment
        )
        self.url = self.program.wait_for(r"serving at (\S+);")[1]

    def start_again(self) -> None:
        """On the port that it had."""
        self.start(int(self.url.rpartition(":")[2]))

    def run(
        self, *arguments: str, cwd: Path = ROOT, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """A command of ours against this server, to its end."""
        environment = {
            **_quiet(),
            **self.environment,
            "POLYRANK_SERVER": self.url,
            "COLUMNS": "200",
        }
        return subprocess.run(
            [*POLYRANK, *arguments],
            cwd=cwd,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def json(self, *arguments: str, cwd: Path = ROOT) -> Any:
        """What a command prints with ``--json``; it must succeed."""
        done = self.run(*arguments, "--json", cwd=cwd)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def deploy(self, project: Project, *options: str) -> str:
        """Deploys the project's app; what the command said. It must succeed."""
        done = self.run("deploy", "app.py", *options, cwd=project.folder)
        assert done.returncode == 0, done.stderr + self.program.output
        return done.stderr

    def call(self, app: str = "local/greeter", path: str = "/", **body: Any) -> Any:
        """A direct call of an app."""
        answer = httpx.post(f"{self.url}/run/{app}{path}", json=body, timeout=60, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def replicas(self) -> list[dict[str, Any]]:
        """Those that run."""
        found: list[dict[str, Any]] = httpx.get(f"{self.url}/runners", trust_env=False).json()[
            "runners"
        ]
        return found


def result_of(submitted: dict[str, Any]) -> dict[str, Any]:
    """The result of a queued request, when it is there."""
    with httpx.stream("GET", f"{submitted['status_url']}/stream", trust_env=False) as events:
        for _ in events.iter_lines():
            pass
    answer = httpx.get(submitted["response_url"], trust_env=False)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def _quiet() -> dict[str, str]:
    import os

    return {
        name: value for name, value in os.environ.items() if not re.match("POLYRANK_|FAL_", name)
    }


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A server for all tests of a module."""
    installation = Installation(tmp_path_factory.mktemp("installation") / "data")
    yield installation
    import signal

    installation.program.end(signal.SIGINT)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")

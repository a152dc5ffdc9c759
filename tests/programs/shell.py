"""A user's shell, with commands typed into it."""

import asyncio
import os
import subprocess
from pathlib import Path

from polyrank_program import POLYRANK
from typer.testing import CliRunner

from polyrank.cli.main import app


class Shell:
    """A user's shell: an environment, and commands typed into it."""

    def __init__(self, home: Path) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        self.environment = {
            **kept,
            "HOME": str(home),
            "POLYRANK_DATA_DIR": str(home / "data"),
            "COLUMNS": "40",
        }

    async def run(
        self, *arguments: str, typed: str = "", status: int = 0, **environment: str
    ) -> tuple[str, str]:
        """What a command writes to stdout and to stderr."""
        process = await asyncio.create_subprocess_exec(
            *POLYRANK,
            *arguments,
            env=self.environment | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate(typed.encode())
        assert process.returncode == status, err.decode()
        return out.decode().strip(), err.decode()


class QuickShell(Shell):
    """The same commands in this process: what they do to a server is no different, and they are
    there at once."""

    async def run(
        self, *arguments: str, typed: str = "", status: int = 0, **environment: str
    ) -> tuple[str, str]:
        """What a command writes to stdout and to stderr."""
        runner = CliRunner(env=self.environment | environment)
        result = await asyncio.to_thread(runner.invoke, app, arguments, input=typed)
        assert result.exit_code == status, result.output
        return result.stdout.strip(), result.stderr

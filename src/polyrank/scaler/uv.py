"""uv, which installs packages: how it is run here, and what it says."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import uv

from polyrank.errors import BuildFailed
from polyrank.settings import PipSettings

LAST_LINES = 30
LONGEST_LINE = 2**20
ENDING_S = 5.0
# What uv says when an index or a host cannot be reached.
UNREACHABLE = re.compile(
    "error sending request|dns error|tcp connect error|failed to lookup address|"
    "connection refused|network is unreachable|operation timed out|request failed after",
    re.IGNORECASE,
)
# About places that are gone when the build is done.
NOISE = re.compile(r"Using Python \S+ environment at|Creating virtual environment|Activate with")
# Of no concern to an installer: our own settings and keys, and which Python runs us.
PRIVATE = ("POLYRANK_", "FAL_", "PYTHON", "VIRTUAL_ENV", "CONDA_")


class Uv:
    """Runs uv with one cache. Its own variables (``UV_…``) and configuration count; where they say
    nothing of indexes, pip's do."""

    def __init__(self, cache: Path, pythons: Path, pip: PipSettings) -> None:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(PRIVATE)
        }
        self.environment = {
            "UV_CACHE_DIR": str(cache),
            "UV_PYTHON_INSTALL_DIR": str(pythons),
            # As pip: of all indexes, the best version.
            "UV_INDEX_STRATEGY": "unsafe-best-match",
            **_as_pip(pip, inherited),
            **_configuration(inherited),
            **inherited,
            "UV_NO_PROGRESS": "1",
            "NO_COLOR": "1",
        }

    async def run(
        self,
        arguments: Sequence[str],
        tell: Callable[[str], None],
        *,
        folder: Path,
        text: str = "",
    ) -> None:
        """Runs ``uv ARGUMENTS`` in a folder, telling its lines as they come.

        ``text`` is its standard input. If the network cannot be reached, it is run again with what
        is in the cache. Raises BuildFailed with its last lines.
        """
        status, lines = await self._run_once(arguments, tell, folder, text)
        if status and UNREACHABLE.search("\n".join(lines)):
            tell("a package index cannot be reached; trying with what is in the cache")
            offline = [*arguments, "--offline"]
            again, _ = await self._run_once(offline, tell, folder, text)
            status = again and status
        if status:
            said = "\n".join(lines) or "it said nothing"
            raise BuildFailed(
                f"uv {' '.join(arguments[:2])} ended with exit status {status}:\n{said}",
                lines=list(lines),
            )

    async def _run_once(
        self,
        arguments: Sequence[str],
        tell: Callable[[str], None],
        folder: Path,
        text: str,
    ) -> tuple[int, Sequence[str]]:
        """The exit status, and the last lines."""
        process = await asyncio.create_subprocess_exec(
            _binary(),
            *arguments,
            cwd=folder,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LONGEST_LINE,
            start_new_session=True,
        )
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(text.encode())
            process.stdin.close()
            lines = await _follow(process.stdout, tell)
            return await process.wait(), lines
        finally:
            await _end(process)


async def _follow(output: asyncio.StreamReader, tell: Callable[[str], None]) -> Sequence[str]:
    last: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
    while raw := await output.readline():
        line = raw.decode(errors="replace").rstrip()
        if line and not NOISE.match(line):
            last.append(line)
            tell(line)
    return last


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends uv, if it still runs, with the compilers and the like that it has started."""
    if process.returncode is not None:
        return
    _signal_all(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(ENDING_S):
            await process.wait()
    finally:
        _signal_all(process, signal.SIGKILL)
    await process.wait()


def _signal_all(process: asyncio.subprocess.Process, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signum)


def _binary() -> str:
    try:
        return uv.find_uv_bin()
    except FileNotFoundError as error:
        raise BuildFailed(f"environments are built with uv, and it is not there: {error}") from None


def _as_pip(pip: PipSettings, inherited: Mapping[str, str]) -> dict[str, str]:
    """pip's settings in uv's words, unless uv has its own of that kind."""
    wanted = {
        "UV_DEFAULT_INDEX": pip.index_url,
        "UV_EXTRA_INDEX_URL": " ".join(pip.extra_index_url),
        "UV_FIND_LINKS": ",".join(pip.find_links),
        "UV_INSECURE_HOST": " ".join(pip.trusted_host),
        "SSL_CERT_FILE": pip.cert,
    }
    if {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_CONFIG_FILE"} & inherited.keys():
        del wanted["UV_DEFAULT_INDEX"], wanted["UV_EXTRA_INDEX_URL"]
    return {name: value for name, value in wanted.items() if value}


def _configuration(inherited: Mapping[str, str]) -> dict[str, str]:
    """The server's uv.toml counts, and no file near the app's or ours."""
    home = Path(inherited.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for place in (home / "uv" / "uv.toml", Path("/etc/uv/uv.toml")):
        if place.is_file():
            return {"UV_CONFIG_FILE": str(place)}
    return {"UV_NO_CONFIG": "1"}

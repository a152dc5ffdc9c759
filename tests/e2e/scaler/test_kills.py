"""Server, keeper and replica are killed at any moment: nothing is left, and the end is known."""

import asyncio
import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from polyrank.scaler.launch.base import ReplicaSpec
from polyrank.scaler.launch.local import LocalLauncher
from tests.e2e.scaler.conftest import end_of

Spec = Callable[..., ReplicaSpec]

# A server that starts three replicas, one after the other, as soon as it is told to.
SERVER = """
import asyncio, sys
from pathlib import Path
from polyrank.scaler.launch.base import ReplicaSpec
from polyrank.scaler.launch.local import Keeping, LocalLauncher

async def main():
    folder, python = sys.argv[1:]
    launcher = LocalLauncher(Path(folder), Keeping(linger_s=60))
    print("here", flush=True)
    sys.stdin.readline()
    for number in range(3):
        await launcher.start(ReplicaSpec(
            id=f"{number:012x}", app="local/test", revision="1", python=python,
            folder=Path(folder), ref="x",
        ))
    await asyncio.Event().wait()

asyncio.run(main())
"""


def marked(mark: str) -> Iterator[psutil.Process]:
    """The processes that have the mark in their environment, as children inherit it."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK") == mark:
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_killed_nothing_is_left(spec: Spec, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    mark = os.urandom(8).hex()
    python = spec(script="echo $loaded >&3; echo $ready >&3; sleep 100").python
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path / "replicas"), python],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "MARK": mark},
    )
    assert server.stdin is not None and server.stdout is not None
    with server.stdin, server.stdout:
        server.stdout.readline()
        server.stdin.write(b"go\n")
        server.stdin.flush()
        await asyncio.sleep(chance.uniform(0, 0.25))  # the moment
        server.kill()
        server.wait()
    for process in list(marked(mark)):
        if chance.random() < 0.3:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended with another
                process.kill()
    launcher = LocalLauncher(tmp_path / "replicas")
    handles = await launcher.recover()
    for handle in handles:
        if chance.random() < 0.3:
            handle.kill()
    await launcher.close(keep=False)
    for handle in handles:
        assert (await end_of(handle)).reason
    left = list(marked(mark))
    # The keepers have said their last word, and are about to end.
    assert (await asyncio.to_thread(psutil.wait_procs, left, 10))[1] == []
    ids = {handle.spec.id for handle in handles}
    assert {path.name for path in (tmp_path / "replicas").iterdir()} == {"lock", *ids}

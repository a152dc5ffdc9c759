"""Replicas for tests: real apps, and shell scripts in the place of an interpreter."""

import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from polyrank import reports
from polyrank.scaler.launch.base import Ended, Handle, ReplicaSpec
from polyrank.scaler.launch.local import Keeping, LocalLauncher

ROOT = Path(__file__).resolve().parents[3]
LOADED = reports.encode(reports.Loaded("script", reports.Limits(grace_s=0.1))).decode().strip()
READY = reports.encode(reports.Ready("127.0.0.1", 1, [])).decode().strip()


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., ReplicaSpec]:
    """Describes a replica: of an app in examples/, or what a shell script does in its place."""

    def describe(ref: str = "hello.py", *, script: str | None = None, **more: Any) -> ReplicaSpec:
        python = sys.executable
        if script is not None:
            program = tmp_path / f"script-{os.urandom(4).hex()}"
            program.write_text(f"#!/bin/bash\nloaded='{LOADED}'\nready='{READY}'\n{script}\n")
            program.chmod(0o700)
            python = str(program)
        fields = {"folder": ROOT / "examples", "environment": {}} | more
        return ReplicaSpec(
            id=os.urandom(6).hex(), app="local/test", revision="1", python=python, ref=ref, **fields
        )

    return describe


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[LocalLauncher]:
    """A launcher whose replicas are ended at the end."""
    launcher = LocalLauncher(tmp_path / "replicas", Keeping(linger_s=30, late_s=0.5))
    yield launcher
    await launcher.close(keep=False)


async def until(handle: Handle, kind: type) -> Any:
    """Waits for a report of this kind."""
    async for report in handle.follow():
        if isinstance(report, kind):
            return report
    raise AssertionError(f"{kind.__name__} did not come")


async def end_of(handle: Handle) -> Ended:
    ended = await until(handle, Ended)
    assert isinstance(ended, Ended)
    return ended


def keeper_of(handle: Handle) -> psutil.Process:
    assert handle.pid is not None
    keeper = psutil.Process(handle.pid).parent()
    assert keeper is not None and "polyrank.scaler.keeper" in keeper.cmdline()
    return keeper


def noted(launcher: LocalLauncher, handle: Handle, name: str) -> Any:
    return json.loads((launcher.folder / handle.spec.id / name).read_text())

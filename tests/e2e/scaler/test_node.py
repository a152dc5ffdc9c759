"""A machine of a cluster: what replicas of it share, and what is removed when none uses it."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from polyrank.reports import Ready
from polyrank.scaler.launch.base import ReplicaSpec
from polyrank.scaler.launch.local import LocalHandle
from polyrank.scaler.node import Node, Package, pack
from polyrank.scaler.uses import Uses

from .conftest import end_of, until

APP = """
import polyrank

class Greeter(polyrank.App):
    @polyrank.endpoint("/")
    def greet(self) -> str:
        return "{version}"
"""


@pytest.fixture
async def start(
    tmp_path: Path, spec: Callable[..., ReplicaSpec]
) -> AsyncIterator[Callable[[str], Awaitable[tuple[Node, LocalHandle]]]]:
    """Starts a replica of one version of an app on the machine."""
    left: list[tuple[Node, LocalHandle]] = []

    async def start(version: str) -> tuple[Node, LocalHandle]:
        source = tmp_path / version
        source.mkdir(exist_ok=True)
        (source / "app.py").write_text(APP.format(version=version))
        code_hash, data = pack(source)

        async def fetch() -> bytes:
            return data

        node = Node(tmp_path / "node")
        wanted = spec("app.py::Greeter", folder=source)
        handle = await node.start(wanted, Package(code_hash), fetch, lambda what: None)
        left.append((node, handle))
        await until(handle, Ready)
        return node, handle

    yield start
    for node, handle in left:
        handle.kill()
        await end_of(handle)
        await node.leave()


async def test_old_files_are_removed_once_no_replica_uses_them(start, tmp_path: Path) -> None:
    machine = tmp_path / "node"

    def names(kind: str) -> set[str]:
        return {path.name for path in (machine / kind).iterdir()}

    first, of_first = await start("one")
    [one] = names("bundles")
    _, of_second = await start("two")
    await of_first.terminate()
    await first.leave()
    for folder in (machine / "bundles").iterdir():
        os.utime(folder, (1, 1))
    _, of_third = await start("three")
    while one in names("bundles"):
        await asyncio.sleep(0.01)
    async with Uses(machine / "uses").changes():  # whoever removes is done
        assert len(names("bundles")) == 2
    assert names("replicas") == {of_second.spec.id, of_third.spec.id}

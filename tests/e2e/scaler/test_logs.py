"""What replicas print and log: kept, read back, followed."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import httpx

from polyrank.reports import Ready
from polyrank.scaler.launch.base import ReplicaSpec
from polyrank.scaler.launch.local import Keeping, LocalLauncher
from polyrank.scaler.logs import Line, Logs
from polyrank.scaler.segments import segments
from tests.e2e.scaler.conftest import end_of, until

Spec = Callable[..., ReplicaSpec]

TALKATIVE = """
import logging, os, subprocess, sys
import polyrank

class Talkative(polyrank.App):
    def setup(self):
        print("setup", "begins")
        sys.stderr.write("a warning\\n")

    @polyrank.endpoint("/")
    def talk(self) -> None:
        print("two\\nlines")
        logging.getLogger("polyrank.app").error("logged: %s", "an error")
        subprocess.run(["echo", "of another program"])
        os.write(2, b"in C\\n")
"""


async def all_of(logs: Logs, id: str, **wanted: object) -> list[Line]:
    return [line async for line in logs.read(id, **wanted)]  # type: ignore[arg-type]


def texts(lines: list[Line]) -> list[str]:
    return [line.message for line in lines if line.stream != "keeper"]


async def test_a_line_has_its_stream_its_level_and_its_request(
    launcher: LocalLauncher, spec: Spec, tmp_path: Path
) -> None:
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    handle = await launcher.start(spec("talkative.py", folder=tmp_path))
    ready = await until(handle, Ready)
    async with httpx.AsyncClient() as client:
        await client.post(
            f"http://127.0.0.1:{ready.port}/", headers={"x-fal-request-id": "request-1"}
        )
    await handle.terminate()
    found = await all_of(Logs(launcher.folder), handle.spec.id)
    known = {line.message: (line.stream, line.level, line.request_id) for line in found}
    assert known["setup begins"] == ("stdout", "STDOUT", None)
    assert known["a warning"] == ("stderr", "STDERR", None)
    assert known["two"] == known["lines"] == ("stdout", "STDOUT", "request-1")
    assert known["logged: an error"] == ("log", "ERROR", "request-1")
    # What does not go through Python's streams cannot say which request it is for.
    assert known["of another program"] == ("stdout", "STDOUT", None)
    assert known["in C"] == ("stderr", "STDERR", None)
    assert found[0].message == f"started as process {found[0].message.split()[-1]}"
    assert found[-1].message == "it was asked to end: the replica was ended by SIGTERM"
    assert found[0].stream == found[-1].stream == "keeper"


RANKS = """
import polyrank
from polyrank.distributed import DistributedRunner, DistributedWorker

class Worker(DistributedWorker):
    def __call__(self, streaming=False):
        print("printed in a rank")

class Ranks(polyrank.App):
    async def setup(self):
        self.runner = DistributedRunner(Worker, world_size=2, device="cpu")
        await self.runner.start()

    async def teardown(self):
        await self.runner.stop()

    @polyrank.endpoint("/")
    async def work(self) -> None:
        await self.runner.invoke({})
"""


async def test_a_line_of_a_rank_has_its_rank_and_its_request(
    launcher: LocalLauncher, spec: Spec, tmp_path: Path
) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    handle = await launcher.start(spec("ranks.py", folder=tmp_path))
    ready = await until(handle, Ready)
    async with httpx.AsyncClient(timeout=60) as client:
        address = f"http://127.0.0.1:{ready.port}/"
        await client.post(address, headers={"x-fal-request-id": "request-1"})
    await handle.terminate()
    found = await all_of(Logs(launcher.folder), handle.spec.id, search="printed in a rank")
    assert {(line.rank, line.stream, line.request_id) for line in found} == {
        (0, "stdout", "request-1"),
        (1, "stdout", "request-1"),
    }
    assert {line.message for line in found} == {"printed in a rank"}


async def test_lines_are_found_by_time_and_text(launcher: LocalLauncher, spec: Spec) -> None:
    script = "echo one; sleep 0.05; echo Two; echo three >&2; printf 'bar 1%%\\rbar 2%%\\nrest'"
    handle = await launcher.start(spec(script=script))
    await end_of(handle)
    logs, id = Logs(launcher.folder), handle.spec.id
    found = await all_of(logs, id)
    assert sorted(texts(found)) == ["Two", "bar 2%", "one", "rest", "three"]
    [one] = await all_of(logs, id, search="ONE")
    assert one.stream == "stdout"
    [two] = await all_of(logs, id, search="two")
    assert "one" in texts(await all_of(logs, id, until=one.time))
    assert "one" not in texts(await all_of(logs, id, since=two.time))
    assert await all_of(logs, id, limit=2) == found[-2:]
    assert await all_of(logs, id, limit=0) == []


async def test_a_log_is_followed_until_its_end(launcher: LocalLauncher, spec: Spec) -> None:
    script = "echo $ready >&3; echo first; read -r line < fifo; echo $line"
    described = spec(script=script, folder=launcher.folder)
    fifo = launcher.folder / "fifo"
    await asyncio.to_thread(os.mkfifo, fifo)
    handle = await launcher.start(described)
    followed = Logs(launcher.folder).read(handle.spec.id, follow=True)
    async for line in followed:
        if line.message == "first":
            break
    await asyncio.to_thread(fifo.write_text, "from outside\n")
    rest = [line.message async for line in followed]
    assert rest == ["from outside", "the replica ended with exit status 0"]


async def test_a_long_log_takes_a_limited_place_and_is_followed_across_files(
    spec: Spec, tmp_path: Path
) -> None:
    launcher = LocalLauncher(tmp_path / "replicas", Keeping(log_bytes=20_000, log_files=3))
    handle = await launcher.start(spec(script="echo begun; sleep 0.2; seq 1 3000; echo over"))
    logs = Logs(launcher.folder)
    followed = [line.message async for line in logs.read(handle.spec.id, follow=True)]
    folder = launcher.folder / handle.spec.id
    files = segments(folder)
    assert len(files) == 3
    assert all(path.stat().st_size <= 20_000 for _, path in files)
    kept = await all_of(logs, handle.spec.id)
    # The oldest are gone, and those that are there follow each other.
    numbers = [int(line.message) for line in kept if line.message.isdigit()]
    assert numbers == list(range(numbers[0], 3001))
    assert numbers[0] > 1
    assert followed[-2:] == ["over", "the replica ended with exit status 0"]
    assert [int(text) for text in followed if text.isdigit()][-len(numbers) :] == numbers
    await launcher.close(keep=False)


async def test_lines_as_json_leave_out_what_is_not_known(
    launcher: LocalLauncher, spec: Spec
) -> None:
    handle = await launcher.start(spec(script="echo hello"))
    await end_of(handle)
    [line] = await all_of(Logs(launcher.folder), handle.spec.id, search="hello")
    assert json.loads(json.dumps(line.to_dict())) == {
        "time": line.time,
        "stream": "stdout",
        "level": "STDOUT",
        "message": "hello",
    }
    assert not Logs(launcher.folder).has("0123456789ab")
    assert not Logs(launcher.folder).has("../etc")

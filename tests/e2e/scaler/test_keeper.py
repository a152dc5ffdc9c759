"""A replica and its keeper: started, followed, ended, whatever is killed when."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from polyrank.reports import Loaded, Ready
from polyrank.scaler.launch.base import Ended, LaunchFailed, ReplicaSpec
from polyrank.scaler.launch.local import Keeping, LocalLauncher
from tests.e2e.scaler.conftest import end_of, keeper_of, noted, until

Spec = Callable[..., ReplicaSpec]
WAITS = "echo $loaded >&3; echo $ready >&3; exec sleep 100"

# A server that starts what it is told, says so, and waits to be killed.
SERVER = """
import asyncio, sys
from pathlib import Path
from polyrank.reports import Ready
from polyrank.scaler.launch.base import ReplicaSpec
from polyrank.scaler.launch.local import Keeping, LocalLauncher

async def main():
    folder, linger_s, python, cwd = sys.argv[1:]
    launcher = LocalLauncher(Path(folder), Keeping(linger_s=float(linger_s)))
    handle = await launcher.start(ReplicaSpec(
        id="0123456789ab", app="local/test", revision="1", python=python, folder=Path(cwd),
        ref="hello.py", environment={"SECRET": "of the app"},
    ))
    async for report in handle.follow():
        if isinstance(report, Ready):
            print(handle.pid, flush=True)

asyncio.run(main())
"""


def serve(folder: Path, spec: ReplicaSpec, linger_s: float) -> tuple[subprocess.Popen[str], int]:
    """A server and the process id of its replica, which is ready."""
    command = [sys.executable, "-c", SERVER, str(folder), str(linger_s), spec.python]
    server = subprocess.Popen([*command, str(spec.folder)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with server.stdout:
        return server, int(server.stdout.readline())


async def gone(process: psutil.Process) -> bool:
    """Whether a process that nobody here is the parent of ends, and is reaped."""
    return not (await asyncio.to_thread(psutil.wait_procs, [process], timeout=60))[1]


async def test_a_replica_serves_and_ends_in_order(launcher: LocalLauncher, spec: Spec) -> None:
    handle = await launcher.start(spec())
    ready = await until(handle, Ready)
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"http://127.0.0.1:{ready.port}/", json={"name": "you"})
    assert answer.json() == {"text": "Hello, you!"}
    keeper = keeper_of(handle)
    assert keeper.memory_full_info().uss < 12e6
    await handle.terminate()
    ended = await end_of(handle)
    assert ended == Ended("it was asked to end: the replica was ended by SIGTERM", 143)
    assert noted(launcher, handle, "exit.json")["exit_status"] == 143
    assert handle.pid is None


async def test_whoever_follows_late_is_told_what_there_was(
    launcher: LocalLauncher, spec: Spec
) -> None:
    handle = await launcher.start(spec(script=WAITS))
    await until(handle, Ready)
    handle.kill()
    ended = await end_of(handle)
    assert ended == Ended("it was killed on request", 137)
    assert [type(each) async for each in handle.follow()] == [Loaded, Ready, Ended]


@pytest.mark.parametrize(
    ("script", "reason", "status"),
    [
        ("exit 0", "the replica ended with exit status 0", 0),
        ("exit 7", "the replica ended with exit status 7", 7),
        ("kill -KILL $$", "the replica was ended by SIGKILL", 137),
        ("kill -SEGV $$", "the replica was ended by SIGSEGV", 139),
    ],
)
async def test_the_reason_of_an_end_is_told(
    launcher: LocalLauncher, spec: Spec, script: str, reason: str, status: int
) -> None:
    handle = await launcher.start(spec(script=script))
    assert await end_of(handle) == Ended(reason, status)


async def test_what_cannot_be_started_says_why(launcher: LocalLauncher, spec: Spec) -> None:
    handle = await launcher.start(spec(folder=Path("/nowhere")))
    ended = await end_of(handle)
    assert ended.exit_status == 127
    assert "/nowhere" in ended.reason and "No such file" in ended.reason


async def test_one_that_is_not_ready_in_time_is_killed(launcher: LocalLauncher, spec: Spec) -> None:
    handle = await launcher.start(spec(script="sleep 100", startup_timeout_s=0.1))
    ended = await end_of(handle)
    assert ended == Ended("the app was not ready within its startup_timeout of 0.1 s", 137)


async def test_one_that_will_not_end_is_killed_after_its_grace_period(
    launcher: LocalLauncher, spec: Spec
) -> None:
    script = "trap '' TERM; echo $loaded >&3; echo $ready >&3; while :; do sleep 0.1; done"
    handle = await launcher.start(spec(script=script))
    await until(handle, Ready)
    await handle.terminate()
    ended = await end_of(handle)
    assert ended.exit_status == 137
    assert ended.reason == "it was asked to end, and killed when it had not after 0.7 s"


async def test_nothing_that_a_replica_has_started_is_left(
    launcher: LocalLauncher, spec: Spec, tmp_path: Path
) -> None:
    note = tmp_path / "left"
    # In a session of its own, so that no signal to a group reaches it.
    script = (
        f"setsid bash -c 'echo $$ > {note}; exec sleep 100' & while [ ! -s {note} ]; do :; done"
    )
    handle = await launcher.start(spec(script=f"{script}; echo $ready >&3; sleep 100"))
    await until(handle, Ready)
    left = psutil.Process(int(note.read_text()))
    assert left.is_running()
    assert handle.pid is not None
    os.kill(handle.pid, signal.SIGKILL)
    await end_of(handle)
    assert not left.is_running()


async def test_a_replica_inherits_nothing_but_its_streams_and_its_reports(
    launcher: LocalLauncher, spec: Spec, tmp_path: Path
) -> None:
    secret = os.open(tmp_path / "secret", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(secret, True)
    note = tmp_path / "descriptors"
    await end_of(await launcher.start(spec(script=f"ls -l /proc/$$/fd > {note}")))
    os.close(secret)
    found = [line.split(" -> ") for line in note.read_text().splitlines() if " -> " in line]
    targets = {int(left.split()[-1]): right for left, right in found}
    assert targets.pop(255, None) != ""  # bash's own, of the script
    assert sorted(targets) == [0, 1, 2, 3]
    assert targets[0] == "/dev/null"


async def test_the_environment_is_the_servers_with_what_was_added(
    launcher: LocalLauncher, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYRANK_DATABASE_URL", "postgresql://user:password@host/db")
    monkeypatch.setenv("INHERITED", "yes")
    note = tmp_path / "environment"
    described = spec(
        script=f"env > {note}", environment={"SECRET": "x"}, gpus=("GPU-a", "GPU-b"), device="cpu"
    )
    handle = await launcher.start(described)
    await end_of(handle)
    found = dict(line.split("=", 1) for line in note.read_text().splitlines() if "=" in line)
    expected = {"INHERITED": "yes", "SECRET": "x", "POLYRANK_DEVICE": "cpu"}
    assert found.items() >= {**expected, "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}.items()
    assert "POLYRANK_DATABASE_URL" not in found
    # Secrets stand in no file.
    assert noted(launcher, handle, "spec.json")["environment"] == {}


async def test_the_next_server_goes_on_with_what_a_killed_one_has_left(
    spec: Spec, tmp_path: Path
) -> None:
    server, pid = serve(tmp_path / "replicas", spec(), linger_s=30)
    server.kill()
    server.wait()
    launcher = LocalLauncher(tmp_path / "replicas")
    [handle] = await launcher.recover()
    assert handle.pid == pid
    assert handle.spec.environment == {"SECRET": "of the app"}
    ready = await until(handle, Ready)
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"http://127.0.0.1:{ready.port}/", json={"name": "again"})
    assert answer.json() == {"text": "Hello, again!"}
    await launcher.close(keep=False)
    assert not psutil.pid_exists(pid)


async def test_a_server_that_ends_may_leave_its_replicas_running(
    spec: Spec, tmp_path: Path
) -> None:
    first = LocalLauncher(tmp_path / "replicas")
    handle = await first.start(spec(script=WAITS))
    await until(handle, Ready)
    pid = handle.pid
    await first.close(keep=True)
    assert [type(each) async for each in handle.follow()] == [Loaded, Ready]
    second = LocalLauncher(tmp_path / "replicas")
    [found] = await second.recover()
    assert found.pid == pid
    await second.close(keep=False)


async def test_a_replica_without_a_server_ends_after_a_while(spec: Spec, tmp_path: Path) -> None:
    server, pid = serve(tmp_path / "replicas", spec(script=WAITS), linger_s=0.2)
    replica = psutil.Process(pid)
    server.kill()
    server.wait()
    assert await gone(replica)
    launcher = LocalLauncher(tmp_path / "replicas")
    [handle] = await launcher.recover()
    assert (await end_of(handle)).reason.startswith("no server has been there for it")
    assert await launcher.recover() == []
    await launcher.close(keep=False)


async def test_a_replica_ends_with_its_keeper(launcher: LocalLauncher, spec: Spec) -> None:
    handle = await launcher.start(spec())
    await until(handle, Ready)
    replica, keeper = psutil.Process(handle.pid), keeper_of(handle)
    keeper.kill()
    ended = await end_of(handle)
    assert ended == Ended("its keeper was killed, and it ended with it", 137)
    assert await gone(replica)


async def test_a_replica_that_outlives_its_keeper_is_ended_by_the_next_server(
    spec: Spec, tmp_path: Path
) -> None:
    # A script sets no PR_SET_PDEATHSIG: it stands for a replica that hangs where no signal helps.
    server, pid = serve(tmp_path / "replicas", spec(script=WAITS), linger_s=30)
    replica = psutil.Process(pid)
    keeper = replica.parent()
    assert keeper is not None
    server.kill()
    keeper.kill()
    server.wait()
    assert replica.is_running()
    launcher = LocalLauncher(tmp_path / "replicas")
    [handle] = await launcher.recover()
    assert "its keeper was killed" in (await end_of(handle)).reason
    assert await gone(replica)
    await launcher.close(keep=False)


async def test_what_was_never_started_is_cleaned_up(tmp_path: Path) -> None:
    half_made = tmp_path / "replicas" / "0123456789ab"
    half_made.mkdir(parents=True)
    launcher = LocalLauncher(tmp_path / "replicas")
    assert await launcher.recover() == []
    assert not half_made.exists()
    await launcher.close(keep=False)


async def test_two_servers_do_not_share_replicas(spec: Spec, tmp_path: Path) -> None:
    server, _ = serve(tmp_path / "replicas", spec(script=WAITS), linger_s=0)
    with pytest.raises(LaunchFailed, match="another server runs replicas in .*POLYRANK_DATA_DIR"):
        LocalLauncher(tmp_path / "replicas")
    server.kill()
    server.wait()
    launcher = LocalLauncher(tmp_path / "replicas")
    await launcher.recover()
    await launcher.close(keep=False)


async def test_what_has_ended_is_kept_for_a_while_only(spec: Spec, tmp_path: Path) -> None:
    launcher = LocalLauncher(tmp_path / "replicas", Keeping(keep_count=2))
    ids = []
    for _ in range(3):
        handle = await launcher.start(spec(script="exit 0"))
        await end_of(handle)
        ids.append(handle.spec.id)
    await launcher.close(keep=False)
    assert {path.name for path in launcher.folder.iterdir()} == {"lock", *ids[1:]}


async def test_a_launcher_leaves_no_process_and_no_descriptor(spec: Spec, tmp_path: Path) -> None:
    me = psutil.Process()

    def held() -> Any:
        return len(me.children(recursive=True)), me.num_fds()

    before = held()
    launcher = LocalLauncher(tmp_path / "replicas")
    handles = [await launcher.start(spec(script=WAITS)) for _ in range(3)]
    for handle in handles:
        await until(handle, Ready)
    handles[0].kill()
    await launcher.close(keep=False)
    assert held() == before


async def test_a_start_that_is_given_up_leaves_nothing(spec: Spec, tmp_path: Path) -> None:
    launcher = LocalLauncher(tmp_path / "replicas")
    before = psutil.Process().children()
    starting = asyncio.create_task(launcher.start(spec(script=WAITS)))
    await asyncio.sleep(0)
    [keeper] = [each for each in psutil.Process().children() if each not in before]
    starting.cancel()
    await launcher.close(keep=False)
    assert not keeper.is_running()

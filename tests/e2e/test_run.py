"""`polyrank run`, as a user types it: real processes, real sockets, real signals."""

import json
import os
import re
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from polyrank_program import LIMIT_S, Program


def test_the_smallest_app_answers_and_its_curl_line_works(start: Callable[..., Program]) -> None:
    program = start("examples/hello.py")
    address = program.address()
    assert httpx.post(address, json={"name": "you"}).json() == {"text": "Hello, you!"}
    curl = program.wait_for(r"  curl (\S+) -H '([^']+)' -d '([^']*)'")
    kind, value = curl[2].split(": ")
    assert httpx.post(curl[1], headers={kind: value}, content=curl[3]).status_code == 200


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_and_leaves_nothing(
    start: Callable[..., Program], signum: signal.Signals
) -> None:
    program = start("examples/two_ranks.py")
    address = program.address()
    body = {"numbers": [1, 2, 3.5]}
    assert httpx.post(address, json=body).json() == {"sum": 6.5}
    with httpx.stream("POST", f"{address}/stream", json=body) as answer:
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line]
    assert events == [{"share_of_rank_0": 4.5}, {"sum": 6.5}]
    family = psutil.Process(program.process.pid).children(recursive=True)
    assert len(family) >= 4  # replica, fork server, two ranks
    assert program.end(signum) == 0
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def test_a_killed_command_leaves_no_process_behind(start: Callable[..., Program]) -> None:
    program = start("examples/two_ranks.py")
    program.address()
    family = psutil.Process(program.process.pid).children(recursive=True)
    program.process.kill()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def test_ctrl_c_twice_ends_it_at_once_though_a_request_runs(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    (tmp_path / "slow_app.py").write_text(
        "import time\n"
        "from polyrank import App, endpoint\n"
        "class Slow(App):\n"
        "    termination_grace_period_seconds = 600\n"
        "    @endpoint('/')\n"
        "    async def wait(self) -> None:\n"
        "        import asyncio; print('at work', flush=True); await asyncio.sleep(600)\n"
    )
    program = start(str(tmp_path / "slow_app.py"))
    address = program.address()
    caller = threading.Thread(
        target=lambda: _ignore_errors(lambda: httpx.post(address, timeout=LIMIT_S))
    )
    caller.start()
    program.wait_for("at work")
    os.killpg(program.process.pid, signal.SIGINT)
    program.wait_for("Ctrl-C again ends them at once")
    program.end(signal.SIGINT)
    caller.join(LIMIT_S)


def test_ctrl_c_once_lets_a_running_request_end(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    (tmp_path / "patient_app.py").write_text(
        "import asyncio\n"
        "from polyrank import App, endpoint\n"
        "class Patient(App):\n"
        "    async def setup(self) -> None:\n"
        "        self.ending = asyncio.Event()\n"
        "    def handle_exit(self) -> None:\n"
        "        self.ending.set()\n"
        "    @endpoint('/')\n"
        "    async def wait(self) -> str:\n"
        "        print('at work', flush=True); await self.ending.wait(); return 'done'\n"
    )
    program = start(str(tmp_path / "patient_app.py"))
    address = program.address()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(httpx.post, address, timeout=LIMIT_S)
        program.wait_for("at work")
        assert program.end(signal.SIGINT) == 0
        assert answer.result().json() == "done"


def test_verbose_shows_the_phases_of_every_rank(start: Callable[..., Program]) -> None:
    program = start("examples/two_ranks.py", "--verbose")
    program.address()
    for rank in (0, 1):
        program.wait_for(
            rf"rank {rank} is ready: spawn [\d.]+ s, import [\d.]+ s, load [\d.]+ s, "
            r"process_group [\d.]+ s, setup [\d.]+ s"
        )


def test_ranks_on_the_command_line_replace_num_gpus(start: Callable[..., Program]) -> None:
    program = start("examples/two_ranks.py", "--ranks", "3", "--device", "cpu", "-v")
    program.wait_for("rank 2 is ready")


def test_an_app_is_found_by_its_name_in_pyproject(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.fal.apps.greeter]\nref = "code/app.py::Greeter"\n'
    )
    inner = tmp_path / "code"
    inner.mkdir()
    (inner / "app.py").write_text(
        "import fal\n"
        "class Greeter(fal.App):\n"
        "    @fal.endpoint('/')\n"
        "    def hi(self) -> dict[str, str]: return {'from': 'greeter'}\n"
    )
    program = start("greeter", cwd=inner)  # type: ignore[arg-type]
    assert httpx.post(program.address()).json() == {"from": "greeter"}
    assert "error" not in program.output


def test_reload_serves_the_changed_file(start: Callable[..., Program], tmp_path: Path) -> None:
    file = tmp_path / "changing_app.py"
    source = (
        "from polyrank import App, endpoint\n"
        "class Changing(App):\n"
        "    @endpoint('/')\n"
        "    def which(self) -> int: return 1\n"
    )
    file.write_text(source)
    program = start(str(file), "--reload")
    assert httpx.post(program.address()).json() == 1
    file.write_text(source.replace("return 1", "return 2"))
    assert httpx.post(program.address(count=2)).json() == 2
    assert program.end() == 0


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1\n", "no class derived from App"),
        ("import polyrank\nraise ValueError('no weights')\n", r"no weights \(line 2\)"),
        (
            "from polyrank import App\n"
            "class A(App):\n"
            "    def setup(self): raise ValueError('setup is broken')\n",
            "setup is broken",
        ),
        (
            "from polyrank import App\nfrom polyrank.distributed import *\n"
            "class W(DistributedWorker):\n"
            "    def setup(self): raise ValueError('rank is broken')\n"
            "class A(App):\n"
            "    async def setup(self): await DistributedRunner(W, 2).start()\n",
            "setup failed on rank . ValueError: rank is broken".replace(". V", r"\d: V"),
        ),
    ],
    ids=["no app", "broken file", "broken setup", "broken rank"],
)
def test_an_app_that_cannot_start_says_why_and_ends(
    start: Callable[..., Program], tmp_path: Path, source: str, says: str
) -> None:
    file = tmp_path / "failing_app.py"
    file.write_text(source)
    program = start(str(file))
    assert program.wait() == 1
    assert re.search(says, program.output), program.output


def test_gpus_that_the_machine_lacks_are_an_error_that_says_what_is_there(
    start: Callable[..., Program],
) -> None:
    program = start("examples/two_ranks.py", "--device", "cuda", CUDA_VISIBLE_DEVICES="")
    assert program.wait() == 1
    assert "the app asks for num_gpus=2; this machine has 0 GPUs" in program.output


def test_requirements_that_are_not_met_are_told_and_it_goes_on(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    file = tmp_path / "wanting_app.py"
    file.write_text(
        "from polyrank import App, endpoint\n"
        "class Wanting(App):\n"
        "    requirements = ['httpx==0.1', 'no-such-package', 'fal', 'pydantic',\n"
        "                    '--extra-index-url', 'https://example.com/whl']\n"
        "    @endpoint('/')\n"
        "    def ok(self) -> int: return 1\n"
    )
    program = start(str(file))
    assert httpx.post(program.address()).json() == 1
    told = re.findall(r"requirement not met here: (.*)", program.output)
    assert told == [
        f"httpx==0.1: {httpx.__version__} is installed",
        "no-such-package: not installed",
    ]


def test_a_name_that_is_nothing_says_what_there_is() -> None:
    program = Program("run", "no-such-app")
    assert program.wait() == 2
    assert "neither a file nor an app" in program.output


def _ignore_errors(call: Callable[[], object]) -> None:
    try:
        call()
    except httpx.HTTPError:
        pass

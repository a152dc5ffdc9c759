"""A program beside a replica: over a real terminal at either end, and with pipes."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from polyrank_program import POLYRANK
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from polyrank.scaler.terminal import OUT, Program, Size, World

from .conftest import Installation, Project


@pytest.fixture
def replica(installation: Installation, project: Project) -> dict[str, Any]:
    """A replica that runs."""
    if not installation.replicas():
        project.write("shown", "min_concurrency = 1", "keep_alive = 1000")
        installation.deploy(project)
    [found] = installation.replicas()
    return found


class Screen:
    """Our command on a terminal, as a person has it."""

    def __init__(self, installation: Installation, *arguments: str, size: Size) -> None:
        environment = {**os.environ, "POLYRANK_SERVER": installation.url}
        self.program = Program.start(
            [*POLYRANK, *arguments], World(Path.cwd(), environment), size, "xterm"
        )
        self.shown = ""
        self._reading = self.program.read(OUT)

    async def type(self, text: str) -> None:
        await self.program.write(text.encode())

    async def until(self, pattern: str) -> re.Match[str]:
        async with asyncio.timeout(60):
            while not (found := re.search(pattern, self.shown)):
                data = await anext(self._reading, b"")
                assert data, self.shown
                self.shown += data.decode()
        return found

    async def close(self) -> None:
        await self._reading.aclose()
        await self.program.close()


async def test_a_shell_is_a_terminal_in_the_replicas_world(
    installation: Installation, replica: dict[str, Any]
) -> None:
    arguments = ("runners", "shell", replica["id"][:6])
    screen = Screen(installation, *arguments, size=Size(31, 101))
    # What is typed is shown too: an answer has to look different.
    await screen.type("tty; stty size; echo app=$FAL_APP_NAME; cat words.txt; echo 'o''ver'\n")
    await screen.until(r"/dev/pts/\d+")
    await screen.until(r"31 101")
    await screen.until(r"app=\S*greeter")
    await screen.until("words of shown")
    await screen.until("over")
    screen.program.resize(Size(40, 120))
    await screen.type("sleep 0.1; stty size\n")
    await screen.until("40 120")
    # Ctrl-C is for the program over there.
    await screen.type("""sh -c "echo 'sleep''ing'; exec sleep 100"\n""")
    await screen.until("sleeping")
    await screen.type("\x03")
    await screen.until(r"\^C[^^]*[#$] ")
    await screen.type("exit 3\n")
    assert await screen.program.wait() == 3
    await screen.close()


def test_the_terminal_is_restored_whatever_ends_the_command(
    installation: Installation, replica: dict[str, Any]
) -> None:
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    environment = {**os.environ, "POLYRANK_SERVER": installation.url}
    command = [*POLYRANK, "runners", "shell", replica["id"]]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    threading.Thread(target=os.write, args=(ours, b"echo 'in''side'\n")).start()
    shown = b""
    while b"inside" not in shown:
        shown += os.read(ours, 4096)
    assert termios.tcgetattr(theirs) != before
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_a_program_gets_our_input_and_we_its_output_its_errors_and_its_status(
    installation: Installation, replica: dict[str, Any]
) -> None:
    script = "import sys; print(sys.stdin.read().upper()); print(1, file=sys.stderr); sys.exit(5)"
    done = installation.run(
        "runners", "exec", replica["id"], "python", "-c", script, stdin="from here"
    )
    assert (done.stdout, done.stderr, done.returncode) == ("FROM HERE\n", "1\n", 5)
    # The interpreter is that of the replica's environment.
    shown = installation.run(
        "runners", "exec", replica["id"], "--", "python", "-c", "import sys; print(sys.executable)"
    )
    assert Path(shown.stdout.strip()).parent == Path(sys.executable).parent
    many = installation.run("runners", "exec", replica["id"], "seq", "200000")
    assert many.stdout.splitlines()[-1] == "200000" and len(many.stdout) == 1288895


def test_what_cannot_be_run_says_why(installation: Installation, replica: dict[str, Any]) -> None:
    done = installation.run("runners", "exec", replica["id"], "no-such-program")
    assert done.returncode == 127 and "no-such-program" in done.stderr
    done = installation.run("runners", "exec", "ffffffffffff", "true")
    assert done.returncode == 1 and "no replica 'ffffffffffff' runs here" in done.stderr


async def test_a_program_ends_with_its_caller(
    installation: Installation, replica: dict[str, Any]
) -> None:
    address = f"{installation.url.replace('http', 'ws', 1)}/runners/{replica['id']}/exec"
    async with connect(address) as socket:
        await socket.send(json.dumps({"command": ["sh", "-c", "echo $$; exec sleep 100"]}))
        said = await socket.recv()
        assert isinstance(said, bytes)
        program = psutil.Process(int(said[1:]))
    assert await asyncio.to_thread(psutil.wait_procs, [program], 20) == ([program], [])


async def test_only_administrators_enter(
    installation: Installation, replica: dict[str, Any]
) -> None:
    made = installation.json("keys", "create", "--scope", "API", "--owner", "local")
    address = f"{installation.url.replace('http', 'ws', 1)}/runners/{replica['id']}/exec"
    for headers, status in (
        ({"authorization": f"Key {made['key']}"}, 403),
        ({"x-forwarded-for": "198.51.100.1"}, 401),  # a stranger, through a proxy
        ({"origin": "https://elsewhere.example"}, 403),
        ({"origin": "http://localhost:3000"}, 403),  # another page of this machine
    ):
        with pytest.raises(InvalidStatus) as refused:
            await connect(address, additional_headers=headers)
        assert refused.value.response.status_code == status, headers

"""`polyrank call`, as a shell and as a person in a terminal see it."""

import io
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from polyrank_program import POLYRANK

APP = "local/queue-app"


@pytest.fixture
def call(shared_server: Any) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    def run(*words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*POLYRANK, "call", *words],
            env={**os.environ, "POLYRANK_SERVER": shared_server.address},
            capture_output=True,
            text=True,
            timeout=60,
            **options,
        )

    return run


@pytest.mark.parametrize("way", [[], ["--queue"], ["--direct"]])
def test_a_program_reads_json(call: Any, way: list[str]) -> None:
    ended = call(APP, "number=21", *way)
    assert (ended.returncode, json.loads(ended.stdout), ended.stderr) == (0, {"double": 42}, "")


def test_arguments_may_be_one_object(call: Any) -> None:
    ended = call("queue-app", "--path", "/odd", "--json", '{"number": 2}', "number:=3")
    assert json.loads(ended.stdout) == {"odd": 3}


def test_a_stream_is_a_line_of_json_for_each_event(call: Any) -> None:
    ended = call(APP, "number=3", "--stream")
    assert [json.loads(line)["step"] for line in ended.stdout.splitlines()] == [0, 1, 2]
    # Through the queue, what a streaming endpoint said last is the result.
    assert json.loads(call(APP, "number=3", "--path", "/stream").stdout) == {"step": 2}


@pytest.mark.parametrize("way", [[], ["--direct"]])
def test_a_failure_is_told_with_its_reason(call: Any, way: list[str]) -> None:
    ended = call(APP, "number=2", "--path", "/odd", *way)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "number: must be odd (422" in ended.stderr
    assert "there is no app 'local/nothing'" in call("nothing", *way).stderr


def test_a_stream_that_fails_is_a_failure(call: Any) -> None:
    for way in ([], ["--stream"]):
        ended = call(APP, "number=2", "--path", "/stumble", *way)
        assert ended.returncode == 1 and "number: too far" in ended.stderr


def test_what_makes_no_sense_is_refused(call: Any) -> None:
    assert call(APP, "number").returncode == 2
    assert call(APP, "--stream", "--direct").returncode == 2
    assert "is not the address" in call(APP, "--server", "localhost").stderr
    ended = call(APP, "--server", "http://127.0.0.1:9")
    assert ended.returncode == 1 and "POLYRANK_SERVER" in ended.stderr


def test_files_are_kept(call: Any, tmp_path: Path) -> None:
    ended = call(APP, "number=16", "--path", "/paint", "-o", str(tmp_path / "out"))
    assert ended.returncode == 0, ended.stderr
    saved = re.findall(r"saved (.*)", ended.stderr)
    pictures = [Path(path).read_bytes() for path in saved]
    assert [Image.open(io.BytesIO(data)).size for data in pictures] == [(16, 8)] * 2
    assert sorted(map(Path, saved)) == sorted((tmp_path / "out").iterdir())
    call(APP, "number=8", "--path", "/paint", "-o", str(tmp_path / "out"))
    assert [Path(path).read_bytes() for path in saved] == pictures  # nothing is overwritten
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_a_place_that_cannot_be_written_is_told(call: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = call(APP, "number=16", "--path", "/paint", "-o", str(tmp_path / "file" / "out"))
    assert ended.returncode == 1 and ended.stderr.startswith("error: ")


def test_ctrl_c_cancels_the_request(shared_server: Any, tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    os.mkfifo(steps)  # opened by the app when it is at work
    program = subprocess.Popen(
        [*POLYRANK, "call", APP, "--path", "/work", "seconds=60", f"log={steps}"],
        env={**os.environ, "POLYRANK_SERVER": shared_server.address},
        stderr=subprocess.PIPE,
        text=True,
    )
    with steps.open() as pipe:
        assert pipe.readline() == "step\n"
        program.send_signal(signal.SIGINT)
        _, stderr = program.communicate(timeout=60)
        for _ in pipe:
            pass  # to the last step: the app has ended
    assert program.returncode == 130
    id = re.search(r"cancelled request (\S+)", stderr)
    assert id is not None, stderr
    url = f"{shared_server.address}/queue/{APP}/requests/{id[1]}"
    assert httpx.get(url).status_code == 499


class Terminal:
    """A terminal in which a program's stderr ends up; it says that it shows pictures."""

    def __init__(self) -> None:
        self._ours, self.theirs = os.openpty()
        self.shown = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 2**16)
            except OSError:  # nobody has it open any more
                return
            self.shown += data
            if data.endswith(b"\x1b[c"):
                os.write(self._ours, b"\x1b_Gi=31;OK\x1b\\\x1b[?62c")

    def close(self) -> None:
        os.close(self.theirs)
        self._thread.join()
        os.close(self._ours)


def test_a_person_sees_progress_and_pictures(shared_server: Any) -> None:
    terminal = Terminal()
    ended = subprocess.run(
        [*POLYRANK, "call", APP, "number=32", "--path", "/previews"],
        env={**os.environ, "POLYRANK_SERVER": shared_server.address, "TERM": "xterm-256color"},
        stderr=terminal.theirs,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    terminal.close()
    assert ended.returncode == 0, terminal.shown
    assert json.loads(ended.stdout)["seed"] == 7
    places = re.findall(rb"\x1b_Ga=T,f=100,q=2,C=1,i=\d+,c=(\d+),r=(\d+)", terminal.shown)
    assert places == [(b"32", b"16")] * 2  # the preview and the result, in one place
    assert b"painting at step 1" in terminal.shown  # a line of the app's log

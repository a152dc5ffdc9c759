"""polyrank.client: uploads, and sessions over websockets."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from polyrank_program import POLYRANK, ROOT, Program

from polyrank.client import AsyncClient, RealtimeError, StorageSettings, SyncClient

PROGRAMS = ROOT / "tests" / "programs"
LARGE_BYTES = 150 * 2**20


def test_what_is_uploaded_is_read_at_its_url(shared_server: Any, tmp_path: Path) -> None:
    file = tmp_path / "naïve & co.txt"
    file.write_text("from a file")
    with SyncClient(server=shared_server.address) as client:
        lifecycle = StorageSettings("1h")
        urls = [
            client.upload("text", "text/plain", "a.txt", lifecycle=lifecycle),
            client.upload_file(file),
            client.upload_image(Image.new("RGB", (4, 3)), "png"),
        ]
    answers = [httpx.get(url) for url in urls]
    assert [answer.text for answer in answers[:2]] == ["text", "from a file"]
    assert answers[2].headers["content-type"] == "image/png"
    assert "filename*=UTF-8''na%C3%AFve%20%26%20co.txt" in answers[1].headers["content-disposition"]


def test_the_async_client_uploads(shared_server: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(os.urandom(300_000))

    async def upload() -> list[str]:
        async with AsyncClient(server=shared_server.address) as client:
            image = Image.new("RGB", (4, 3))
            return [
                await client.upload(b"bytes", "application/octet-stream"),
                await client.upload_file(file),
                await client.upload_image(image),
            ]

    urls = asyncio.run(upload())
    assert httpx.get(urls[0]).content == b"bytes"
    assert httpx.get(urls[1]).content == file.read_bytes()
    assert httpx.get(urls[2]).headers["content-type"] == "image/jpeg"


UPLOAD = """
import asyncio, resource, sys
from polyrank.client import AsyncClient, SyncClient

kind, server, path = sys.argv[1:]
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

async def upload():
    async with AsyncClient(server=server) as client:
        await client.upload_file(__file__ if "__file__" in globals() else sys.executable)
        before = used()
        return before, await client.upload_file(path)

if kind == "async":
    before, url = asyncio.run(upload())
else:
    with SyncClient(server=server) as client:
        client.upload_file(sys.executable)
        before = used()
        url = client.upload_file(path)
print(url, used() - before)
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_memory_does_not_grow_with_a_file(shared_server: Any, tmp_path: Path, kind: str) -> None:
    large = tmp_path / "large.bin"
    block = os.urandom(2**20)
    with large.open("wb") as file:
        for number in range(LARGE_BYTES // 2**20):
            file.write(number.to_bytes(8) + block[8:])
    command = [sys.executable, "-c", UPLOAD, kind, shared_server.address, str(large)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    url, grown_mib = printed.split()
    assert int(grown_mib) < 32
    assert httpx.get(url, timeout=60).content == large.read_bytes()
    large.unlink()


def test_files_of_the_command_line_are_uploaded_and_kept(
    start_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = start_server(f"{PROGRAMS}/files_app.py::FilesApp")

    def call(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*POLYRANK, "call", "files-app", *words],
            env={**os.environ, "POLYRANK_SERVER": server.address},
            capture_output=True,
            text=True,
            timeout=60,
        )

    file = tmp_path / "seven.txt"
    file.write_text("7 bytes")
    ended = call("--path", "/size", f"file=@{file}")
    assert (ended.returncode, ended.stdout) == (0, "7\n"), ended.stderr
    ended = call("--path", "/make", "text=made", "name=made.txt", "-o", str(tmp_path / "out"))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "made.txt").read_text() == "made"
    ended = call("--path", "/paint", "-o", str(tmp_path / "red.png"))
    with Image.open(tmp_path / "red.png") as picture:
        assert picture.size == (4, 2)


def test_an_app_calls_apps_of_its_server(start_server: Callable[..., Any]) -> None:
    server = start_server(f"{PROGRAMS}/calling_app.py::CallingApp")
    with SyncClient(server=server.address) as client:
        result = client.run("calling-app", {"number": 3})
    assert result.number == 12
    assert result.url.startswith(server.address) and httpx.get(result.url).text == "kept"


def test_everything_reaches_a_server_that_speaks_https(tmp_path: Path) -> None:
    app = Program(
        "run",
        f"{PROGRAMS}/calling_app.py::CallingApp",
        *("--tls", "--port", "0"),
        POLYRANK_DATA_DIR=str(tmp_path),
    )
    url = app.wait_for(r"is ready at (https://\S+)/run/")[1]
    program = "import fal_client; print(fal_client.run('local/calling-app', {'number': 3}))"
    by_reference = ["exec", "--url", url, "--", sys.executable, "-W", "ignore", "-c", program]
    for command in (["call", "calling-app", "number=3", "--server", url], by_reference):
        ended = subprocess.run(
            [*POLYRANK, *command],
            env={**os.environ, "SSL_CERT_FILE": str(tmp_path / "tls" / "ca.pem")},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.returncode == 0, ended.stderr
        assert "'number': 12" in ended.stdout.replace('"', "'")
    assert app.end() == 0


@pytest.fixture(scope="module")
def sockets(start_server: Callable[..., Any]) -> str:
    address: str = start_server(f"{PROGRAMS}/realtime_app.py::RealtimeApp").address
    return address


@pytest.mark.parametrize("use_jwt", [False, True])
def test_a_realtime_session(sockets: str, use_jwt: bool) -> None:
    with (
        SyncClient(server=sockets) as client,
        client.realtime("realtime-app", use_jwt=use_jwt, max_buffering=10) as session,
    ):
        for number in range(3):
            session.send({"number": number})
            assert session.recv().square == number**2
        session.send({"number": -1})
        with pytest.raises(RealtimeError, match="number: Input should be greater"):
            session.recv()
        session.send({"number": 4})
        assert session.recv() == {"square": 16}


def test_a_session_that_ends_ends_the_loop(sockets: str) -> None:
    with (
        SyncClient(server=sockets) as client,
        client.realtime("realtime-app", path="/count") as session,
    ):
        session.send({"number": 3})
        assert [result.square for result in session] == [0, 1, 4]
        assert session.recv() is None
        with pytest.raises(RealtimeError, match="CONNECTION_CLOSED"):
            session.send({"number": 3})


async def test_an_async_session_and_a_plain_websocket(sockets: str) -> None:
    async with AsyncClient(server=sockets) as client:
        async with client.realtime("realtime-app", path="/mirror", use_jwt=True) as session:
            await session.send({"pixels": bytes(20 * 2**20)})
            assert len((await session.recv()).pixels) == 20 * 2**20
        async with client.realtime("realtime-app", path="/count") as session:
            await session.send({"number": 3})
            assert [result.square async for result in session] == [0, 1, 4]
        async with client.ws_connect("realtime-app", path="/socket") as websocket:
            await websocket.recv()
            await websocket.send("text")
            assert await websocket.recv() == "text"


def test_a_plain_websocket(sockets: str) -> None:
    with (
        SyncClient(server=sockets) as client,
        client.ws_connect("local/realtime-app/socket", use_jwt=True) as websocket,
    ):
        websocket.recv()
        websocket.send(b"bytes")
        assert websocket.recv() == b"bytes"


def test_sessions_of_the_reference_client_through_polyrank_exec(sockets: str) -> None:
    program = """
import fal_client
for use_jwt in (True, False):
    with fal_client.realtime("local/realtime-app", use_jwt=use_jwt) as session:
        session.send({"number": 5})
        print(session.recv())
print(fal_client.upload(b"b", "text/plain", file_name="b.txt"))
print(fal_client.upload(b"c", "text/plain", repository="fal"))
"""
    ended = subprocess.run(
        [*POLYRANK, "exec", "--url", sockets, "--", sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    *squares, first, second = ended.stdout.splitlines()
    assert squares == ["{'square': 25}"] * 2
    assert [httpx.get(url).text for url in (first, second)] == ["b", "c"]
    assert first.startswith(sockets)

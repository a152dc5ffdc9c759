"""`polyrank secrets`, `environments` and `files`, as a user types them, against a real server."""

import asyncio
import json
import os
import pty
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from polyrank_program import POLYRANK
from served import platform, served
from shell import QuickShell, Shell
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from polyrank.errors import InvalidInput
from polyrank.gateway.belongings import Belongings
from polyrank.gateway.server import Server
from polyrank.settings import ServerSettings
from polyrank.store.apps import DeployedApp

TOKEN = "hf_a-token-nobody-may-see"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return QuickShell(tmp_path)


@pytest.fixture
async def server(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Server, str]]:
    """A server that demands keys; the shell has one of ann's, which may do everything."""
    monkeypatch.setenv("POLYRANK_ALLOWED_HOSTS", "127.0.0.0/8")
    folder = Path(shell.environment["POLYRANK_DATA_DIR"])
    settings = {"auth": "always", "data_dir": folder, "data_max_bytes": 2**20}
    started = platform(folder / "polyrank.db", settings=settings, keeps_belongings=True)
    async with started as (server, address):
        made, _ = await shell.run("keys", "create", "--scope", "ADMIN", "--owner", "ann")
        shell.environment |= {"POLYRANK_SERVER": address, "POLYRANK_KEY": made}
        yield server, address


def belongings(server: Server, shell: Shell) -> Belongings:
    settings = ServerSettings(data_dir=Path(shell.environment["POLYRANK_DATA_DIR"]))
    return Belongings(server.database, settings)


async def variables(server: Server, shell: Shell, env: str = "main", **options: Any) -> Any:
    """What a replica of ann's painter is started with."""
    name = "ann/painter" if env == "main" else f"ann/painter--{env}"
    app = DeployedApp(name, "ann", env, "r1", {}, 0.0, 0.0)
    told = {"revision": "r1", "replica": "0123", "server": "http://here", "key": "id:secret"}
    return await belongings(server, shell).variables(app, **told, **{"allowed": None, **options})


async def test_a_secret_is_set_listed_given_to_apps_and_unset(
    shell: Shell, server: tuple[Server, str]
) -> None:
    typing = Shell.run(shell, "secrets", "set", "MODE=fast", "HF_TOKEN=-", typed=f"{TOKEN}\n")
    out, told = await typing
    assert out == "" and "set MODE, HF_TOKEN" in told and TOKEN not in told
    await shell.run("secrets", "set", "--not-exposed-by-default", "RARE=only for some")
    listed, _ = await shell.run("secrets", "list")
    assert [line.split()[0] for line in listed.splitlines()] == ["name", "HF_TOKEN", "MODE", "RARE"]
    as_json = json.loads((await shell.run("secrets", "list", "--json"))[0])
    assert [(each["name"], each["exposed"]) for each in as_json] == [
        ("HF_TOKEN", True),
        ("MODE", True),
        ("RARE", False),
    ]
    assert "fast" not in listed + str(as_json)

    given = await variables(server[0], shell)
    folder = Path(shell.environment["POLYRANK_DATA_DIR"]).absolute() / "data" / "ann"
    assert given.values["HF_TOKEN"] == TOKEN and "RARE" not in given.values
    assert given.values["FAL_APP_NAME"] == "ann/painter" and given.values["FAL_JOB_ID"] == "0123"
    assert given.values["FAL_KEY"] == given.values["POLYRANK_KEY"] == "id:secret"
    assert given.values["POLYRANK_APP_DATA"] == str(folder) and folder.is_dir()
    assert Path(given.values["HF_HOME"]).is_relative_to(folder)
    assert {"HF_TOKEN", "MODE", "FAL_KEY"} <= set(given.secrets)
    named = await variables(server[0], shell, allowed=["RARE"])
    assert named.values["RARE"] == "only for some" and "MODE" not in named.values

    out, _ = await shell.run("secrets", "unset", "MODE", "HF_TOKEN", "--json")
    assert json.loads(out) == {"unset": ["MODE", "HF_TOKEN"]}
    _, told = await shell.run("secrets", "unset", "MODE", status=1)
    assert "there is no secret MODE" in told
    kept = (Path(shell.environment["POLYRANK_DATA_DIR"]) / "polyrank.db").read_bytes()
    assert TOKEN.encode() not in kept


async def test_folders_that_an_app_mounts_are_there(
    shell: Shell, server: tuple[Server, str]
) -> None:
    await variables(server[0], shell, mounts=["/data", "/data/.cache/own", "models"])
    folder = belongings(server[0], shell).folder_of("ann")
    assert (folder / ".cache" / "own").is_dir() and (folder / "models").is_dir()
    for outside in ("/data/../other", "../up"):
        with pytest.raises(InvalidInput, match="not a path"):
            await variables(server[0], shell, mounts=[outside])


async def test_environments_keep_their_secrets_apart(
    shell: Shell, server: tuple[Server, str]
) -> None:
    _, told = await shell.run("secrets", "set", "--env", "staging", "A=1", status=1)
    assert "there is no environment 'staging'" in told
    await shell.run("environments", "create", "staging", "--description", "to try things")
    await shell.run("secrets", "set", "--env", "staging", "A=of staging")
    listed = json.loads((await shell.run("environments", "list", "--json"))[0])
    assert [each["name"] for each in listed] == ["main", "staging"]
    assert "A" not in (await variables(server[0], shell)).values
    assert (await variables(server[0], shell, "staging")).values["A"] == "of staging"
    await shell.run("environments", "delete", "staging")
    _, told = await shell.run("secrets", "list", "--env", "staging", status=1)
    assert "no environment" in told


async def test_a_value_that_is_typed_is_not_shown(shell: Shell, server: tuple[Server, str]) -> None:
    def set_it() -> bytes:
        terminal, theirs = pty.openpty()
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        command = [*POLYRANK, "secrets", "set", "HF_TOKEN=-"]
        process = subprocess.Popen(
            command, env=shell.environment, start_new_session=True, **streams
        )
        os.close(theirs)
        shown = b""
        while part := _read(terminal):
            if b"not shown" in part:
                command_line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
                assert b"HF_TOKEN" in command_line and TOKEN.encode() not in command_line
                os.write(terminal, TOKEN.encode() + b"\n")
            shown += part
        os.close(terminal)
        assert process.wait() == 0, shown
        return shown

    shown = await asyncio.to_thread(set_it)
    assert b"set HF_TOKEN" in shown and TOKEN.encode() not in shown
    assert (await variables(server[0], shell)).values["HF_TOKEN"] == TOKEN


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # nobody has it open any more
        return b""


async def test_only_an_admin_of_the_owner_comes_near(
    shell: Shell, server: tuple[Server, str]
) -> None:
    address = server[1]
    await shell.run("secrets", "set", "A=ann's")
    api, _ = await shell.run("keys", "create", "--scope", "API", "--owner", "ann")
    bob, _ = await shell.run("keys", "create", "--scope", "ADMIN", "--owner", "bob")
    async with httpx.AsyncClient(base_url=address) as client:
        for path in ("/secrets", "/environments", "/data"):
            assert (await client.get(path)).status_code == 401
            headers = {"authorization": f"Key {api}"}
            assert (await client.get(path, headers=headers)).status_code == 403
        headers = {"authorization": f"Key {bob}"}
        assert (await client.get("/secrets", headers=headers)).json() == []
        await client.put("/data/a", content=b"bob's", headers=headers)
        answer = await client.put("/secrets/B", json={"value": [TOKEN]}, headers=headers)
        assert answer.status_code == 422 and TOKEN not in answer.text
    assert json.loads((await shell.run("files", "list", "--json"))[0]) == []


async def test_a_new_key_takes_over_while_the_server_runs(
    shell: Shell, server: tuple[Server, str]
) -> None:
    await shell.run("secrets", "set", "A=1")
    key_file = Path(shell.environment["POLYRANK_DATA_DIR"]) / "secret.key"
    before = key_file.read_text()
    _, told = await shell.run("secrets", "rotate")
    assert "1 secrets are encrypted with a new key" in told and key_file.read_text() != before
    await shell.run("secrets", "set", "B=2")
    given = (await variables(server[0], shell)).values
    assert (given["A"], given["B"]) == ("1", "2")


async def test_files_come_and_go(shell: Shell, server: tuple[Server, str], tmp_path: Path) -> None:
    folder = belongings(server[0], shell).folder_of("ann")
    source = tmp_path / "loras"
    (source / "cats").mkdir(parents=True)
    (source / "cats" / "a b.bin").write_bytes(b"cat" * 1000)
    (source / "ö.bin").write_bytes(b"dog")
    out, _ = await shell.run("files", "upload", str(source), "/data/models", "--json")
    assert json.loads(out) == ["models/cats/a b.bin", "models/ö.bin"]
    assert (folder / "models" / "cats" / "a b.bin").read_bytes() == b"cat" * 1000
    await shell.run("files", "upload", str(source / "ö.bin"), "models/")
    listed, _ = await shell.run("files", "list", "models")
    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [
        ["cats/", listed.splitlines()[1].split()[1]],
        ["ö.bin", "3"],
    ]
    target = tmp_path / "got"
    await shell.run("files", "download", "models", str(target))
    assert (target / "cats" / "a b.bin").read_bytes() == b"cat" * 1000
    await shell.run("files", "download", "/data/models/ö.bin", str(tmp_path / "one"))
    assert (tmp_path / "one").read_bytes() == b"dog"
    await shell.run("files", "mv", "models/ö.bin", "models/cats/dog.bin")
    assert (folder / "models" / "cats" / "dog.bin").exists()
    _, told = await shell.run("files", "rm", "models", status=1)
    assert "is a folder" in told
    await shell.run("files", "rm", "-r", "models")
    assert list(folder.iterdir()) == []
    for command in (("list", "none"), ("download", "none"), ("rm", "none")):
        _, told = await shell.run("files", *command, status=1)
        assert "there is nothing at none" in told
    big = tmp_path / "big"
    big.write_bytes(b"x" * (2**20 + 1))
    _, told = await shell.run("files", "upload", str(big), status=1)
    assert "may have 1048576 bytes" in told


class Cutter:
    """A proxy whose connections end once they have carried ``limit`` bytes of answers."""

    def __init__(self, address: str) -> None:
        self.target = httpx.URL(address)
        self.limit = 0
        self.requests = b""

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self.target.host, self.target.port)
        ways = [
            asyncio.create_task(self._send(reader, back)),
            asyncio.create_task(self._answer(there, writer)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)
        for each in (back, writer):
            each.close()
            await each.wait_closed()

    async def _send(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            self.requests += data
            back.write(data)

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self.limit
        while left and (data := await there.read(left)):
            left -= len(data)
            writer.write(data)
            await writer.drain()


async def test_a_download_that_broke_off_is_gone_on_with(
    shell: Shell, server: tuple[Server, str], tmp_path: Path
) -> None:
    folder = belongings(server[0], shell).folder_of("ann")
    folder.mkdir(parents=True)
    content = os.urandom(900_000)
    (folder / "big").write_bytes(content)
    cutter = Cutter(server[1])
    async with asyncio.TaskGroup() as tasks:
        proxy = await asyncio.start_server(
            lambda *streams: tasks.create_task(cutter.pass_on(*streams)), "127.0.0.1", 0
        )
        port = proxy.sockets[0].getsockname()[1]
        shell.environment["POLYRANK_SERVER"] = f"http://127.0.0.1:{port}"
        cutter.limit = 400_000
        _, told = await shell.run("files", "download", "big", str(tmp_path / "got"), status=1)
        assert "does not answer" in told and not (tmp_path / "got").exists()
        cutter.limit, cutter.requests = 600_000, b""
        await shell.run("files", "download", "big", str(tmp_path / "got"))
        proxy.close()
    assert (tmp_path / "got").read_bytes() == content
    assert b"range: bytes=39" in cutter.requests.lower()
    assert [path.name for path in tmp_path.glob(".got*")] == []


async def test_the_server_downloads_and_says_how_far_it_is(
    shell: Shell, server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def weights(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b"w" * 10_000

        return StreamingResponse(body(), headers={"content-length": "100000"})

    folder = belongings(server[0], shell).folder_of("ann")
    async with served(Starlette(routes=[Route("/w.bin", weights)])) as site:
        out, _ = await shell.run("files", "upload-url", f"{site}/w.bin", "models/", "--json")
        assert json.loads(out) == ["models/w.bin"]
        assert (folder / "models" / "w.bin").stat().st_size == 100_000
        _, told = await shell.run("files", "upload-url", f"{site}/none", status=1)
        assert "answered 404" in told
    _, told = await shell.run("files", "upload-url", "http://10.1.2.3/x", status=1)
    assert "private or reserved" in told
    assert sorted(path.name for path in folder.rglob("*")) == ["models", "w.bin"]


async def test_a_part_of_a_file_and_nothing_outside(
    shell: Shell, server: tuple[Server, str], tmp_path: Path
) -> None:
    folder = belongings(server[0], shell).folder_of("ann")
    headers = {"authorization": f"Key {shell.environment['POLYRANK_KEY']}"}
    async with httpx.AsyncClient(base_url=server[1], headers=headers) as client:
        await client.put("/data/a.html", content=b"0123456789")
        part = await client.get("/data/a.html", headers={"range": "bytes=2-4"})
        assert (part.status_code, part.text) == (206, "234")
        assert part.headers["content-range"] == "bytes 2-4/10"
        assert part.headers["content-type"] == "application/octet-stream"
        assert part.headers["content-disposition"].startswith("attachment")
        old = {"range": "bytes=2-", "if-range": '"another"'}
        assert (await client.get("/data/a.html", headers=old)).text == "0123456789"
        late = await client.get("/data/a.html", headers={"range": "bytes=99-"})
        assert late.status_code == 416
        secret = tmp_path / "data" / "secret.key"
        secret.write_text("not theirs")
        (folder / "link").symlink_to(secret)
        for path in ("/data/%2e%2e/%2e%2e/secret.key", "/data/link", "/data/..%2fbob/a"):
            answer = await client.get(path)
            assert answer.status_code in (404, 422) and "not theirs" not in answer.text
        answer = await client.put("/data/%2e%2e/%2e%2e/secret.key", content=b"x")
        assert answer.status_code == 422 and secret.read_text() == "not theirs"


async def test_a_link_stands_where_code_looks_for_data(shell: Shell, tmp_path: Path) -> None:
    link = tmp_path / "data-link"
    out, _ = await shell.run("files", "link", "--path", str(link), "--owner", "ann", "--json")
    folder = Path(json.loads(out)["folder"])
    assert link.resolve() == folder.resolve() and folder.parts[-2:] == ("data", "ann")
    await shell.run("files", "link", "--path", str(link), "--owner", "ann")  # again: as it was
    _, told = await shell.run("files", "link", "--path", str(link), "--owner", "bob", status=1)
    assert "something else" in told and link.resolve() == folder.resolve()

"""`polyrank keys`, `auth` and `profile`, as a user types them, beside a server that runs."""

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
from polyrank_program import POLYRANK, Program
from served import APP, platform, served
from shell import Shell
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

REMOTE = {"x-forwarded-for": "203.0.113.7"}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
async def address(shell: Shell) -> AsyncIterator[str]:
    """A running server on the database that the commands work on; it demands keys."""
    database = Path(shell.environment["POLYRANK_DATA_DIR"]) / "polyrank.db"
    async with platform(database, settings={"auth": "always"}) as (_, address):
        yield address


async def whoami(address: str, credential: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=address) as client:
        return await client.get("/auth/whoami", headers={"authorization": f"Key {credential}"})


async def test_a_key_is_made_listed_used_and_revoked_beside_a_running_server(
    shell: Shell, address: str
) -> None:
    credential, told = await shell.run("keys", "create", "--desc", "a [lab] key", "--rate", "9/m")
    assert "not shown again" in told
    answer = await whoami(address, credential)
    id = credential.partition(":")[0]
    assert answer.json() == {
        "name": f"key:{id}",
        "key_id": id,
        "owner": "local",
        "scopes": ["API"],
        "rate": "9/m",
    }
    async with httpx.AsyncClient(base_url=address) as client:
        headers = {"authorization": f"Key {credential}"}
        answer = await client.post(f"/run/{APP}", json={"number": 2}, headers=headers)
        assert answer.json() == {"double": 4}
    made, _ = await shell.run(
        "keys", "create", "--json", "--scope", "ADMIN", "--scope", "API", "--owner", "ann"
    )
    other = json.loads(made)
    assert (other["scopes"], other["owner"]) == (["ADMIN", "API"], "ann")
    assert (await whoami(address, other["key"])).status_code == 200

    listed, _ = await shell.run("keys", "list")
    lines = listed.splitlines()
    assert len(lines) == 3 and lines[1].startswith(id) and "a [lab] key" in lines[1]
    as_json = json.loads((await shell.run("keys", "list", "--json"))[0])
    assert [key["id"] for key in as_json] == [id, other["id"]]
    assert credential.partition(":")[2] not in listed + str(as_json)

    await shell.run("keys", "revoke", id)
    async with asyncio.timeout(60):
        while (await whoami(address, credential)).status_code == 200:
            pass
    assert (await whoami(address, other["key"])).status_code == 200


async def test_what_cannot_be_done_is_said_in_a_line(shell: Shell) -> None:
    _, told = await shell.run("keys", "revoke", "none", status=1)
    assert "there is no key 'none'" in told
    _, told = await shell.run("keys", "create", "--rate", "often", status=1)
    assert "a rate is written as 10/s" in told
    _, told = await shell.run("keys", "list", status=1, POLYRANK_DATABASE_URL="polyrank.db")
    assert "is not a URL such as" in told
    _, told = await shell.run("auth", "login", "--server", "localhost:8080", status=1)
    assert "a server is a URL" in told
    nobody = "http://127.0.0.1:9"
    _, told = await shell.run("auth", "login", "--server", nobody, typed="a:b\n", status=1)
    assert f"{nobody} does not answer" in told


async def test_login_keeps_a_key_that_the_server_takes(shell: Shell, address: str) -> None:
    credential, _ = await shell.run("keys", "create")
    login = ("auth", "login", "--server", f"{address}/")
    _, told = await shell.run(*login, typed="made:up\n", status=1)
    assert "is not one of this server's" in told
    _, told = await shell.run(*login, status=1)
    assert "no key was given" in told
    assert (await shell.run("profile", "list", "--json"))[0] == "[]"

    _, told = await shell.run(*login, typed=f"{credential}\n")
    id = credential.partition(":")[0]
    assert f"logged in to {address}: local (key {id}; API)" in told
    assert (await shell.run("auth", "whoami"))[0] == f"{address}: local (key {id}; API)"
    file = Path(shell.environment["HOME"]) / ".config" / "polyrank" / "config.toml"
    assert file.stat().st_mode & 0o777 == 0o600
    profiles = json.loads((await shell.run("profile", "list", "--json"))[0])
    assert profiles == [{"name": "default", "server": address, "key_id": id, "used": True}]

    await shell.run("auth", "logout")
    _, told = await shell.run("auth", "whoami", status=1)
    assert "a key is needed" in told
    assert (await whoami(address, credential)).status_code == 200


async def test_several_servers_by_name(shell: Shell, address: str) -> None:
    credential, _ = await shell.run("keys", "create")
    await shell.run("profile", "set", "lab", "--server", "https://lab.example")
    await shell.run("auth", "login", "--server", address, "--profile", "here", typed=credential)
    listed, _ = await shell.run("profile", "list")
    assert [line.split() for line in listed.splitlines()] == [
        ["name", "server", "key"],
        ["*", "here", address, credential.partition(":")[0]],
        ["lab", "https://lab.example", "-"],
    ]
    _, told = await shell.run("profile", "use", "lab")
    assert "in use: lab (https://lab.example)" in told
    who = json.loads((await shell.run("auth", "whoami", "--json", POLYRANK_PROFILE="here"))[0])
    assert (who["server"], who["owner"]) == (address, "local")
    # A server that moves is another server, and is not told this one's key.
    await shell.run("profile", "set", "here", "--server", "https://moved.example")
    profiles = json.loads((await shell.run("profile", "list", "--json"))[0])
    assert profiles[0] == {
        "name": "here",
        "server": "https://moved.example",
        "key_id": None,
        "used": False,
    }
    await shell.run("profile", "delete", "here")
    _, told = await shell.run("profile", "use", "here", status=1)
    assert "there is no profile 'here'" in told and "lab" in told


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # nobody has it open any more
        return b""


async def test_a_key_that_is_typed_is_not_shown(shell: Shell, address: str) -> None:
    credential, _ = await shell.run("keys", "create")

    def log_in() -> str:
        terminal, theirs = pty.openpty()
        command = [*POLYRANK, "auth", "login", "--server", address]
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        process = subprocess.Popen(
            command, env=shell.environment, start_new_session=True, **streams
        )
        os.close(theirs)
        shown = b""
        while part := _read(terminal):
            if b"not shown" in part:
                os.write(terminal, credential.encode() + b"\n")
            shown += part
        os.close(terminal)
        assert process.wait() == 0, shown
        return shown.decode()

    shown = await asyncio.to_thread(log_in)
    assert "logged in to" in shown.replace("\r\n", ""), shown
    assert credential.partition(":")[2] not in shown


async def test_a_server_that_needs_no_key_says_that_it_does_not_know_one(
    shell: Shell, tmp_path: Path
) -> None:
    async with platform(tmp_path / "data" / "polyrank.db") as (_, address):
        login: Any = ("auth", "login", "--server", address)
        _, told = await shell.run(*login, typed="made:up", status=1)
        assert "does not know this key" in told
        shown, _ = await shell.run("auth", "whoami", POLYRANK_SERVER=address)
        assert shown == f"{address}: local (without a key, as this machine's own; ADMIN, API)"


async def test_an_app_that_is_run_takes_these_keys_and_tells_receivers_here(
    shell: Shell, tmp_path: Path
) -> None:
    told: asyncio.Queue[Any] = asyncio.Queue()

    async def hook(request: Request) -> Response:
        told.put_nowait(await request.json())
        return Response()

    credential, _ = await shell.run("keys", "create")
    environment = {name: shell.environment[name] for name in ("HOME", "POLYRANK_DATA_DIR")}
    program = Program("run", "examples/hello.py", "--port", "0", **environment)
    try:
        async with served(Starlette(routes=[Route("/hook", hook, methods=["POST"])])) as receiver:
            url = await asyncio.to_thread(program.address)
            async with httpx.AsyncClient(base_url=httpx.URL(url).join("/")) as client:
                body = {"name": "you"}
                hello = "/run/local/hello"
                assert (await client.post(hello, json=body)).json() == {"text": "Hello, you!"}
                assert (await client.post(hello, json=body, headers=REMOTE)).status_code == 401
                headers = REMOTE | {"authorization": f"Key {credential}"}
                assert (await client.post(hello, json=body, headers=headers)).status_code == 200
                params = {"fal_webhook": f"{receiver}/hook"}
                await client.post("/queue/local/hello", json=body, headers=headers, params=params)
                end = await asyncio.wait_for(told.get(), 60)
                assert end["payload"] == {"text": "Hello, you!"}
    finally:
        await asyncio.to_thread(program.end)

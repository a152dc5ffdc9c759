"""Websockets through the server: the reference platform's client, unmodified, and plain ones."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import fal_client
import fal_client.client
import httpx
import msgspec
import pytest
from fal_client.client import RealtimeError
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.typing import Subprotocol

from polyrank.client import AsyncClient, SyncClient

APP = Path(__file__).resolve().parents[2] / "programs" / "realtime_app.py"
NAME = "local/realtime-app"


@pytest.fixture(scope="module")
def platform(start_server: Callable[..., Any]) -> Any:
    return start_server(f"{APP}::RealtimeApp")


@pytest.fixture
def address(platform: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's, which fal_client is pointed at."""
    sockets = platform.address.replace("http", "ws")
    monkeypatch.setattr(fal_client.client, "REALTIME_URL_FORMAT", f"{sockets}/run/")
    monkeypatch.setattr(fal_client.client, "REST_URL", platform.address)
    return f"{sockets}/run/{NAME}"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that the app writes to, and reading it waits until it has."""
    path = tmp_path / "mark"
    os.mkfifo(path)
    return path


@pytest.fixture
def client(address: str) -> Iterator[fal_client.SyncClient]:
    client = fal_client.SyncClient(key="id:secret")
    yield client
    client._client.close()


@pytest.fixture
async def async_client(address: str) -> AsyncIterator[fal_client.AsyncClient]:
    client = fal_client.AsyncClient(key="id:secret")
    yield client
    await (await client._client).aclose()


@pytest.mark.parametrize("use_jwt", [True, False])
def test_realtime_with_the_reference_client(client: fal_client.SyncClient, use_jwt: bool) -> None:
    with client.realtime(NAME, use_jwt=use_jwt, max_buffering=10) as connection:
        for number in range(3):
            connection.send({"number": number})
            assert connection.recv() == {"square": number**2}
        connection.send({"number": -1})
        with pytest.raises(RealtimeError, match="number: Input should be greater than or equal"):
            connection.recv()
        connection.send({"number": 4})
        assert connection.recv() == {"square": 16}


@pytest.mark.parametrize("use_jwt", [True, False])
async def test_realtime_with_the_async_reference_client(
    async_client: fal_client.AsyncClient, use_jwt: bool
) -> None:
    async with async_client.realtime(NAME, use_jwt=use_jwt) as connection:
        await connection.send({"number": 5})
        assert await connection.recv() == {"square": 25}
    async with async_client.realtime(f"{NAME}/talk", path="", use_jwt=use_jwt) as connection:
        for number in (6, 7):
            await connection.send({"number": number})
            assert await connection.recv() == {"square": number**2}
        assert await connection.recv() is None  # no input for half a second: a normal end


def test_a_stream_ends_with_none(client: fal_client.SyncClient) -> None:
    with client.realtime(NAME, path="/count") as connection:
        connection.send({"number": 3})
        outputs = list(iter(connection.recv, None))
    assert outputs == [{"square": 0}, {"square": 1}, {"square": 4}]


def test_inputs_until_there_are_no_more(client: fal_client.SyncClient) -> None:
    with client.realtime(NAME, path="/sum") as connection:
        connection.send({"number": 3})
        connection.send({"number": 4})
        assert (connection.recv(), connection.recv()) == ({"sum": 7}, None)


async def test_our_own_client_says_when_there_are_no_more_inputs(platform: Any) -> None:
    with SyncClient(server=platform.address) as client:
        with client.realtime(f"{NAME}/sum", path="") as session:
            for number in (3, 4):
                session.send({"number": number})
            session.end()
            assert [result["sum"] for result in session] == [7]
    async with AsyncClient(server=platform.address) as client:
        async with client.realtime(NAME) as session:
            await session.send({"number": 5})
            await session.end()
            assert [result.square async for result in session] == [25]


def test_a_session_without_input_is_told_so(client: fal_client.SyncClient) -> None:
    with client.realtime(NAME, path="/brief") as connection:
        with pytest.raises(RealtimeError, match="TIMEOUT: no input for 0.2 s"):
            connection.recv()
        assert connection.recv() is None


def test_a_large_message_passes_both_ways(client: fal_client.SyncClient) -> None:
    pixels = bytes(range(256)) * (20 * 2**12)  # 20 MiB
    with client.realtime(NAME, path="/mirror") as connection:
        connection.send({"pixels": pixels})
        output = connection.recv()
    assert output is not None and output["pixels"] == pixels


@pytest.mark.parametrize("use_jwt", [True, False])
def test_a_plain_websocket_passes_untouched(client: fal_client.SyncClient, use_jwt: bool) -> None:
    with client.ws_connect(f"{NAME}/socket", use_jwt=use_jwt) as socket:
        assert "id" in json.loads(socket.recv())
        for message in ("text", "\N{SNOWMAN}", b"bytes", b"", ""):
            socket.send(message)
            assert socket.recv() == message
        assert socket.ping().wait(60)
        socket.send("bye")
        with pytest.raises(ConnectionClosedError, match="4321.*see you"):
            socket.recv()


@pytest.mark.parametrize("app", ["realtime-app", NAME, f"{NAME}/socket"])
async def test_a_caller_from_elsewhere_needs_a_token_for_the_app(
    platform: Any, address: str, app: str
) -> None:
    elsewhere = {"x-forwarded-for": "203.0.113.7"}
    with pytest.raises(InvalidStatus, match="401"):
        await connect(f"{address}/socket", additional_headers=elsewhere).__aenter__()
    body = {"app": app, "duration": 60}
    token = httpx.post(f"{platform.address}/tokens/realtime", json=body).json()["token"]
    url = f"{address}/socket?fal_jwt_token={token}"
    async with connect(url, additional_headers=elsewhere) as socket:
        assert "id" in json.loads(await socket.recv())


async def test_the_token_stays_with_the_server(address: str) -> None:
    async with connect(f"{address}/query?fal_jwt_token=secret&a=1&b=%20") as socket:
        assert await socket.recv() == "a=1&b=%20"


async def test_the_app_chooses_a_subprotocol_and_knows_the_request_id(address: str) -> None:
    offered = [Subprotocol("v2"), Subprotocol("v1")]
    headers = {"x-fal-request-id": "abc"}
    url = f"{address}/socket"
    async with connect(url, subprotocols=offered, additional_headers=headers) as socket:
        assert socket.subprotocol == "v2"
        assert json.loads(await socket.recv()) == {"id": "abc"}
        assert socket.response is not None
        assert socket.response.headers["x-fal-request-id"] == "abc"


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/nowhere", 404, "there is no websocket at /nowhere"),
        ("/realtime?max_buffering=61", 422, "max_buffering is 1 to 60, not '61'"),
        ("/../nobody/socket", 404, "there is no app 'local/nobody/socket' here"),
    ],
)
async def test_what_is_refused_is_answered(
    address: str, path: str, status: int, detail: str
) -> None:
    url = address.rpartition("/")[0] + path[3:] if path.startswith("/..") else address + path
    with pytest.raises(InvalidStatus) as raised:
        await connect(url).__aenter__()
    answer = raised.value.response
    assert answer.status_code == status
    assert json.loads(answer.body or b"")["detail"].startswith(detail)
    assert "x-fal-request-id" in answer.headers


@pytest.mark.parametrize(("code", "told"), [(4000, "4000"), (1001, "1001"), (None, "1000")])
async def test_the_callers_close_code_reaches_the_app(
    address: str, mark: Path, code: int | None, told: str
) -> None:
    async with connect(f"{address}/socket?mark={mark}") as socket:
        await socket.recv()
        if code is None:
            socket.protocol.send_close()  # an empty one, as browsers send it
            socket.transport.write(b"".join(socket.protocol.data_to_send()))
        else:
            await socket.close(code)
        assert await asyncio.to_thread(mark.read_text) == told


@pytest.mark.parametrize("path", ["/count", "/count-in-a-thread"])
@pytest.mark.parametrize("how", ["closes", "breaks off"])
async def test_a_caller_who_goes_ends_the_work(
    address: str, mark: Path, path: str, how: str
) -> None:
    request = {"number": 10**9, "seconds": 0.01, "mark": str(mark)}
    async with connect(address + path) as socket:
        await socket.send(msgspec.msgpack.encode(request))
        await socket.recv()
        if how == "closes":
            await socket.close()
        else:
            socket.transport.abort()
        assert await asyncio.to_thread(mark.read_text) == "ended"


async def test_a_slow_reader_holds_up_the_app(address: str, mark: Path) -> None:
    """Nothing in between takes what the caller does not: 1000 pictures of 1 MiB stay unmade."""
    request = {"number": 1000, "mark": str(mark)}
    async with connect(f"{address}/pictures", max_size=None, max_queue=1) as socket:
        await socket.send(msgspec.msgpack.encode(request))
        assert int(await asyncio.to_thread(mark.read_text)) < 100
        socket.transport.abort()


async def test_a_session_has_a_slot_of_the_replica(address: str) -> None:
    async with connect(f"{address}/socket") as first:
        await first.recv()
        patient = asyncio.create_task(connect(f"{address}/socket").__aenter__())
        with pytest.raises(InvalidStatus) as raised:
            headers = {"x-fal-request-timeout": "0.2"}
            await connect(f"{address}/socket", additional_headers=headers).__aenter__()
        assert raised.value.response.status_code == 504
        assert not patient.done()
    socket = await patient
    assert "id" in json.loads(await socket.recv())
    await socket.close()


async def test_a_caller_who_waits_for_a_slot_may_go(address: str) -> None:
    async with connect(f"{address}/socket") as first:
        await first.recv()
        with pytest.raises(TimeoutError):
            await connect(f"{address}/socket", open_timeout=0.2).__aenter__()
    async with connect(f"{address}/socket") as next_one:
        assert "id" in json.loads(await next_one.recv())


async def test_a_replica_that_dies_closes_its_sessions_and_the_next_one_serves(
    platform: Any, address: str
) -> None:
    async with connect(f"{address}/realtime") as socket:
        await socket.send('{"number": 3}')
        assert msgspec.msgpack.decode(await socket.recv()) == {"square": 9}  # type: ignore[arg-type]
        os.kill(platform.replica_pid(), signal.SIGKILL)
        with pytest.raises(ConnectionClosedError, match="1012.*the replica has ended"):
            while True:
                await socket.recv()
    async with connect(f"{address}/realtime", open_timeout=60) as socket:
        await socket.send('{"number": 4}')
        assert msgspec.msgpack.decode(await socket.recv()) == {"square": 16}  # type: ignore[arg-type]


async def test_a_server_that_ends_closes_its_sessions(start_server: Callable[..., Any]) -> None:
    server = start_server(f"{APP}::RealtimeApp")
    url = f"{server.address.replace('http', 'ws')}/run/{NAME}/realtime"
    async with connect(url) as socket:
        await socket.send('{"number": 3}')
        await socket.recv()
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosedError, match="1012"):
            while True:
                await socket.recv()

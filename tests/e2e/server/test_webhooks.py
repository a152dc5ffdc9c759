"""Webhooks, told to receivers that are good, slow, failing, dead, and not to be trusted."""

import asyncio
import base64
import hashlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from polyrank_program import ROOT
from served import APP, platform, served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from polyrank.gateway.webhooks import Schedule
from polyrank.store.database import Database
from polyrank.store.migrations import upgrade
from polyrank.store.requests import Answer, NewRequest, Requests

QUEUE = f"/queue/{APP}"
LOOPBACK = ("127.0.0.0/8",)
AT_ONCE = Schedule(tries=4, timeout_s=0.5, first_delay_s=0.01)


class Receiver:
    """A server that is told things; ``answer`` says what it makes of them."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()
        self.answer: Callable[[], Awaitable[Response]] = self.ok
        self.url = ""

    async def ok(self) -> Response:
        return Response()

    async def hook(self, request: Request) -> Response:
        self.got.put_nowait((dict(request.headers), await request.body()))
        return await self.answer()

    async def next(self) -> tuple[dict[str, str], bytes]:
        return await asyncio.wait_for(self.got.get(), 60)

    async def next_body(self) -> Any:
        return json.loads((await self.next())[1])


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with served(Starlette(routes=[Route("/hook", receiver.hook, methods=["POST"])])) as url:
        receiver.url = f"{url}/hook"
        yield receiver


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that may tell receivers on this machine, and soon tries again."""
    options: dict[str, Any] = {
        "settings": {"webhook_networks": LOOPBACK},
        "webhook_schedule": AT_ONCE,
    }
    async with (
        platform(tmp_path / "polyrank.db", **options) as (_, address),
        httpx.AsyncClient(base_url=address, timeout=60) as client,
    ):
        yield client


async def submit(client: httpx.AsyncClient, url: str, body: Any = None, path: str = "") -> str:
    answer = await client.post(
        f"{QUEUE}{path}?fal_webhook={quote(url, safe='')}", json=body or {"number": 4}
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


async def state(client: httpx.AsyncClient, id: str, wanted: str) -> dict[str, Any]:
    """How telling stands, once that is as wanted."""
    async with asyncio.timeout(60):
        while True:
            answer = await client.get(f"{QUEUE}/requests/{id}/webhook")
            told: dict[str, Any] = answer.json()
            if told["state"] == wanted:
                return told


async def public_key(client: httpx.AsyncClient) -> Ed25519PublicKey:
    [key] = (await client.get("/.well-known/jwks.json")).json()["keys"]
    assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
    return Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "=="))


async def test_the_receiver_is_told_and_can_verify_who_says_so(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    id = await submit(client, receiver.url)
    headers, body = await receiver.next()
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == {
        "request_id": id,
        "gateway_request_id": id,
        "status": "OK",
        "payload": {"double": 8},
    }
    assert headers["x-fal-webhook-request-id"] == id
    message = "\n".join(
        [
            id,
            headers["x-fal-webhook-user-id"],
            headers["x-fal-webhook-timestamp"],
            hashlib.sha256(body).hexdigest(),
        ]
    ).encode()
    signature = bytes.fromhex(headers["x-fal-webhook-signature"])
    key = await public_key(client)
    key.verify(signature, message)
    with pytest.raises(InvalidSignature):
        key.verify(signature, message + b"x")
    told = await state(client, id, "delivered")
    assert (told["attempts"], told["last_status"], told["last_error"]) == (1, 200, None)
    assert told["url"] == receiver.url and told["next_attempt_at"] is None


async def test_the_verification_of_the_docs_tells_ours_from_others(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    is_genuine = names["is_genuine"]
    jwks = (await client.get("/.well-known/jwks.json")).json()
    await submit(client, receiver.url)
    headers, body = await receiver.next()
    assert is_genuine(headers, body, jwks)
    assert not is_genuine(headers, body + b" ", jwks)
    assert not is_genuine(headers | {"x-fal-webhook-request-id": "other"}, body, jwks)
    assert not is_genuine(headers, body, jwks, max_age_s=-1)
    later = str(int(headers["x-fal-webhook-timestamp"]) + 1)
    assert not is_genuine(headers | {"x-fal-webhook-timestamp": later}, body, jwks)


async def test_a_failure_is_told_with_the_apps_reason(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    await submit(client, receiver.url, {"number": 2}, "/odd")
    told = await receiver.next_body()
    assert told["status"] == "ERROR" and "must be odd" in told["error"]
    assert told["payload"]["detail"][0]["msg"] == "must be odd"


async def test_a_cancelled_request_is_told_too(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    id = await submit(client, receiver.url, {"seconds": 60}, "/work")
    waiting = await client.get(f"{QUEUE}/requests/{id}/webhook")
    assert (waiting.json()["state"], waiting.json()["attempts"]) == ("waiting", 0)
    await client.put(f"{QUEUE}/requests/{id}/cancel")
    told = await receiver.next_body()
    assert (told["status"], told["payload"]) == ("ERROR", None)
    assert told["error"] == "the request was cancelled"


async def test_an_answer_that_is_not_json_is_told_without_it(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    await submit(client, receiver.url, path="/stream")
    told = await receiver.next_body()
    assert (told["status"], told["payload"]) == ("OK", None)
    assert "is not JSON" in told["payload_error"]


async def test_a_receiver_that_fails_is_told_again(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    answers = iter([500, 503, 200])

    async def answer() -> Response:
        return Response(status_code=next(answers))

    receiver.answer = answer
    id = await submit(client, receiver.url)
    bodies = [await receiver.next_body() for _ in range(3)]
    assert [body["request_id"] for body in bodies] == [id] * 3
    assert (await state(client, id, "delivered"))["attempts"] == 3


async def test_who_never_takes_it_is_given_up_until_asked_for_again(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    async def broken() -> Response:
        return Response(status_code=500)

    receiver.answer = broken
    id = await submit(client, receiver.url)
    told = await state(client, id, "failed")
    assert (told["attempts"], told["last_status"]) == (4, 500)
    assert told["last_error"] == "the receiver answered 500"
    receiver.answer = receiver.ok
    again = await client.post(f"{QUEUE}/requests/{id}/webhook/redeliver")
    assert again.status_code == 202
    assert (await state(client, id, "delivered"))["attempts"] == 1


async def test_a_receiver_that_is_slow_or_dead_has_its_time_and_no_more(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    never = asyncio.Event()

    async def slow() -> Response:
        await never.wait()
        return Response()

    receiver.answer = slow
    slow_one = await submit(client, receiver.url)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and it never listens
        port = nobody.getsockname()[1]
        dead_one = await submit(client, f"http://127.0.0.1:{port}/hook")
        dead = await state(client, dead_one, "failed")
    assert (dead["attempts"], dead["last_status"]) == (4, None)
    assert "connect" in dead["last_error"].lower()
    told = await state(client, slow_one, "failed")
    assert (told["attempts"], told["last_error"]) == (4, "no answer within 0.5 s")
    never.set()


async def test_a_redirect_is_not_followed(client: httpx.AsyncClient, receiver: Receiver) -> None:
    inner = Receiver()
    async with served(Starlette(routes=[Route("/hook", inner.hook, methods=["POST"])])) as url:

        async def elsewhere() -> Response:
            return RedirectResponse(f"{url}/hook", 307)

        receiver.answer = elsewhere
        id = await submit(client, receiver.url)
        told = await state(client, id, "failed")
        assert told["last_error"] == "the receiver answered 307"
        assert inner.got.empty()


async def test_receivers_in_private_networks_are_told_nothing(
    tmp_path: Path, receiver: Receiver
) -> None:
    async with (
        platform(tmp_path / "polyrank.db") as (_, address),
        httpx.AsyncClient(base_url=address, timeout=60) as client,
    ):
        for url in (receiver.url, receiver.url.replace("127.0.0.1", "localhost")):
            told = await state(client, await submit(client, url), "failed")
            assert (told["attempts"], told["last_status"]) == (1, None)
            assert "private network" in told["last_error"]
    assert receiver.got.empty()


async def test_what_is_no_address_of_a_receiver_is_refused(client: httpx.AsyncClient) -> None:
    for url in ("ftp://host/", "hook", "http://", "http://[::1", "file:///etc/", "http://h:p/"):
        answer = await client.post(QUEUE, json={"number": 4}, params={"fal_webhook": url})
        assert answer.status_code == 422, url
        assert "fal_webhook" in answer.json()["detail"]


async def test_who_has_nothing_to_be_told_is_404(client: httpx.AsyncClient) -> None:
    id = (await client.post(QUEUE, json={"number": 1})).json()["request_id"]
    for request in (("GET", "webhook"), ("POST", "webhook/redeliver")):
        answer = await client.request(request[0], f"{QUEUE}/requests/{id}/{request[1]}")
        assert answer.status_code == 404 and "fal_webhook" in answer.json()["detail"]
    unknown = await client.get(f"{QUEUE}/requests/none/webhook")
    assert unknown.status_code == 404


async def test_an_end_that_a_server_did_not_live_to_tell_is_told_by_the_next(
    tmp_path: Path, receiver: Receiver
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'polyrank.db'}")
    upgrade(database)
    requests = Requests(database)
    new = NewRequest(app=APP, caller="ann", body=b"{}", webhook_url=receiver.url)
    submitted = await requests.submit(new)
    [lease] = await requests.lease(APP, "a server", limit=1, lease_s=30)
    await requests.finish(lease.id, lease.attempt, Answer(200, {}, b'{"double": 1e3}'))
    database.close()  # the request has ended, and nobody has been told
    async with platform(tmp_path / "polyrank.db", settings={"webhook_networks": LOOPBACK}):
        _, body = await receiver.next()
    assert json.loads(body)["request_id"] == submitted.id
    assert b'"payload":{"double": 1e3}' in body  # the app's own JSON, to the letter


SERVE = """
import asyncio, sys
from served import platform

async def main():
    async with platform(sys.argv[1], settings={"webhook_networks": "127.0.0.0/8"}) as (_, address):
        print(address, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_server_killed_while_it_tells_loses_nothing(
    tmp_path: Path, receiver: Receiver
) -> None:
    never = asyncio.Event()

    async def hold() -> Response:
        await never.wait()
        return Response()

    async def start() -> tuple[asyncio.subprocess.Process, str]:
        command = [sys.executable, "-c", SERVE, f"sqlite:///{tmp_path / 'polyrank.db'}"]
        programs = ROOT / "tests" / "programs"
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, cwd=programs
        )
        assert process.stdout is not None
        return process, (await process.stdout.readline()).decode().strip()

    receiver.answer = hold
    server, address = await start()
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        id = await submit(client, receiver.url)
    await receiver.next()  # it is being told right now
    server.send_signal(signal.SIGKILL)
    await server.wait()
    receiver.answer = receiver.ok
    server, address = await start()
    assert (await receiver.next_body())["request_id"] == id
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        assert (await state(client, id, "delivered"))["last_status"] == 200
    never.set()
    server.send_signal(signal.SIGTERM)
    await server.wait()

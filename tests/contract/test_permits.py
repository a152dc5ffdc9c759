"""Who may keep, have and end files, over HTTP and both databases.

The gate that tells who calls is not part of this: a header says it here.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from polyrank.errors import PolyrankError
from polyrank.gateway.answers import error_answer
from polyrank.gateway.filing import Filing
from polyrank.store.database import Database

Client = Callable[[str], httpx.AsyncClient]
FORBID = {"x-fal-object-lifecycle-preference": '{"initial_acl": {"default": "forbid"}}'}
HIDE = {"x-fal-object-lifecycle": '{"initial_acl": {"default": "hide"}}'}
BEN_MAY = {
    "x-fal-object-lifecycle-preference": '{"initial_acl": {"default": "hide", '
    '"rules": [{"user": "ben", "decision": "allow"}, {"user": "eve", "decision": "forbid"}]}}'
}


@dataclass(frozen=True)
class Caller:
    """What the gate knows of a caller. A stranger has no scopes."""

    owner: str
    apps: frozenset[str] | None = None

    @property
    def scopes(self) -> frozenset[str]:
        return frozenset() if self.owner == "stranger" else frozenset({"API"})


def told_by_a_header(inner: ASGIApp) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        who = next(value.decode() for name, value in scope["headers"] if name == b"x-who")
        await inner({**scope, "state": {"caller": Caller(who)}}, receive, send)

    return call


@pytest.fixture
async def as_(database: Database, tmp_path: Path) -> AsyncIterator[Client]:
    filing = Filing(database, str(tmp_path / "files"), max_bytes=2**20)
    handlers = {PolyrankError: lambda _, error: error_answer(error)}
    app = told_by_a_header(Starlette(routes=filing.routes(), exception_handlers=handlers))
    clients: dict[str, httpx.AsyncClient] = {}

    def client(who: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app)
        headers = {"x-who": who}
        return clients.setdefault(
            who, httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers)
        )

    yield client
    for each in clients.values():
        await each.aclose()


async def upload(client: httpx.AsyncClient, headers: dict[str, str] | None = None) -> str:
    answer = await client.post("/files/upload", content=b"secret", headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_url"])


async def statuses(as_: Client, url: str) -> dict[str, int]:
    return {who: (await as_(who).get(url)).status_code for who in ("ann", "ben", "eve", "stranger")}


async def test_who_has_the_url_has_the_file_unless_its_owner_says_otherwise(
    as_: Client,
) -> None:
    ann = as_("ann")
    assert set((await statuses(as_, await upload(ann))).values()) == {200}
    everybody_else = {"ben": 403, "eve": 403, "stranger": 403}
    assert await statuses(as_, await upload(ann, FORBID)) == {"ann": 200, **everybody_else}
    hidden = {"ben": 404, "eve": 404, "stranger": 404}
    assert await statuses(as_, await upload(ann, HIDE)) == {"ann": 200, **hidden}
    some = {"ben": 200, "eve": 403, "stranger": 404}
    assert await statuses(as_, await upload(ann, BEN_MAY)) == {"ann": 200, **some}


async def test_a_signed_url_opens_its_file_and_no_other(as_: Client) -> None:
    ann, stranger = as_("ann"), as_("stranger")
    one, two = await upload(ann, FORBID), await upload(ann, FORBID)
    signed = (await ann.post(f"{one}/sign", json={"expires_in_s": 60})).json()["url"]
    assert (await stranger.get(signed)).content == b"secret"
    assert (await stranger.get(f"{two}?{signed.partition('?')[2]}")).status_code == 403
    assert (await stranger.get(signed[:-2])).status_code == 403
    for seconds in (0, -1, 8 * 24 * 3600, "x"):
        assert (await ann.post(f"{one}/sign", json={"expires_in_s": seconds})).status_code == 422
    assert (await as_("ben").post(f"{one}/sign")).status_code == 403
    assert (await stranger.post(f"{one}/sign")).status_code == 401


async def test_a_token_stands_for_its_owner(as_: Client) -> None:
    url = await upload(as_("ann"), FORBID)
    token = (await as_("ann").post("/storage/auth/token", json={})).json()["token"]
    bearer = {"authorization": f"Bearer {token}"}
    stranger = as_("stranger")
    assert (await stranger.get(url, headers=bearer)).status_code == 200
    own = await stranger.post("/files/upload", content=b"x", headers={**bearer, **FORBID})
    assert (await as_("ann").get(own.json()["access_url"])).status_code == 200
    for wrong in ("Bearer x", f"Bearer {token[:-1]}", "Key a:b", "Bearer"):
        answer = await stranger.post("/files/upload", headers={"authorization": wrong})
        assert (answer.status_code, answer.json()["error_type"]) == (401, "unauthorized")


async def test_strangers_keep_nothing(as_: Client) -> None:
    stranger = as_("stranger")
    for method, path in [
        ("POST", "/storage/auth/token"),
        ("POST", "/storage/upload/initiate"),
        ("POST", "/storage/upload/initiate-multipart"),
        ("POST", "/files/upload"),
        ("POST", "/files/upload/multipart"),
        ("PUT", "/kv/set/a/b"),
        ("GET", "/kv/get/a/b"),
        ("DELETE", "/kv/delete/a/b"),
    ]:
        assert (await stranger.request(method, path)).status_code == 401, path


async def test_an_upload_is_its_owners_or_of_whoever_has_its_signed_url(as_: Client) -> None:
    begun = (await as_("ann").post("/files/upload/multipart")).json()
    part = f"{begun['access_url']}/multipart/{begun['uploadId']}/1"
    assert (await as_("ben").put(part, content=b"1")).status_code == 403
    assert (await as_("stranger").put(part, content=b"1")).status_code == 401
    assert (await as_("ann").put(part, content=b"1")).status_code == 200
    begun = (await as_("ann").post("/storage/upload/initiate", json={})).json()
    assert (await as_("stranger").put(begun["upload_url"], content=b"1")).status_code == 200
    assert (await as_("stranger").get(begun["file_url"])).content == b"1"


async def test_only_its_owner_ends_a_file(as_: Client) -> None:
    url = await upload(as_("ann"), HIDE)
    assert (await as_("ben").delete(url)).status_code == 404
    assert (await as_("stranger").delete(url)).status_code == 401
    assert (await as_("ann").delete(url)).status_code == 204
    assert await statuses(as_, url) == {"ann": 410, "ben": 404, "eve": 404, "stranger": 404}


async def test_values_are_their_owners(as_: Client) -> None:
    await as_("ann").put("/kv/set/notes/a", content=b"ann's")
    assert (await as_("ben").get("/kv/get/notes/a")).status_code == 404
    await as_("ben").delete("/kv/delete/notes/a")
    assert (await as_("ann").get("/kv/get/notes/a")).json() == {"value": "ann's"}

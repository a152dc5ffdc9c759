"""Who may call a server, and what: keys, tokens, the apps' modes, web pages, rates."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from served import APP, platform
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from polyrank.gateway.tokens import Claims
from polyrank.store.keys import Rate, Scope

RUN, QUEUE = f"/run/{APP}", f"/queue/{APP}"
# How a request looks that a proxy on this machine passes on for somebody far away.
REMOTE = {"x-forwarded-for": "203.0.113.7"}


class Platform:
    """A running server, and keys for it."""

    def __init__(self, server: Any, client: httpx.AsyncClient) -> None:
        self.server = server
        self.client = client
        self.keys = server.keys

    def share(self, mode: str) -> None:
        """As if the app's file said so now."""
        app = self.server.apps.get(APP).app
        app.limits = msgspec.structs.replace(app.limits, auth=mode)

    async def key(
        self, *scopes: Scope, owner: str = "local", rate: str | None = None
    ) -> dict[str, str]:
        """The header of a new key's holder."""
        _, credential = await self.keys.create(
            owner=owner,
            scopes=scopes or (Scope.API,),
            rate=None if rate is None else Rate.parse(rate),
        )
        return REMOTE | {"authorization": f"Key {credential}"}

    async def call(self, headers: dict[str, str] | None = None, path: str = RUN) -> httpx.Response:
        return await self.client.post(path, json={"number": 21}, headers=headers)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Platform]:
    """A server whose callers on this machine need no key."""
    origins = {"allowed_origins": "https://studio.example"}
    async with (
        platform(tmp_path / "polyrank.db", settings=origins) as (server, address),
        httpx.AsyncClient(base_url=address, timeout=60) as client,
    ):
        yield Platform(server, client)


def reason(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["detail"]


async def test_on_this_machine_no_key_is_needed_and_any_is_only_a_name(here: Platform) -> None:
    for headers in ({}, {"authorization": "Key id:secret"}, {"authorization": "Bearer a.b.c"}):
        assert (await here.call(headers)).json() == {"double": 42}
    who = (await here.client.get("/auth/whoami")).json()
    assert (who["owner"], who["key_id"], who["scopes"]) == ("local", None, ["ADMIN", "API"])


async def test_from_elsewhere_a_good_key_is_needed(here: Platform) -> None:
    assert reason(await here.call(REMOTE)) == (
        401,
        "a key is needed: send Authorization: Key id:secret",
    )
    for header in ("forwarded", "x-real-ip", "via"):
        assert (await here.call({header: "203.0.113.7"})).status_code == 401, header
    good = await here.key()
    assert (await here.call(good)).json() == {"double": 42}
    bearer = {**good, "authorization": good["authorization"].replace("Key", "Bearer")}
    assert (await here.call(bearer)).status_code == 200
    for credential, why in {
        "Key nobody:nothing": "is not one of this server's",
        "Bearer a.b.c": "is not one of this server's",
        good["authorization"] + "x": "not the secret of the key",
        good["authorization"].partition(":")[0]: "not the secret of the key",
        "Basic YTpi": "Authorization is 'Key id:secret'",
        "Key": "Authorization is 'Key id:secret'",
    }.items():
        answer = await here.call(REMOTE | {"authorization": credential})
        assert answer.status_code == 401 and why in answer.json()["detail"], credential
        assert answer.headers["www-authenticate"] == "Key"
        assert answer.headers["x-fal-error-type"] == "unauthorized"
    assert (await here.client.get("/health", headers=REMOTE)).status_code == 200


async def test_a_wrong_secret_or_a_revoked_key_is_refused_on_this_machine_too(
    here: Platform,
) -> None:
    key, credential = await here.keys.create(owner="local", scopes=[Scope.API])
    wrong = {"authorization": f"Key {key.id}:guess"}
    assert (await here.call(wrong)).status_code == 401
    await here.keys.revoke(key.id)
    here.server.callers.forget()  # as a second does
    assert reason(await here.call({"authorization": f"Key {credential}"})) == (
        401,
        f"the key {key.id} has been revoked",
    )


@pytest.mark.parametrize(
    ("mode", "stranger", "other", "owner"),
    [("private", 401, 403, 200), ("shared", 401, 200, 200), ("public", 200, 200, 200)],
)
async def test_apps_are_private_shared_or_public(
    here: Platform, mode: str, stranger: int, other: int, owner: int
) -> None:
    here.share(mode)
    headers = [REMOTE, await here.key(owner="ann"), await here.key(owner="local")]
    for path in (RUN, QUEUE):
        answers = [(await here.call(each, path)).status_code for each in headers]
        assert answers == [stranger, other, owner]


async def test_an_app_that_does_not_say_is_private_and_an_admin_may_call_it(here: Platform) -> None:
    assert reason(await here.call(await here.key(owner="ann"))) == (
        403,
        "local/queue-app is private, and the key is one of ann",
    )
    admin = await here.key(Scope.ADMIN, owner="ann")
    assert (await here.call(admin)).status_code == 200


async def test_a_request_is_its_submitters_and_the_admins_business(here: Platform) -> None:
    here.share("shared")
    ann, bob = await here.key(owner="ann"), await here.key(owner="bob")
    admin = await here.key(Scope.ADMIN)
    id = (await here.call(ann, QUEUE)).json()["request_id"]
    below = f"{QUEUE}/requests/{id}"
    async with here.client.stream("GET", f"{below}/status/stream", headers=ann) as events:
        await events.aread()
    for path in (below, f"{below}/input", f"{below}/status", f"{below}/status/stream"):
        assert (await here.client.get(path, headers=bob)).status_code == 404
        assert (await here.client.get(path, headers=REMOTE)).status_code == 401
        for who in (ann, admin, {}):  # on this machine everybody is an admin
            assert (await here.client.get(path, headers=who)).status_code == 200
    for who, seen in ((ann, [id]), (bob, []), (admin, [id])):
        listed = (await here.client.get(f"{QUEUE}/requests", headers=who)).json()["requests"]
        assert [each["request_id"] for each in listed] == seen
    foreign = await here.client.put(f"{below}/cancel", headers=bob)
    assert (foreign.status_code, foreign.json()) == (404, {"status": "NOT_FOUND"})
    assert (await here.client.put(f"{below}/cancel", headers=ann)).status_code == 400


async def test_idempotency_keys_of_two_callers_do_not_meet(here: Platform) -> None:
    here.share("shared")
    ids = set()
    for owner in ("ann", "bob"):
        headers = await here.key(owner=owner) | {"idempotency-key": "one"}
        for _ in range(2):
            ids.add((await here.call(headers, QUEUE)).json()["request_id"])
    assert len(ids) == 2


async def test_calls_over_one_websocket_are_counted_one_by_one(here: Platform) -> None:
    headers = await here.key(rate="2/h")
    url = str(here.client.base_url).replace("http", "ws", 1) + f"/ws/{APP}"
    statuses = []
    async with connect(url, additional_headers=headers) as websocket:
        for _ in range(3):
            await websocket.send('{"number": 21}')
            statuses.append(json.loads(await websocket.recv())["status"])
            while isinstance(await websocket.recv(), bytes):
                pass
    assert statuses == [200, 200, 429]


async def test_a_key_may_call_as_often_as_its_rate_says(here: Platform) -> None:
    headers = await here.key(rate="2/h")
    submitted = (await here.call(headers, QUEUE)).json()
    for _ in range(5):  # asking how it stands is free
        status = await here.client.get(submitted["status_url"], headers=headers)
        assert status.status_code in (200, 202)
    assert (await here.call(headers)).status_code == 200
    answer = await here.call(headers)
    assert answer.status_code == 429
    assert 1790 <= int(answer.headers["retry-after"]) <= 1800
    assert answer.headers["x-fal-error-type"] == "rate_limited"
    assert "the key's rate is 2/h" in answer.json()["detail"]
    assert (await here.call(await here.key())).status_code == 200


FOREIGN_PAGES: list[dict[str, str]] = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://[::1"},
    {"host": "evil.example"},
    {"host": "evil.example", "origin": "http://evil.example"},
    {"host": "0.0.0.0:8080"},
    {"host": "localhost.evil.example"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"origin": "https://evil.example", "authorization": "Key made:up"},
]
OWN_PAGES: list[dict[str, str]] = [
    {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
    {"origin": "https://studio.example", "sec-fetch-site": "cross-site"},
    {"host": "studio.example", "origin": "https://studio.example"},
    {"host": "queue-app.localhost:8080"},
    {"host": "[::1]:8080"},
    {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"},
]


async def test_a_web_page_cannot_drive_a_server_that_needs_no_key(here: Platform) -> None:
    good = await here.key()
    for headers in FOREIGN_PAGES:
        for path in (RUN, QUEUE, "/tokens/"):
            answer = await here.call(headers, path)
            assert answer.status_code == 403, (headers, path)
            assert answer.headers["x-fal-error-type"] == "forbidden"
        assert (await here.call(headers | good)).status_code == 200, headers  # it has a key


async def test_pages_of_this_machine_and_those_let_in_may_call(here: Platform) -> None:
    for headers in OWN_PAGES:
        assert (await here.call(headers)).status_code == 200, headers


async def test_a_link_leads_to_a_page_and_to_nothing_else(here: Platform) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert (await here.client.get("/health", headers=link)).status_code == 200
    assert (await here.client.get("/auth/whoami", headers=link)).status_code == 403
    assert (await here.client.get(RUN, headers=link)).status_code == 403


async def test_a_token_opens_some_apps_for_a_while(here: Platform) -> None:
    here.share("shared")
    ann = await here.key(owner="ann")
    body = {"allowed_apps": ["queue-app"], "token_expiration": 120}
    token = (await here.client.post("/tokens/", json=body, headers=ann)).json()
    assert isinstance(token, str)
    by_url = await here.call(REMOTE, f"{RUN}?fal_jwt_token={token}")
    assert by_url.json() == {"double": 42}
    assert (await here.call(REMOTE | {"authorization": f"Bearer {token}"})).status_code == 200
    # It opens nothing else: no other app, no token of its own, nobody's account.
    for path in ("/run/local/other", "/tokens/", "/auth/whoami"):
        answer = await here.client.request(
            "GET" if path.startswith("/auth") else "POST",
            f"{path}?fal_jwt_token={token}",
            headers=REMOTE,
            json=body,
        )
        assert answer.status_code in (401, 403), path
    header, content, signature = token.split(".")
    for bad in (f"{header}.{content}.{signature[::-1]}", f"{header}.e30.{signature}", "x.y.z"):
        assert (await here.call(REMOTE, f"{RUN}?fal_jwt_token={bad}")).status_code == 401
    over = here.server.tokens.issue(Claims("key:x", None, ("queue-app",)), 0)
    assert (await here.call(REMOTE, f"{RUN}?fal_jwt_token={over}")).status_code == 401


async def test_a_token_sees_no_request_of_another_app_or_caller(here: Platform) -> None:
    ids = {}
    admin = await here.key(Scope.ADMIN, Scope.API)
    for name, headers in (("admin", admin), ("other", await here.key())):
        ids[name] = (await here.call(headers, QUEUE)).json()["request_id"]

    async def status(app: str, name: str) -> int:
        body = {"allowed_apps": [app]}
        token = (await here.client.post("/tokens/", json=body, headers=admin)).json()
        url = f"/queue/local/{app}/requests/{ids[name]}/status?fal_jwt_token={token}"
        return (await here.client.get(url, headers=REMOTE)).status_code

    assert await status("queue-app", "admin") in (200, 202)
    assert await status("queue-app", "other") == 404  # though its key may see everything
    assert await status("another-app", "admin") == 404


async def test_a_token_is_no_better_than_its_key(here: Platform) -> None:
    key, credential = await here.keys.create(owner="local", scopes=[Scope.API])
    headers = REMOTE | {"authorization": f"Key {credential}"}
    token = (
        await here.client.post("/tokens/", json={"allowed_apps": ["queue-app"]}, headers=headers)
    ).json()
    assert (await here.call(REMOTE, f"{RUN}?fal_jwt_token={token}")).status_code == 200
    await here.keys.revoke(key.id)
    here.server.callers.forget()
    assert (await here.call(REMOTE, f"{RUN}?fal_jwt_token={token}")).status_code == 401


async def test_a_token_for_nothing_or_for_ever_is_not_issued(here: Platform) -> None:
    for_ever = {"allowed_apps": ["a"], "token_expiration": 10**6}
    for body in ([], {}, {"allowed_apps": []}, {"allowed_apps": "a"}, for_ever):
        assert (await here.client.post("/tokens/", json=body)).status_code == 422, body


async def test_a_websocket_leads_to_an_app_whatever_its_address(here: Platform) -> None:
    ann = await here.key(owner="ann")
    for path in (f"{RUN}/realtime", f"/{APP}/realtime", f"/files/{APP}/realtime"):
        url = str(here.client.base_url.copy_with(scheme="ws", path=path))
        for headers, status in ((REMOTE, 401), (ann, 403)):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(url, additional_headers=headers):
                    pass
            assert refused.value.response.status_code == status, path


async def test_a_websocket_is_refused_in_words_that_its_client_understands(here: Platform) -> None:
    url = str(here.client.base_url.copy_with(scheme="ws", path=f"{RUN}/realtime"))
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, additional_headers=REMOTE):
            pass
    assert refused.value.response.status_code == 401
    async with connect(f"{url}?fal_jwt_token=x.y.z", additional_headers=REMOTE) as websocket:
        told = json.loads(await websocket.recv())
        assert (told["status"], told["error"]) == ("error", "Unauthorized")
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


async def test_a_server_can_demand_keys_of_this_machine_too(
    tmp_path: Path, count_reads: Callable[[Any], list[str]]
) -> None:
    async with (
        platform(tmp_path / "polyrank.db", settings={"auth": "always"}) as (server, address),
        httpx.AsyncClient(base_url=address, timeout=60) as client,
    ):
        strict = Platform(server, client)
        assert (await strict.call()).status_code == 401
        key = await strict.key()
        headers = {"authorization": key["authorization"]}
        reads = count_reads(server.database)
        for _ in range(20):
            assert (await strict.call(headers)).status_code == 200
        # What the store says of a key is believed for a second; this takes far less than that
        # many seconds.
        assert 1 <= sum("FROM keys" in statement for statement in reads) <= 10


@pytest.fixture
def count_reads() -> Callable[[Any], list[str]]:
    """The statements that a database runs from now on."""
    import sqlalchemy as sa

    def begin(database: Any) -> list[str]:
        statements: list[str] = []
        sa.event.listen(
            database.engine,
            "before_cursor_execute",
            lambda _c, _cursor, statement, *_rest: statements.append(statement),
        )
        return statements

    return begin

"""Files over HTTP: uploads by hand, downloads, who may have them, and what apps do with them."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from polyrank_program import ROOT
from websockets.sync.client import connect

APP = f"{ROOT / 'tests' / 'programs' / 'files_app.py'}::FilesApp"
MAX_BYTES = 2**20
NOT_FOR_ALL = '{"initial_acl": {"default": "forbid"}}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(start_server: Any, folder: Path) -> Any:
    return start_server(APP, {"POLYRANK_FILES_MAX_BYTES": str(MAX_BYTES)}, folder)


@pytest.fixture(scope="module")
def keys(server: Any, folder: Path) -> dict[str, dict[str, str]]:
    """The headers of callers from elsewhere, by the owner of their key."""
    database = {"POLYRANK_DATABASE_URL": f"sqlite:///{folder / 'polyrank.db'}"}
    far_away = {"x-forwarded-for": "203.0.113.7"}
    holders = {"stranger": far_away}
    for owner in ("ann", "ben"):
        made = subprocess.run(
            [sys.executable, "-m", "polyrank.cli.main"]
            + ["keys", "create", "--owner", owner, "--json"],
            env={**os.environ, **database},
            capture_output=True,
            check=True,
        )
        holders[owner] = {**far_away, "authorization": f"Key {json.loads(made.stdout)['key']}"}
    return holders


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=60) as client:
        yield client


@pytest.fixture
def bearer(client: httpx.Client) -> dict[str, str]:
    said = client.post("/storage/auth/token?storage_type=fal-cdn-v3", json={}).json()
    assert said["token_type"] == "Bearer"
    return {"authorization": f"Bearer {said['token']}"}


def upload(client: httpx.Client, data: bytes = b"hello", **headers: str) -> str:
    """The URL of an uploaded file; ``x_y`` is the header ``x-y``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = client.post("/files/upload", content=data, headers=named)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_url"])


def call(client: httpx.Client, path: str, body: Any = None, **headers: str) -> Any:
    answer = client.post(f"/run/local/files-app{path}", json=body or {}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def queued(client: httpx.Client, path: str, body: Any, **headers: str) -> Any:
    """The answer to a queued request, which is run again if its replica is lost."""
    answer = client.post(f"/queue/local/files-app{path}", json=body, headers=headers)
    url = httpx.URL(answer.json()["response_url"]).path
    with client.stream("GET", f"{url}/status/stream") as events:
        events.read()
    return client.get(url).json()


# --- downloads


def test_a_range_of_a_file(client: httpx.Client) -> None:
    url = upload(client, b"0123456789")
    part = client.get(url, headers={"range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    assert part.headers["content-range"] == "bytes 2-4/10"
    assert client.get(url, headers={"range": "bytes=-3"}).content == b"789"
    beyond = client.get(url, headers={"range": "bytes=10-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */10")
    head = client.head(url)
    assert (head.headers["content-length"], head.headers["accept-ranges"]) == ("10", "bytes")
    assert client.get(url, headers={"range": "lines=1-2"}).content == b"0123456789"


def test_a_range_across_the_parts_of_a_file(client: httpx.Client, bearer: dict[str, str]) -> None:
    url, _ = in_parts(client, bearer, {1: b"abc", 2: b"def", 3: b"ghi"})
    assert client.get(url).content == b"abcdefghi"
    for span, content in [("2-6", b"cdefg"), ("3-5", b"def"), ("8-", b"i"), ("-4", b"fghi")]:
        assert client.get(url, headers={"range": f"bytes={span}"}).content == content


def test_a_file_that_the_caller_has_is_not_sent_again(client: httpx.Client) -> None:
    url = upload(client)
    etag = client.get(url).headers["etag"]
    for known in (etag, f'"x", W/{etag}', "*"):
        again = client.get(url, headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert client.get(url, headers={"if-none-match": '"x"'}).content == b"hello"
    rest = {"range": "bytes=1-"}
    assert client.get(url, headers={**rest, "if-range": etag}).content == b"ello"
    assert client.get(url, headers={**rest, "if-range": '"x"'}).content == b"hello"


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        ("image/png", True),
        ("VIDEO/mp4", True),
        ("text/plain;charset=utf-8", True),
        ("text/html", False),
        ("image/svg+xml", False),
        ("application/pdf", False),
    ],
)
def test_only_harmless_types_are_shown_in_place(
    client: httpx.Client, content_type: str, shown: bool
) -> None:
    headers = client.get(upload(client, content_type=content_type)).headers
    assert headers["content-type"].startswith(content_type)
    assert headers["content-disposition"].startswith("inline" if shown else "attachment")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "sandbox"


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/b?c#d.png", "ä 猫\"'.png", "..", "", "x" * 5000, "%2e%2e%2f"]
)
def test_any_name_is_harmless(client: httpx.Client, name: str) -> None:
    answer = client.post("/storage/upload/initiate", json={"file_name": name}).json()
    client.put(answer["upload_url"], content=b"data").raise_for_status()
    url = answer["file_url"]
    assert re.fullmatch(r"http://[\d.:]+/files/[0-9a-f]{32}/[\w.%-]+", url), url
    got = client.get(url)
    assert got.content == b"data"
    assert re.fullmatch(
        r"""attachment; filename="[\w .,()+=@!~-]*"(; filename\*=UTF-8''[\w.%~-]+)?""",
        got.headers["content-disposition"],
    )


@pytest.mark.parametrize("name", ["a\r\nx: y", "\x00", "\ud800"])
def test_what_no_name_may_have_is_replaced(client: httpx.Client, name: str) -> None:
    body = json.dumps({"file_name": name})
    answer = client.post("/storage/upload/initiate", content=body)
    assert answer.status_code in (200, 422)
    if answer.status_code == 200:
        client.put(answer.json()["upload_url"], content=b"data").raise_for_status()
        assert client.get(answer.json()["file_url"]).content == b"data"


@pytest.mark.parametrize(
    "path",
    ["/files/0/a", f"/files/{'0' * 32}/a", "/files/%00/a", "/files/../../etc/passwd", "/files/"],
)
def test_what_is_not_there_is_a_404(client: httpx.Client, path: str) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        assert raw.makefile("rb").readline().split()[1] == b"404"


# --- uploads by hand


def in_parts(
    client: httpx.Client, bearer: dict[str, str], parts: dict[int, bytes]
) -> tuple[str, httpx.Response]:
    """The URL of a file that is uploaded in these parts, and the answer to the last step."""
    begun = client.post("/files/upload/multipart", headers=bearer).json()
    at = f"{begun['access_url']}/multipart/{begun['uploadId']}"
    named = []
    for number in sorted(parts, reverse=True):
        put = client.put(f"{at}/{number}", content=parts[number], headers=bearer)
        assert put.json() == {"partNumber": number, "etag": put.headers["etag"].strip('"')}
        named.append({"partNumber": number, "etag": put.headers["etag"]})
    answer = client.post(f"{at}/complete", json={"parts": named}, headers=bearer)
    return begun["access_url"], answer


def test_an_upload_goes_on_with_the_parts_that_are_missing(
    client: httpx.Client, bearer: dict[str, str]
) -> None:
    begun = client.post("/storage/upload/initiate-multipart", json={"file_name": "a"}).json()
    url, _, token = begun["upload_url"].partition("?")

    def complete() -> httpx.Response:
        listed = client.get(f"{url}?{token}").json()["parts"]
        return client.post(f"{url}/complete?{token}", json={"parts": listed})

    for number, data in ((1, b"one"), (3, b"three")):
        assert client.put(f"{url}/{number}?{token}", content=data).status_code == 200
    early = complete()
    assert (early.status_code, "these parts are missing: 2" in early.text) == (400, True)
    assert client.get(begun["file_url"]).status_code == 404
    client.put(f"{url}/2?{token}", content=b"two")
    assert complete().status_code == 200
    assert client.get(begun["file_url"]).content == b"onetwothree"


def test_uploads_that_are_refused(client: httpx.Client, bearer: dict[str, str]) -> None:
    large = client.post("/files/upload", content=bytes(MAX_BYTES + 1), headers=bearer)
    assert (large.status_code, f"may have {MAX_BYTES} bytes" in large.text) == (413, True)

    def endless() -> Iterator[bytes]:
        for _ in range(20):
            yield bytes(2**16)

    assert client.post("/files/upload", content=endless(), headers=bearer).status_code == 413
    bad = {
        "/files/upload": {"content-type": "no type"},
        "/files/upload/multipart": {"x-fal-object-lifecycle-preference": "{"},
    }
    for path, headers in bad.items():
        assert client.post(path, headers=headers).status_code == 422
    begun = client.post("/storage/upload/initiate", json={"content_type": "image/png"}).json()
    other = client.post("/storage/upload/initiate", json={"file_size": 3}).json()
    url, _, token = begun["upload_url"].partition("?")
    sent_as = client.put(begun["upload_url"], content=b"", headers={"content-type": "text/html"})
    assert (sent_as.status_code, "as image/png, not text/html" in sent_as.text) == (422, True)
    assert client.put(other["upload_url"], content=b"four").status_code == 400
    foreign = other["upload_url"].partition("?")[0] + "?" + token
    assert client.put(foreign, content=b"yes").status_code == 401
    assert client.put(f"{url}?token=nonsense", content=b"").status_code == 401
    assert client.put(f"{client.base_url}/files/upload/{'x' * 32}?{token}").status_code == 404
    assert client.put(f"{url}/0?{token}", content=b"0").status_code == 422
    assert client.put(f"{url}/1?{token}", content=b"").status_code == 400
    for parts in ("x", {"parts": 1}, {"parts": [{"partNumber": 10**9, "etag": ""}]}):
        assert client.post(f"{url}/complete?{token}", json=parts).status_code == 422
    for begin in ("initiate", "initiate-multipart"):
        answer = client.post(f"/storage/upload/{begin}", json={"content_type": "a\r\nb: c"})
        assert (answer.status_code, answer.json()["error_type"]) == (422, "bad_request")


def test_a_part_of_a_foreign_file_is_refused(client: httpx.Client, bearer: dict[str, str]) -> None:
    one, two = (client.post("/files/upload/multipart", headers=bearer).json() for _ in range(2))
    crossed = f"{one['access_url']}/multipart/{two['uploadId']}/1"
    assert client.put(crossed, content=b"1", headers=bearer).status_code == 404


def test_an_upload_that_breaks_off_is_never_seen(server: Any, client: httpx.Client) -> None:
    begun = client.post("/storage/upload/initiate", json={}).json()
    url = httpx.URL(begun["upload_url"])
    with socket.create_connection((url.host, url.port or 0)) as raw:
        head = f"PUT {url.raw_path.decode()} HTTP/1.1\r\nhost: localhost\r\n"
        head += "content-length: 1000\r\n\r\n"
        raw.sendall(head.encode() + b"half")
    assert client.get(begun["file_url"]).status_code == 404
    assert client.put(begun["upload_url"], content=b"whole").status_code == 200
    assert client.get(begun["file_url"]).content == b"whole"


def test_a_file_expires(client: httpx.Client) -> None:
    wish = '{"expiration_duration_seconds": 0.2}'
    url = upload(client, x_fal_object_lifecycle_preference=wish)
    deadline = time.monotonic() + 30
    while (answer := client.get(url)).status_code == 200 and time.monotonic() < deadline:
        pass
    assert answer.status_code in (404, 410)
    assert client.get(url).json()["error_type"] in ("file_expired", "file_not_found")


def test_an_owner_ends_the_life_of_a_file(client: httpx.Client, bearer: dict[str, str]) -> None:
    url = upload(client)
    assert client.delete(url, headers=bearer).status_code == 204
    assert client.get(url).status_code in (404, 410)


# --- what apps do with files


def test_what_an_app_makes_outlives_its_replica(client: httpx.Client) -> None:
    made = call(client, "/make", {"text": "kept", "name": "ä/b.txt", "content_type": "text/plain"})
    assert made["url"].startswith(f"{str(client.base_url).rstrip('/')}/files/")
    assert (made["file_name"], made["file_size"]) == ("ä/b.txt", 4)
    pid = call(client, "/note", {"key": "pid"})["pid"]
    client.post("/run/local/files-app/die")
    assert queued(client, "/note", {"key": "pid"})["pid"] != pid
    got = client.get(made["url"])
    assert (got.text, got.headers["content-type"].split(";")[0]) == ("kept", "text/plain")


def test_urls_are_those_of_the_address_that_the_caller_used(client: httpx.Client) -> None:
    port = client.base_url.port
    for host, base in {
        f"localhost:{port}": f"http://localhost:{port}",
        "files.localhost:80": "http://files.localhost:80",
        "fal.run": "https://v3.fal.media",
    }.items():
        path = "/local/files-app/make" if host == "fal.run" else "/run/local/files-app/make"
        # What a caller claims is not believed.
        forged = {"x-polyrank-files-base": "http://evil", "x-polyrank-files-token": "x"}
        made = client.post(path, json={}, headers={"host": host, **forged}).json()
        assert made["url"].startswith(f"{base}/files/"), made
        local = client.base_url.copy_with(raw_path=httpx.URL(made["url"]).raw_path)
        assert client.get(local).text == "hello"
        assert call(client, "/size", {"file": made["url"]}) == 5


def test_the_platforms_hosts_are_understood(client: httpx.Client) -> None:
    rest = {"host": "rest.fal.ai"}
    said = client.post("/storage/auth/token", json={}, headers=rest).json()
    assert said["base_url"] == "https://v3.fal.media"
    media = {"host": "v3.fal.media", "authorization": f"Bearer {said['token']}"}
    url = httpx.URL(client.post("/files/upload", content=b"x", headers=media).json()["access_url"])
    assert url.host == "v3.fal.media"
    assert client.get(url.raw_path.decode(), headers=media).content == b"x"
    values = {"host": "kv.fal.media", "authorization": f"Bearer {said['token']}"}
    client.put("/set/notes/cat?ttl=60", content=b"tom", headers=values)
    assert client.get("/get/notes/cat", headers=values).json() == {"value": "tom"}


def test_a_queued_request_makes_files_for_its_caller(client: httpx.Client) -> None:
    made = queued(client, "/make", {}, host="a.localhost")
    assert made["url"].startswith("http://a.localhost/files/")


def test_the_callers_wishes_hold_for_what_an_app_makes(client: httpx.Client) -> None:
    answer = client.post(
        "/run/local/files-app/make", json={}, headers={"x-fal-object-lifecycle-preference": "x"}
    )
    assert (answer.status_code, "Lifecycle-Preference" in answer.text) == (500, True)
    headers = {"x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 0.2}'}
    url = call(client, "/make", None, **headers)["url"]
    deadline = time.monotonic() + 30
    while client.get(url).status_code == 200 and time.monotonic() < deadline:
        pass
    assert client.get(url).status_code in (404, 410)


def test_an_app_opens_the_files_of_its_callers(client: httpx.Client) -> None:
    own = upload(client, b"12345", x_fal_object_lifecycle_preference=NOT_FOR_ALL)
    assert call(client, "/size", {"file": own}) == 5
    gone = f"{str(client.base_url).rstrip('/')}/files/{'0' * 32}/a"
    refused = client.post("/run/local/files-app/size", json={"file": gone})
    assert (refused.status_code, "there is no such file here" in refused.text) == (422, True)
    health = str(client.base_url.join("/health"))
    refused = client.post("/run/local/files-app/size", json={"file": health})
    assert (refused.status_code, "private or reserved" in refused.text) == (422, True)


def test_an_app_has_its_callers_rights_and_no_more(
    client: httpx.Client, keys: dict[str, dict[str, str]]
) -> None:
    wish = {"x-fal-object-lifecycle-preference": NOT_FOR_ALL}
    made = client.post("/run/local/files-app/make", json={}, headers={**keys["ann"], **wish})
    url = made.json()["url"]
    assert [client.get(url, headers=keys[who]).status_code for who in ("ann", "ben")] == [200, 403]
    assert client.get(url, headers=keys["stranger"]).status_code == 403
    for who, status, says in [("ann", 200, "5"), ("ben", 422, "not for everybody")]:
        body = {"file": url}
        answer = client.post("/run/local/files-app/size", json=body, headers=keys[who])
        assert (answer.status_code, says in answer.text) == (status, True), answer.text
    signed = client.post(f"{url}/sign", headers=keys["ann"]).json()["url"]
    body = {"file": signed}
    answer = client.post("/run/local/files-app/size", json=body, headers=keys["ben"])
    assert answer.json() == 5


def test_from_elsewhere_an_upload_needs_a_key(
    client: httpx.Client, keys: dict[str, dict[str, str]]
) -> None:
    refused = client.post("/files/upload", content=b"x", headers=keys["stranger"])
    assert (refused.status_code, refused.json()["error_type"]) == (401, "unauthorized")
    token = client.post("/storage/auth/token", json={}, headers=keys["ann"]).json()["token"]
    bearer = {**keys["stranger"], "authorization": f"Bearer {token}"}
    url = client.post("/files/upload", content=b"x", headers=bearer).json()["access_url"]
    assert client.get(url, headers=keys["stranger"]).content == b"x"
    assert client.delete(url, headers=keys["ben"]).status_code == 403
    assert client.delete(url, headers=keys["ann"]).status_code == 204


def test_pictures_and_sockets(client: httpx.Client) -> None:
    picture = call(client, "/paint")
    assert (picture["width"], picture["height"], picture["content_type"]) == (4, 2, "image/png")
    assert client.get(picture["url"]).content.startswith(b"\x89PNG")
    address = str(client.base_url).replace("http", "ws", 1)
    forged = {"x-polyrank-files-base": "http://evil"}
    with connect(f"{address}/run/local/files-app/socket", additional_headers=forged) as websocket:
        made = str(websocket.recv())
    assert made.startswith(f"{str(client.base_url).rstrip('/')}/files/")
    assert client.get(made).content == b"from a socket"
    by_name = address.replace("127.0.0.1", "localhost")
    with connect(f"{by_name}/run/local/files-app/socket") as websocket:
        assert str(websocket.recv()).startswith(f"http://localhost:{client.base_url.port}/files/")


# --- values


def test_values_outlive_the_replica_and_expire(client: httpx.Client) -> None:
    assert call(client, "/note", {"key": "tom"})["value"] is None
    assert call(client, "/note", {"key": "tom", "value": "a cat", "ttl": 60})["value"] == "a cat"
    client.post("/run/local/files-app/die")
    assert queued(client, "/note", {"key": "tom"})["value"] == "a cat"
    call(client, "/forget", {"key": "tom"})
    assert call(client, "/note", {"key": "tom"})["value"] is None


def test_values_that_are_refused(client: httpx.Client, bearer: dict[str, str]) -> None:
    for path, content in [
        ("/kv/set/notes/a?ttl=59", b""),
        ("/kv/set/notes/a?ttl=2592001", b""),
        ("/kv/set/notes/a?ttl=x", b""),
        ("/kv/set/notes/a", bytes(1_900_001)),
        ("/kv/set/notes/a", b"\xff"),
        ("/kv/set/notes/%00", b""),
        (f"/kv/set/notes/{'a' * 513}", b""),
    ]:
        answer = client.put(path, content=content, headers=bearer)
        assert (answer.status_code, answer.json()["error_type"]) == (422, "bad_request"), path
    assert client.get("/kv/get/notes/none", headers=bearer).status_code == 404
    assert client.delete("/kv/delete/notes/none", headers=bearer).status_code == 200

"""Uploads of the reference platform's Python client, unmodified, sync and async."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx
import psutil
import pytest

SETUP = """
import os, sys, json, hashlib, asyncio
import fal_client
import fal_client.client as client
from PIL import Image
address = sys.argv[1]
client.RUN_URL_FORMAT = address + "/run/"
client.QUEUE_URL_FORMAT = address + "/queue/"
client.REST_URL = client.CDN_URL = address
"""


def run(server, code: str, *arguments: str, timeout: float = 90) -> list[str]:
    """The lines that a program prints which uses fal_client."""
    program = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SETUP + textwrap.dedent(code), server.address]
        + [*arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={"FAL_KEY": "id:secret", "PATH": "/usr/bin:/bin"},
    )
    assert program.returncode == 0, program.stderr
    return program.stdout.splitlines()


@pytest.mark.parametrize("repository", ["fal_v3", "fal"])
def test_small_uploads_of_the_sync_client(server, tmp_path: Path, repository: str) -> None:
    file = tmp_path / "a table.csv"
    file.write_text("a,b\n")
    picture, table, words = run(
        server,
        """
        options = {"repository": sys.argv[2], "fallback_repository": sys.argv[2]}
        print(fal_client.upload_image(Image.new("RGB", (8, 8), "red"), "png", **options))
        print(fal_client.upload_file(sys.argv[3], **options))
        print(fal_client.upload(b"words", "text/plain", "words.txt", **options))
        """,
        repository,
        str(file),
    )
    assert httpx.get(words).text == "words"
    answer = httpx.get(table)
    assert (answer.text, answer.headers["content-type"].split(";")[0]) == ("a,b\n", "text/csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="a table.csv"'
    answer = httpx.get(picture)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"].startswith("inline")
    assert answer.content.startswith(b"\x89PNG")
    assert all(url.startswith(f"{server.address}/files/") for url in (picture, table, words))


@pytest.mark.parametrize("repository", ["fal_v3", "fal"])
def test_small_uploads_of_the_async_client(server, repository: str) -> None:
    picture, words, private = run(
        server,
        """
        options = {"repository": sys.argv[2], "fallback_repository": sys.argv[2]}
        private = client.StorageSettings(
            expires_in="1h", initial_acl=client.StorageACL(default="allow")
        )
        async def main():
            red = Image.new("RGB", (8, 8), "red")
            print(await fal_client.upload_image_async(red, "jpeg", **options))
            print(await fal_client.upload_async(b"words", "text/plain", **options))
            print(await fal_client.upload_async(b"x", "text/plain", lifecycle=private, **options))
        asyncio.run(main())
        """,
        repository,
    )
    assert httpx.get(picture).content.startswith(b"\xff\xd8")
    assert httpx.get(words).text == "words"
    assert httpx.get(private).text == "x"


def test_150_mib_in_parts_and_bounded_memory(server, tmp_path: Path) -> None:
    file = tmp_path / "large.bin"
    block = os.urandom(2**20)
    with file.open("wb") as out:
        for number in range(150):
            out.write(number.to_bytes(4, "big") + block[4:])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    urls = run(
        server,
        """
        print(fal_client.upload_file(sys.argv[2]))
        async def main():
            print(await fal_client.upload_file_async(sys.argv[2]))
        asyncio.run(main())
        """,
        str(file),
    )
    for url in urls:
        received, size = hashlib.sha256(), 0
        with httpx.stream("GET", url) as answer:
            for chunk in answer.iter_bytes():
                received.update(chunk)
                size += len(chunk)
        assert (size, received.hexdigest()) == (150 * 2**20, digest)
    assert process.memory_info().rss - before < 64 * 2**20


def test_a_killed_server_shows_nothing_of_an_upload(server, tmp_path: Path) -> None:
    begun = httpx.post(f"{server.address}/storage/upload/initiate", json={}).json()
    parts = httpx.post(f"{server.address}/storage/upload/initiate-multipart", json={}).json()
    url = httpx.URL(begun["upload_url"])
    with socket.create_connection((url.host, url.port or 0)) as raw:
        head = f"PUT {url.raw_path.decode()} HTTP/1.1\r\nhost: localhost\r\n"
        raw.sendall(head.encode() + b"content-length: 99999999\r\n\r\n" + bytes(3 * 2**20))
        at, _, token = parts["upload_url"].partition("?")
        first = httpx.put(f"{at}/1?{token}", content=b"one").json()
        deadline = time.monotonic() + 30
        while not list((tmp_path / "files").rglob("*#*")):  # until it is being written
            assert time.monotonic() < deadline
        server.end(signal.SIGKILL)
    server.start()
    here = httpx.URL(server.address)

    def again(url: str) -> httpx.URL:
        return httpx.URL(url).copy_with(port=here.port)

    for file in (begun, parts):
        assert httpx.get(again(file["file_url"])).status_code == 404
    # What was acknowledged is there, and the uploads go on.
    assert httpx.put(again(begun["upload_url"]), content=b"whole").status_code == 200
    assert httpx.get(again(begun["file_url"])).content == b"whole"
    second = httpx.put(again(f"{at}/2?{token}"), content=b"two").json()
    complete = again(f"{at}/complete?{token}")
    assert httpx.post(complete, json={"parts": [second, first]}).status_code == 200
    assert httpx.get(again(parts["file_url"])).content == b"onetwo"

"""Uploads of the npm client of the reference platform, unmodified, in each way to the server."""

import hashlib
from collections.abc import Callable
from functools import partial

import httpx
import pytest
from polyrank_program import ROOT

from .conftest import ServerProcess
from .node import WAYS, Run, run_node

APP = ROOT / "tests" / "programs" / "files_app.py"


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    return start_server(f"{APP}::FilesApp")


@pytest.fixture(params=WAYS)
def run(server: ServerProcess, request: pytest.FixtureRequest) -> Run:
    """What a program says, in each way to reach the server."""
    return partial(run_node, server.address, request.param)


def test_a_blob_is_uploaded_at_once(server: ServerProcess, run: Run) -> None:
    (url,) = run(
        """
        const blob = new Blob(["a,b"], { type: "text/csv" });
        say(await fal.storage.upload(blob, { lifecycle: { expiresIn: "1h" } }));
        """
    )
    assert url.startswith(f"{server.address}/files/")
    answer = httpx.get(url)
    assert (answer.text, answer.headers["content-type"].split(";")[0]) == ("a,b", "text/csv")


def test_a_large_blob_is_uploaded_in_parts(server: ServerProcess, run: Run) -> None:
    (url,) = run(
        """
        const bytes = new Uint8Array(91 * 2 ** 20 + 1);
        for (let at = 0; at < bytes.length; at += 2 ** 16) bytes[at] = (at / 2 ** 16) % 251;
        say(await fal.storage.upload(new File([bytes], "large.bin")));
        """
    )
    wanted = bytearray(91 * 2**20 + 1)
    for at in range(0, len(wanted), 2**16):
        wanted[at] = at // 2**16 % 251
    answer = httpx.get(url)
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(wanted).digest()
    assert answer.headers["content-disposition"] == 'attachment; filename="large.bin"'


def test_blobs_in_an_input_are_uploaded_by_the_client(run: Run) -> None:
    (size,) = run(
        """
        const input = { file: new Blob(["12345"], { type: "text/plain" }) };
        say((await fal.subscribe("local/files-app/size", { input })).data);
        """
    )
    assert size == 5

"""Uploads by the npm client, and files in an app's input and answer."""

from collections.abc import Callable
from functools import partial

import httpx
import pytest
from polyrank_program import ROOT

from .conftest import ServerProcess
from .node import WAYS, Run, run_node

APP = ROOT / "tests" / "programs" / "picture_app.py"


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    return start_server(f"{APP}::PictureApp")


@pytest.fixture(params=WAYS)
def run(server: ServerProcess, request: pytest.FixtureRequest) -> Run:
    """What a program says, in each way to reach the server."""
    return partial(run_node, server.address, request.param)


def test_an_upload_is_a_url_that_anybody_may_read(run: Run, server: ServerProcess) -> None:
    (url,) = run(
        """
        const file = new File(["five!"], "note.txt", { type: "text/plain" });
        say(await fal.storage.upload(file));
        """
    )
    assert url.startswith(f"{server.address}/")
    answer = httpx.get(url)
    assert (answer.text, answer.status_code) == ("five!", 200)
    assert answer.headers["content-type"].startswith("text/plain")


def test_an_upload_without_name_and_type(run: Run) -> None:
    (url,) = run("say(await fal.storage.upload(new Blob([new Uint8Array([1, 2, 3])])))")
    answer = httpx.get(url)
    assert answer.content == b"\1\2\3"
    assert answer.headers["content-type"] == "application/octet-stream"


def test_a_file_of_more_than_90_mib_goes_up_in_parts(server: ServerProcess) -> None:
    # 93 MiB and a bit: nine parts of 10 MiB, and a shorter one.
    (url,) = run_node(
        server.address,
        "proxy",
        """
        const block = new Uint8Array(2 ** 20).map((_, index) => index % 251);
        const blocks = Array.from({ length: 93 }, () => block);
        const file = new File([...blocks, "end"], "large.bin");
        say(await fal.storage.upload(file));
        """,
    )
    length = 93 * 2**20 + 3
    with httpx.stream("GET", url) as answer:
        assert int(answer.headers["content-length"]) == length
        block = bytes(index % 251 for index in range(2**20))
        content = b"".join(answer.iter_bytes())
    assert content == 93 * block + b"end"


def test_how_long_a_file_is_kept_and_who_may_read_it_can_be_said(run: Run) -> None:
    kept, hidden = run(
        """
        const file = new File(["mine"], "mine.txt", { type: "text/plain" });
        const forbid = { default: "forbid", rules: [] };
        say(await fal.storage.upload(file, { lifecycle: { expiresIn: "1h" } }));
        say(await fal.storage.upload(file, { lifecycle: { initialAcl: forbid } }));
        """
    )
    # On this machine every caller is the owner.
    assert httpx.get(kept).text == httpx.get(hidden).text == "mine"


def test_files_in_an_input_are_uploaded_and_the_app_opens_them(run: Run) -> None:
    direct, queued, streamed = run(
        """
        const file = new Blob(["seven b"], { type: "text/plain" });
        const input = { files: [file, file], named: { one: file } };
        say((await fal.run("local/picture-app/sizes", { input })).data);
        say((await fal.subscribe("local/picture-app/sizes", { input })).data);
        const stream = await fal.stream("local/picture-app/sizes", { input });
        say(await stream.done());
        """
    )
    assert direct == queued == {"sizes": [7, 7, 7]}
    assert streamed == {"size": 21}


def test_a_picture_of_an_answer_can_be_fetched(run: Run) -> None:
    width, content_type, length = run(
        """
        const { data } = await fal.subscribe("local/picture-app", { input: {} });
        say(data.image.width);
        const answer = await fetch(data.image.url);
        say(answer.headers.get("content-type"));
        say((await answer.arrayBuffer()).byteLength);
        """
    )
    assert (width, content_type) == (64, "image/png")
    assert length > 64

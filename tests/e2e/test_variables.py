"""A replica with the variables that a server gives it: its folder, its secrets, its name."""

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from polyrank.reports import Loaded, Loading, Ready
from polyrank.scaler.launch.base import Ended, ReplicaSpec
from polyrank.scaler.launch.local import LocalLauncher
from polyrank.scaler.variables import app_environment, owner_folder

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
SECRET = "hf_nobody-may-see-it"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A site with weights."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "w.bin").write_bytes(bytes(100_000))

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/w.bin?key={SECRET}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_any_owner_has_a_folder_of_its_own(tmp_path: Path) -> None:
    owners = ["ann", "..", ".", "a/b", "../ann", "ANN", "ä", "a%2Fb", " "]
    folders = [owner_folder(tmp_path, owner) for owner in owners]
    assert len(set(folders)) == len(owners)
    assert all(folder.parent == tmp_path and folder.name not in (".", "..") for folder in folders)


async def test_a_replica_finds_its_world(tmp_path: Path, site: str) -> None:
    folder = tmp_path / "data" / "ann"
    given = app_environment(
        app="ann/weights--staging",
        revision="r1",
        replica="0123456789ab",
        server="http://127.0.0.1:9",
        key="id:secret-of-the-key",
        folder=folder,
        secrets={"WEIGHTS_URL": site, "HF_TOKEN": SECRET, "HF_HOME": "/elsewhere"},
    )
    assert given.values["HF_HOME"] == "/elsewhere"  # the owner's word counts
    spec = ReplicaSpec(
        id="0123456789ab",
        app="ann/weights--staging",
        revision="r1",
        python=sys.executable,
        folder=PROGRAMS,
        ref="weights_app.py",
        environment=given.values | {"POLYRANK_ALLOWED_HOSTS": "127.0.0.0/8"},
        secrets=given.secrets,
        verbose=True,
    )
    launcher = LocalLauncher(tmp_path / "replicas")
    handle = await launcher.start(spec)
    told = []
    async with contextlib.aclosing(handle.follow()) as reports:
        async for report in reports:
            told.append(report)
            if isinstance(report, Ready | Ended):
                break
    ready = told[-1]
    assert isinstance(ready, Ready), told
    assert isinstance(told[0], Loaded)
    loading = [report for report in told if isinstance(report, Loading)]
    assert loading[0] == Loading(0.25, "looking for weights")
    assert loading[-1] == Loading(0.25, "downloading w.bin: 0.1 MB of 0.1 MB")
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"http://{ready.host}:{ready.port}/", json={})
    assert answer.json() == {
        "size": 100_000,
        "app_name": "ann/weights--staging",
        "state": "RUNNING",
    }
    assert [path.name for path in folder.rglob("*.bin")] == ["w.bin"]
    await handle.terminate()
    await launcher.close(keep=False)
    kept = "".join(path.read_text() for path in (tmp_path / "replicas").rglob("*.json*"))
    assert "downloading w.bin" in kept and SECRET not in kept and "secret-of-the-key" not in kept


async def test_a_secret_that_an_app_prints_is_masked_in_its_log(tmp_path: Path) -> None:
    (tmp_path / "printing.py").write_text(
        "import os, sys\n"
        "print('the token is', os.environ['HF_TOKEN'], flush=True)\n"
        "print(repr(os.environ['PEM']), file=sys.stderr, flush=True)\n"
        "raise SystemExit(3)\n"
    )
    secrets = {"HF_TOKEN": SECRET, "PEM": "first-line\nsecond-line"}
    spec = ReplicaSpec(
        id="0123456789ab",
        app="ann/printing",
        revision="r1",
        python=sys.executable,
        folder=tmp_path,
        ref="printing.py",
        environment=secrets | {"MODE": "not a secret"},
        secrets=tuple(secrets),
    )
    launcher = LocalLauncher(tmp_path / "replicas")
    handle = await launcher.start(spec)
    async with contextlib.aclosing(handle.follow()) as reports:
        told = [report async for report in reports]
    assert isinstance(told[-1], Ended)
    await launcher.close(keep=False)
    files = [path for path in (tmp_path / "replicas").rglob("*") if path.is_file()]
    lines = [
        json.loads(line)
        for path in files
        for line in path.read_text().splitlines()
        if "time" in line and line.startswith("{")
    ]
    messages = [line["message"] for line in lines if "message" in line]
    assert "the token is [secret]" in messages and "'[secret]'" in messages
    for path in files:
        for value in (SECRET, "first-line", "second-line"):
            assert value not in path.read_text(), path

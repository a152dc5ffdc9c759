"""`polyrank run --tls`: https with an authority of its own, for every client that trusts it."""

import os
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from polyrank_program import Program

APP = "tests/programs/queue_app.py"
CALL = """
import fal_client
app = "local/queue-app"
print(fal_client.run(app, arguments={"number": 2}))
print(fal_client.subscribe(app, arguments={"number": 3}))
print([event for event in fal_client.stream(app, arguments={"number": 2})])
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def program(data_dir: Path) -> Iterator[Program]:
    environment = {"POLYRANK_DATA_DIR": str(data_dir)}
    program = Program("run", f"{APP}::QueueApp", "--tls", "--port", "0", **environment)
    yield program
    assert program.end() == 0


@pytest.fixture(scope="module")
def url(program: Program) -> str:
    return program.wait_for(r"is ready at (https://\S+)")[1]


@pytest.fixture(scope="module")
def ca(program: Program, url: str, data_dir: Path) -> Path:
    said = Path(program.wait_for(r"callers trust (\S+),")[1])
    assert said == data_dir / "tls" / "ca.pem"
    return said


def test_who_trusts_the_authority_is_served_by_every_name_of_the_machine(
    url: str, ca: Path
) -> None:
    trust = ssl.create_default_context(cafile=str(ca))
    for name in ("127.0.0.1", "localhost"):
        there = httpx.URL(url).copy_with(host=name)
        answer = httpx.post(there, json={"number": 2}, verify=trust)
        assert answer.json() == {"double": 4}


def test_who_does_not_is_not(url: str) -> None:
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.post(url, json={"number": 2})


def test_the_key_is_the_owners_alone_and_kept_for_the_next_run(
    url: str, ca: Path, data_dir: Path
) -> None:
    key = data_dir / "tls" / "ca.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = ca.read_bytes()
    other = Program(
        "run", f"{APP}::QueueApp", "--tls", "--port", "0", POLYRANK_DATA_DIR=str(data_dir)
    )
    again = other.wait_for(r"is ready at (https://\S+)")[1]
    trust = ssl.create_default_context(cadata=before.decode())
    assert httpx.post(again, json={"number": 1}, verify=trust).json() == {"double": 2}
    assert other.end() == 0


def test_the_public_python_client_calls_it_by_its_own_settings(url: str, ca: Path) -> None:
    server = url.removeprefix("https://").partition("/")[0]
    environment = {
        "FAL_RUN_HOST": f"{server}/run",
        "FAL_QUEUE_RUN_HOST": f"{server}/queue",
        "FAL_KEY": "any:key",
        "SSL_CERT_FILE": str(ca),
    }
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [
        "{'double': 4}",
        "{'double': 6}",
        "[{'step': 0}, {'step': 1}]",
    ], done.stderr

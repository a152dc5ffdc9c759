"""`import fal_client` in a file that polyrank loads."""

from pathlib import Path

import pytest
from bare_python import BarePython

LOAD = """
import sys
from pathlib import Path
from polyrank import modules
modules.load_file(Path(sys.argv[1]))
"""

THEIRS = """
import fal_client
import fal_client.client as client
from fal_client import FalClientHTTPError, SyncClient, submit

print(client.RUN_URL_FORMAT, client.QUEUE_URL_FORMAT, client.REALTIME_URL_FORMAT)
print(client.REST_URL, client.CDN_URL, fal_client.__version__)
"""

OURS = """
import fal_client
import fal_client.client
from fal_client.client import SyncClient
import polyrank.client as ours

assert fal_client.submit is ours.submit
assert SyncClient is ours.SyncClient
assert fal_client.FalClientTimeoutError is ours.ClientTimeoutError
assert not hasattr(fal_client, "nothing")
"""


def test_polyranks_client_stands_in_where_none_is_installed(tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    file.write_text(OURS)
    BarePython(tmp_path, "fal_client").run("-c", LOAD, str(file))


def test_an_installed_one_is_used_and_calls_the_server_that_is_set(tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    file.write_text(THEIRS)
    python = BarePython(tmp_path, "none")
    printed = python.run("-c", LOAD, str(file), POLYRANK_SERVER="http://h:1/", FAL_KEY="a:b")
    first, second = printed.splitlines()
    assert first == "http://h:1/run/ http://h:1/queue/ ws://h:1/run/"
    assert second.startswith("http://h:1 http://h:1 1.")
    assert "https://fal.run/" in python.run("-c", LOAD, str(file), FAL_KEY="a:b")


@pytest.mark.parametrize("is_installed", [True, False])
def test_the_stand_in_for_other_programs_gives_way_to_an_installed_one(
    tmp_path: Path, is_installed: bool
) -> None:
    import polyrank.client

    fallback = Path(polyrank.client.__file__).parent / "fallback"
    python = BarePython(tmp_path, "none" if is_installed else "fal_client")
    path = f"{fallback}:{python.environment['PYTHONPATH']}"
    program = "import fal_client, fal_client.client, sys; print(fal_client.submit.__module__)"
    printed = python.run("-c", program, PYTHONPATH=path)
    assert printed.strip() == ("fal_client.client" if is_installed else "polyrank.client.flows")


def test_the_stand_in_says_what_is_missing(tmp_path: Path) -> None:
    import polyrank.client

    fallback = Path(polyrank.client.__file__).parent / "fallback"
    program = """
try:
    import fal_client
except ModuleNotFoundError as error:
    print(error)
"""
    printed = BarePython(tmp_path, "").run("-c", program, PYTHONPATH=str(fallback))
    assert printed == "neither fal_client nor polyrank is installed for this Python\n"

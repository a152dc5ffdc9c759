"""The npm client with a key, and without a good one, where a server needs one."""

import json
import os
import subprocess
from collections.abc import Callable

import pytest
from polyrank_program import POLYRANK, ROOT

from .conftest import ServerProcess
from .node import WAYS, run_node

APP = ROOT / "tests" / "programs" / "live_app.py"

REALTIME = """
    await new Promise((resolve) => {
      const connection = fal.realtime.connect("local/live-app", {
        onError: ({ name, message }) => { say([name, message]); resolve(); },
        onResult: (result) => { say(result); connection.close(); resolve(); },
      });
      connection.send({ number: 4 });
    });
    process.exit(0);  // the client would wait to fetch its next token
"""


@pytest.fixture(scope="module")
def guarded(
    start_server: Callable[..., ServerProcess], tmp_path_factory: pytest.TempPathFactory
) -> tuple[ServerProcess, str]:
    """A server that needs a key, and a key."""
    folder = tmp_path_factory.mktemp("server")
    environment = {
        "POLYRANK_AUTH": "always",
        "POLYRANK_DATABASE_URL": f"sqlite:///{folder / 'polyrank.db'}",
    }
    server = start_server(f"{APP}::LiveApp", environment, folder)
    made = subprocess.run(
        [*POLYRANK, "keys", "create", "--json"],
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
        timeout=60,
    )
    return server, json.loads(made.stdout)["key"]


@pytest.mark.parametrize("way", WAYS)
def test_a_good_key_opens_all_of_it(guarded: tuple[ServerProcess, str], way: str) -> None:
    server, key = guarded
    code = """
    say((await fal.subscribe("local/live-app/plain", { input: { number: 4 } })).data);
    """
    assert run_node(server.address, way, code + REALTIME, key=key) == [{"double": 8}] * 2


@pytest.mark.parametrize("way", WAYS)
def test_a_bad_key_is_401(guarded: tuple[ServerProcess, str], way: str) -> None:
    server, key = guarded
    code = """
    say(await failure(fal.run("local/live-app/plain", { input: { number: 4 } })));
    say(await failure(fal.storage.upload(new Blob(["x"]))));
    """
    failures = run_node(server.address, way, code, key=key[:-1] + "x")
    assert [each["status"] for each in failures] == [401, 401]
    assert all("key" in each["body"]["detail"] for each in failures)

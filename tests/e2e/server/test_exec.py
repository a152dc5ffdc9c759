"""`polyrank exec`: unmodified programs of the reference platform against a local server."""

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from polyrank_program import POLYRANK

from .node import FOLDER as JS_FOLDER
from .node import NODE

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def execute(
    url: str, *command: str, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*POLYRANK, "exec", "--url", url, "--", *command],
        env={**os.environ, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )


def python(url: str, code: str, *arguments: str, **environment: str) -> list[str]:
    """The lines that a program in Python prints."""
    program = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *arguments]
    ended = execute(url, *program, **environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_the_reference_client_reaches_the_server(shared_server: Any) -> None:
    printed = python(
        shared_server.address,
        """
        import asyncio
        import fal_client

        APP = "local/queue-app"
        print(fal_client.__file__)
        print(fal_client.run(APP, arguments={"number": 21}))
        handle = fal_client.submit(APP, arguments={"number": 4}, path="/slow")
        print([type(status).__name__ for status in handle.iter_events(with_logs=True)][-1])
        print(handle.get(), handle.status_url)
        print(fal_client.subscribe(APP, arguments={"number": 5}, with_logs=True))
        for event in fal_client.stream(APP, arguments={"number": 2}):
            print(event)
        try:
            fal_client.run(APP + "/odd", arguments={"number": 2})
        except fal_client.FalClientHTTPError as error:
            print(error.status_code)
        print(asyncio.run(fal_client.run_async(APP, arguments={"number": 6})))
        """,
    )
    assert "site-packages" in printed[0]
    url = f"{shared_server.address}/queue/local/queue-app/requests/"
    assert printed[1:3] == ["{'double': 42}", "Completed"]
    assert re.fullmatch(rf"{{'double': 8}} {re.escape(url)}\S+/status", printed[3])
    assert printed[4:] == [
        "{'double': 10}",
        "{'step': 0}",
        "{'step': 1}",
        "422",
        "{'double': 12}",
    ]


def test_the_npm_client_reaches_the_server(shared_server: Any) -> None:
    program = """
import { createFalClient } from "@fal-ai/client";
const fal = createFalClient({ credentials: "id:secret" });
const say = (value) => console.log(JSON.stringify(value));
const app = "local/queue-app";
say((await fal.run(app, { input: { number: 21 } })).data);
say((await fal.subscribe(app, { input: { number: 4 }, mode: "streaming" })).data);
for await (const event of await fal.stream(app, { input: { number: 2 } })) say(event);
const url = await fal.storage.upload(new Blob(["kept"], { type: "text/plain" }));
say([url, await (await fetch(url)).text()]);
"""
    node = [str(NODE), "--input-type=module", "--eval", program]
    ended = execute(shared_server.address, *node, cwd=JS_FOLDER)
    assert ended.returncode == 0, ended.stderr
    run, subscribed, first, second, uploaded = map(json.loads, ended.stdout.splitlines())
    assert (run, subscribed, first, second) == (
        {"double": 42},
        {"double": 8},
        {"step": 0},
        {"step": 1},
    )
    assert uploaded[0].startswith(shared_server.address) and uploaded[1] == "kept"


def test_every_program_that_honours_a_proxy_reaches_the_server(shared_server: Any) -> None:
    printed = python(
        shared_server.address,
        """
        import urllib.request
        url, json = "https://fal.run/local/queue-app", {"content-type": "application/json"}
        request = urllib.request.Request(url, b'{"number": 1}', json)
        print(urllib.request.urlopen(request).read().decode())
        """,
    )
    assert printed == ['{"double":2}']


def test_the_exit_status_and_signals_are_the_programs_own(shared_server: Any) -> None:
    address = shared_server.address
    assert execute(address, "sh", "-c", "exit 7").returncode == 7
    assert execute(address, "sh", "-c", "kill -9 $$").returncode == 128 + 9
    assert execute(address, "/no/such/program").returncode == 127
    assert execute(address, "/etc").returncode == 126
    waiting = "trap 'echo told; exit 3' TERM; echo ready; sleep 60 & wait"
    program = subprocess.Popen(
        [*POLYRANK, "exec", "--url", address, "--", "bash", "-c", waiting],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGTERM)
    assert program.stdout.readline() == "told\n"
    assert program.wait(30) == 3
    os.killpg(program.pid, signal.SIGKILL)  # the sleep
    program.stdout.close()


def test_a_server_that_is_away_is_told_with_its_address() -> None:
    printed = python(
        "http://127.0.0.1:9",
        """
        import fal_client
        try:
            fal_client.run("local/queue-app", arguments={})
        except fal_client.FalClientHTTPError as error:
            print(error.status_code, error)
        """,
    )
    assert printed[0].startswith("502") and "nobody answers at http://127.0.0.1:9" in printed[0]
    assert execute("nowhere", "true").returncode == 2


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The port of some other server of the internet."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"untouched")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


THROUGH = """
import http.client, os, sys, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
connection = http.client.HTTPConnection(proxy.hostname, proxy.port)
connection.set_tunnel("elsewhere.test" if len(sys.argv) > 2 else "127.0.0.1", int(sys.argv[1]))
connection.request("GET", "/")
print(connection.getresponse().read().decode())
"""


def test_other_hosts_are_passed_through(shared_server: Any, elsewhere: int) -> None:
    assert python(shared_server.address, THROUGH, str(elsewhere)) == ["untouched"]


def test_other_hosts_are_reached_by_the_proxy_that_was_set(
    shared_server: Any, elsewhere: int
) -> None:
    asked: list[bytes] = []

    def serve_one(listening: socket.socket) -> None:
        """A proxy that knows where elsewhere.test is."""
        caller, _ = listening.accept()
        with caller, socket.create_connection(("127.0.0.1", elsewhere)) as there:
            asked.append(caller.recv(4096))
            caller.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            there.sendall(caller.recv(4096))
            while data := there.recv(4096):
                caller.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve_one, args=(listening,))
        thread.start()
        proxy = f"http://me:pass@127.0.0.1:{listening.getsockname()[1]}"
        printed = python(
            shared_server.address, THROUGH, str(elsewhere), "by-proxy", https_proxy=proxy
        )
        thread.join()
    assert printed == ["untouched"]
    assert asked[0].startswith(f"CONNECT elsewhere.test:{elsewhere} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic bWU6cGFzcw==" in asked[0]


def test_what_was_trusted_still_is_and_the_tunnels_key_is_nobodys(
    shared_server: Any, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.pem"
    mine.write_text("# my own roots\n")
    printed = python(
        shared_server.address,
        """
        import os, pathlib
        bundle = pathlib.Path(os.environ["SSL_CERT_FILE"])
        print(bundle.read_text().startswith("# my own roots"))
        print({oct(each.stat().st_mode & 0o777) for each in bundle.parent.glob("tunnel*")})
        print(oct(bundle.parent.stat().st_mode & 0o777), bundle.parent)
        """,
        SSL_CERT_FILE=str(mine),
    )
    assert printed[:2] == ["True", "{'0o600'}"]
    mode, folder = printed[2].split()
    assert mode == "0o700" and not Path(folder).exists()

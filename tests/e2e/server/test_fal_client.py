"""The reference platform's Python client, unmodified, against our server."""

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SETUP = """
import os, sys, json, time, asyncio
import fal_client
import fal_client.client as client
address = sys.argv[1]
client.RUN_URL_FORMAT = address + "/run/"
client.QUEUE_URL_FORMAT = address + "/queue/"
client.REALTIME_URL_FORMAT = address.replace("http", "ws") + "/run/"
client.REST_URL = client.CDN_URL = address
"""


def run(server, code: str, *arguments: str) -> str:
    """What a program that uses fal_client prints."""
    program = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            SETUP + textwrap.dedent(code),
            server.address,
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={"FAL_KEY": "id:secret", "PATH": "/usr/bin:/bin"},
    )
    assert program.returncode == 0, program.stderr
    return program.stdout.strip()


def test_run(server) -> None:
    assert run(server, 'print(fal_client.run("local/queue-app", arguments={"number": 21}))') == (
        "{'double': 42}"
    )


def test_submit_status_and_result(server) -> None:
    printed = run(
        server,
        """
        handle = fal_client.submit("local/queue-app", arguments={"number": 4})
        statuses = [type(event).__name__ for event in handle.iter_events(with_logs=True)]
        print(statuses[-1], handle.get())
        print(type(fal_client.status("local/queue-app", handle.request_id)).__name__)
        print(fal_client.result("local/queue-app", handle.request_id))
        """,
    )
    assert printed.splitlines() == ["Completed {'double': 8}", "Completed", "{'double': 8}"]


def test_subscribe_tells_what_happens(server) -> None:
    printed = run(
        server,
        """
        seen = []
        result = fal_client.subscribe(
            "local/queue-app/work", arguments={"seconds": 0.5}, with_logs=True,
            on_enqueue=lambda id: seen.append("enqueued"),
            on_queue_update=lambda update: seen.append(type(update).__name__),
        )
        print(list(dict.fromkeys(seen))[0], list(dict.fromkeys(seen))[-2:], "pid" in result)
        """,
    )
    assert printed == "enqueued ['InProgress', 'Completed'] True"


def test_errors_carry_the_apps_reason(server) -> None:
    printed = run(
        server,
        """
        for call in (fal_client.run, fal_client.subscribe):
            try:
                call("local/queue-app/odd", arguments={"number": 2})
            except fal_client.FalClientHTTPError as error:
                print(error.status_code, error)
        try:
            fal_client.run("local/nothing", arguments={})
        except fal_client.FalClientHTTPError as error:
            print(error.status_code, error)
        """,
    )
    assert printed.count("422") >= 2 and printed.count("must be odd") == 2
    assert "404" in printed and "there is no app 'local/nothing' here" in printed


def test_stream(server) -> None:
    printed = run(
        server,
        """
        for event in fal_client.stream("local/queue-app", arguments={"number": 3}):
            print(event)
        """,
    )
    assert printed.splitlines() == ["{'step': 0}", "{'step': 1}", "{'step': 2}"]


def test_cancel_stops_the_work(server, tmp_path: Path) -> None:
    log = tmp_path / "steps"
    printed = run(
        server,
        """
        handle = fal_client.submit(
            "local/queue-app/work", arguments={"seconds": 60, "log": sys.argv[2]}
        )
        for event in handle.iter_events():
            if os.path.exists(sys.argv[2]):  # the app is at work
                handle.cancel()
                break
        try:
            handle.get()
        except fal_client.FalClientHTTPError as error:
            print(error.status_code, error)
        before = open(sys.argv[2]).read().count("step")
        time.sleep(0.5)
        print(open(sys.argv[2]).read().count("step") - before)
        """,
        str(log),
    )
    assert printed.splitlines()[0].startswith("499")
    assert int(printed.splitlines()[-1]) <= 1


def test_the_async_client(server) -> None:
    printed = run(
        server,
        """
        async def main():
            print(await fal_client.run_async("local/queue-app", arguments={"number": 1}))
            handle = await fal_client.submit_async("local/queue-app", arguments={"number": 2})
            print(await handle.get())
            print(await fal_client.subscribe_async("local/queue-app", arguments={"number": 3}))
            async for event in fal_client.stream_async("local/queue-app", arguments={"number": 2}):
                print(event)
        asyncio.run(main())
        """,
    )
    assert printed.splitlines() == [
        "{'double': 2}",
        "{'double': 4}",
        "{'double': 6}",
        "{'step': 0}",
        "{'step': 1}",
    ]


def test_a_start_timeout_ends_a_request_that_waits(server) -> None:
    printed = run(
        server,
        """
        for _ in range(4):  # all slots are taken
            fal_client.submit("local/queue-app/work", arguments={"seconds": 3})
        try:
            handle = fal_client.submit(
                "local/queue-app/work", arguments={"seconds": 3}, start_timeout=1.5
            )
            handle.get()
        except fal_client.FalClientHTTPError as error:
            print(error.status_code)
        """,
    )
    assert printed == "504"


@pytest.mark.parametrize("signum", ["SIGKILL", "SIGTERM"])
def test_a_server_that_is_killed_goes_on_where_it_was(server, tmp_path: Path, signum: str) -> None:
    import signal

    import httpx

    urls = []
    for number in range(40):
        body = {"number": number}
        answer = httpx.post(f"{server.address}/queue/local/queue-app", json=body)
        urls.append(httpx.URL(answer.json()["response_url"]).path)
    server.end(signal.Signals[signum])
    server.start()

    async def all_results() -> list[int]:
        async with httpx.AsyncClient(base_url=server.address, timeout=60) as client:
            results = []
            for url in urls:
                async with client.stream("GET", f"{url}/status/stream") as events:
                    await events.aread()
                results.append((await client.get(url)).json()["double"])
            return results

    assert asyncio.run(all_results()) == [2 * number for number in range(40)]

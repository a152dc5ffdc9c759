"""A page whose server is killed: the request is kept, and so is the page's place in it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, expect
from polyrank_program import ROOT

SERVE = """
import asyncio, sys, uvloop
from pathlib import Path
from polyrank.app import projects
from polyrank.cli.platform import Platform, arguments_for
from polyrank.cli.signals import ended_by_signals

async def main():
    database, app, port = sys.argv[1:]
    arguments = arguments_for(projects.find(app, Path.cwd()))
    platform = Platform(arguments, "127.0.0.1", int(port), database_url=database)
    with ended_by_signals(lambda _: platform.end()):
        async with platform.running():
            print("serving", flush=True)
            await platform.ended.wait()

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


def serve(tmp_path: Path, port: int) -> subprocess.Popen[str]:
    database = f"sqlite:///{tmp_path / 'polyrank.db'}"
    app = ROOT / "tests" / "programs" / "playground_app.py"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, database, str(app), str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "serving\n"
    return process


def end(process: subprocess.Popen[str], *, kill: bool) -> None:
    (process.kill if kill else process.terminate)()
    process.wait(30)
    assert process.stdout is not None
    process.stdout.close()


def test_a_run_survives_the_death_of_its_server(browser: Browser, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = serve(tmp_path, port)
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{port}/playground/local/playground-app")
    page.get_by_label("Endpoint").select_option("/work")
    page.get_by_label("Number", exact=True).fill("2")
    page.get_by_label("Seconds", exact=True).fill("1")
    page.get_by_role("button", name="Run", exact=True).click()
    status = page.get_by_role("status").locator("strong")
    expect(status).to_have_text("Running")
    end(server, kill=True)
    expect(status).to_have_text("Connection lost, trying again")
    server = serve(tmp_path, port)
    # The dead server's lease has to run out before the request is run again.
    expect(status).to_have_text("Completed", timeout=60_000)
    expect(page.get_by_role("tabpanel")).to_contain_text("counted")
    context.close()
    end(server, kill=False)

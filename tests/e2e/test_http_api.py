"""The commands of docs/http-api.md, sent as they stand; what they print is what the page shows."""

import argparse
import json
import re
import shlex
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from polyrank_program import Program

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "http-api.md").read_text()
SHOWN_ADDRESS = "http://127.0.0.1:8080"


def curl(line: str) -> str:
    """What curl prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", dest="data")
    parser.add_argument("-N", action="store_true")
    options = parser.parse_args(shlex.split(line)[1:])
    method = options.method or ("GET" if options.data is None else "POST")
    headers = dict(header.split(": ", 1) for header in options.headers)
    return httpx.request(method, options.url, headers=headers, content=options.data).text


def parsed(text: str) -> Any:
    """An answer as data, be it JSON or events with JSON."""
    if not text.startswith(("data: ", "id: ")):
        return json.loads(text)
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def agree(shown: Any, real: Any) -> bool:
    """Whether an answer is of the shown form; times and durations differ from run to run."""
    if isinstance(shown, dict):
        return shown.keys() == real.keys() and all(
            key in ("timestamp", "reason") or agree(shown[key], real[key]) for key in shown
        )
    if isinstance(shown, list):
        return len(shown) == len(real) and all(map(agree, shown, real))
    return type(shown) is type(real) if isinstance(shown, float) else bool(shown == real)


@pytest.fixture
def address(start: Callable[..., Program], tmp_path: Path) -> str:
    """Where the page's app is served."""
    app = tmp_path / "hello.py"
    app.write_text(re.findall(r"```python\n(# hello\.py.*?)```", PAGE, re.DOTALL)[0])
    return start(str(app)).address().partition("/run/")[0]


def test_the_javascript_of_the_page_runs(address: str) -> None:
    code = "".join(re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL))
    code = code.replace(SHOWN_ADDRESS, address) + "console.log(data.text)"
    node = Path(sysconfig.get_path("scripts")) / "node"
    command = [node, "--input-type=module", "--eval", code]
    folder = Path(__file__).parent / "server" / "js"
    program = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert program.stdout == "Hello, Ada!\n", program.stderr


def test_what_the_page_shows_is_answered(address: str) -> None:
    ids: dict[str, str] = {}

    def here(text: str) -> str:
        text = text.replace(SHOWN_ADDRESS, address)
        for shown_id, id in ids.items():
            text = text.replace(shown_id, id)
        return text

    sessions = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    steps = [step for session in sessions for step in re.split(r"^\$ ", session, flags=re.M)[1:]]
    assert len(steps) > 5
    for step in steps:
        command, _, output = step.partition("\n")
        real = parsed(curl(here(command)))
        if found := re.search(r'"request_id": "(\S+)"', output):
            ids[found[1]] = real["request_id"]
        is_short = "…" in output
        shown = parsed(re.sub(r",\s*…", "", here(output)))
        if command.endswith("/status/stream'"):
            real = real[-1:]  # how many come before depends on who is quicker
        if is_short:
            outer = real[0] if isinstance(real, list) else real
            kept = shown[0] if isinstance(shown, list) else shown
            for key in outer.keys() - kept.keys():
                del outer[key]
        assert agree(shown, real), f"{command}\n{real}"

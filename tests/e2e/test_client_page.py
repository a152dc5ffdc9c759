"""The code of docs/client.md runs, against the example that it calls."""

import re
import signal
from typing import Any

import pytest
from polyrank_program import ROOT, Program

from polyrank import client

PAGE = (ROOT / "docs" / "client.md").read_text()


def test_the_code_of_the_client_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Program("run", "examples/hello.py", "--port", "0")
    try:
        monkeypatch.setenv("POLYRANK_SERVER", app.address().partition("/run/")[0])
        monkeypatch.delitem(vars(client.sync_client), "_flows", raising=False)
        names: dict[str, Any] = {"__name__": "manual"}
        for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(code, "client.md", "exec", dont_inherit=True), names)
    finally:
        client.sync_client.close()
        monkeypatch.delitem(vars(client.sync_client), "_flows", raising=False)
        app.end(signal.SIGTERM)

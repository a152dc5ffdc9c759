"""The first app of docs/realtime.md is one."""

import re
from pathlib import Path
from typing import Any

from polyrank.app.server import build

PAGE = Path(__file__).resolve().parents[2] / "docs" / "realtime.md"


def test_the_app_of_the_page_has_the_four_modes() -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    names: dict[str, Any] = {"__name__": "manual"}
    exec(compile(code, "realtime.md", "exec", dont_inherit=True), names)
    paths = build(names["Calculator"]()).openapi()["paths"]
    modes = [each["x-fal-protocol"]["realtimeMode"] for each in paths.values()]
    assert modes == ["unary", "server_streaming", "client_streaming", "bidi"]

"""wrk, and what it counted."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Load:
    """Requests per second, and the latency that half of them kept below, in milliseconds."""

    rate: float
    median_ms: float
    p99_ms: float
    failed: int

    def __str__(self) -> str:
        text = f"{self.rate:,.0f}/s, {self.median_ms:.2f} / {self.p99_ms:.2f} ms"
        return text + (f", {self.failed} failed" if self.failed else "")


async def post(url: str, body: dict[str, Any], *, connections: int, seconds: float) -> Load:
    """Posts ``body`` again and again from so many connections, after 2 s of warm-up."""
    await _wrk(url, body, connections, 2.0)
    return await _wrk(url, body, connections, seconds)


async def _wrk(url: str, body: dict[str, Any], connections: int, seconds: float) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(
            f"wrk.method='POST'; wrk.body=[[{json.dumps(body)}]]; "
            "wrk.headers['Content-Type']='application/json'"
        )
        process = await asyncio.create_subprocess_exec(
            *("wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"),
            *("-s", str(script), url),
            stdout=asyncio.subprocess.PIPE,
        )
        said = (await process.communicate())[0].decode()
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert rate is not None, said
    return Load(
        float(rate[1]),
        _milliseconds(said, "50%"),
        _milliseconds(said, "99%"),
        int(failed[1]) if failed else 0,
    )


def _milliseconds(said: str, share: str) -> float:
    found = re.search(rf"{share}\s+([\d.]+)(us|ms|s)", said)
    assert found is not None, said
    return float(found[1]) * UNITS[found[2]]

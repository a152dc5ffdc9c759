"""``polyrank doctor``: what is right here, what is not, and what to do about it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from rich.text import Text

from polyrank.cli.checks import CHECKS, Finding
from polyrank.cli.console import out, show_json

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(*, as_json: bool) -> int:
    """Runs all checks; 1 if one of them fails."""
    # Each may wait for somebody, and none needs another.
    with ThreadPoolExecutor(len(CHECKS)) as threads:
        running = {name: threads.submit(check) for name, check in CHECKS.items()}
        found = {name: check.result() for name, check in running.items()}
    if as_json:
        show_json([{"check": name, **vars(finding)} for name, finding in found.items()])
    else:
        for name, finding in found.items():
            _show(name, finding)
    return 1 if any(finding.level == "fail" for finding in found.values()) else 0


def _show(name: str, finding: Finding) -> None:
    level = Text(f"{finding.level:<5}", COLOURS[finding.level])
    out.print(level, f"{name:<14} {finding.seen}", soft_wrap=True, sep="")
    if finding.remedy and finding.level != "ok":
        out.print(f"{'':20}{finding.remedy}", soft_wrap=True)

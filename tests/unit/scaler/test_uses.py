"""Who uses what on a machine, as processes come and go."""

import asyncio
import subprocess
import sys
from pathlib import Path

from polyrank.scaler.uses import Uses

USE = """
import sys
from pathlib import Path
from polyrank.scaler.uses import Uses

uses = Uses(Path(sys.argv[1]))
uses.note("theirs", "code", "environment")
print("noted", flush=True)
sys.stdin.read()
"""


async def test_a_note_counts_for_as_long_as_its_process_lives(tmp_path: Path) -> None:
    uses = Uses(tmp_path)
    async with uses.changes():
        uses.note("ours", "code")
    command = [sys.executable, "-c", USE, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"noted\n"
        assert uses.all() == {"ours": {"code"}, "theirs": {"code", "environment"}}
        other.kill()
    assert uses.all() == {"ours": {"code"}}


async def test_a_note_is_changed_and_taken_back(tmp_path: Path) -> None:
    uses = Uses(tmp_path)
    async with uses.changes():
        uses.note("ours", "code")
        uses.note("ours", "code", "environment")
    assert Uses(tmp_path).all() == {"ours": {"code", "environment"}}
    uses.forget("ours")
    uses.forget("nobody")
    assert uses.all() == {}


async def test_changes_are_made_one_at_a_time(tmp_path: Path) -> None:
    async with Uses(tmp_path).changes():
        waiting = asyncio.create_task(_note(Uses(tmp_path)))
        await asyncio.sleep(0)
        assert Uses(tmp_path).all() == {}
    await waiting
    assert Uses(tmp_path).all() == {"late": {"code"}}


async def _note(uses: Uses) -> None:
    async with uses.changes():
        uses.note("late", "code")

"""The reference tutorial's two client programs, verbatim but for the app's name."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_python import BarePython
from polyrank_program import POLYRANK, ROOT, Program

TUTORIAL = ROOT.parent / "shared" / "seed" / "tutorial.txt"

pytestmark = pytest.mark.skipif(
    not TUTORIAL.exists(), reason="the tutorial is not beside this checkout"
)


def program(heading: str, end: str) -> str:
    """The code between two places of the tutorial's last part."""
    text = TUTORIAL.read_text().split("Using the Application")[1]
    code = text.split(f"{heading}:\n")[1].split(f"\n{end}")[0]
    return code.replace("username/app-name", "local/parallel-sdxl")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The example app, its two paintings by one rank."""
    app = Program("run", "examples/parallel_sdxl.py", "--ranks", "1", "--port", "0")
    url = app.address(limit_s=120)
    yield url.partition("/run/")[0]
    app.end(signal.SIGTERM)


def test_the_client_programs_of_the_tutorial_run(address: str, tmp_path: Path) -> None:
    bare = BarePython(tmp_path, "fal_client")
    exec_ = ["-m", "polyrank.cli.main", "exec", "--url", address, "--", *bare.command]
    assert POLYRANK[1:] == exec_[:2]

    standard = tmp_path / "standard.py"
    standard.write_text(program("Standard Generation", "Streaming Generation"))
    assert "submit(" in standard.read_text()
    printed = bare.run(*exec_, str(standard))
    assert printed.startswith("data:image/jpeg;base64,") or printed.startswith(address)

    streaming = tmp_path / "streaming.py"
    streaming.write_text(program("Streaming Generation", "For other"))
    assert "fal_client.stream(" in streaming.read_text()
    lines = bare.run(*exec_, str(streaming)).splitlines()
    steps = [line for line in lines if line.startswith("Step ")]
    assert steps[-1] == "Step 30: 100.0%"
    shown = [int(line.split()[1].rstrip(":")) for line in steps[:-1]]
    # A preview is left out where the model is faster than those before it are painted.
    assert shown and shown == sorted(shown) and set(shown) <= {2, *range(4, 30, 4)}
    previews = sum(line.startswith("Preview available: data:image/jpeg") for line in lines)
    assert previews == len(shown)

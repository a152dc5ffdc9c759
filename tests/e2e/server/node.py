"""Programs for Node that use the npm client; they say what they have to as lines of JSON."""

import json
import subprocess
import sysconfig
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "js"
NODE = Path(sysconfig.get_path("scripts")) / "node"
IMPORTS = 'import { fal, address, argument, say, failure } from "./setup.mjs";\n'
# The ways in which the client is told where the server is; see setup.mjs.
WAYS = ("proxy", "middleware")

Run = Callable[..., list[Any]]


def run_node(
    address: str, way: str, code: str, argument: object = "", key: str = "id:secret"
) -> list[Any]:
    """What a program says that reaches the server in one of the ``WAYS``."""
    assert (FOLDER / "node_modules").exists(), "`make test` installs the client"
    program = subprocess.run(
        [NODE, "--input-type=module", "--eval", IMPORTS + textwrap.dedent(code)],
        cwd=FOLDER,
        env={"SERVER": address, "WAY": way, "ARGUMENT": str(argument), "KEY": key},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert program.returncode == 0, program.stderr
    return [json.loads(line) for line in program.stdout.splitlines()]

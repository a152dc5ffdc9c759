"""A Python that has everything of this one but some packages."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[2] / "src"


class BarePython:
    """Links to what is installed, without the distributions of the given names."""

    def __init__(self, folder: Path, *without: str) -> None:
        self.path = folder / "site"
        self.path.mkdir()
        for installed in Path(sysconfig.get_path("purelib")).iterdir():
            if not installed.name.startswith(without):
                (self.path / installed.name).symlink_to(installed)
        self.command = [sys.executable, "-S"]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(SOURCE), str(self.path)]),
        }

    def run(self, *arguments: str, **environment: str) -> str:
        """What a program prints."""
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 110}
        ended = subprocess.run(
            [*self.command, *arguments], env={**self.environment, **environment}, **options
        )
        assert ended.returncode == 0, ended.stderr
        return str(ended.stdout)

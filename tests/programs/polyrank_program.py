"""The `polyrank` command as a process whose output can be waited for."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
POLYRANK = [sys.executable, "-m", "polyrank.cli.main"]
LIMIT_S = 120


class Program:
    """A running `polyrank` command whose output can be waited for."""

    def __init__(self, *arguments: str, cwd: Path = ROOT, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*POLYRANK, *arguments],
            cwd=cwd,
            env={**os.environ, "COLUMNS": "200", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._is_over = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def wait_for(self, pattern: str, count: int = 1, limit_s: float = LIMIT_S) -> re.Match[str]:
        """Waits until the output has `count` matches, and returns the last of them."""
        found: list[re.Match[str]] = []

        def seen() -> bool:
            found[:] = re.finditer(pattern, self.output)
            return len(found) >= count

        with self._changed:
            self._changed.wait_for(lambda: seen() or self._is_over, limit_s)
            assert seen(), self.output
        return found[-1]

    def address(self, count: int = 1, limit_s: float = LIMIT_S) -> str:
        return self.wait_for(r"is ready at (http://\S+)", count, limit_s)[1]

    def end(self, signum: signal.Signals = signal.SIGTERM) -> int:
        os.killpg(self.process.pid, signum)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return code

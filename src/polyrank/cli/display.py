"""What a call looks like in a terminal while it is on its way."""

from __future__ import annotations

import io
import math
import sys
from types import TracebackType
from typing import Any

from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from polyrank.cli import graphics
from polyrank.cli.graphics import Screen
from polyrank.client import Completed, InProgress, Queued, Status

PICTURE_ROWS = 16
LEVEL_STYLES = {"ERROR": "red", "WARN": "yellow", "DEBUG": "dim"}


class Display:
    """A line with the state of the call, its log above, and the picture as it stands.

    Where stderr is no terminal, only the log is written.
    """

    def __init__(self, title: str) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._title = title
        columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn()
        self._progress = Progress(
            *columns,
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task(escape(title), total=None, note="sending")
        self._previews: Previews | None = None

    def __enter__(self) -> Display:
        is_able = self.console.is_terminal and not self.console.is_dumb_terminal
        protocol = graphics.ask(sys.stderr.fileno()) if is_able else None
        if protocol is not None:
            self._previews = Previews(protocol, self.console)
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    @property
    def shows_pictures(self) -> bool:
        """Whether the terminal can show pictures."""
        return self._previews is not None

    def status(self, status: Status) -> None:
        """The request's status changed."""
        match status:
            case Queued(position, reason):
                note = reason or (f"{position} ahead" if position else "next in the queue")
                self._progress.update(self._task, note=escape(note))
            case InProgress(logs, reason):
                self._progress.update(self._task, note=escape(reason or "running"))
                self._log(logs)
            case Completed(logs):
                self._log(logs)

    def event(self, event: Any) -> None:
        """The app streamed an event; ``progress`` (0 to 1) or ``step`` in it move the bar."""
        if not isinstance(event, dict):
            return
        if isinstance(step := event.get("step"), int):
            self._progress.update(self._task, note=f"step {step}")
        progress = event.get("progress")
        if isinstance(progress, int | float) and math.isfinite(progress) and 0 <= progress <= 1:
            self._progress.update(self._task, total=1.0, completed=float(progress))

    def picture(self, data: bytes) -> None:
        """Shows a picture, in the place of the one before; what is none is passed over."""
        if self._previews is None:
            return
        try:
            picture = Image.open(io.BytesIO(data))
            picture.load()
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
            return
        self._progress.stop()
        self._previews.show(picture)
        self._progress.start()

    def _log(self, entries: list[dict[str, Any]] | None) -> None:
        for entry in entries or ():
            style = LEVEL_STYLES.get(str(entry.get("level")))
            self.console.print(escape(str(entry.get("message", ""))), style=style)


class Previews:
    """One place in the terminal in which picture after picture is shown."""

    def __init__(self, protocol: graphics.Protocol, console: Console) -> None:
        self._protocol = protocol
        self._console = console
        self._rows = 0

    def show(self, picture: Image.Image) -> None:
        """Draws over the picture before; the cursor ends on the line below."""
        screen = Screen.of(sys.stderr.fileno())
        rows = min(self._rows or PICTURE_ROWS, max(1, screen.rows - 4))
        columns, used = screen.fit(picture.size, rows)
        drawn = graphics.encode(picture, self._protocol, screen, (columns, used))
        if not self._rows:
            self._rows = used
            self._write("\n" * used)
        self._write(f"\x1b[{self._rows}A\x1b7{drawn}\x1b8\x1b[{self._rows}B\r")

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()

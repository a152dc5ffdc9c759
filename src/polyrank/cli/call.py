"""``polyrank call``: one request to an app, from a shell."""

from __future__ import annotations

import asyncio
import enum
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from polyrank.cli import outputs, values
from polyrank.cli.display import Display
from polyrank.cli.outputs import Files, Output
from polyrank.client import AsyncClient, AsyncRequestHandle, ClientError, Completed, StreamFailed
from polyrank.client.options import make_flows
from polyrank.errors import PolyrankError

# A person waits, who can start a server meanwhile.
ATTEMPTS = 3
TIMEOUT_S = 120.0


class Mode(enum.Enum):
    """How an app is called."""

    QUEUE = "queue"
    DIRECT = "direct"
    STREAM = "stream"


def call(
    app: str,
    words: list[str],
    *,
    path: str,
    base: str | None,
    out: Path | None,
    server: str | None,
    mode: Mode,
) -> int:
    """Calls an app and writes its answer; returns the exit status."""
    console = Console(stderr=True, highlight=False)
    try:
        arguments = values.parse(words, base)
        calling = Calling(app, path, mode, server)
    except PolyrankError as error:
        console.print("[red]error:[/red]", escape(str(error)), soft_wrap=True)
        return 2
    try:
        asyncio.run(calling.run(arguments, out))
    except (PolyrankError, OSError) as error:
        console.print("[red]error:[/red]", escape(str(error)), soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print(escape(calling.farewell))
        return 130
    return 0


class Calling:
    """One call on its way; ``farewell`` is what to say when the user has had enough."""

    def __init__(self, app: str, path: str, mode: Mode, server: str | None) -> None:
        self._app = app
        self._path = path
        self._mode = mode
        self._client = AsyncClient(server=server, attempts=ATTEMPTS)
        self._flows = make_flows(server, None, TIMEOUT_S, ATTEMPTS)
        self._files = Files(self._flows.endpoints, self._flows.key)
        self._shown: Any = None
        self.farewell = "cancelled"

    async def run(self, arguments: Mapping[str, Any], out: Path | None) -> None:
        """Calls, writes the answer to stdout and keeps its files."""
        async with self._client, self._files:
            with Display(self._app) as display:
                sent = {name: await self._uploaded(value) for name, value in arguments.items()}
                result = await self._ask(sent, display)
                await self._show(result, display)
                found = list(outputs.find(result)) if out is not None else []
                saved = await self._files.save(found, out) if out is not None else []
            if self._mode is not Mode.STREAM or sys.stdout.isatty():
                write(result)
            for file in saved:
                display.console.print(f"saved {escape(str(file))}")
            if out is not None and not saved:
                display.console.print("there is no file in the result")

    async def _uploaded(self, value: Any) -> Any:
        return (
            await self._client.upload_file(value.path)
            if isinstance(value, values.Upload)
            else value
        )

    async def _ask(self, arguments: dict[str, Any], display: Display) -> Any:
        match self._mode:
            case Mode.QUEUE:
                return await self._queued(arguments, display)
            case Mode.DIRECT:
                return await self._client.run(self._app, arguments, path=self._path)
            case Mode.STREAM:
                return await self._streamed(arguments, display)

    async def _streamed(self, arguments: dict[str, Any], display: Display) -> Any:
        """The last event; each is written as it comes where no person reads."""
        event = None
        path = self._path or "/stream"
        async for event in self._client.stream(self._app, arguments, path=path):
            if not sys.stdout.isatty():
                sys.stdout.write(json.dumps(event) + "\n")
                sys.stdout.flush()
            await self._show(event, display)
        return event

    async def _queued(self, arguments: dict[str, Any], display: Display) -> Any:
        """The result of a submitted request: the answer, or a streaming endpoint's last event."""
        submitting = asyncio.ensure_future(
            self._client.submit(self._app, arguments, path=self._path)
        )
        try:
            handle = await asyncio.shield(submitting)
            return await self._watched(handle, display)
        except asyncio.CancelledError:
            await self._cancel(await submitting)
            raise

    async def _watched(self, handle: AsyncRequestHandle, display: Display) -> Any:
        following = asyncio.ensure_future(self._follow(handle, display))
        try:
            async for status in handle.iter_events(with_logs=True):
                display.status(status)
            assert isinstance(status, Completed)
            last, failure = await following
        finally:
            following.cancel()
        if status.error is not None:
            return await handle.get()  # raises what the answer says
        if failure is not None:
            raise failure
        return last if last is not None else await handle.get()

    async def _follow(
        self, handle: AsyncRequestHandle, display: Display
    ) -> tuple[Any, StreamFailed | None]:
        event = None
        try:
            async for event in handle.stream():
                await self._show(event, display)
        except StreamFailed as failure:
            return event, failure
        return event, None

    async def _show(self, value: Any, display: Display) -> None:
        """Moves the bar, and shows the first picture of an event or a result."""
        if value is self._shown:  # the last event is the result
            return
        self._shown = value
        display.event(value)
        picture = next((each for each in outputs.find(value) if each.is_picture), None)
        if picture is not None and display.shows_pictures:
            display.picture(await self._read(picture))

    async def _read(self, output: Output) -> bytes:
        try:
            return await self._files.read(output)
        except PolyrankError:
            return b""  # a picture that cannot be had is no reason to end the call

    async def _cancel(self, handle: AsyncRequestHandle) -> None:
        self.farewell = f"cancelled request {handle.request_id}"
        try:
            await handle.cancel()
        except ClientError as error:
            self.farewell = f"request {handle.request_id} could not be cancelled: {error}"


def write(result: Any) -> None:
    """A result on stdout: as it is for programs, indented and without long data for people."""
    if sys.stdout.isatty():
        Console(soft_wrap=True).print_json(data=outputs.shortened(result))
        return
    sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")

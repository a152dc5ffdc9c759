"""Bringing a large file from a URL to disk: gone on with where it broke off, shown when whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from polyrank.toolkit import datauri, urls
from polyrank.toolkit.exceptions import FileTooLarge, UnreadableURL

log = logging.getLogger("polyrank.downloads")

# How often a transfer that breaks off is gone on with, if each time brought something.
ATTEMPTS = 8
# A note in the log, or to whoever shows progress, for each such part of a file.
STEPS = 20
MAX_NAME = 200


@dataclass(frozen=True)
class Progress:
    """How far a transfer is; ``total`` is None where the site does not say."""

    name: str
    received: int
    total: int | None

    @property
    def fraction(self) -> float | None:
        """The part that is there."""
        return self.received / self.total if self.total else None

    def __str__(self) -> str:
        whole = f" of {_megabytes(self.total)}" if self.total else ""
        return f"downloading {self.name}: {_megabytes(self.received)}{whole}"


Listener = Callable[[Progress], None]


def log_progress(progress: Progress) -> None:
    """Writes a line into the log; what is done unless somebody else is told."""
    log.info("%s", progress)


_listener: ContextVar[Listener] = ContextVar("polyrank_transfer_listener", default=log_progress)


@contextlib.contextmanager
def reporting(listener: Listener) -> Iterator[None]:
    """Tells ``listener`` how far transfers inside the block are; without one, the log is told."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@dataclass
class Transfer:
    """One file on its way into ``folder``. One at a time may be for a URL in a folder: see locks.

    What has arrived lies in a hidden file beside the target, with a note of what it is a part of,
    so that the next transfer, perhaps of another process, goes on with it.
    """

    url: str
    folder: Path
    policy: urls.URLPolicy
    headers: Mapping[str, str] = field(default_factory=dict)
    max_bytes: int | None = None
    name: str | None = None
    force: bool = False
    # Sets transfers of one URL apart that do not wait for each other.
    label: str = ""

    def __post_init__(self) -> None:
        stem = f".{hashlib.sha256(f'{self.url}{self.label}'.encode()).hexdigest()[:16]}"
        self._part = self.folder / f"{stem}.part"
        self._note = self.folder / f"{stem}.json"
        self.lock = self.folder / f"{stem}.lock"

    async def run(self) -> Path:
        """The file, when it is whole. One that is there already, of the size that the site says,
        is taken for it, unless ``force``."""
        if datauri.is_data_uri(self.url):
            return self._keep(datauri.read(self.url)[0])
        for _ in range(ATTEMPTS):
            before = _size(self._part)
            try:
                if (path := await self._attempt()) is not None:
                    return path
            except (httpx.TransportError, EOFError) as error:
                if _size(self._part) <= before:
                    reason = str(error) or type(error).__name__
                    raise UnreadableURL(f"{_shown(self.url)} cannot be read: {reason}") from error
                log.info("%s broke off and is gone on with", _shown(self.url))
        raise UnreadableURL(f"{_shown(self.url)} broke off {ATTEMPTS} times")

    def discard(self) -> None:
        """Forgets what has arrived of a file that is not whole."""
        self._part.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    async def _attempt(self) -> Path | None:
        """Asks for what is missing; None if it must be asked for from the start."""
        have, condition = self._there()
        # As it is: a part of what was packed on the way cannot be added to.
        headers = {**self.headers, "Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": condition}
        async with urls.opened(self.url, self.policy, headers) as (response, _):
            if have and not _goes_on(response, have):
                if response.status_code in (206, 416):
                    self.discard()
                    return None
                have = 0
            if not response.is_success:
                raise UnreadableURL(f"{_shown(self.url)} answered {response.status_code}")
            total = _total(response, have)
            target = self.folder / (self.name or _name(response, self.url))
            if not self.force and target.is_file() and _size(target) == total:
                self.discard()
                return target
            self._check(total or 0)
            self._write_note(response)
            await self._receive(response, have, total, target.name)
        os.replace(self._part, target)
        self.discard()
        return target

    async def _receive(
        self, response: httpx.Response, have: int, total: int | None, name: str
    ) -> None:
        tell = _listener.get()
        told = -1
        with self._part.open("ab" if have else "wb") as file:
            async for chunk in response.aiter_bytes():
                have += len(chunk)
                self._check(have)
                file.write(chunk)
                step = have * STEPS // total if total else have // 2**28
                if step > told:
                    told = step
                    tell(Progress(name, have, total))
            file.flush()
            os.fsync(file.fileno())
        if total is not None and have != total:
            if have > total:
                self.discard()
            raise EOFError(f"{have} of {total} bytes arrived")

    def _check(self, size: int) -> None:
        if self.max_bytes is not None and size > self.max_bytes:
            self.discard()
            raise FileTooLarge(
                f"{_shown(self.url)} holds more than {self.max_bytes} bytes",
                max_bytes=self.max_bytes,
            )

    def _keep(self, data: bytes) -> Path:
        self._check(len(data))
        target = self.folder / (self.name or hashlib.sha256(self.url.encode()).hexdigest())
        self._part.write_bytes(data)
        os.replace(self._part, target)
        return target

    def _there(self) -> tuple[int, str]:
        """How much has arrived, and what the site calls the file that it is a part of."""
        try:
            note: dict[str, Any] = json.loads(self._note.read_text())
            if note["url"] == self.url:
                return _size(self._part), str(note["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.discard()
        return 0, ""

    def _write_note(self, response: httpx.Response) -> None:
        """What is needed to go on later. A file that the site gives no name cannot be."""
        etag = response.headers.get("etag", "")
        validator = etag if etag.startswith('"') else response.headers.get("last-modified")
        is_packed = response.headers.get("content-encoding", "identity") != "identity"
        if validator is None or is_packed:
            return self._note.unlink(missing_ok=True)
        self._note.write_text(json.dumps({"url": self.url, "validator": validator}))


def _goes_on(response: httpx.Response, have: int) -> bool:
    """Whether the answer is the rest of a file of which ``have`` bytes are there."""
    if response.status_code != 206:
        return False
    return (
        re.match(rf"bytes {have}-\d+/\d+$", response.headers.get("content-range", "")) is not None
    )


def _total(response: httpx.Response, have: int) -> int | None:
    length = response.headers.get("content-length", "")
    is_packed = response.headers.get("content-encoding", "identity") != "identity"
    return have + int(length) if length.isdecimal() and not is_packed else None


def _name(response: httpx.Response, url: str) -> str:
    """What the site calls the file, else what its URL does; never a path, nor a hidden file."""
    message = Message()
    message["content-disposition"] = response.headers.get("content-disposition", "")
    called = message.get_filename() or unquote(urlsplit(url).path)
    name = re.sub(r"[\x00-\x1f\x7f]", "_", called.replace("\\", "/")).rstrip("/").rpartition("/")[2]
    return name.lstrip(".")[-MAX_NAME:] or hashlib.sha256(url.encode()).hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _shown(url: str) -> str:
    """The URL without what it may hold of secrets: its user and its query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:200]


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"

"""``polyrank files``: the data folder of an owner's apps, on the server."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from polyrank.cli.console import day, err, exit_status, say, show_json, show_table
from polyrank.cli.remote import Remote, ServerRefused
from polyrank.errors import InvalidInput
from polyrank.scaler.variables import owner_folder
from polyrank.settings import ServerSettings

CHUNK = 2**20
# A large file takes as long as it takes, as long as something moves.
TIMEOUT = httpx.Timeout(300.0, connect=10.0)


class Data(Remote):
    """The data folder on the server."""

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def listed(self, path: str) -> list[dict[str, Any]] | None:
        """What is in a folder; None if the path is a file's."""
        with self._open("HEAD", path) as answer:
            if answer.headers.get("x-polyrank-kind") == "file":
                return None
        return list(self.call("GET", _url(path))["entries"])

    def version(self, path: str) -> tuple[str, int]:
        """What the server calls a file as it is now, and its size in bytes."""
        with self._open("HEAD", path) as answer:
            return answer.headers["etag"], int(answer.headers["content-length"])

    @contextlib.contextmanager
    def reading(self, path: str, etag: str, have: int) -> Iterator[httpx.Response]:
        """A file as it comes, without the first bytes that we ``have`` of this version (206)."""
        headers = {"range": f"bytes={have}-", "if-range": etag} if have else {}
        with self._open("GET", path, headers=headers) as answer:
            yield answer

    def fill(self, path: str, url: str) -> Iterator[dict[str, Any]]:
        """Has the server download a URL; how far it is."""
        with self._open("POST", path, json={"url": url}) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    @contextlib.contextmanager
    def _open(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        with (
            self._reaching(),
            self._client.stream(method, _url(path), timeout=TIMEOUT, **options) as answer,
        ):
            if method == "HEAD" and answer.status_code == 404:
                raise ServerRefused(f"{self.url}: there is nothing at {path or '/'}")
            if answer.status_code >= 400:
                answer.read()
                self._content(answer)
            yield answer


@exit_status
def list_files(*, path: str, as_json: bool) -> None:
    """Prints what is in a folder."""
    path = _inside(path)
    with Data() as data:
        found = data.listed(path)
    if found is None:
        raise InvalidInput(f"{path} is a file; `polyrank files download` gets it")
    if as_json:
        return show_json(found)
    rows = [
        (
            each["name"] + ("/" if each["kind"] == "folder" else ""),
            "" if each["size"] is None else str(each["size"]),
            day(each["modified_at"]),
        )
        for each in found
    ]
    show_table(("name", "bytes", "modified"), rows)


@exit_status
def download(*, path: str, target: Path | None, as_json: bool) -> None:
    """Gets a file, or a folder with all that is in it."""
    path = _inside(path)
    target = target or Path(PurePosixPath(path).name or "data")
    kept = []
    with Data() as data, _bar() as bar:
        found = data.listed(path)
        if found is None:
            target = target / PurePosixPath(path).name if target.is_dir() else target
            _download(data, path, target, bar)
            kept.append(target)
        else:
            for name in _walk(data, path, found):
                there = target / PurePosixPath(name).relative_to(path or ".")
                _download(data, name, there, bar)
                kept.append(there)
    _tell([str(each) for each in kept], "got", as_json)


@exit_status
def upload(*, source: Path, path: str | None, as_json: bool) -> None:
    """Sends a file, or a folder with all that is in it."""
    if not source.exists():
        raise InvalidInput(f"there is no {source} on this machine")
    place = _inside(path if path is not None else source.resolve().name)
    files = sorted(each for each in source.rglob("*") if each.is_file())
    kept = []
    with Data() as data, _bar() as bar:
        if source.is_file():
            if path is not None and (path.endswith("/") or not place):
                place = f"{place}/{source.name}".strip("/")
            files = [source]
        for file in files:
            inner = "" if file == source else f"/{file.relative_to(source).as_posix()}"
            there = f"{place}{inner}".strip("/")
            _upload(data, file, there, bar)
            kept.append(there)
    _tell(kept, "kept", as_json)


@exit_status
def upload_url(*, url: str, path: str | None, as_json: bool) -> None:
    """Has the server download a URL into the folder."""
    name = PurePosixPath(urlsplit(url).path).name
    place = _inside(name if path is None else f"{path}{name}" if path.endswith("/") else path)
    last: dict[str, Any] = {}
    with Data() as data, _bar() as bar:
        task = bar.add_task(place, total=None)
        for last in data.fill(place, url):
            if "received" in last:
                bar.update(task, completed=last["received"], total=last["total"])
    if "path" not in last:
        raise ServerRefused(str(last.get("detail", "the server has gone")))
    _tell([last["path"]], "kept", as_json)


@exit_status
def move(*, path: str, new: str, as_json: bool) -> None:
    """Gives something another name, or puts it into another folder."""
    with Data() as data:
        moved = data.call("POST", _url(_inside(path)), json={"move_to": _inside(new)})
    if as_json:
        return show_json(moved)
    say(f"{_inside(path)} is now {moved['path']}")


@exit_status
def remove(*, paths: list[str], recursive: bool, as_json: bool) -> None:
    """Removes files, or folders with all that is in them."""
    options = {"params": {"recursive": "true"}} if recursive else {}
    with Data() as data:
        for path in paths:
            data.call("DELETE", _url(_inside(path)), **options)
    _tell([_inside(path) for path in paths], "removed", as_json)


@exit_status
def link(*, path: Path, owner: str, as_json: bool) -> None:
    """Makes ``/data`` of this machine lead to an owner's folder, for code that has that path."""
    folder = owner_folder(ServerSettings().apps_folder, owner).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (path.is_symlink() and path.resolve() == folder.resolve()):
            path.symlink_to(folder)
    except FileExistsError:
        raise InvalidInput(f"there is something else at {path}: it is left as it is") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be made: {error.strerror}") from error
    if as_json:
        return show_json({"path": str(path), "folder": str(folder)})
    say(f"{path} leads to {folder}")


def _inside(path: str) -> str:
    """The path in the folder; a leading ``/data`` is what code calls the folder itself."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") and parts[:1] == ["data"]:
        parts = parts[1:]
    if ".." in parts:
        raise InvalidInput(f"not a path in the data folder: {path}")
    return "/".join(parts)


def _url(path: str) -> str:
    return f"/data/{quote(path)}" if path else "/data"


def _walk(data: Data, path: str, entries: list[dict[str, Any]]) -> Iterator[str]:
    """The files below a folder."""
    for entry in entries:
        name = f"{path}/{entry['name']}".strip("/")
        if entry["kind"] == "folder":
            yield from _walk(data, name, data.listed(name) or [])
        elif entry["kind"] == "file":
            yield name


def _download(data: Data, path: str, target: Path, bar: Progress) -> None:
    """Gets one file, and shows it when it is whole. A download that broke off is gone on with."""
    etag, size = data.version(path)
    # Of another version of the file nothing is of use.
    version = hashlib.sha256(etag.encode()).hexdigest()[:12]
    part = target.with_name(f".{target.name}.{version}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.exists() else 0
        task = bar.add_task(path, total=size, completed=have)
        if have < size or not part.exists():
            with data.reading(path, etag, have) as answer:
                with part.open("ab" if answer.status_code == 206 else "wb") as file:
                    for chunk in answer.iter_bytes():
                        file.write(chunk)
                        bar.advance(task, len(chunk))
        part.replace(target)
    except OSError as error:
        raise InvalidInput(f"{target} could not be written: {error}") from error


def _upload(data: Data, file: Path, path: str, bar: Progress) -> None:
    size = file.stat().st_size
    task = bar.add_task(path, total=size)

    def chunks() -> Iterator[bytes]:
        with file.open("rb") as source:
            while chunk := source.read(CHUNK):
                bar.advance(task, len(chunk))
                yield chunk

    headers = {"content-length": str(size)}
    data.call("PUT", _url(path), content=chunks(), headers=headers, timeout=TIMEOUT)


def _bar() -> Progress:
    """Shown in a terminal only, and gone when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    is_shown = err.is_terminal
    return Progress(
        *columns, TransferSpeedColumn(), console=err, transient=True, disable=not is_shown
    )


def _tell(paths: list[str], done: str, as_json: bool) -> None:
    if as_json:
        return show_json(paths)
    say(f"{done} {', '.join(paths[:10])}{f' and {len(paths) - 10} more' * (len(paths) > 10)}")

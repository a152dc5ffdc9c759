"""A folder of files that apps and people share, kept to by all paths: nothing leads out of it."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from polyrank.errors import InvalidInput, PolyrankError, UploadTooLarge

CHUNK = 2**20
MAX_LISTED = 10_000


class NoSuchPath(PolyrankError):
    """There is nothing at a path of the folder."""

    status = 404
    code = "path_not_found"


class PathConflict(PolyrankError):
    """There is something at a path that stands in the way."""

    status = 409
    code = "path_conflict"


class FolderFull(PolyrankError):
    """The disk has no room, or the folder cannot be written."""

    status = 507
    code = "data_folder_full"


@dataclass(frozen=True)
class Listed:
    """Something in a folder: a "file", a "folder", or "other" (a link that leads out, a socket)."""

    name: str
    kind: str
    size: int | None
    modified_at: float


class OpenedFile:
    """A file that is being read; whoever replaces it meanwhile does not change it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        found = os.fstat(descriptor)
        self.size = found.st_size
        self.modified_at = found.st_mtime
        self.etag = f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"

    async def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from ``start`` up to ``end``."""
        while start < end:
            size = min(CHUNK, end - start)
            chunk = await asyncio.to_thread(os.pread, self._descriptor, size, start)
            if not chunk:
                raise NoSuchPath("the file became shorter while it was read")
            start += len(chunk)
            yield chunk

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._descriptor)


class DataFolder:
    """The files below ``root``. Paths are relative to it, with slashes; links inside are followed,
    and those that lead out are not.

    Example::

        folder = DataFolder(Path("data"), max_bytes=2**30)
        await folder.write("loras/cat.safetensors", chunks)
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes

    def target(self, name: str) -> Path:
        """The path itself, of which all but the last part is followed. Raises InvalidInput if it
        leads out, or is the folder."""
        parts = _parts(name)
        if not parts:
            raise InvalidInput("this is the data folder itself: name something in it")
        return self._resolved(parts[:-1]) / parts[-1]

    def listed(self, name: str) -> list[Listed]:
        """What is in a folder, by name. Raises NoSuchPath."""
        try:
            with os.scandir(self._resolved(_parts(name))) as entries:
                found = [each for entry in entries if (each := self._listed(entry)) is not None]
        except FileNotFoundError:
            if not _parts(name):
                return []  # nobody has kept anything yet
            raise _missing(name) from None
        except NotADirectoryError:
            raise InvalidInput(f"{name} is a file, not a folder") from None
        return sorted(found, key=lambda each: each.name)[:MAX_LISTED]

    def is_folder(self, name: str) -> bool:
        """Whether a path is that of a folder. Raises NoSuchPath if it is nothing's."""
        path = self._resolved(_parts(name))
        if _parts(name) and not path.exists():
            raise _missing(name)
        return path.is_dir() or not _parts(name)

    def open(self, name: str) -> OpenedFile:
        """The file, to be read and closed. Raises NoSuchPath."""
        path = self._resolved(_parts(name))
        try:
            # Not to wait for whoever writes, should it be a pipe.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            raise _missing(name) from None
        try:
            # What was opened may be another than what was looked at: an app moves things about.
            opened = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if not opened.is_relative_to(self._root.resolve()):
                raise _missing(name)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidInput(f"{name} is not a file")
            return OpenedFile(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    async def write(self, name: str, chunks: AsyncIterator[bytes], size: int | None = None) -> int:
        """Keeps what comes as a file, instead of what was there, once all of it has come; its
        size. ``size`` is what was announced. Raises UploadTooLarge or FolderFull."""
        target = self.prepare(name, size or 0)
        temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
        written = 0
        try:
            # Whoever runs the apps may change what is there, and nobody else may read it.
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                async for chunk in _gathered(chunks):
                    written += len(chunk)
                    self._check(written)
                    await asyncio.to_thread(file.write, chunk)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            os.replace(temporary, target)
        except IsADirectoryError:
            raise PathConflict(f"{name} is a folder") from None
        except OSError as error:
            raise FolderFull(f"{name} could not be kept: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return written

    def prepare(self, name: str, size: int = 0) -> Path:
        """Where a file of this size may be put; its folder is there then."""
        target = self.target(name)
        self._check(size)
        if target.is_dir() and not target.is_symlink():
            raise PathConflict(f"{name} is a folder")
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            target.parent.mkdir(parents=True, exist_ok=True)
            room = shutil.disk_usage(target.parent).free
        except (FileExistsError, NotADirectoryError):
            raise PathConflict(f"a part of {name} is a file, not a folder") from None
        except OSError as error:
            raise FolderFull(f"{name} could not be kept: {error.strerror}") from error
        if size > room:
            raise FolderFull(f"{name} has {size} bytes, and the disk has room for {room}")
        return target

    def make_folder(self, name: str) -> None:
        """Has a folder be there, and those above it; no matter if it is there already."""
        path = self._resolved(_parts(name))
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise PathConflict(f"{name} is a file, not a folder") from None
        except OSError as error:
            raise FolderFull(f"{name} could not be made: {error.strerror}") from error

    def move(self, name: str, new: str) -> str:
        """Gives something another name, or puts it into a folder; its new name."""
        source = self.target(name)
        if not _is_there(source):
            raise _missing(name)
        if (_parts(new) == [] or self._resolved(_parts(new)).is_dir()) and source.name:
            new = "/".join([*_parts(new), source.name])
        target = self.target(new)
        if _is_there(target):
            raise PathConflict(f"there is something at {new} already")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
        except OSError as error:
            raise PathConflict(f"{name} cannot be moved to {new}: {error.strerror}") from error
        return new

    def remove(self, name: str, *, recursive: bool = False) -> None:
        """Removes a file, a link or, if ``recursive``, a folder. Raises NoSuchPath."""
        path = self.target(name)
        try:
            if path.is_dir() and not path.is_symlink():
                if not recursive:
                    raise PathConflict(f"{name} is a folder: ask for all of it to be removed")
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            raise _missing(name) from None
        except OSError as error:
            raise PathConflict(f"{name} cannot be removed: {error.strerror}") from error

    def _resolved(self, parts: list[str]) -> Path:
        root = self._root.resolve()
        try:
            path = root.joinpath(*parts).resolve()
        except (OSError, RuntimeError):  # links that go round in circles
            raise _missing("/".join(parts)) from None
        if not path.is_relative_to(root):
            raise InvalidInput(f"{'/'.join(parts)} leads out of the data folder")
        return path

    def _listed(self, entry: os.DirEntry[str]) -> Listed | None:
        """What an entry is; None if it has gone meanwhile."""
        try:
            is_ours = not entry.is_symlink() or self._is_inside(Path(entry.path))
            found = entry.stat(follow_symlinks=is_ours)
        except FileNotFoundError:
            return None
        is_file, is_folder = stat.S_ISREG(found.st_mode), stat.S_ISDIR(found.st_mode)
        kind = "file" if is_file else "folder" if is_folder else "other"
        return Listed(entry.name, kind, found.st_size if is_file else None, found.st_mtime)

    def _is_inside(self, path: Path) -> bool:
        """Whether what a link leads to is there, and in the folder."""
        try:
            return path.resolve(strict=True).is_relative_to(self._root.resolve())
        except (OSError, RuntimeError):  # nothing is there, or links go round in circles
            return False

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise UploadTooLarge(
                f"a file in the data folder may have {self._max_bytes} bytes",
                max_bytes=self._max_bytes,
            )


def _parts(name: str) -> list[str]:
    """The parts of a path. Raises InvalidInput for one that means something else than it says."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or re.search(r"[\x00-\x1f\x7f]", name) or any(len(p) > 255 for p in parts):
        raise InvalidInput(f"not a path in the data folder: {name[:100]!r}")
    return parts


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _missing(name: str) -> NoSuchPath:
    return NoSuchPath(f"there is nothing at {name or '/'} in the data folder")


async def _gathered(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks, put together: what goes through a thread should be worth it."""
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        if len(buffer) >= CHUNK:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)

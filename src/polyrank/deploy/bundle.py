"""The archive in which an app's files travel: the same files, the same bytes and the same hash."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import time
import uuid
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from polyrank.deploy.files import BundleFile, Selection, in_words
from polyrank.errors import BundleError, FilesUnavailable, UploadTooLarge
from polyrank.settings import BundleSettings

CHUNK_BYTES = 2**20
# What a member may take beside its content: headers, a long name, padding.
MEMBER_BYTES = 2**14
KEPT_S = 3600.0
# 2001-09-09: an archive of files without dates is refused by some tools.
MTIME = 1_000_000_000


@dataclass(frozen=True)
class Bundle:
    """What was packed: ``code_hash`` names its content, ``packed_size`` is that of the archive."""

    code_hash: str
    files: int
    size: int
    packed_size: int


def pack(selection: Selection, out: IO[bytes]) -> Bundle:
    """Writes the files to ``out`` as a gzip'd tar, a piece at a time.

    Modification times, owners and modes other than "executable" do not travel, so equal files make
    equal archives. Raises BundleError if a file cannot be read, or changes meanwhile.
    """
    code = _CodeHash()
    counted = _Counting(out)
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=counted, mtime=0, compresslevel=6) as packed,
        tarfile.open(mode="w|", fileobj=packed, format=tarfile.PAX_FORMAT) as archive,
    ):
        for file in selection.files:
            try:
                _pack_file(file, archive, code)
            except OSError as error:
                said = error.strerror or "it changed while it was read"
                raise BundleError(f"{file.path} cannot be packed: {said}") from error
    return Bundle(code.hexdigest(), len(selection.files), selection.size, counted.count)


def unpack(
    source: IO[bytes], folder: Path, code_hash: str, limits: BundleSettings | None = None
) -> Path:
    """The folder ``folder/<code_hash>`` with the archive's files in it.

    It appears whole or not at all, whoever else unpacks the same. Nothing of the archive is
    believed: a name or a link that leaves the folder, anything but files and links, more than the
    limits allow, or a content of another hash is refused. Raises BundleError or UploadTooLarge.
    """
    target = folder / _checked_hash(code_hash)
    if target.is_dir():
        os.utime(target)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder))
    try:
        content = place / "content"
        content.mkdir(mode=0o755)
        with _damage_told():
            found = _unpack_into(content, source, limits or BundleSettings())
        if found != code_hash:
            raise BundleError(f"the bundle's content has the hash {found}, not {code_hash}")
        try:
            content.rename(target)
        except OSError:
            if not target.is_dir():  # else another was first, with the same content
                raise
    except OSError as error:
        raise FilesUnavailable(f"the bundle cannot be kept in {folder}: {error}") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return target


def sweep(folder: Path, in_use: Collection[str], kept_s: float = KEPT_S) -> list[str]:
    """Removes the bundles that nobody uses and that were not unpacked just now; their hashes.

    What a killed server has left half unpacked goes too.
    """
    removed = []
    for place in folder.glob("*"):
        if place.name in in_use or place.stat().st_mtime > time.time() - kept_s:
            continue
        # Under its name a bundle is whole, so it is moved away first.
        gone = folder / f".unpacking-{uuid.uuid4().hex}"
        place.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        removed.append(place.name)
    return removed


class _CodeHash:
    """A hash over names, contents, links and the executable bit, in the order of names."""

    def __init__(self) -> None:
        self._entries: list[tuple[str, str]] = []

    def add(self, name: str, kind: str, digest: str) -> None:
        self._entries.append((name, f"{kind} {digest}"))

    def hexdigest(self) -> str:
        total = hashlib.sha256()
        for name, told in sorted(self._entries):
            total.update(f"{len(name.encode())} {name} {told}\n".encode())
        return total.hexdigest()


def _pack_file(file: BundleFile, archive: tarfile.TarFile, code: _CodeHash) -> None:
    info = tarfile.TarInfo(file.name)
    info.mtime = MTIME
    if file.link is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, file.link, 0o777
        archive.addfile(info)
        code.add(file.name, "link", file.link)
        return
    with file.path.open("rb") as opened:
        told = os.fstat(opened.fileno())
        info.size, info.mode = file.size, 0o755 if told.st_mode & 0o100 else 0o644
        content = _Hashing(opened)
        archive.addfile(info, content)
        if opened.read(1):
            raise OSError("it has grown")
    code.add(file.name, _kind(info), content.hexdigest())


def _unpack_into(folder: Path, source: IO[bytes], limits: BundleSettings) -> str:
    """Unpacks and returns the hash of what there was."""
    code = _CodeHash()
    links: list[tuple[Path, str]] = []
    left_bytes = limits.max_bytes
    for count, (info, content) in enumerate(_members(source, limits), 1):
        if count > limits.max_files:
            raise BundleError(f"the bundle has more than {limits.max_files} files")
        path = folder / _checked_name(info.name)
        _make_folders(path.parent, info.name)
        if info.issym():
            links.append((path, info.linkname))
            code.add(info.name, "link", info.linkname)
            continue
        left_bytes -= info.size
        if content is None or left_bytes < 0:
            raise _too_large(limits)
        hashing = _Hashing(content)
        try:
            with path.open("xb") as out:
                shutil.copyfileobj(hashing, out, CHUNK_BYTES)
                os.fchmod(out.fileno(), 0o755 if info.mode & 0o100 else 0o644)
        except FileExistsError:
            raise BundleError(f"the bundle has {info.name} twice") from None
        code.add(info.name, _kind(info), hashing.hexdigest())
    _make_links(folder, links)
    return code.hexdigest()


def _members(
    source: IO[bytes], limits: BundleSettings
) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    with (
        gzip.GzipFile(fileobj=source, mode="rb") as packed,
        tarfile.open(mode="r|", fileobj=cast(IO[bytes], _Bounded(packed, limits))) as archive,
    ):
        for info in archive:
            if not (info.isreg() or info.issym()) or info.issparse():
                raise BundleError(f"{info.name} in the bundle is neither a file nor a link")
            yield info, archive.extractfile(info) if info.isreg() else None


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    """All that reading a broken or foreign archive raises becomes a BundleError."""
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise BundleError(f"the bundle is damaged, or not a gzip'd tar: {error}") from error


def _make_folders(folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise BundleError(f"a file of the bundle stands where {name} needs a folder") from None


def _make_links(folder: Path, links: list[tuple[Path, str]]) -> None:
    """Makes them after all files, so that no file is written through one, and looks where each
    leads now that all are there."""
    for path, leads in links:
        try:
            path.symlink_to(leads)
        except FileExistsError:
            raise BundleError(f"the bundle has {path.relative_to(folder)} twice") from None
    inside = folder.resolve()
    for path, leads in links:
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.stat()
            is_inside = not os.path.isabs(leads) and path.resolve().is_relative_to(inside)
        except OSError:  # a loop
            is_inside = False
        if not is_inside:
            raise BundleError(f"the link {path.relative_to(folder)} leaves the bundle: {leads}")


def _checked_name(name: str) -> str:
    parts = name.split("/")
    if "\0" in name or name.startswith("/") or not {"", ".", ".."}.isdisjoint(parts):
        raise BundleError(f"the bundle has a file of the name {name!r}")
    if any(len(part.encode(errors="surrogateescape")) > 255 for part in parts) or len(name) > 2048:
        raise BundleError(f"the bundle has a file of the name {name[:64]!r}…, which is too long")
    return name


def _checked_hash(text: str) -> str:
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise BundleError(f"{text[:80]!r} is not a bundle's hash")
    return text


def _kind(info: tarfile.TarInfo) -> str:
    return "executable" if info.mode & 0o100 else "file"


def _too_large(limits: BundleSettings) -> UploadTooLarge:
    return UploadTooLarge(
        f"the bundle has more than {in_words(limits.max_bytes)}; raise POLYRANK_BUNDLES_MAX_BYTES "
        "on the server to take it",
        max_bytes=limits.max_bytes,
    )


class _Hashing:
    """Reads on, and hashes what has been read."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        return data

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class _Counting:
    """Writes on, and counts."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.count = 0

    def write(self, data: Any) -> int:
        self.count += len(data)
        return self._out.write(data)

    def flush(self) -> None:
        self._out.flush()


class _Bounded:
    """Reads on until there is more than files of that number and size can take."""

    def __init__(self, source: Any, limits: BundleSettings) -> None:
        self._source = source
        self._limits = limits
        self._left = limits.max_bytes + limits.max_files * MEMBER_BYTES

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _too_large(self._limits)
        return data

"""Unpacking a zip file that somebody sent: only into its folder, and only so much."""

from __future__ import annotations

import io
import lzma
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from polyrank.toolkit.exceptions import FileTooLarge, UnsafeArchive

CHUNK = 2**20
# What zipfile and its decompressors raise on broken archives; most of it is not documented.
BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
)


def extract(data: bytes, folder: Path, *, max_files: int, max_bytes: int) -> None:
    """Unpacks the zip file into ``folder``. Raises UnsafeArchive or FileTooLarge.

    What is unpacked is counted, not what the archive says of itself.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) > max_files:
                raise FileTooLarge(
                    f"the zip file has {len(members)} files; {max_files} is the limit"
                )
            room = max_bytes
            for member in members:
                room -= _extract_one(archive, member, folder, room)
    except BROKEN as error:
        raise UnsafeArchive(f"the zip file cannot be unpacked: {error}") from error


def _extract_one(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, room: int) -> int:
    if member.flag_bits & 1:
        raise UnsafeArchive(f"{member.filename!r} in the zip file is encrypted")
    target = folder / inside(member)
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with archive.open(member) as source, target.open("xb") as sink:
        while chunk := source.read(CHUNK):
            size += len(chunk)
            if size > room:
                raise FileTooLarge("the zip file unpacks to more bytes than are allowed")
            sink.write(chunk)
    return size


def inside(member: zipfile.ZipInfo) -> PurePosixPath:
    """The member's path. Raises UnsafeArchive if it leaves the folder or is no ordinary file."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise UnsafeArchive(f"{member.filename!r} in the zip file leads out of its folder")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UnsafeArchive(f"{member.filename!r} in the zip file is a link")
    return path

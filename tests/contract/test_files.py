"""Files over both databases: uploads in one and in parts, and what is removed when."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from polyrank.errors import FilesUnavailable, RequestAborted, UploadTooLarge
from polyrank.files.blobs import Blobs
from polyrank.gateway.sweeper import Sweeper
from polyrank.gateway.uploads import (
    IncompleteUpload,
    Part,
    UnknownUpload,
    UploadConflict,
    Uploads,
)
from polyrank.store.database import Database
from polyrank.store.files import UPLOAD_TTL_S, File, Files, NewFile
from polyrank.store.key_values import KeyValues
from polyrank.store.signing import SigningKeys

NEW = NewFile(owner="ann", name="a.bin", content_type="image/png")


async def bytes_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def broken_off() -> AsyncIterator[bytes]:
    yield b"some"
    raise RequestAborted


@pytest.fixture
def files(database: Database, clock) -> Files:
    return Files(database, clock)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture
def uploads(files: Files, folder: Path) -> Uploads:
    return Uploads(files, Blobs(str(folder)), max_bytes=100, on_change=lambda: None)


@pytest.fixture
def sweeper(files: Files, uploads: Uploads, database: Database, clock) -> Sweeper:
    return Sweeper(files, uploads.blobs, KeyValues(database, clock))


def kept_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def read(uploads: Uploads, id: str) -> bytes:
    file = await uploads.files.get(id)
    assert file is not None and file.is_whole
    chunks = [chunk for key, size in file.blobs async for chunk in uploads.blobs.read(key, 0, size)]
    assert sum(map(len, chunks)) == file.size
    return b"".join(chunks)


async def named(uploads: Uploads, file: File) -> list[Part]:
    parts = await uploads.files.parts(file.id)
    return [Part(number, blob.etag) for number, blob in parts.items()]


async def test_a_file_is_there_once_it_is_whole(uploads: Uploads) -> None:
    file = await uploads.begin(NEW)
    assert not file.is_whole
    await uploads.put(file, bytes_of(b"hello ", b"", b"world"))
    assert await read(uploads, file.id) == b"hello world"


async def test_an_empty_file_is_a_file(uploads: Uploads) -> None:
    file = await uploads.begin(NEW)
    await uploads.put(file, bytes_of())
    assert await read(uploads, file.id) == b""


async def test_an_upload_that_breaks_off_leaves_nothing(uploads: Uploads, folder: Path) -> None:
    file = await uploads.begin(NEW)
    with pytest.raises(RequestAborted):
        await uploads.put(file, broken_off())
    assert not (await uploads.files.get(file.id) or file).is_whole
    assert kept_in(folder) == []
    await uploads.put(file, bytes_of(b"again"))
    assert await read(uploads, file.id) == b"again"


async def test_a_file_that_is_too_large_is_refused(uploads: Uploads, folder: Path) -> None:
    with pytest.raises(UploadTooLarge, match="100 bytes"):
        await uploads.begin(NewFile("ann", "a", "image/png", declared_size=101))
    file = await uploads.begin(NEW)
    with pytest.raises(UploadTooLarge):
        await uploads.put(file, bytes_of(bytes(60), bytes(41)))
    await uploads.put_part(file, 1, bytes_of(bytes(60)))
    with pytest.raises(UploadTooLarge):
        await uploads.put_part(file, 2, bytes_of(bytes(41)))
    await uploads.put_part(file, 1, bytes_of(bytes(100)))
    assert [path.stat().st_size for path in kept_in(folder)] == [100]


async def test_a_file_has_the_size_that_was_announced(uploads: Uploads, folder: Path) -> None:
    file = await uploads.begin(NewFile("ann", "a", "image/png", declared_size=5))
    with pytest.raises(IncompleteUpload, match="4 bytes arrived and 5 were announced"):
        await uploads.put(file, bytes_of(b"four"))
    await uploads.put_part(file, 1, bytes_of(b"six666"))
    with pytest.raises(IncompleteUpload, match="6 bytes arrived"):
        await uploads.complete(file, await named(uploads, file))
    await uploads.put(file, bytes_of(b"fives"))
    assert await read(uploads, file.id) == b"fives"


async def test_parts_come_in_any_order_and_twice(uploads: Uploads, folder: Path) -> None:
    file = await uploads.begin(NEW)
    await asyncio.gather(
        *(uploads.put_part(file, number, bytes_of(b"%d" % number)) for number in (3, 1, 2))
    )
    await uploads.put_part(file, 2, bytes_of(b"two"))
    parts = await named(uploads, file)
    etag = await uploads.complete(file, parts[::-1])
    assert await read(uploads, file.id) == b"1two3"
    assert len(kept_in(folder)) == 3
    whole = await uploads.files.get(file.id)
    assert whole is not None and whole.etag == etag
    assert await uploads.complete(whole, parts) == etag  # its answer was lost, say


async def test_what_is_missing_is_named_and_can_follow(uploads: Uploads) -> None:
    file = await uploads.begin(NEW)
    for number in (1, 4):
        await uploads.put_part(file, number, bytes_of(b"%d" % number))
    with pytest.raises(IncompleteUpload, match="missing: 2, 3") as failure:
        await uploads.complete(file, await named(uploads, file))
    assert failure.value.missing == [2, 3]
    for number in failure.value.missing:
        await uploads.put_part(file, number, bytes_of(b"%d" % number))
    parts = await named(uploads, file)
    for wrong, says in [
        ([], "name the parts"),
        (parts[:3], "missing: 4"),
        ([*parts, parts[0]], "twice"),
        ([Part(1, "another"), *parts[1:]], "part 1 arrived with the tag"),
    ]:
        with pytest.raises(IncompleteUpload, match=says):
            await uploads.complete(file, wrong)
    await uploads.complete(file, parts)
    assert await read(uploads, file.id) == b"1234"


async def test_a_part_without_bytes_is_a_fault_of_the_caller(uploads: Uploads) -> None:
    file = await uploads.begin(NEW)
    with pytest.raises(IncompleteUpload, match="part 2 is empty"):
        await uploads.put_part(file, 2, bytes_of(b""))


async def test_a_whole_file_never_changes(uploads: Uploads, folder: Path) -> None:
    file = await uploads.begin(NEW)
    await uploads.put(file, bytes_of(b"first"))
    await uploads.put(file, bytes_of(b"first"))  # sent again: its answer was lost, say
    with pytest.raises(UploadConflict):
        await uploads.put(file, bytes_of(b"second"))
    whole = await uploads.files.get(file.id)
    assert whole is not None
    with pytest.raises(UploadConflict):
        await uploads.put_part(whole, 1, bytes_of(b"third"))
    with pytest.raises(UploadConflict):
        await uploads.complete(whole, [Part(1, "x")])
    assert await read(uploads, file.id) == b"first"
    assert len(kept_in(folder)) == 1


async def test_a_lifetime_begins_when_the_file_is_whole(
    uploads: Uploads, sweeper: Sweeper, folder: Path, clock
) -> None:
    short = await uploads.begin(NewFile("ann", "a", "image/png", lifetime_s=60))
    for_good = await uploads.begin(NEW)
    clock.now += 1000
    await uploads.put(short, bytes_of(b"short"))
    await uploads.put(for_good, bytes_of(b"long"))
    clock.now += 59
    await sweeper.sweep()
    assert await read(uploads, short.id) == b"short"
    assert await uploads.files.next_due() == clock.now + 1
    clock.now += 1
    assert uploads.files.is_over(await uploads.files.get(short.id) or for_good)
    await sweeper.sweep()
    assert await uploads.files.get(short.id) is None
    clock.now += 10 * 365 * 24 * 3600
    await sweeper.sweep()
    assert await read(uploads, for_good.id) == b"long"
    assert len(kept_in(folder)) == 1


async def test_an_upload_that_is_never_completed_is_removed(
    uploads: Uploads, sweeper: Sweeper, folder: Path, clock
) -> None:
    files = [await uploads.begin(NEW) for _ in range(3)]
    for file in files:
        await uploads.put_part(file, 1, bytes_of(b"1"))
        await uploads.put_part(file, 2, bytes_of(b"2"))
    clock.now += UPLOAD_TTL_S
    with pytest.raises(UnknownUpload, match="time to upload"):
        await uploads.complete(files[0], await named(uploads, files[0]))
    await sweeper.sweep()
    assert await uploads.files.due() == []
    assert [await uploads.files.get(file.id) for file in files] == [None] * 3
    assert kept_in(folder) == []


async def test_values_are_kept_for_a_while_and_by_owner(
    database: Database, sweeper: Sweeper, clock
) -> None:
    values = KeyValues(database, clock)
    await values.set("ann", "cats", "tom", "1", ttl_s=60)
    await values.set("ann", "cats", "tom", "2 \x00 ä", ttl_s=120)
    await values.set("ann", "dogs", "tom", "3", ttl_s=60)
    assert await values.get("ann", "cats", "tom") == "2 \x00 ä"
    assert await values.get("ben", "cats", "tom") is None
    await values.delete("ben", "cats", "tom")
    clock.now += 60
    assert await values.get("ann", "dogs", "tom") is None
    await sweeper.sweep()
    assert await values.next_due() == clock.now + 60
    await values.delete("ann", "cats", "tom")
    assert await values.get("ann", "cats", "tom") is None


def test_servers_of_one_database_sign_with_one_key(url: str, open_database) -> None:
    if url.startswith("sqlite"):
        keys = [SigningKeys(open_database(url))]
    else:
        keys = [SigningKeys(open_database(url)) for _ in range(2)]
    first = keys[0].get("files", lambda: b"first")
    assert [each.get("files", lambda: b"second") for each in keys] == [first] * len(keys)


@pytest.mark.parametrize("url_of", ["memory:///", "file://{folder}", "{folder}"])
async def test_blobs_are_the_same_wherever_they_are(url_of: str, folder: Path) -> None:
    blobs = Blobs(url_of.format(folder=folder))
    written = await blobs.put("a/1", bytes_of(b"x" * 70_000, b"yz"), max_bytes=10**6)
    assert written.size == 70_002
    assert [chunk async for chunk in blobs.read("a/1", 69_999, 70_002)] == [b"xyz"]
    await blobs.put("ab/1", bytes_of(b"other"), max_bytes=10)
    await blobs.remove_below("a")
    await blobs.remove("a/1")
    with pytest.raises(FilesUnavailable):
        _ = [chunk async for chunk in blobs.read("a/1", 0, 1)]
    assert [chunk async for chunk in blobs.read("ab/1", 0, 5)] == [b"other"]


async def test_what_killed_writers_left_is_removed_after_a_day(folder: Path) -> None:
    blobs = Blobs(str(folder))
    await blobs.put("a/1", bytes_of(b"kept"), max_bytes=10)
    for name, age_s in (("2#1", 2 * 24 * 3600), ("3#1", 60)):
        (folder / "a" / name).write_bytes(b"half")
        os.utime(folder / "a" / name, (0, time.time() - age_s))
    await blobs.sweep()
    assert sorted(path.name for path in kept_in(folder)) == ["1", "3#1"]


def test_a_folder_that_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FilesUnavailable, match=f"{tmp_path}/file/files"):
        Blobs(str(tmp_path / "file" / "files"))
    with pytest.raises(FilesUnavailable, match="s3"):
        Blobs("s3://")

"""The data folder: nothing leads out of it, and nobody sees half a file."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from polyrank.errors import InvalidInput, PolyrankError, UploadTooLarge
from polyrank.files.datafolder import DataFolder, FolderFull, NoSuchPath, PathConflict


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("not theirs")
    return tmp_path / "data"


@pytest.fixture
def folder(root: Path) -> DataFolder:
    return DataFolder(root, max_bytes=1000)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read(folder: DataFolder, name: str) -> bytes:
    file = folder.open(name)
    try:
        return b"".join([chunk async for chunk in file.chunks(0, file.size)])
    finally:
        file.close()


async def test_files_are_written_listed_moved_and_removed(folder: DataFolder, root: Path) -> None:
    assert folder.listed("") == []
    assert await folder.write("loras/cat.bin", chunks(b"ab", b"cd")) == 4
    assert await read(folder, "/loras//cat.bin") == b"abcd"
    assert root.stat().st_mode & 0o777 == 0o700
    assert [(each.name, each.kind, each.size) for each in folder.listed("loras")] == [
        ("cat.bin", "file", 4)
    ]
    assert [(each.name, each.kind) for each in folder.listed("")] == [("loras", "folder")]
    assert folder.move("loras/cat.bin", "dog.bin") == "dog.bin"
    assert folder.move("dog.bin", "loras") == "loras/dog.bin"
    with pytest.raises(PathConflict, match="all of it"):
        folder.remove("loras")
    folder.remove("loras", recursive=True)
    with pytest.raises(NoSuchPath):
        folder.remove("loras", recursive=True)
    assert list(root.iterdir()) == []


async def test_what_breaks_off_or_is_too_large_leaves_nothing(
    folder: DataFolder, root: Path
) -> None:
    await folder.write("a", chunks(b"before"))

    async def breaking() -> AsyncIterator[bytes]:
        yield b"after"
        raise ConnectionResetError

    with pytest.raises(PolyrankError):
        await folder.write("a", breaking())
    with pytest.raises(UploadTooLarge):
        await folder.write("a", chunks(b"x" * 600, b"x" * 600))
    with pytest.raises(UploadTooLarge):
        await folder.write("a", chunks(), size=1001)
    assert await read(folder, "a") == b"before"
    assert [path.name for path in root.iterdir()] == ["a"]


async def test_a_file_larger_than_the_disk_is_refused_at_once(root: Path) -> None:
    with pytest.raises(FolderFull, match="room"):
        await DataFolder(root, max_bytes=2**63).write("a", chunks(), size=2**62)


@pytest.mark.parametrize(
    "name", ["../outside", "a/../../outside", "..", "a\0b", "a\nb", "x" * 256, "link/../../outside"]
)
async def test_paths_that_lead_out_are_refused(folder: DataFolder, root: Path, name: str) -> None:
    root.mkdir()
    for action in (folder.open, folder.listed, folder.remove, folder.is_folder):
        with pytest.raises(InvalidInput):
            action(name)
    with pytest.raises(InvalidInput):
        await folder.write(name, chunks(b"x"))
    with pytest.raises(InvalidInput):
        folder.move("a", name) if (root / "a").write_text("") == 0 else None
    assert (root.parent / "outside").read_text() == "not theirs"


async def test_links_are_followed_inside_only(folder: DataFolder, root: Path) -> None:
    await folder.write("blobs/1", chunks(b"inside"))
    (root / "good").symlink_to("blobs/1")
    (root / "bad").symlink_to("../outside")
    (root / "up").symlink_to("..")
    (root / "round").symlink_to("round")
    assert await read(folder, "good") == b"inside"
    kinds = {each.name: each.kind for each in folder.listed("")}
    assert kinds == {
        "bad": "other",
        "blobs": "folder",
        "good": "file",
        "round": "other",
        "up": "other",
    }
    for name in ("bad", "up/outside"):
        with pytest.raises(InvalidInput, match="leads out"):
            folder.open(name)
    with pytest.raises(InvalidInput, match="leads out"):
        await folder.write("up/new", chunks(b"x"))
    with pytest.raises(InvalidInput, match="leads out"):
        folder.move("good", "up/new")
    with pytest.raises(NoSuchPath):
        folder.open("round")
    # Written and removed is the link, not what it leads to.
    await folder.write("bad", chunks(b"new"))
    folder.remove("up")
    assert (root.parent / "outside").read_text() == "not theirs"
    assert not (root / "bad").is_symlink()


async def test_what_is_not_a_file_is_not_read(folder: DataFolder, root: Path) -> None:
    root.mkdir()
    os.mkfifo(root / "pipe")
    with pytest.raises(InvalidInput, match="not a file"):
        folder.open("pipe")
    await folder.write("a", chunks(b""))
    with pytest.raises(PathConflict):
        await folder.write("a/b", chunks(b""))
    (root / "sub").mkdir()
    with pytest.raises(PathConflict, match="is a folder"):
        await folder.write("sub", chunks(b""))
    with pytest.raises(PathConflict, match="already"):
        folder.move("a", "a")
    with pytest.raises(PathConflict):
        folder.move("sub", "sub")
    with pytest.raises(InvalidInput, match="itself"):
        folder.remove("", recursive=True)

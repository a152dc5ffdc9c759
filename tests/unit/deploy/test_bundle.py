"""The archive: the same everywhere, and harmless where it is unpacked."""

import gzip
import io
import os
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from polyrank.deploy import bundle
from polyrank.deploy.files import BundleFile, Selection, list_files
from polyrank.errors import BundleError, UploadTooLarge
from polyrank.settings import BundleSettings

ANY_HASH = "0" * 64


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a script, a deep file, one with a long name, a link and an empty file."""
    root = tmp_path / "project"
    (root / "deep/er").mkdir(parents=True)
    (root / "app.py").write_text("print('hello')\n")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o700)
    (root / "deep/er" / ("ü" * 100)).write_bytes(os.urandom(100_000))
    (root / "deep/empty").touch()
    (root / "deep/link").symlink_to("../app.py")
    return root


def packed(root: Path) -> tuple[bytes, bundle.Bundle]:
    out = io.BytesIO()
    told = bundle.pack(list_files(root), out)
    return out.getvalue(), told


def archive(*members: tarfile.TarInfo, content: bytes = b"") -> io.BytesIO:
    """An archive that ``pack`` would not make."""
    out = io.BytesIO()
    with tarfile.open(mode="w:gz", fileobj=out) as file:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            file.addfile(member, io.BytesIO(content))
    return io.BytesIO(out.getvalue())


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_what_is_unpacked_is_what_was_packed(project: Path, tmp_path: Path) -> None:
    data, told = packed(project)
    place = bundle.unpack(io.BytesIO(data), tmp_path / "bundles", told.code_hash)
    assert place == tmp_path / "bundles" / told.code_hash
    assert told.files == 5 and told.packed_size == len(data)
    assert told.size == sum(file.size for file in list_files(project).files)
    for path in (path for path in project.rglob("*") if path.is_file()):
        assert (place / path.relative_to(project)).read_bytes() == path.read_bytes()
    assert (place / "deep/link").readlink() == Path("../app.py")
    assert (place / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (place / "app.py").stat().st_mode & 0o777 == 0o644


def test_equal_files_make_equal_archives(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True, copy_function=shutil.copyfile)
    (copy / "run.sh").chmod(0o755)
    (copy / "app.py").chmod(0o600)
    os.utime(copy / "app.py", (1, 1))
    assert packed(project) == packed(copy)


@pytest.mark.parametrize("change", ["content", "name", "mode", "link"])
def test_the_hash_tells_every_difference(project: Path, change: str) -> None:
    before = packed(project)[1].code_hash
    if change == "content":
        (project / "app.py").write_text("print('world')\n")
    elif change == "name":
        (project / "app.py").rename(project / "main.py")
    elif change == "mode":
        (project / "app.py").chmod(0o755)
    else:
        (project / "deep/link").unlink()
        (project / "deep/link").symlink_to("empty")
    assert packed(project)[1].code_hash != before


@pytest.mark.parametrize("claimed", [1, 100])
def test_a_file_that_changes_meanwhile_is_told(project: Path, claimed: int) -> None:
    file = BundleFile("app.py", project / "app.py", claimed)
    with pytest.raises(BundleError, match=r"app.py cannot be packed: it changed while"):
        bundle.pack(Selection(project, (file,)), io.BytesIO())


def test_the_same_bundle_is_unpacked_once_by_many_at_a_time(project: Path, tmp_path: Path) -> None:
    data, told = packed(project)
    folder = tmp_path / "bundles"
    with ThreadPoolExecutor(8) as pool:
        places = pool.map(
            lambda _: bundle.unpack(io.BytesIO(data), folder, told.code_hash), range(8)
        )
    assert set(places) == {folder / told.code_hash}
    assert [path.name for path in folder.iterdir()] == [told.code_hash]
    assert bundle.unpack(io.BytesIO(), folder, told.code_hash) == folder / told.code_hash


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([member("../evil")], "a file of the name '../evil'"),
        ([member("/etc/evil")], "a file of the name '/etc/evil'"),
        ([member("a/./b")], "a file of the name"),
        ([member("a/" * 2000 + "b")], "too long"),
        ([member("x" * 300)], "too long"),
        ([member("link", tarfile.SYMTYPE, "/etc")], "the link link leaves the bundle"),
        ([member("a/link", tarfile.SYMTYPE, "../../x")], "the link a/link leaves the bundle"),
        ([member("loop", tarfile.SYMTYPE, "loop")], "the link loop leaves the bundle"),
        (
            [member("p/q/d", tarfile.SYMTYPE, "../.."), member("x", tarfile.SYMTYPE, "p/q/d/..")],
            "the link x leaves the bundle",
        ),
        ([member("a", tarfile.SYMTYPE, "b"), member("a/c")], "twice|neither|stands where"),
        ([member("a"), member("a/b")], "a file of the bundle stands where a/b needs a folder"),
        ([member("a"), member("a")], "has a twice"),
        ([member("hard", tarfile.LNKTYPE, "/etc/passwd")], "neither a file nor a link"),
        ([member("device", tarfile.CHRTYPE)], "neither a file nor a link"),
        ([member("pipe", tarfile.FIFOTYPE)], "neither a file nor a link"),
    ],
)
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    tmp_path: Path, members: list[tarfile.TarInfo], told: str
) -> None:
    folder = tmp_path / "bundles"
    with pytest.raises(BundleError, match=told):
        bundle.unpack(archive(*members), folder, ANY_HASH)
    assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == [folder]


def test_a_damaged_archive_is_refused(project: Path, tmp_path: Path) -> None:
    data, told = packed(project)
    broken = bytearray(data)
    broken[len(data) // 2] ^= 0xFF
    for wrong in (
        b"",
        b"not an archive",
        data[: len(data) // 2],
        bytes(broken),
        gzip.compress(b"x"),
    ):
        with pytest.raises(BundleError):
            bundle.unpack(io.BytesIO(wrong), tmp_path / "bundles", told.code_hash)
    assert list((tmp_path / "bundles").iterdir()) == []


def test_another_content_than_was_announced_is_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"has the hash .*, not {ANY_HASH}"):
        bundle.unpack(io.BytesIO(packed(project)[0]), tmp_path, ANY_HASH)
    with pytest.raises(BundleError, match="is not a bundle's hash"):
        bundle.unpack(io.BytesIO(packed(project)[0]), tmp_path, "../../etc")


def test_more_than_the_limits_is_refused_whatever_the_archive_claims(tmp_path: Path) -> None:
    zeros = b"\0" * 2**20
    limits = BundleSettings(max_bytes=2**19, max_files=3)
    with pytest.raises(UploadTooLarge, match=r"more than 512.0 KiB"):
        bundle.unpack(archive(member("zeros"), content=zeros), tmp_path, ANY_HASH, limits)
    with pytest.raises(BundleError, match="more than 3 files"):
        bundle.unpack(archive(*map(member, "abcd")), tmp_path, ANY_HASH, limits)
    bomb = io.BytesIO(gzip.compress(b"x" * 2**22))
    bomb_in_headers = tarfile.TarInfo("a")
    bomb_in_headers.pax_headers = {"comment": "y" * 2**21}
    for hostile in (bomb, archive(bomb_in_headers)):
        with pytest.raises((UploadTooLarge, BundleError)):
            bundle.unpack(hostile, tmp_path, ANY_HASH, limits)
    assert list(tmp_path.iterdir()) == []


def test_bundles_that_nobody_uses_are_removed(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    hashes = []
    for text in ("one", "two", "three"):
        (project / "app.py").write_text(text)
        data, told = packed(project)
        hashes.append(told.code_hash)
        os.utime(bundle.unpack(io.BytesIO(data), folder, told.code_hash), (1, 1))
    bundle.unpack(io.BytesIO(), folder, hashes[2])  # asked for again, just now
    (folder / ".unpacking-dead").mkdir()
    os.utime(folder / ".unpacking-dead", (1, 1))
    assert set(bundle.sweep(folder, in_use=[hashes[0]])) == {hashes[1], ".unpacking-dead"}
    assert {path.name for path in folder.iterdir()} == {hashes[0], hashes[2]}

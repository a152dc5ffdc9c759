"""Files: made, kept, sent as JSON, read back."""

import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from polyrank.errors import AppError, InvalidInput
from polyrank.toolkit import Audio, CompressedFile, File, FileStore, Video, store
from polyrank.toolkit.exceptions import FileTooLarge, FileUploadException, UnsafeArchive, UnsafeURL
from polyrank.toolkit.folder import Folder, FolderStore

SHAPE = {"url", "content_type", "file_name", "file_size"}


class Elsewhere(FileStore):
    """A store of an app's author."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def save(self, data: bytes, content_type: str, file_name: str) -> str:
        self.kept[url := f"https://files.example/{file_name}"] = data
        return url


@pytest.mark.parametrize("kind", [File, Audio, Video, CompressedFile])
def test_a_file_is_four_things_in_json(kind: type[File]) -> None:
    made = kind.from_bytes(b"a,b\n", file_name="table.csv")
    shape = made.model_dump(mode="json")
    assert shape == {
        "url": "data:text/csv;base64,YSxiCg==",
        "content_type": "text/csv",
        "file_name": "table.csv",
        "file_size": 4,
    }
    assert kind.model_validate(shape) == made
    assert set(kind.model_json_schema()["properties"]) == SHAPE


def test_a_file_without_a_name_gets_one_that_fits_its_type() -> None:
    made = File.from_bytes(b"", content_type="image/webp")
    assert made.file_name is not None and made.file_name.endswith(".webp")
    assert File.from_bytes(b"").content_type == "application/octet-stream"


class Input(BaseModel):
    file: File


@pytest.mark.parametrize(
    "url", ["https://example.com/a.png", " http://example.com ", "data:,x", "HTTPS://EXAMPLE.COM"]
)
def test_a_bare_url_stands_for_a_file(url: str) -> None:
    expected = {"url": url.strip(), "content_type": None, "file_name": None, "file_size": None}
    assert Input.model_validate({"file": url}).file.model_dump() == expected


@pytest.mark.parametrize("text", ["", "no url", "file:///etc/passwd", "/etc/passwd", "ftp://x/y"])
def test_other_text_is_no_file(text: str) -> None:
    with pytest.raises(ValidationError, match="must be an http"):
        Input.model_validate({"file": text})


async def test_files_are_made_and_read_without_blocking_too(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"words")
    for made in (File.from_path(path), await File.from_path_async(path)):
        assert (made.content_type, made.file_name, made.file_size) == ("text/plain", "notes.txt", 5)
        assert made.as_bytes() == await made.as_bytes_async() == b"words"
    assert (await File.from_bytes_async(b"x", "a/b", "n")).as_bytes() == b"x"
    assert (await made.save_async(tmp_path / "copy.txt")).read_bytes() == b"words"


def test_saving_makes_folders_and_overwrites_only_when_told(tmp_path: Path) -> None:
    made = File.from_bytes(b"new")
    path = made.save(tmp_path / "deep" / "er" / "file.bin")
    assert path.read_bytes() == b"new"
    with pytest.raises(FileExistsError, match="overwrite=True"):
        made.save(path)
    File.from_bytes(b"newer").save(path, overwrite=True)
    assert path.read_bytes() == b"newer"


def test_a_file_at_a_url_is_fetched(site: Any, loopback_allowed: None) -> None:
    assert File(url=site.page("/a", b"far away")).as_bytes() == b"far away"


def test_a_file_at_a_private_address_is_not_fetched(site: Any) -> None:
    with pytest.raises(UnsafeURL):
        File(url=site.page("/a", b"secret")).as_bytes()
    assert site.asked == []


async def test_files_go_to_the_store_in_use_and_keep_their_bytes_at_hand() -> None:
    elsewhere = Elsewhere()
    with store.use_store(elsewhere):
        made = File.from_bytes(b"data", file_name="a.bin")
        again = await File.from_bytes_async(b"more", file_name="b.bin")
        inline = File.from_bytes(b"data", repository="in_memory")
    assert made.url == "https://files.example/a.bin"
    assert list(elsewhere.kept.values()) == [b"data", b"more"]
    assert (made.as_bytes(), again.as_bytes()) == (b"data", b"more")
    assert inline.url.startswith("data:")
    assert not isinstance(store.current(), Elsewhere)


def test_a_store_can_be_handed_in() -> None:
    made = File.from_bytes(b"data", "a/b", "a.bin", Elsewhere())
    assert made.url == "https://files.example/a.bin"


@pytest.mark.parametrize("name", ["fal", "fal_v2", "fal_v3", "cdn", "r2", "gcp_storage"])
def test_the_names_of_the_reference_platform_mean_the_store_in_use(name: Any) -> None:
    with store.use_store(Elsewhere()):
        assert store.choose(name) is store.current()


def test_an_unknown_store_or_argument_is_refused() -> None:
    with pytest.raises(AppError, match="no file store 's4'; names are fal, "):
        File.from_bytes(b"", repository="s4")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unknown argument fallback"):
        File.from_bytes(b"", fallback="fal")  # type: ignore[call-arg]
    File.from_bytes(b"", fallback_repository=["fal"], save_kwargs={}, request=None)


def test_importing_the_toolkit_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, polyrank.toolkit\n"
        "assert not {'torch', 'numpy', 'fastapi'} & set(sys.modules), 'imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def folder_store(**limits: int) -> tuple[Folder, FolderStore]:
    folder = Folder(**limits)
    return folder, FolderStore(folder, "http://host:1", inline_bytes=10)


def test_small_files_are_data_uris_and_larger_ones_are_kept() -> None:
    folder, files = folder_store()
    with store.use_store(files):
        small, large = File.from_bytes(b"x" * 10), File.from_bytes(b"x" * 11, file_name="a b.bin")
        assert small.url.startswith("data:")
        assert large.url.startswith("http://host:1/files/") and large.url.endswith("/a_b.bin")
        # As another request sees it, perhaps through another name of this host.
        assert File(url=large.url).as_bytes() == b"x" * 11
        assert File(url=large.url.replace("host:1", "localhost:2")).as_bytes() == b"x" * 11
    folder.close()
    assert files.load(large.url) is None


def test_the_oldest_files_make_room() -> None:
    folder, files = folder_store(max_bytes=100)
    first, second, third = (files.save(bytes(40), "a/b", "n") for _ in range(3))
    assert files.load(first) is None
    assert files.load(second) == files.load(third) == bytes(40)
    with pytest.raises(FileUploadException, match="may take 100"):
        files.save(bytes(101), "a/b", "n")
    folder.close()


@pytest.mark.parametrize(
    "url", ["http://host/files/", "http://host/files/../../etc/passwd", "http://[", "/files/x"]
)
def test_a_url_of_nothing_kept_loads_nothing(url: str) -> None:
    _, files = folder_store()
    assert files.load(url) is None


@given(st.text(max_size=300))
def test_a_file_of_any_name_is_found_again(name: str) -> None:
    folder, files = folder_store()
    made = File.from_bytes(b"x" * 11, file_name=name, repository=files)
    assert made.url.isascii() and made.url.count("/") == 5
    assert files.load(made.url) == b"x" * 11
    assert File.model_validate_json(made.model_dump_json()).file_name == made.file_name
    folder.close()


def test_a_name_that_is_no_text_still_becomes_json(tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9.txt"
    path.write_bytes(b"x")
    assert File.from_path(path).model_dump(mode="json")["file_name"] == "caf?.txt"


def zipped(*members: tuple[str, bytes], change: Callable[[zipfile.ZipInfo], None] = id) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            change(info)
            archive.writestr(info, data)
    return buffer.getvalue()


def test_a_zip_file_gives_its_files() -> None:
    made = CompressedFile.from_bytes(zipped(("b.txt", b"B"), ("a.txt", b"A"), ("d/c.txt", b"C")))
    top = list(made)
    assert [path.name for path in top] == ["a.txt", "b.txt", "d"]
    assert [path.read_bytes() for path in made.glob("**/*.txt")] == [b"A", b"B", b"C"]
    folder = top[0].parent
    del made
    assert not folder.exists()


def test_a_zip_file_is_read_while_nobody_else_holds_it() -> None:
    found = [p.read_bytes() for p in CompressedFile.from_bytes(zipped(("a", b"A"), ("b", b"B")))]
    assert found == [b"A", b"B"]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "..\\evil", "C:\\evil", "./"])
def test_a_zip_file_cannot_write_outside_of_its_folder(name: str) -> None:
    made = CompressedFile.from_bytes(zipped((name, b"x")))
    if name == "./":
        assert list(made) == []
        return
    with pytest.raises(UnsafeArchive, match="leads out of its folder"):
        list(made)


def test_links_in_a_zip_file_are_refused() -> None:
    def as_link(info: zipfile.ZipInfo) -> None:
        info.external_attr = 0o120777 << 16

    with pytest.raises(UnsafeArchive, match="is a link"):
        list(CompressedFile.from_bytes(zipped(("link", b"/etc/passwd"), change=as_link)))


class Narrow(CompressedFile):
    max_files = 3
    max_bytes = 1000


def test_a_zip_bomb_is_stopped() -> None:
    with pytest.raises(FileTooLarge, match="more bytes than are allowed"):
        list(Narrow.from_bytes(zipped(("a", bytes(600)), ("b", bytes(600)))))
    with pytest.raises(FileTooLarge, match="has 4 files"):
        list(Narrow.from_bytes(zipped(*((str(n), b"") for n in range(4)))))


def test_an_archive_that_lies_about_its_sizes_is_stopped() -> None:
    data = zipped(("a", bytes(5000)))
    lying = data.replace((5000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lying != data
    with pytest.raises(InvalidInput):
        list(Narrow.from_bytes(lying))


@pytest.mark.parametrize("data", [b"", b"no zip", zipped(("a", b"A"))[:-30]])
def test_a_broken_zip_file_says_so(data: bytes) -> None:
    with pytest.raises(UnsafeArchive, match="cannot be unpacked"):
        list(CompressedFile.from_bytes(data))


@given(st.binary(max_size=30), st.integers(0, 200))
def test_broken_zip_files_raise_nothing_else(noise: bytes, place: int) -> None:
    data = zipped(("a.txt", b"A" * 50), ("b/c", b"C"))
    try:
        list(CompressedFile.from_bytes(data[:place] + noise + data[place + len(noise) :]))
    except InvalidInput:
        pass


def test_a_zip_file_with_a_nameless_file_is_refused() -> None:
    data = zipped(("x", b"A")).replace(b"x", b"/")
    assert list(CompressedFile.from_bytes(data)) == []
    with pytest.raises(UnsafeArchive):
        list(CompressedFile.from_bytes(zipped((".", b"A"))))

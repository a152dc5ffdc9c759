"""What compilers made is kept by content, for many processes at once."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyrank.errors import InvalidInput
from polyrank.toolkit import get_gpu_type, synchronized_inductor_cache

KEY = "painter/1"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("POLYRANK_APP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "before")
    yield tmp_path / "data"


def compiled() -> Path:
    """Where compilers put things now."""
    return Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])


def archives(data: Path) -> list[Path]:
    return sorted(data.rglob("*.zip"))


def another_machine() -> None:
    """This machine has never compiled anything."""
    subprocess.run(["rm", "-r", str(compiled())], check=True)


def test_what_was_compiled_is_there_the_next_time(data: Path) -> None:
    with synchronized_inductor_cache(KEY):
        (compiled() / "fx").mkdir()
        (compiled() / "fx" / "graph.py").write_text("one")
        library = compiled() / "kernel.so"
        library.write_bytes(b"\x7fELF")
        library.chmod(0o755)
        assert os.environ["TRITON_CACHE_DIR"] == str(compiled() / "triton")
    [archive] = archives(data)
    assert archive.name == "1.zip" and archive.is_relative_to(data / "inductor-caches")
    assert compiled().parent.stat().st_mode & 0o777 == 0o700
    before = compiled()
    another_machine()
    with synchronized_inductor_cache(KEY):
        assert compiled() == before  # compilers note full paths
        assert (compiled() / "fx" / "graph.py").read_text() == "one"
        assert os.access(compiled() / "kernel.so", os.X_OK)


def test_only_new_content_is_packed(data: Path) -> None:
    with synchronized_inductor_cache(KEY):
        (compiled() / "a").write_text("1")
    [archive] = archives(data)
    before = archive.stat().st_mtime_ns, archive.stat().st_ino
    with synchronized_inductor_cache(KEY):
        (compiled() / "a").write_text("1")  # the same again
    assert (archive.stat().st_mtime_ns, archive.stat().st_ino) == before
    with synchronized_inductor_cache(KEY):
        (compiled() / "a").write_text("2")  # the same name and size, another content
    with zipfile.ZipFile(archive) as kept:
        assert kept.read("a") == b"2"


def test_keys_keep_to_themselves(data: Path) -> None:
    with synchronized_inductor_cache("a"):
        (compiled() / "of a").touch()
        of_a = compiled()
    with synchronized_inductor_cache("b"):
        assert compiled() != of_a and list(compiled().iterdir()) == []
    assert [path.name for path in archives(data)] == ["a.zip"]  # nothing was compiled for b


def test_what_others_kept_meanwhile_stays(data: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from polyrank.toolkit import synchronized_inductor_cache\n"
        f"with synchronized_inductor_cache({KEY!r}):\n"
        "    folder = pathlib.Path(os.environ['TORCHINDUCTOR_CACHE_DIR'])\n"
        "    print('inside', flush=True); sys.stdin.readline()\n"
        "    (folder / sys.argv[1]).write_text(sys.argv[1])\n"
    )
    processes = []
    for number in range(4):
        # Each on a machine of its own, with one data folder.
        machine = data.parent / f"machine-{number}"
        machine.mkdir()
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code, f"file-{number}"],
                env={**os.environ, "TMPDIR": str(machine)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "inside\n"
    for process in processes:
        process.communicate("go\n")
        assert process.returncode == 0
    [archive] = archives(data)
    with zipfile.ZipFile(archive) as kept:
        assert sorted(kept.namelist()) == [f"file-{number}" for number in range(4)]
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]


def test_a_broken_archive_costs_time_and_nothing_else(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with synchronized_inductor_cache(KEY):
        (compiled() / "a").write_text("1")
    [archive] = archives(data)
    archive.write_bytes(b"PK, but no zip file")
    another_machine()
    with synchronized_inductor_cache(KEY):
        (compiled() / "b").write_text("2")
    assert "could not be unpacked" in caplog.text
    with zipfile.ZipFile(archive) as kept:
        assert kept.namelist() == ["b"]


def test_an_archive_that_leads_out_is_not_unpacked(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with synchronized_inductor_cache(KEY):
        (compiled() / "a").touch()
    [archive] = archives(data)
    with zipfile.ZipFile(archive, "w") as evil:
        evil.writestr("../../evil", "x")
    another_machine()
    with synchronized_inductor_cache(KEY):
        pass
    assert "leads out" in caplog.text
    assert list(data.parent.rglob("evil")) == []


def test_an_error_inside_is_the_apps_own_and_what_was_compiled_is_kept(data: Path) -> None:
    with pytest.raises(ZeroDivisionError), synchronized_inductor_cache(KEY):
        (compiled() / "a").touch()
        raise ZeroDivisionError
    assert len(archives(data)) == 1


@pytest.mark.parametrize("key", ["", "../up", "a//b", "/a", "a/..", "a b", "."])
def test_a_key_is_not_a_path(key: str) -> None:
    with pytest.raises(InvalidInput), synchronized_inductor_cache(key):
        pass


def test_the_gpu_has_a_short_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"NVIDIA H100 80GB HBM3": "H100", "NVIDIA A100-SXM4-80GB": "A100"}
    for name, short in names.items():
        monkeypatch.setattr("polyrank.toolkit.compilation.visible_gpus", lambda name=name: [name])
        assert get_gpu_type() == short
    monkeypatch.setattr("polyrank.toolkit.compilation.visible_gpus", list)
    assert get_gpu_type() == "UNKNOWN"


def test_a_data_folder_that_cannot_be_used_costs_time_and_nothing_else(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data.write_text("a file")
    with synchronized_inductor_cache(KEY):
        done = True
    assert done and "could not be kept" in caplog.text


def test_a_folder_that_others_can_write_is_not_compiled_in(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with synchronized_inductor_cache(KEY):
        shared = compiled().parent
    shared.chmod(0o777)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = "before"
    with synchronized_inductor_cache(KEY):
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "before"
    assert "not a folder of this user's alone" in caplog.text

"""KVStore where there is no server: values in a file of this machine."""

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from polyrank.errors import InvalidInput
from polyrank.toolkit import KVStore, KVStoreException, kv


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POLYRANK_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def test_values_by_space_and_key() -> None:
    cats, dogs = KVStore("cats"), KVStore("dogs")
    assert cats.get("tom") is None
    cats.set("tom", "1")
    cats.set("tom", "2 ä\x00", ttl=60)
    assert (cats.get("tom"), dogs.get("tom")) == ("2 ä\x00", None)
    cats.delete("tom")
    cats.delete("tom")
    assert cats.get("tom") is None


def test_other_processes_see_them(folder: Path) -> None:
    code = "from polyrank.toolkit import KVStore; KVStore('cats').set('tom', 'theirs')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert KVStore("cats").get("tom") == "theirs"


def test_a_value_whose_time_is_over_is_gone(folder: Path) -> None:
    KVStore("cats").set("tom", "1", ttl=60)
    with contextlib.closing(sqlite3.connect(folder / "values.db")) as connection:
        connection.execute("UPDATE key_values SET expires_at = expires_at - 60")
        connection.commit()
    assert KVStore("cats").get("tom") is None
    KVStore("cats").set("max", "2")
    with contextlib.closing(sqlite3.connect(folder / "values.db")) as connection:
        assert connection.execute("SELECT count(*) FROM key_values").fetchone() == (1,)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\nb", "a" * (kv.MAX_NAME + 1)])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="not a name"):
        KVStore(name)
    with pytest.raises(InvalidInput, match="not a name"):
        KVStore("cats").get(name)


def test_values_that_are_refused() -> None:
    cats = KVStore("cats")
    for ttl in (0, 59, 2_592_001):
        with pytest.raises(InvalidInput, match="60 to 2592000 seconds"):
            cats.set("tom", "1", ttl)
    with pytest.raises(InvalidInput, match="1900000 bytes"):
        cats.set("tom", "ä" * 950_001)


def test_a_file_that_cannot_be_used_is_a_clear_error(folder: Path) -> None:
    folder.write_text("no folder")
    with pytest.raises(KVStoreException, match="values.db failed"):
        KVStore("cats").get("tom")

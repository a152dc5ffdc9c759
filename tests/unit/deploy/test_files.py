"""Which files travel: those of the project, and no secret by accident."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from polyrank.deploy.files import Extra, list_files, project_root
from polyrank.errors import BundleError, UploadTooLarge
from polyrank.settings import BundleSettings

PRIVATE_KEY = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes files of the project by name."""
    root = tmp_path / "project"
    root.mkdir()

    def write_files(*names: str, text: str = "x") -> Path:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return root

    return write_files


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", "-C", root, *identity, *arguments], check=True, capture_output=True)


def names(root: Path, *extras: Extra) -> list[str]:
    return [file.name for file in list_files(root, extras).files]


def test_a_projects_root_has_a_pyproject_or_is_the_files_folder(write: Write) -> None:
    root = write("apps/one/app.py")
    assert project_root(root / "apps/one/app.py") == root / "apps/one"
    write("pyproject.toml", text="")
    assert project_root(root / "apps/one/app.py") == root


def test_without_git_all_files_travel_but_junk(write: Write) -> None:
    root = write("app.py", "data/a.json", "pkg/__pycache__/x.pyc", "old.pyc", ".venv/bin/python")
    write("node_modules/a/index.js", ".mypy_cache/x", "env/pyvenv.cfg", "env/lib/site.py")
    assert names(root) == ["app.py", "data/a.json"]


def test_with_git_its_ignored_files_stay_and_untracked_ones_travel(write: Write) -> None:
    root = write("app.py", "gone.py", "sub/notes.txt")
    (root / ".gitignore").write_text("*.bin\nbuild/\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    (root / "gone.py").unlink()
    write("new.py", "weights.bin", "build/out.txt", "sub/deep/more.bin")
    assert names(root) == [".gitignore", "app.py", "new.py", "sub/notes.txt"]
    assert names(root / "sub") == ["notes.txt"]


def test_a_repository_in_a_repository_travels_too(write: Write) -> None:
    root = write("app.py", "vendor/lib.py", "vendor/scratch.tmp")
    (root / "vendor/.gitignore").write_text("*.tmp\n")
    git(root, "init", "-q")
    git(root / "vendor", "init", "-q")
    assert names(root) == ["app.py", "vendor/.gitignore", "vendor/lib.py"]


def test_a_folder_that_git_ignores_as_a_whole_is_a_project_all_the_same(write: Write) -> None:
    root = write("scratch/app.py", "scratch/data.txt")
    (root / ".gitignore").write_text("scratch/\n")
    git(root, "init", "-q")
    assert names(root / "scratch") == ["app.py", "data.txt"]


def test_a_git_that_fails_says_so_before_anything_ignored_travels(write: Write) -> None:
    root = write("app.py")
    (root / ".git").write_text("gitdir: /nowhere\n")
    with pytest.raises(BundleError, match="git does not list the files of .*: fatal"):
        list_files(root)


def test_polyrankignore_speaks_gitignore(write: Write) -> None:
    root = write("app.py", "data/a.csv", "data/keep.csv", "notes/todo.txt", "deep/notes/x.txt")
    (root / ".polyrankignore").write_text("# mine\n*.csv\n!keep.csv\n/notes/\n")
    assert names(root) == ["app.py", "data/keep.csv", "deep/notes/x.txt"]


def test_what_looks_secret_stays_and_is_told(write: Write) -> None:
    root = write("app.py", ".env", "conf/.env.production", ".env.example", "id_ed25519", "a.pem")
    write("tls/server.key", text=PRIVATE_KEY)
    selection = list_files(root)
    assert [file.name for file in selection.files] == [".env.example", "a.pem", "app.py"]
    assert selection.secrets == (".env", "conf/.env.production", "id_ed25519", "tls/server.key")


def test_what_looks_secret_travels_when_it_is_asked_for(write: Write) -> None:
    root = write("app.py", ".env", "id_rsa")
    write("tls/server.key", text=PRIVATE_KEY)
    (root / ".polyrankignore").write_text("!.env\n!*.key\n")
    selection = list_files(root, [Extra("id_rsa", root / "id_rsa")])
    assert [file.name for file in selection.files] == [".env", "app.py", "id_rsa", "tls/server.key"]
    assert selection.secrets == ()


def test_an_extra_folder_travels_from_anywhere_but_for_what_its_expressions_name(
    write: Write, tmp_path: Path
) -> None:
    root = write("app.py")
    shared = tmp_path / "shared"
    for name in ("a.txt", "b.log", "__pycache__/c.pyc", ".env", "deep/d.txt"):
        (shared / name).parent.mkdir(parents=True, exist_ok=True)
        (shared / name).write_text("y")
    selection = list_files(root, [Extra("lib", shared, (r"\.log$",))])
    assert [file.name for file in selection.files] == ["app.py", "lib/a.txt", "lib/deep/d.txt"]
    assert selection.secrets == ("lib/.env",)


def test_two_different_files_of_one_name_are_refused(write: Write, tmp_path: Path) -> None:
    root = write("app.py")
    other = tmp_path / "other.py"
    other.write_text("x")
    assert names(root, Extra("app.py", other)) == ["app.py"]
    other.write_text("not x")
    with pytest.raises(BundleError, match=r"app.py and .*other.py would both travel as app.py"):
        list_files(root, [Extra("app.py", other)])


def test_a_fallback_travels_only_where_nothing_of_its_name_does(
    write: Write, tmp_path: Path
) -> None:
    root = write("app.py", "lib/a.py")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/b.py").write_text("")
    assert names(root, Extra("lib", tmp_path / "lib", fallback=True)) == ["app.py", "lib/a.py"]
    assert names(root, Extra("li", tmp_path / "lib", fallback=True))[1] == "li/b.py"


def test_links_within_the_project_stay_links(write: Write) -> None:
    root = write("data/a.txt", "app.py")
    (root / "data/again.txt").symlink_to("a.txt")
    (root / "absolute").symlink_to(root / "data")
    (root / "dangling").symlink_to("nowhere")
    found = {file.name: file.link for file in list_files(root).files}
    assert found == {
        "absolute": "data",
        "app.py": None,
        "dangling": "nowhere",
        "data/a.txt": None,
        "data/again.txt": "a.txt",
    }


def test_a_link_that_leaves_the_project_is_refused(write: Write) -> None:
    root = write("app.py")
    (root / "passwords").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match=r"passwords is a link to /etc/passwd, outside"):
        list_files(root)
    (root / ".polyrankignore").write_text("passwords\n")
    assert names(root) == ["app.py"]


def test_too_much_is_refused_with_the_largest_files(write: Write) -> None:
    root = write("app.py", "small.txt")
    write("weights/model.bin", text="x" * 5000)
    with pytest.raises(UploadTooLarge) as refused:
        list_files(root, limits=BundleSettings(max_bytes=4000))
    assert "the largest: weights/model.bin (4.9 KiB), app.py (1 bytes)" in str(refused.value)
    assert refused.value.max_bytes == 4000
    with pytest.raises(BundleError, match=r"3 files are more than 2: 1 in app.py"):
        list_files(root, limits=BundleSettings(max_files=2))


def test_a_folder_of_everything_is_no_project(
    monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    root = write("app.py")
    monkeypatch.setenv("HOME", str(root))
    with pytest.raises(BundleError, match="give the app a folder of its own"):
        list_files(root)


def test_a_name_that_is_not_utf8_is_told(write: Write) -> None:
    root = write("app.py")
    (Path(os.fsdecode(bytes(root) + b"/caf\xe9"))).touch()
    with pytest.raises(BundleError, match="not UTF-8"):
        list_files(root)

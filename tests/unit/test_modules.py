"""User files: loaded once, known by name, with `import fal` meaning polyrank."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import polyrank
from polyrank import compat, modules
from polyrank.errors import AppError


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    known, path = set(sys.modules), list(sys.path)
    yield
    compat.uninstall()
    for name in set(sys.modules) - known:
        if modules.loaded_from(name):
            del sys.modules[name]
    sys.path[:] = path


def test_a_file_written_for_the_reference_platform_gets_polyrank(tmp_path: Path) -> None:
    file = tmp_path / "their_app.py"
    file.write_text(
        "import fal\n"
        "from fal.distributed import DistributedRunner, DistributedWorker\n"
        "from fal.toolkit import File, Image\n"
        "from fal.toolkit.image import ImageSizeInput\n"
        "class Theirs(fal.App): pass\n"
    )
    module = modules.load_file(file)
    assert module.fal.App is polyrank.App
    assert issubclass(module.Theirs, polyrank.App)
    assert modules.loaded_from("their_app") == file


def test_a_file_imports_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_app.py").write_text("answer = 42\n")
    (tmp_path / "some_app.py").write_text("from neighbour_of_app import answer\n")
    assert modules.load_file(tmp_path / "some_app.py").answer == 42


def test_a_file_named_like_a_library_does_not_shadow_it(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("mine = True\n")
    module = modules.load_file(tmp_path / "json.py")
    assert module.mine
    assert module.__name__ == "polyrank_user_json"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1\nraise ValueError('no weights')\n", r"ValueError: no weights \(line 2\)"),
        ("def broken(:\n", r"SyntaxError: .*\(line 1\)"),
        ("import not_a_module_at_all\n", "No module named 'not_a_module_at_all'"),
        ("import fal.no_such_part\n", "no counterpart of 'fal.no_such_part'"),
    ],
)
def test_a_file_that_cannot_be_loaded_says_where_and_why(
    tmp_path: Path, source: str, says: str
) -> None:
    file = tmp_path / "broken_app.py"
    file.write_text(source)
    with pytest.raises(AppError, match=says):
        modules.load_file(file)
    assert "broken_app" not in sys.modules


def test_the_aliases_are_gone_after_uninstall() -> None:
    compat.install()
    import fal  # noqa: F401

    compat.uninstall()
    assert "fal" not in sys.modules
    assert not compat.installed()


def test_importing_polyrank_aliases_nothing_and_imports_no_torch() -> None:
    code = (
        "import sys, polyrank, polyrank.cli.main, polyrank.app, polyrank.distributed\n"
        "from polyrank import compat\n"
        "assert not compat.installed() and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""An app made ready to travel: what it names of this machine goes with it."""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from polyrank import compat, modules
from polyrank.app import projects, shipment
from polyrank.deploy import bundle, manifest
from polyrank.errors import AppError, BundleError

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    known, path = set(sys.modules), list(sys.path)
    yield
    compat.uninstall()
    for name in set(sys.modules) - known:
        if modules.loaded_from(name):
            del sys.modules[name]
    sys.path[:] = path


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str = "") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    write_file("project/pyproject.toml")
    return write_file


def app_of(write: Write, *options: str, name: str = "project/painter_app.py") -> projects.AppRef:
    body = "".join(f"    {line}\n" for line in options) or "    pass\n"
    file = write(name, f"import fal\nclass Painter(fal.App):\n{body}")
    return projects.find(f"{file}::Painter", file.parent)


def names(ready: shipment.Shipment) -> list[str]:
    return [file.name for file in ready.selection.files]


def test_an_app_travels_with_its_project_and_its_options(write: Write, tmp_path: Path) -> None:
    write("project/apps/assets/logo.svg")
    ref = app_of(
        write,
        "keep_alive = 300",
        "machine_type = ['GPU-H100', 'GPU-A100']",
        "requirements = [['torch'], ['six']]",
        "python_version = '3.11'",
        "retry_config = fal.RetryConfig(timeout=2)",
        name="project/apps/painter_app.py",
    )
    ready = shipment.prepare(ref)
    assert names(ready) == ["apps/assets/logo.svg", "apps/painter_app.py", "pyproject.toml"]
    out = io.BytesIO()
    said, packed = ready.pack(out, message="first", strategy="recreate")
    assert said.app_name == "painter"
    assert said.ref == "apps/painter_app.py::Painter"
    assert said.options["keep_alive"] == 300
    assert said.options["machine_type"] == ["GPU-H100", "GPU-A100"]
    assert said.options["retry_config"] == {"timeout": {"retries": 2}}
    assert said.requirements == (("torch",), ("six",))
    assert said.requirements_context == "apps"
    assert (said.python_version, said.message, said.strategy) == ("3.11", "first", "recreate")
    assert manifest.from_header(said.to_header()) == said
    place = bundle.unpack(io.BytesIO(out.getvalue()), tmp_path / "bundles", packed.code_hash)
    file, _, class_name = said.ref.partition("::")
    there = projects.load(projects.AppRef(place / file, class_name, None, said.replica_options))
    assert there.options.keep_alive == 300
    assert there.options.requirements == []


def test_an_app_of_pyproject_travels_with_what_its_table_says(write: Write) -> None:
    app_of(write, "keep_alive = 300")
    project = write(
        "project/pyproject.toml",
        "[tool.fal.apps.brush]\nref = 'painter_app.py::Painter'\nkeep_alive = 5\n"
        "deployment_strategy = 'recreate'\nauth = 'public'\n",
    )
    fields = shipment.prepare(projects.find("brush", project.parent)).fields
    assert fields["app_name"] == "brush"
    assert fields["strategy"] == "recreate"
    assert fields["options"] == {"app_name": "brush", "keep_alive": 5, "app_auth": "public"}


def test_app_files_travel_to_where_the_app_looks_for_them(write: Write) -> None:
    write("project/apps/data/prompts.txt", "a cat")
    write("project/apps/data/notes.log")
    write("project/.polyrankignore", "*.txt\n")
    options = ("app_files = ['data']", r"app_files_ignore = [r'\.log$']")
    ready = shipment.prepare(app_of(write, *options, name="project/apps/painter_app.py"))
    assert names(ready) == [
        "apps/data/notes.log",
        "apps/painter_app.py",
        "data/prompts.txt",
        "pyproject.toml",
    ]


def test_app_files_come_from_their_context(write: Write) -> None:
    write("shared/fonts/a.ttf")
    options = ("app_files = ['fonts']", "app_files_context_dir = '../shared'")
    assert "fonts/a.ttf" in names(shipment.prepare(app_of(write, *options)))


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("app_files = ['../other.txt']", r"'\.\./other\.txt' is outside of"),
        ("app_files = ['missing.txt']", "there is no .*missing.txt"),
        ("requirements = ['/srv/lib']", "/srv/lib is outside of"),
        ("requirements = ['../lib']", r"\.\./lib is outside of .* requirements_context_dir"),
        ("requirements = ['./lib']", "requirements: there is no .*lib"),
        ("local_python_modules = ['no_such_module']", "no module 'no_such_module' here"),
        ("local_python_modules = ['_socket']", "'_socket' is not Python source"),
        ("kind = 'conda'", "kind='conda': an app is deployed into a virtual environment"),
        ("image = fal.ContainerImage.from_dockerfile_str('FROM x')", "an image: an app is"),
    ],
)
def test_what_cannot_travel_is_told(write: Write, option: str, told: str) -> None:
    write("other.txt")
    write("lib/pyproject.toml")
    with pytest.raises(BundleError, match=told):
        shipment.prepare(app_of(write, option))


def test_an_option_that_json_cannot_hold_is_told(write: Write) -> None:
    with pytest.raises(AppError, match="cannot be told to a server"):
        shipment.prepare(app_of(write, "host_kwargs = {'_scheduler': object()}"))


def test_local_modules_travel_as_the_app_imports_them(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("libs/brushes/__init__.py")
    write("libs/brushes/soft/round.py")
    write("libs/colours.py", "RED = 1")
    write("project/src/near/__init__.py")
    monkeypatch.syspath_prepend(tmp_path / "libs")
    option = "local_python_modules = ['brushes.soft', 'colours', 'near']"
    found = names(shipment.prepare(app_of(write, option)))
    assert {"brushes/__init__.py", "brushes/soft/round.py", "colours.py"} <= set(found)
    assert {"near/__init__.py", "src/near/__init__.py"} <= set(found)


def test_local_requirements_travel_though_git_ignores_them(write: Write) -> None:
    write("project/.polyrankignore", "dist/\n*.txt\n")
    write("project/dist/brushes-1.0-py3-none-any.whl")
    write("project/all.txt", "six\n")
    write("project/lib/pyproject.toml")
    write("project/lib/notes.txt")
    lines = ["./dist/brushes-1.0-py3-none-any.whl", "-r all.txt", "./lib", "numpy"]
    found = names(shipment.prepare(app_of(write, f"requirements = {lines}")))
    assert "dist/brushes-1.0-py3-none-any.whl" in found
    assert "all.txt" in found
    assert "lib/notes.txt" not in found


def test_requirements_come_from_their_context(write: Write) -> None:
    write("libs/brushes/pyproject.toml")
    write("libs/other/pyproject.toml")
    options = ("requirements = ['./brushes']", "requirements_context_dir = '../libs'")
    ready = shipment.prepare(app_of(write, *options))
    place = ready.fields["requirements_context"]
    assert f"{place}/brushes/pyproject.toml" in names(ready)
    assert f"{place}/other/pyproject.toml" not in names(ready)


def test_the_app_travels_though_git_ignores_it(write: Write) -> None:
    write("project/.polyrankignore", "painter_app.py\n")
    assert "painter_app.py" in names(shipment.prepare(app_of(write)))

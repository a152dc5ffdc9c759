"""Apps by file and by name: what pyproject.toml may say, and what is refused."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyrank import compat, modules
from polyrank.app import projects
from polyrank.errors import AppError


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    known, path = set(sys.modules), list(sys.path)
    yield
    compat.uninstall()
    for name in set(sys.modules) - known:
        if modules.loaded_from(name) or name.startswith("parcel"):
            del sys.modules[name]
    sys.path[:] = path


APP = "import fal\nclass Painter(fal.App):\n    keep_alive = 5\n    num_gpus = 8\n"

# Every key that the reference platform's table may have.
EVERYTHING = """
ref = "painter_app.py::Painter"
auth = "public"
deployment_strategy = "rolling"
team = "us"
name = "brush"
requirements = [["numpy"], ["torch>=2"]]
requirements_context_dir = "."
python_version = "3.11"
min_concurrency = 1
max_concurrency = 4
max_multiplexing = 2
concurrency_buffer = 1
concurrency_buffer_perc = 10
scaling_delay = 3
request_timeout = 60
startup_timeout = 600
keep_alive = 300
private_logs = true
machine_type = ["GPU-H100", "GPU-A100"]
num_gpus = 2
regions = ["us-east"]
app_files = ["./a"]
app_files_ignore = ["x$"]
app_files_context_dir = "."
exposed_port = 8080
metrics_port = 9090
skip_retry_conditions = ["timeout"]
termination_grace_period_seconds = 9
secrets = ["HF_TOKEN"]
data_mounts = ["/data"]
app_scale_settings = true
no_scale = false
_scheduler = "nomad"
_scheduler_options = {storage_region = "us-east"}
retry_config = {server_error = {retries = 3}}
health_check = {path = "/health", timeout_seconds = 5, method = "GET"}
"""


def project(folder: Path, table: str, section: str = "fal") -> Path:
    (folder / "painter_app.py").write_text(APP)
    (folder / "pyproject.toml").write_text(f"[tool.{section}.apps.painter]\n{table}")
    return folder


def test_every_key_of_the_table_is_accepted_and_wins_over_the_class(tmp_path: Path) -> None:
    cls = projects.load(projects.find("painter", project(tmp_path, EVERYTHING)))
    options = cls.options
    assert (options.keep_alive, options.num_gpus, options.app_auth) == (300, 2, "public")
    assert (cls.app_name, cls.num_gpus) == ("brush", 2)
    assert options.requirements == [["numpy"], ["torch>=2"]]
    assert options.termination_grace_period_seconds == 9


def test_what_the_table_does_not_say_is_as_the_class_has_it(tmp_path: Path) -> None:
    folder = project(tmp_path, 'ref = "painter_app.py::Painter"\nnum_gpus = 1\n', "polyrank")
    cls = projects.load(projects.find("painter", folder))
    assert (cls.options.keep_alive, cls.options.num_gpus, cls.app_name) == (5, 1, "painter")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('ref = "painter_app.py"\nnum_gpu = 2', "no option 'num_gpu'; did you mean 'num_gpus'"),
        ('ref = "painter_app.py"\nkeep_alive = "long"', "keep_alive: Input should be a valid"),
        ('ref = "painter_app.py"\nauth = "secret"', "auth: Input should be 'private', 'public'"),
        ('ref = "painter_app.py"\nhealth_check = {pth = "/"}', "health_check: "),
        ('ref = "painter_app.py"\nretry_config = {never = {retries = 1}}', "retry_config: "),
        ('ref = "painter_app.py"\napp_files_context_dir = "."', "there are none"),
        ('ref = "gone.py"', "there is no file .*gone.py"),
        ('ref = "painter_app.py"\npython_entry_point = "a:B"', "both a ref and"),
        ('python_entry_point = "parcel"', "python_entry_point is 'module:Class'"),
        ('python_entry_point = "parcel.app:Gone"', "no module 'parcel.app' in"),
        ('image = {dockerfile = "FROM scratch"}', "runs apps, not containers"),
        ('image = {cmd = "x"}', "either a dockerfile or an image"),
        ("num_gpus = 1", "has no 'ref ="),
    ],
)
def test_a_table_that_cannot_be_meant_says_what_is_wrong(
    tmp_path: Path, table: str, says: str
) -> None:
    with pytest.raises(AppError, match=says):
        projects.load(projects.find("painter", project(tmp_path, table)))


def test_a_file_of_a_package_has_relative_imports_by_ref_and_by_entry_point(
    tmp_path: Path,
) -> None:
    package = tmp_path / "src" / "parcel"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "__init__.py").write_text("")
    (package / "words.py").write_text("GREETING = 'hi'\n")
    (package / "inner" / "serve.py").write_text(
        "import fal\n"
        "from ..words import GREETING\n"
        "class Greeter(fal.App):\n"
        "    greeting = GREETING\n"
    )
    (tmp_path / "pyproject.toml").write_text(
        '[tool.fal.apps.one]\nref = "src/parcel/inner/serve.py::Greeter"\n'
        '[tool.fal.apps.two]\npython_entry_point = "parcel.inner.serve:Greeter"\n'
    )
    one = projects.load(projects.find("one", tmp_path))
    two = projects.load(projects.find("two", tmp_path))
    assert one is two
    assert (one.greeting, one.__module__) == ("hi", "parcel.inner.serve")  # type: ignore[attr-defined]


def test_a_file_with_several_apps_asks_which(tmp_path: Path) -> None:
    file = tmp_path / "many_apps.py"
    file.write_text("from fal import App\nclass A(App): ...\nclass B(App): ...\n")
    with pytest.raises(AppError, match="A, B; name one as many_apps.py::Class"):
        projects.load(projects.find("many_apps.py", tmp_path))
    assert projects.load(projects.find("many_apps.py::B", tmp_path)).__name__ == "B"
    with pytest.raises(AppError, match="no App 'C'; it has A, B"):
        projects.load(projects.find("many_apps.py::C", tmp_path))


def test_an_app_that_another_file_defines_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "defining_app.py").write_text("from fal import App\nclass Far(App): ...\n")
    (tmp_path / "naming_app.py").write_text("from defining_app import Far\n")
    assert projects.load(projects.find("naming_app.py::Far", tmp_path)).__name__ == "Far"

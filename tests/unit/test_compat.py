"""`import fal`: every name that app files import is there, or says why not."""

import importlib
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import polyrank
import polyrank.distributed.worker
from polyrank import compat, errors, exceptions
from polyrank.app import App, HealthCheck
from polyrank.app.options import NAMES


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    compat.install()
    yield
    compat.uninstall()


# What app files of the reference platform import, by module.
IMPORTED = {
    "fal": "App ContainerImage HealthCheck cached endpoint realtime wrap_app __version__",
    "fal.app": "App endpoint realtime wrap_app",
    "fal.container": "ContainerImage",
    "fal.distributed": "DistributedRunner DistributedWorker",
    "fal.distributed.worker": "DistributedRunner DistributedWorker",
    "fal.exceptions": "AppException AppFileUploadException CUDAOutOfMemoryException "
    "FalServerlessException FieldException FileTooLargeError GPUException "
    "GPUOutOfMemoryException RequestCancelledException UnauthenticatedException "
    "catch_gpu_exceptions",
    "fal.sdk": "HealthCheck RetryConfig",
    "fal.toolkit": "File Image Video Audio",
    "fal.toolkit.utils.endpoint": "cancel_on_disconnect",
}

# Class attributes of an App, with their defaults where the platform states one.
ATTRIBUTES: dict[str, Any] = {
    "requirements": [],
    "requirements_context_dir": None,
    "local_python_modules": [],
    "machine_type": "S",
    "num_gpus": None,
    "regions": None,
    "host_kwargs": {},
    "app_auth": None,
    "app_files": [],
    "app_files_ignore": [r"\.pyc$", r"__pycache__/", r"\.git/", r"\.DS_Store$"],
    "app_files_context_dir": None,
    "request_timeout": None,
    "request_start_timeout": None,
    "startup_timeout": None,
    "metrics_port": None,
    "min_concurrency": None,
    "max_concurrency": None,
    "concurrency_buffer": None,
    "concurrency_buffer_perc": None,
    "scaling_delay": None,
    "max_multiplexing": None,
    "kind": None,
    "image": None,
    "skip_retry_conditions": None,
    "retry_config": None,
    "termination_grace_period_seconds": None,
    "secrets": None,
    "data_mounts": None,
}

# Something that each may be set to.
SET: dict[str, Any] = {
    "requirements": [["numpy"], ["torch"]],
    "requirements_context_dir": ".",
    "local_python_modules": ["words"],
    "machine_type": ["GPU-H100", "GPU-A100"],
    "num_gpus": 2,
    "regions": ["us-east"],
    "host_kwargs": {"_scheduler": "nomad", "keep_alive": 10, "resolver": "uv"},
    "app_auth": "shared",
    "app_files": ["a"],
    "app_files_ignore": ["x"],
    "request_timeout": 60,
    "request_start_timeout": 60,
    "startup_timeout": 600,
    "metrics_port": 9090,
    "min_concurrency": 1,
    "max_concurrency": 2,
    "concurrency_buffer": 1,
    "concurrency_buffer_perc": 10,
    "scaling_delay": 5,
    "max_multiplexing": 4,
    "kind": "container",
    "image": polyrank.ContainerImage.from_dockerfile_str("FROM python:3.11"),
    "skip_retry_conditions": ["timeout", "server_error", "connection_error"],
    "retry_config": {"timeout": {"retries": 1}},
    "termination_grace_period_seconds": 9,
    "secrets": ["HF_TOKEN"],
    "data_mounts": ["/data"],
    "keep_alive": 300,
}


@pytest.mark.parametrize("module", IMPORTED)
def test_a_name_that_app_files_import_is_polyranks(module: str) -> None:
    found = importlib.import_module(module)
    for name in IMPORTED[module].split():
        assert getattr(found, name) is not None
    assert found.__name__ == module


CLIENT = {"fal_client", "fal_client.client"}  # see test_compat_client.py


@pytest.mark.parametrize("name", sorted(compat.ALIASES.keys() - CLIENT))
def test_every_alias_can_be_imported_and_read_through(name: str) -> None:
    facade = importlib.import_module(name)
    target = importlib.import_module(compat.ALIASES[name])
    for each in getattr(target, "__all__", []):
        if f"{name}.{each}" not in compat.REFUSED | compat.ALIASES:
            assert getattr(facade, each) is getattr(target, each)
    assert set(dir(target)) <= set(dir(facade))


@pytest.mark.parametrize("name", compat.REFUSED)
def test_a_name_that_is_refused_says_why(name: str) -> None:
    parent, _, last = name.rpartition(".")
    for code in (f"from {parent} import {last}", f"import {parent}\n{name}"):
        with pytest.raises(ImportError) as raised:
            exec(code)
        assert str(raised.value) == f"polyrank has no {name}: {compat.REFUSED[name]}"


def test_a_name_that_nobody_knows_is_an_import_error_and_not_there() -> None:
    import fal  # type: ignore[import-not-found]

    with pytest.raises(ImportError, match="no counterpart of 'fal.nothing'"):
        from fal import nothing  # noqa: F401
    with pytest.raises(ImportError, match="no counterpart of 'fal.nothing'"):
        import fal.nothing
    assert not hasattr(fal, "nothing")


def test_importing_a_facade_leaves_polyranks_modules_as_they_are() -> None:
    before = {name: dict(vars(sys.modules[name])) for name in set(compat.ALIASES.values())}
    for name in compat.ALIASES:
        importlib.import_module(name)
    from fal.distributed.worker import DistributedWorker

    assert inspect.ismodule(polyrank.distributed.worker)
    assert polyrank.distributed.worker.__name__ == "polyrank.distributed.worker"
    assert DistributedWorker is polyrank.distributed.worker.DistributedWorker
    for name, names in before.items():
        for key, value in names.items():
            assert vars(sys.modules[name])[key] is value


def test_a_class_that_goes_to_the_ranks_by_value_may_refer_to_fal() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("import fal\nclass Words:\n    def word(self): return fal.App.__name__", names)
    copy = pickle.loads(cloudpickle.dumps(names["Words"]))
    assert copy().word() == "App"


def test_star_imports_give_what_the_module_exports() -> None:
    names: dict[str, Any] = {}
    exec("from fal.toolkit import *\nfrom fal.exceptions import *", names)
    assert names["Image"] is polyrank.toolkit.Image
    assert names["FieldException"] is errors.FieldException


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_has_the_platforms_default(name: str) -> None:
    class Plain(App):
        pass

    assert getattr(Plain, name) == getattr(Plain(), name) == ATTRIBUTES[name]


@pytest.mark.parametrize("name", SET)
def test_every_option_can_be_an_attribute_or_a_keyword(name: str) -> None:
    value = SET[name]
    by_attribute = type("ByAttribute", (App,), {name: value})
    by_keyword = type("ByKeyword", (App,), {}, **{name: value})
    heir = type("Heir", (by_keyword,), {})
    for cls in (by_attribute, by_keyword, heir):
        assert getattr(cls, name) == value
        assert getattr(cls.options, name) == value
    assert getattr(type("Unset", (by_keyword,), {name: None}).options, name) == getattr(
        App.options, name
    )


def test_every_option_of_polyrank_is_in_one_of_these_tables_or_is_its_own() -> None:
    ours = {"app_name", "local_file_path", "compile_bytecode", "private_logs", "python_version"}
    ours |= {"exposed_port", "resolver", "app_files_context_dir", "keep_alive"}
    assert set(SET) - NAMES == set()
    assert NAMES - set(SET) - ours == set()
    assert set(ATTRIBUTES) <= NAMES


@pytest.mark.parametrize("given", [{"request_timeot": 1}, {"host_kwargs": {"keep_alve": 1}}])
def test_unknown_options_are_refused_with_a_suggestion(given: dict[str, Any]) -> None:
    with pytest.raises(errors.AppError, match="did you mean 'request_timeout'|'keep_alive'"):
        type("Painter", (App,), {}, **given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"app_auth": "secret"}, "app_auth: "),
        ({"metrics_port": 0}, "metrics_port: "),
        ({"skip_retry_conditions": ["never"]}, "skip_retry_conditions: "),
        ({"retry_config": {"never": {"retries": 3}}}, "retry_config: "),
        ({"app_files": ["a"], "image": SET["image"]}, "app_files and image exclude each other"),
        ({"app_files_context_dir": "."}, "app_files_context_dir says where"),
        ({"host_kwargs": {"keep_alive": -1}}, "keep_alive: "),
    ],
)
def test_values_that_cannot_be_meant_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.AppError, match=says):
        type("Painter", (App,), given)


def test_host_kwargs_set_options_and_attributes_win() -> None:
    class Painter(App):
        host_kwargs = {"keep_alive": 10, "max_multiplexing": 3}
        max_multiplexing = 5

    assert (Painter.options.keep_alive, Painter.options.max_multiplexing) == (10, 5)


def test_a_mixin_sets_options_and_a_name_of_ones_own_is_no_option() -> None:
    class OnGpus:
        num_gpus = 4

    class Painter(OnGpus, App):
        name = "mine"

    assert (Painter.options.num_gpus, Painter.num_gpus) == (4, 4)
    assert (Painter.name, Painter.app_name) == ("mine", "painter")


@pytest.mark.parametrize(
    "method", ["setup", "teardown", "handle_exit", "health", "provide_hints", "current_request"]
)
def test_an_app_has_the_platforms_methods(method: str) -> None:
    assert hasattr(App, method)


def test_endpoint_and_health_check_take_the_platforms_keywords() -> None:
    from fal import App as FalApp
    from fal import endpoint

    check = HealthCheck(
        start_period_seconds=30,
        timeout_seconds=5,
        failure_threshold=3,
        call_regularly=False,
        method="GET",
    )

    class Checked(FalApp):  # type: ignore[misc]
        @endpoint("/ready", is_websocket=False, health_check=check)
        def ready(self) -> None: ...

    assert Checked.endpoints["ready"].health_check == check
    with pytest.raises(errors.AppError, match="more than one health check: ready, again"):

        class Twice(Checked):
            @endpoint("/again", health_check=HealthCheck())
            def again(self) -> None: ...

    with pytest.raises(errors.AppError, match="is a websocket"):
        endpoint("/", is_websocket=True, health_check=check)


def test_a_field_exception_is_the_platforms() -> None:
    error = exceptions.FieldException("size.width", "too wide", 400, "too_large", 2)
    assert error.to_pydantic_format() == {
        "detail": [{"loc": ["body", "size.width"], "msg": "too wide", "type": "too_large"}]
    }
    assert (error.status, error.status_code, error.billable_units) == (400, 400, 2)
    assert (error.field, error.message, error.type) == ("size.width", "too wide", "too_large")
    assert str(error) == "too wide"


class Picky(errors.AppException):
    def __init__(self) -> None:
        super().__init__("picky", 418)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (exceptions.AppException("no", 404), 404),
        (exceptions.FieldException("a", "no"), 422),
        (exceptions.RequestCancelledException(), 499),
        (exceptions.FileTooLargeError("no"), 422),
        (exceptions.AppFileUploadException("no", "a/b"), 500),
        (exceptions.UnauthenticatedException(), 401),
        (exceptions.CUDAOutOfMemoryException(), 503),
        (Picky(), 418),
    ],
)
def test_errors_have_a_status_a_reason_and_cross_processes(
    error: errors.PolyrankError, status: int
) -> None:
    assert isinstance(error, exceptions.FalServerlessException)
    copy = pickle.loads(pickle.dumps(error))
    for each in (error, copy):
        assert (type(each), each.status, str(each)) == (type(error), status, error.message)
        assert str(each)
    assert copy.details == error.details


class OutOfMemoryError(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("raised", "becomes"),
    [
        (OutOfMemoryError("CUDA out of memory"), exceptions.CUDAOutOfMemoryException),
        (RuntimeError("CUDA error: an illegal access"), exceptions.GPUException),
        (FileNotFoundError("/models/triton/config"), FileNotFoundError),
        (ValueError("device must be 'cpu' or 'cuda'"), ValueError),
    ],
)
def test_gpu_trouble_is_known_by_its_type_and_not_by_its_words(
    raised: Exception, becomes: type[Exception]
) -> None:
    @exceptions.catch_gpu_exceptions()
    def infer() -> None:
        raise raised

    with pytest.raises(becomes) as caught:
        infer()
    assert type(caught.value) is becomes


def test_an_image_is_kept_as_it_is_described(tmp_path: Path) -> None:
    from fal import ContainerImage

    (tmp_path / "Dockerfile").write_text("FROM python:3.11\n")
    image = ContainerImage.from_dockerfile(tmp_path / "Dockerfile", build_args={"A": "1"})
    assert (image.dockerfile_str, image.build_args) == ("FROM python:3.11\n", {"A": "1"})
    with pytest.raises(errors.AppError, match="this one is empty"):
        ContainerImage.from_dockerfile_str("")
    with pytest.raises(errors.AppError, match="a username and a password"):
        ContainerImage.from_dockerfile_str("FROM a", registries={"r": {"username": "u"}})


def test_a_users_own_interpreter_keeps_its_own_fal(tmp_path: Path) -> None:
    (tmp_path / "fal").mkdir()
    (tmp_path / "fal" / "__init__.py").write_text("theirs = True\n")
    code = (
        "import polyrank, polyrank.app, polyrank.distributed, fal\n"
        "assert fal.theirs\n"
        "from polyrank import compat\n"
        "compat.install()\n"
        "import fal\n"
        "assert fal.App is polyrank.App and not hasattr(fal, 'theirs')\n"
        "compat.uninstall()\n"
        "import fal\n"
        "assert fal.theirs\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)

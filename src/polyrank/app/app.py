"""The class a user writes: endpoints, setup, options."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

from polyrank.app import context
from polyrank.app.endpoint import Endpoint, endpoints_of
from polyrank.app.options import NAMES, AppOptions, read_options
from polyrank.errors import AppError


class App:
    """A service: options as class attributes or keywords, ``setup``, and endpoints.

    Example::

        class Hello(App, keep_alive=300):
            machine_type = "GPU-H100"
            num_gpus = 2

            def setup(self) -> None: ...

            @endpoint("/")
            def greet(self, request: Name) -> Greeting: ...

    An app is an ordinary object: construct it, call its methods, or serve it in a test with
    ``polyrank.app.testing.serve``.
    """

    options: ClassVar[AppOptions] = AppOptions()
    endpoints: ClassVar[dict[str, Endpoint]] = {}

    # Who is told by ``report_loading``.
    on_loading: Callable[[float, str], None] | None = None

    # What code may read of an app that sets nothing; the table in ``options`` checks what is set.
    requirements: list[str] | list[list[str]] = []
    requirements_context_dir: str | None = None
    local_python_modules: list[str] = []
    local_file_path: str | None = None
    machine_type: str | list[str] = "S"
    num_gpus: int | None = None
    regions: list[str] | None = None
    host_kwargs: dict[str, Any] = {}
    app_name: str | None = None
    app_auth: str | None = None
    app_files: list[str] = []
    app_files_ignore: list[str] = AppOptions().app_files_ignore
    app_files_context_dir: str | None = None
    request_timeout: float | None = None
    request_start_timeout: float | None = None
    startup_timeout: float | None = None
    metrics_port: int | None = None
    min_concurrency: int | None = None
    max_concurrency: int | None = None
    concurrency_buffer: int | None = None
    concurrency_buffer_perc: int | None = None
    scaling_delay: float | None = None
    max_multiplexing: int | None = None
    kind: str | None = None
    image: Any = None
    skip_retry_conditions: list[str] | None = None
    retry_config: Any = None
    termination_grace_period_seconds: float | None = None
    secrets: list[str] | None = None
    data_mounts: list[str] | None = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__()
        for name in ("options", "endpoints"):
            if name in vars(cls):
                raise AppError(f"{cls.__name__}.{name}: an App keeps its own under this name")
        if "name" in keywords:
            keywords["app_name"] = keywords.pop("name")
        cls.options = read_options(cls.__name__, _written(cls), keywords)
        for name in keywords.keys() & NAMES:
            setattr(cls, name, keywords[name])
        cls.app_name = cls.options.app_name or _kebab(cls.__name__)
        cls.endpoints = endpoints_of(cls)

    @property
    def current_request(self) -> context.RequestContext | None:
        """The request that is being answered here; None outside of one."""
        return context.current.get()

    def setup(self) -> Any:
        """Called once before the first request; may be a coroutine."""

    def report_loading(self, fraction: float, what: str = "") -> None:
        """Tells, out of ``setup``, how far it is: those who wait are told "loading 40 %".

        ``fraction`` is between 0 and 1, ``what`` a word or two such as "reading weights".
        """
        if self.on_loading is not None:
            self.on_loading(min(1.0, max(0.0, fraction)), what)

    def teardown(self) -> Any:
        """Called once after the last request; may be a coroutine."""

    def handle_exit(self) -> None:
        """Called as soon as the process is asked to end, before ``teardown``."""

    def health(self) -> Any:
        """The answer of ``GET /health``; may be a coroutine."""
        return {"status": "ok"}

    def provide_hints(self) -> list[str]:
        """What this replica is good at now, e.g. which weights are loaded."""
        raise NotImplementedError


def _written(cls: type) -> dict[str, Any]:
    """The attributes that a class and its bases were written with, the nearest last to win."""
    written: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base not in (object, App):
            written |= vars(base)
            if written.get("app_name") == _kebab(base.__name__):
                del written["app_name"]  # made from that class's name, not chosen
    return written


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()

"""The class a user writes: endpoints, setup, options."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from polyrank.app import context
from polyrank.app.endpoint import Endpoint, endpoints_of
from polyrank.app.options import AppOptions, read_options
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

    # Defaults that code reads on the instance; the table in ``options`` checks what is set.
    machine_type: str | list[str] = "S"
    num_gpus: int | None = None
    requirements: list[str] | list[list[str]] = []

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__()
        parent = cls.__mro__[1]
        inherited = parent.options.model_dump(exclude_unset=True) if issubclass(parent, App) else {}
        cls.options = read_options(cls.__name__, inherited, vars(cls), keywords)
        for name in cls.options.model_fields_set:
            if name not in vars(cls):
                setattr(cls, name, getattr(cls.options, name))
        cls.endpoints = endpoints_of(cls)
        paths: dict[str, str] = {}
        for method, endpoint in cls.endpoints.items():
            if endpoint.path in paths:
                raise AppError(
                    f"{cls.__name__}.{method} and {cls.__name__}.{paths[endpoint.path]} both "
                    f"answer {endpoint.path}"
                )
            paths[endpoint.path] = method

    @classmethod
    def name(cls) -> str:
        """The app's name: its ``app_name``, or the class name in kebab-case."""
        return (
            cls.options.app_name
            or re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__).lower()
        )

    @property
    def current_request(self) -> context.RequestContext | None:
        """The request that is being answered here; None outside of one."""
        return context.current.get()

    def setup(self) -> Any:
        """Called once before the first request; may be a coroutine."""

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

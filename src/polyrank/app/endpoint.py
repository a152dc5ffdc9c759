"""Endpoints: methods of an app that answer a path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from polyrank.errors import AppError

F = TypeVar("F", bound=Callable[..., Any])
_ATTRIBUTE = "__polyrank_endpoint__"


@dataclass(frozen=True, kw_only=True)
class HealthCheck:
    """How a replica's health is judged by calling the endpoint that carries this.

    None stands for the default: 30 s, 5 s, 3 failures, regularly. An endpoint is called with POST,
    whatever ``method`` says.
    """

    start_period_seconds: float | None = None
    timeout_seconds: float | None = None
    failure_threshold: int | None = None
    call_regularly: bool | None = None
    method: str | None = None


@dataclass(frozen=True)
class Endpoint:
    """A path and how it is answered."""

    path: str
    is_websocket: bool = False
    health_check: HealthCheck | None = None


def endpoint(
    path: str, *, is_websocket: bool = False, health_check: HealthCheck | None = None
) -> Callable[[F], F]:
    """Makes a method of an ``App`` answer ``POST path`` (or a websocket at ``path``).

    Plain methods run in a thread, coroutines in the event loop. The one argument's pydantic model
    is the request's JSON body, the return annotation the answer's.
    """
    if is_websocket and health_check is not None:
        raise AppError(f"a health check is a call, and {path} is a websocket")
    return marking(Endpoint(path, is_websocket, health_check))


def marking(endpoint: Endpoint) -> Callable[[F], F]:
    """The decorator that makes a method that endpoint."""
    if not endpoint.path.startswith("/"):
        raise AppError(f"an endpoint's path starts with '/': {endpoint.path!r}")

    def mark(function: F) -> F:
        if hasattr(function, _ATTRIBUTE):
            raise AppError(f"{function.__qualname__} already answers {endpoint_of(function).path}")
        setattr(function, _ATTRIBUTE, endpoint)
        return function

    return mark


def endpoint_of(function: Any) -> Endpoint:
    """The endpoint that a method was marked as."""
    found = getattr(function, _ATTRIBUTE)
    assert isinstance(found, Endpoint)
    return found


def endpoints_of(cls: type) -> dict[str, Endpoint]:
    """Method names of a class and the endpoints they are, in order of definition."""
    found: dict[str, Endpoint] = {}
    for base in reversed(cls.__mro__):
        for name in vars(base):
            if hasattr(getattr(cls, name, None), _ATTRIBUTE):
                found[name] = endpoint_of(getattr(cls, name))
    _refuse_doubles(cls, found)
    return found


def _refuse_doubles(cls: type, found: dict[str, Endpoint]) -> None:
    paths: dict[str, str] = {}
    for method, endpoint in found.items():
        if endpoint.path in paths:
            raise AppError(
                f"{cls.__name__}.{method} and {cls.__name__}.{paths[endpoint.path]} both "
                f"answer {endpoint.path}"
            )
        paths[endpoint.path] = method
    checks = [method for method, endpoint in found.items() if endpoint.health_check is not None]
    if len(checks) > 1:
        raise AppError(f"{cls.__name__} has more than one health check: {', '.join(checks)}")

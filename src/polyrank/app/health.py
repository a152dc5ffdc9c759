"""Which call tells whether a replica of an app is well."""

from __future__ import annotations

from typing import Any

from polyrank import reports
from polyrank.app.app import App
from polyrank.errors import AppError

# What every app answers with GET, unless an endpoint of its own does.
DEFAULT_PATH = "/health"


def health_check_of(cls: type[App]) -> reports.HealthCheck | None:
    """The health check of pyproject.toml, else that of an endpoint. Raises AppError if it calls
    what is not there."""
    paths = {endpoint.path: endpoint for endpoint in cls.endpoints.values()}
    if (table := cls.options.health_check) is not None:
        if table.path not in (*paths, DEFAULT_PATH):
            known = ", ".join(sorted(paths))
            raise AppError(f"health_check: {cls.__name__} does not answer {table.path} ({known})")
        if table.path in paths and paths[table.path].is_websocket:
            raise AppError(f"a health check is a call, and {table.path} is a websocket")
        return _report(table.path, "POST" if table.path in paths else "GET", table)
    for path, endpoint in paths.items():
        if endpoint.health_check is not None:
            return _report(path, "POST", endpoint.health_check)
    return None


def _report(path: str, method: str, check: Any) -> reports.HealthCheck:
    given = {
        "start_period_s": check.start_period_seconds,
        "timeout_s": check.timeout_seconds,
        "failure_threshold": check.failure_threshold,
        "regularly": check.call_regularly,
    }
    known = {name: value for name, value in given.items() if value is not None}
    return reports.HealthCheck(path, method, **known)

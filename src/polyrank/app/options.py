"""The options of an app: each is declared here and nowhere else."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polyrank.errors import AppError


class AppOptions(BaseModel):
    """What a user may set as a class attribute or class keyword of an ``App``.

    Options of a platform that has no meaning on one's own machine are accepted and kept, so that a
    file runs unchanged; ``docs/app.md`` says which those are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    requirements: list[str] | list[list[str]] = []
    requirements_context_dir: str | None = None
    local_python_modules: list[str] = []
    machine_type: str | list[str] = "S"
    num_gpus: int | None = Field(default=None, ge=0)
    regions: list[str] | None = None
    host_kwargs: dict[str, Any] = {}
    app_name: str | None = None
    app_auth: Literal["private", "public", "shared"] | None = None
    app_files: list[str] = []
    app_files_ignore: list[str] = [r"\.pyc$", r"__pycache__/", r"\.git/", r"\.DS_Store$"]
    app_files_context_dir: str | None = None
    request_timeout: float | None = Field(default=None, gt=0)
    request_start_timeout: float | None = Field(default=None, gt=0)
    startup_timeout: float | None = Field(default=None, gt=0)
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    keep_alive: float = Field(default=60, ge=0)
    min_concurrency: int = Field(default=0, ge=0)
    max_concurrency: int | None = Field(default=None, ge=0)
    concurrency_buffer: int = Field(default=0, ge=0)
    concurrency_buffer_perc: int = Field(default=0, ge=0)
    scaling_delay: float = Field(default=0, ge=0)
    max_multiplexing: int = Field(default=1, ge=1)
    kind: Literal["virtualenv", "container", "conda"] | None = None
    image: Any = None
    python_version: str | None = None
    private_logs: bool = False
    skip_retry_conditions: list[Literal["timeout", "server_error", "connection_error"]] | None = (
        None
    )
    retry_config: Any = None
    termination_grace_period_seconds: float | None = Field(default=None, ge=0)
    secrets: list[str] | None = None
    data_mounts: list[str] | None = None
    health_check: Any = None
    resolver: str | None = None


NAMES = frozenset(AppOptions.model_fields) | {"name"}


def read_options(
    class_name: str,
    inherited: Mapping[str, Any],
    attributes: Mapping[str, Any],
    keywords: Mapping[str, Any],
) -> AppOptions:
    """The options that a class's attributes and keywords set. Raises AppError with a suggestion."""
    given = dict(inherited)
    for name, value in attributes.items():
        if name in NAMES:
            given[name] = value
        elif not name.startswith("_") and not callable(value):
            _refuse_near_miss(class_name, name)
    for name, value in keywords.items():
        if name not in NAMES and name not in ("_scheduler", "_base_image"):
            raise AppError(f"{class_name} has no option {name!r}{_suggestion(name, 0.5)}")
        given[name] = value
    if "name" in given:
        given["app_name"] = given.pop("name")
    try:
        return AppOptions(**{key: value for key, value in given.items() if key in NAMES})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'][:1])}: {problem['msg']}"
            for problem in error.errors()
        )
        raise AppError(f"options of {class_name}: {problems}") from None


def _refuse_near_miss(class_name: str, name: str) -> None:
    # An attribute may be anything of the user's own; only an evident slip is refused.
    if suggestion := _suggestion(name, 0.88):
        raise AppError(f"{class_name}.{name} is not an option{suggestion}")


def _suggestion(name: str, cutoff: float) -> str:
    close = difflib.get_close_matches(name, sorted(NAMES), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""

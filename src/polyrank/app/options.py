"""The options of an app: each is declared here and nowhere else."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from polyrank.errors import AppError

Condition = Literal["timeout", "server_error", "connection_error"]
AuthMode = Literal["private", "public", "shared"]


class Retries(TypedDict):
    """How often a request is tried again after one kind of failure."""

    retries: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RetryConfig:
    """How often a request is tried again, by kind of failure: ``RetryConfig(timeout=1)``."""

    timeout: int | None = None
    server_error: int | None = None
    connection_error: int | None = None

    def to_dict(self) -> dict[str, dict[str, int]]:
        """The same as an option of pyproject.toml has it."""
        return {name: {"retries": times} for name, times in vars(self).items() if times is not None}


class HealthCheckTable(BaseModel):
    """``health_check`` in pyproject.toml: how a replica's health is judged from outside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    start_period_seconds: float | None = Field(default=None, ge=0)
    timeout_seconds: float | None = Field(default=None, gt=0)
    failure_threshold: int | None = Field(default=None, ge=1)
    call_regularly: bool | None = None
    method: Literal["GET", "POST"] | None = None


class AppOptions(BaseModel):
    """What a user may set as a class attribute or class keyword of an ``App``.

    Options of a platform that has no meaning on one's own machine are accepted and kept, so that a
    file runs unchanged; ``docs/app.md`` says which those are. None stands for the default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    requirements: list[str] | list[list[str]] = []
    requirements_context_dir: str | None = None
    local_python_modules: list[str] = []
    local_file_path: str | None = None
    machine_type: str | list[str] = "S"
    num_gpus: int | None = Field(default=None, ge=0)
    regions: list[str] | None = None
    host_kwargs: dict[str, Any] = {}
    app_name: str | None = None
    app_auth: AuthMode | None = None
    app_files: list[str] = []
    app_files_ignore: list[str] = [r"\.pyc$", r"__pycache__/", r"\.git/", r"\.DS_Store$"]
    app_files_context_dir: str | None = None
    request_timeout: float | None = Field(default=None, gt=0)
    request_start_timeout: float | None = Field(default=None, gt=0)
    startup_timeout: float | None = Field(default=None, gt=0)
    exposed_port: int | None = Field(default=None, ge=1, le=65535)
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
    compile_bytecode: bool | None = None
    private_logs: bool = False
    skip_retry_conditions: list[Condition] | None = None
    retry_config: RetryConfig | dict[Condition, Retries] | None = None
    termination_grace_period_seconds: float | None = Field(default=None, ge=0)
    secrets: list[str] | None = None
    data_mounts: list[str] | None = None
    resolver: str | None = None
    health_check: HealthCheckTable | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.image is not None and self.app_files:
            raise ValueError("app_files and image exclude each other: an image has its own files")
        if self.app_files_context_dir is not None and not self.app_files:
            raise ValueError("app_files_context_dir says where app_files are, and there are none")
        return self


# Set in pyproject.toml only; on a class, the name is free for what the author likes.
IN_TABLE_ONLY = frozenset({"health_check"})
NAMES = frozenset(AppOptions.model_fields) - IN_TABLE_ONLY


def read_options(
    class_name: str, attributes: Mapping[str, Any], keywords: Mapping[str, Any]
) -> AppOptions:
    """The options that a class's attributes and keywords set. Raises AppError with a suggestion.

    ``host_kwargs`` is another way to set options; an attribute or keyword of the name wins.
    """
    for name, value in attributes.items():
        if name not in NAMES and not name.startswith("_") and not callable(value):
            _refuse_near_miss(class_name, name)
    host = keywords.get("host_kwargs") or attributes.get("host_kwargs") or {}
    if not isinstance(host, Mapping):
        raise AppError(f"options of {class_name}: host_kwargs is a dict, not {host!r}")
    for name in [*keywords, *host]:
        # Names with an underscore are for the reference platform's own scheduler.
        if name not in NAMES and not name.startswith("_"):
            raise AppError(f"{class_name} has no option {name!r}{suggestion(name, NAMES)}")
    given = {**host, **attributes, **keywords}
    return checked(
        f"options of {class_name}", AppOptions, {key: given[key] for key in given if key in NAMES}
    )


M = TypeVar("M", bound=BaseModel)


def checked(what: str, model: type[M], given: Mapping[str, Any]) -> M:
    """A model of what was given, leaving out None. Raises AppError naming every problem."""
    try:
        return model(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(
            ": ".join([*(str(part) for part in problem["loc"][:1]), problem["msg"]])
            for problem in error.errors()
        )
        raise AppError(f"{what}: {problems}") from None


def suggestion(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """``; did you mean …?`` for a name that is close to a known one, or nothing."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def _refuse_near_miss(class_name: str, name: str) -> None:
    # An attribute may be anything of the user's own; only an evident slip is refused.
    if hint := suggestion(name, NAMES, 0.88):
        raise AppError(f"{class_name}.{name} is not an option{hint}")

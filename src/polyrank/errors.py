"""The one exception tree. Every class knows its HTTP status and a stable code.

PolyrankError                      500 internal_error
├── InvalidInput                   422 bad_request        what the caller sent cannot be used
│   ├── ValueNotSendable           422 bad_request        a value that cannot reach a rank
│   ├── UploadTooLarge             413 upload_too_large   a file above the limit
│   ├── BundleError                422 bundle_error       files of an app that cannot travel
│   └── FieldException             chosen by the app's author
├── AppError                       500 app_error          the app file or its options are wrong
│   ├── UnsupportedPipeline        500 app_error          a pipeline that a technique does not fit
│   └── BuildFailed                422 build_failed       an environment that cannot be built
├── AppException                   chosen by the app's author
├── RequestTimeout                 504 request_timeout
├── RequestAborted                 499 client_cancelled
├── QueueFull                      429 queue_full          as many wait as may wait
├── IdempotencyConflict            422 idempotency_conflict    one key, two different requests
├── StoreUnavailable               503 store_unavailable   the database cannot be used
├── FilesUnavailable               503 files_unavailable   the file store cannot be used
├── ReplicaUnreachable             503 runner_connection_error    no answer from an app
└── RunnerError                    500 runner_error
    ├── WorkerError                500 runner_server_error    an exception in a rank
    ├── SetupFailed                503 runner_setup_failed    a group did not come up
    │   └── NotEnoughDevices       503 runner_scheduling_failure
    ├── WorkerDied                 503 runner_disconnected    a rank process ended or froze
    └── RunnerStopped              503 runner_connection_refused
RequestCancelled (a BaseException)  raised inside a worker by ``checkpoint()``
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class PolyrankError(Exception):
    """Root of everything polyrank raises on purpose.

    ``status`` is the HTTP status of the answer and ``code`` the stable ``error_type`` beside it.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        if "status_code" in details:  # chosen by the author of an app
            self.status = details["status_code"]  # type: ignore[misc]

    def __getattr__(self, name: str) -> Any:
        # Details read as attributes: ``error.rank``, ``error.traceback``.
        details = self.__dict__.get("details", {})
        if name in details:
            return details[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (from_wire, (self.to_wire(),))

    def to_wire(self) -> dict[str, Any]:
        """The error as plain data, for another process; ``from_wire`` makes it an error again."""
        return {"type": type(self).__name__, "message": self.message, "details": self.details}


class InvalidInput(PolyrankError):
    """The caller sent something that cannot be used; nothing was started."""

    status = 422
    code = "bad_request"


class ValueNotSendable(InvalidInput, TypeError):
    """A value of a type that cannot cross a process border; the message names its path."""


class UploadTooLarge(InvalidInput):
    """A file of more bytes than the server keeps. Details: ``max_bytes``."""

    status = 413
    code = "upload_too_large"


class BundleError(InvalidInput):
    """The files of an app cannot travel, or what has arrived is not a bundle of them."""

    code = "bundle_error"


class FieldException(InvalidInput):
    """Raised by an app's author: one field of the input cannot be used.

    Answered in the form of a validation error: ``[{"loc": ["body", field], "msg", "type"}]``.
    ``billable_units`` is told in the answer's header of that name; None tells nothing.
    """

    def __init__(
        self,
        field: str,
        message: str,
        status_code: int = 422,
        type: str = "value_error",
        billable_units: int | float | str | None = 0,
    ) -> None:
        super().__init__(
            message, field=field, status_code=status_code, type=type, billable_units=billable_units
        )

    def to_pydantic_format(self) -> dict[str, list[dict[str, Any]]]:
        """The answer's body."""
        location = ["body", self.details["field"]]
        return {"detail": [{"loc": location, "msg": self.message, "type": self.details["type"]}]}


class AppError(PolyrankError):
    """The app file, its class or its options are wrong."""

    code = "app_error"


class BuildFailed(AppError):
    """An app's environment cannot be built. Details: ``lines``, the last ones of the installer."""

    status = 422
    code = "build_failed"


class RequestTimeout(PolyrankError, TimeoutError):
    """The request did not end within its time; its work is stopped on every rank."""

    status = 504
    code = "request_timeout"


class RequestAborted(PolyrankError):
    """The caller went away or cancelled; its work is stopped on every rank."""

    status = 499
    code = "client_cancelled"

    def __init__(self, message: str = "the caller cancelled the request", **details: Any) -> None:
        super().__init__(message, **details)


class QueueFull(PolyrankError):
    """As many requests wait as may wait. Details: ``waiting``, ``limit``."""

    status = 429
    code = "queue_full"


class IdempotencyConflict(PolyrankError):
    """An ``Idempotency-Key`` that came with another request before."""

    status = 422
    code = "idempotency_conflict"


class StoreUnavailable(PolyrankError):
    """The database cannot be reached, or failed."""

    status = 503
    code = "store_unavailable"


class FilesUnavailable(PolyrankError):
    """The folder or bucket of the file store cannot be reached, is full, or failed."""

    status = 503
    code = "files_unavailable"


class ReplicaUnreachable(PolyrankError):
    """A replica did not answer, or its answer broke off."""

    status = 503
    code = "runner_connection_error"


class RunnerError(PolyrankError):
    """Something went wrong in the processes that run a worker."""

    code = "runner_error"


class WorkerError(RunnerError):
    """A worker raised. Details: ``rank``, ``error_type`` (class name), ``traceback`` (text)."""

    code = "runner_server_error"


class SetupFailed(RunnerError):
    """A group of ranks did not become ready. Details as far as known: ``rank``, ``traceback``."""

    status = 503
    code = "runner_setup_failed"


class NotEnoughDevices(SetupFailed):
    """More GPUs were asked for than this machine has. Details: ``needed``, ``found``."""

    code = "runner_scheduling_failure"


class WorkerDied(RunnerError):
    """A rank process ended or froze. Details: ``rank``, ``exit_code`` or ``signal``, ``stderr``."""

    status = 503
    code = "runner_disconnected"


class RunnerStopped(RunnerError):
    """The runner is not running: not started, stopped, or every group of it is down."""

    status = 503
    code = "runner_connection_refused"


class UnsupportedPipeline(AppError):
    """A part of ``polyrank.diffusion`` cannot work with this pipeline, scheduler or shape."""


class AppException(PolyrankError):
    """Raised by an app's author to answer with a status and a message of their choice.

    Example: ``raise AppException("no such style", status_code=404)``.
    """

    code = "app_exception"

    def __init__(self, message: str = "", status_code: int = 500, **details: Any) -> None:
        super().__init__(message, status_code=status_code, **details)


class RequestCancelled(BaseException):
    """Raised by ``worker.checkpoint()`` on every rank at the same step of a cancelled request.

    A BaseException, as ``asyncio.CancelledError`` is, so that a worker's ``except Exception``
    does not swallow it.
    """


def from_wire(wire: Mapping[str, Any]) -> PolyrankError:
    """The error that ``to_wire`` described; an unknown class becomes a plain PolyrankError."""
    cls = _by_name().get(wire["type"], PolyrankError)
    error = cls.__new__(cls, wire["message"])  # constructors of subclasses differ
    PolyrankError.__init__(error, wire["message"], **wire["details"])
    return error


def _by_name(root: type[PolyrankError] = PolyrankError) -> dict[str, type[PolyrankError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _by_name(child)
    return found

"""What a flow asks of whoever drives it.

A flow is a generator that does no I/O: it yields steps, and gets back what came of each. A driver
performs them with blocking calls or with awaits; both run the same flows.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from polyrank.client import objects
from polyrank.client.errors import ClientHTTPError
from polyrank.client.parts import Part

T = TypeVar("T")


class Lost(Exception):
    """Thrown into a flow when a step got no answer.

    ``is_sent``: the server may have received the request. ``is_late``: a time limit passed.
    """

    def __init__(self, reason: str, *, is_sent: bool, is_late: bool = False) -> None:
        super().__init__(reason)
        self.is_sent = is_sent
        self.is_late = is_late


class DeadlinePassed(Exception):
    """The caller's time is up."""


@dataclass(frozen=True)
class Deadline:
    """A moment of the monotonic clock, or none."""

    at: float | None = None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """In so many seconds."""
        return cls(None if seconds is None else time.monotonic() + seconds)

    @property
    def has_passed(self) -> bool:
        """Whether the time is up."""
        return self.at is not None and time.monotonic() >= self.at

    def left(self, limit_s: float | None = None) -> float | None:
        """Seconds until then, ``limit_s`` at most; None for no end. Raises DeadlinePassed."""
        if self.at is None:
            return limit_s
        left = self.at - time.monotonic()
        if left <= 0:
            raise DeadlinePassed
        return left if limit_s is None else min(left, limit_s)


@dataclass(frozen=True)
class Request:
    """One HTTP request. ``timeout_s`` bounds each wait for the server; None does not."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | Part | None = None
    timeout_s: float | None = None


@dataclass(frozen=True)
class Answer:
    """What came back; the names of ``headers`` are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""

    def json(self) -> Any:
        """The body. Raises ClientHTTPError if it is not JSON."""
        try:
            return objects.load(self.content)
        except ValueError:
            start = self.content[:200].decode(errors="replace")
            raise self.error(f"the answer is not JSON but {start!r}") from None

    def checked(self) -> Answer:
        """This answer. Raises ClientHTTPError if it is one of an error."""
        if self.status < 400:
            return self
        raise self.error()

    def error(self, detail: Any = None) -> ClientHTTPError:
        """The error that this answer is."""
        try:
            body = objects.load(self.content)
        except ValueError:
            body = None
        said = body if isinstance(body, dict) else {}
        if detail is None:
            detail = said.get("detail") or said.get("status")
            detail = detail or self.content[:1000].decode(errors="replace")
        return ClientHTTPError(
            self.status,
            detail,
            error_type=said.get("error_type") or self.headers.get("x-fal-error-type"),
            request_id=self.headers.get("x-fal-request-id"),
            headers=self.headers,
            body=self.content,
        )


@dataclass(frozen=True)
class Send:
    """Send a request; the reply is its Answer."""

    request: Request


@dataclass(frozen=True)
class Open:
    """Send a request whose answer is read as it comes; the reply is its Answer.

    The body of an error, or of anything that is no stream of events, is read at once.
    """

    request: Request
    deadline: Deadline


@dataclass(frozen=True)
class Read:
    """Read on in what is open; the reply is some bytes, none at its end."""


@dataclass(frozen=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Together:
    """Run flows side by side, ``limit`` at a time; the reply is the list of what they return."""

    flows: Sequence[Flow[Any]]
    limit: int


@dataclass(frozen=True)
class Emit(Generic[T]):
    """Give the caller a value and go on when they ask for the next."""

    value: T


@dataclass(frozen=True)
class Done(Generic[T]):
    """Not a step: the end of a flow, with what it returned."""

    value: T


Step: TypeAlias = Send | Open | Read | Pause | Together
Flow: TypeAlias = Generator[Step, Any, T]
# A flow whose values come one by one.
Emitting: TypeAlias = Generator[Step | Emit[T], Any, None]

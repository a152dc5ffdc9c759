"""What a replica tells whoever started it: one JSON line each, through a pipe of its own."""

from __future__ import annotations

from typing import Any

import msgspec

# By this header a replica on a network knows its server.
TOKEN_HEADER = b"x-polyrank-replica"
# By this one it knows a request of the queue, the end of which it reports.
QUEUED_HEADER = b"x-polyrank-queued"


class HealthCheck(msgspec.Struct, frozen=True):
    """How a replica's health is judged: by calling ``path``. Times are in seconds.

    Failures in the start period count only once a call has succeeded. Unless it is called
    ``regularly``, an answer of the app has to ask for it.
    """

    path: str
    method: str = "POST"
    start_period_s: float = 30.0
    timeout_s: float = 5.0
    failure_threshold: int = 3
    regularly: bool = True


class Limits(msgspec.Struct, frozen=True):
    """Of an app's options, those that hold in front of it. Times are in seconds."""

    request_timeout_s: float | None = None
    start_timeout_s: float | None = None
    startup_timeout_s: float | None = None
    multiplexing: int = 1
    # How often a request is run again after "timeout", "server_error" or "connection_error".
    retries: dict[str, int] = {}
    auth: str | None = None
    grace_s: float = 5.0
    health: HealthCheck | None = None


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The app's file is loaded, and its ``setup`` begins."""

    app: str
    limits: Limits


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """How far ``setup`` is: a fraction between 0 and 1, and what it is doing."""

    fraction: float
    what: str = ""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The app is served: where, and a first call of each endpoint.

    With a ``token``, calls must carry it (``TOKEN_HEADER``). ``ends`` says that the end of a
    queued request is reported.
    """

    host: str
    port: int
    routes: list[dict[str, Any]]
    token: str = ""
    ends: bool = False


class Line(msgspec.Struct, frozen=True, tag="line"):
    """A line that was printed or logged while a request was worked on. ``time``: s since 1970."""

    request_id: str
    time: float
    level: str
    message: str


class End(msgspec.Struct, frozen=True, tag="end"):
    """There will be no more lines of a queued request."""

    request_id: str


Report = Loaded | Loading | Ready | Line | End

_decoder: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)
_encoder = msgspec.json.Encoder()


def encode(report: Report) -> bytes:
    """The line, with its end."""
    return _encoder.encode(report) + b"\n"


def decode(line: bytes) -> Report:
    """The report that a line holds."""
    return _decoder.decode(line)

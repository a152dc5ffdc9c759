"""The frames between a runner and its ranks: one small typed struct each, encode and decode.

On the wire a message is one msgpack part (the frame) followed by the inline buffers of the value
that the frame carries, if any. A frame says which epoch of its group it belongs to; the receiver
drops whatever is not of its own epoch, so a stale result can never answer a new request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

Buffer: TypeAlias = bytes | bytearray | memoryview


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a value's buffer is: in the sender's arena at ``offset``, or inline (``offset`` -1)."""

    offset: int
    size: int


class Value(msgspec.Struct, frozen=True):
    """An encoded value (see ``values``): its header and the places of its buffers, in order."""

    header: bytes
    places: list[Place] = []


class Frame(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """What every frame carries."""

    epoch: int


# --- runner to rank ---------------------------------------------------------------------------


class Setup(Frame, frozen=True, kw_only=True):
    """Load the worker class, join the process group, call ``setup(**kwargs)``."""

    worker: WorkerSource
    kwargs: Value
    device: str
    seed: int
    store_host: str
    store_port: int
    timeout_s: float
    threads: int
    cwd: str | None


class Call(Frame, frozen=True, kw_only=True):
    """One request. ``number`` counts the group's calls; ``released`` frees the rank's blocks."""

    number: int
    request_id: str
    streaming: bool
    text_events: bool
    payload: Value
    released: list[int] = []


class Settle(Frame, frozen=True, kw_only=True):
    """After a failed call: finish what is queued on the device, then answer ``Settled``."""


class Stop(Frame, frozen=True, kw_only=True):
    """Tear down and end."""


# --- rank to runner ---------------------------------------------------------------------------


class Hello(Frame, frozen=True, kw_only=True):
    """The rank is connected."""


class Ready(Frame, frozen=True, kw_only=True):
    """Set up; ``phases`` maps a phase's name to its seconds."""

    phases: dict[str, float]


class Event(Frame, frozen=True, kw_only=True):
    """One streamed result of call ``number``: a value, or ready text in the first inline part."""

    number: int
    value: Value | None = None


class Done(Frame, frozen=True, kw_only=True):
    """The call ended. Rank 0 sends the result and how many events went before it."""

    number: int
    events: int
    released: list[int]
    result: Value | None = None


class Left(Frame, frozen=True, kw_only=True):
    """The call was cancelled and the rank left it at checkpoint ``step``."""

    number: int
    step: int
    released: list[int]


class Failure(Frame, frozen=True, kw_only=True):
    """The worker raised, in ``setup`` (``number`` 0) or a call. ``fatal``: the device is lost."""

    number: int
    error_type: str
    message: str
    traceback: str
    fatal: bool
    released: list[int] = []


class Settled(Frame, frozen=True, kw_only=True):
    """The device has nothing queued any more."""


class WorkerSource(msgspec.Struct, frozen=True):
    """How a rank gets the worker class.

    ``module`` and ``qualname`` name it; ``file`` is set where polyrank loaded the module from a
    user's file; ``pickled`` holds the class by value where no other process can import it.
    """

    module: str
    qualname: str
    file: str | None
    pickled: bytes | None
    path: list[str]
    compat: bool


ToRank: TypeAlias = Setup | Call | Settle | Stop
FromRank: TypeAlias = Hello | Ready | Event | Done | Left | Failure | Settled

_encoder = msgspec.msgpack.Encoder()
_to_rank: msgspec.msgpack.Decoder[ToRank] = msgspec.msgpack.Decoder(ToRank)
_from_rank: msgspec.msgpack.Decoder[FromRank] = msgspec.msgpack.Decoder(FromRank)


def encode(frame: Frame, inline: Sequence[Buffer] = ()) -> list[Any]:
    """The message parts of a frame and its inline buffers."""
    return [_encoder.encode(frame), *inline]


def decode_to_rank(parts: Sequence[Buffer]) -> tuple[ToRank, Sequence[Buffer]]:
    """Frame and inline buffers of a message that a rank received."""
    return _to_rank.decode(parts[0]), parts[1:]


def decode_from_rank(parts: Sequence[Buffer]) -> tuple[FromRank, Sequence[Buffer]]:
    """Frame and inline buffers of a message that the runner received."""
    return _from_rank.decode(parts[0]), parts[1:]

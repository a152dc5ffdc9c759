"""The frames between a runner and a relay: the ranks' own, and what replaces shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from polyrank.distributed import wire
from polyrank.distributed.wire import Buffer, Frame

# --- runner to relay --------------------------------------------------------------------------


class Open(Frame, frozen=True, kw_only=True):
    """A new epoch: end what is left of the last one and get ready for this rank."""

    group: int
    rank: int
    world_size: int


class Launch(Frame, frozen=True, kw_only=True):
    """Start the rank."""

    environment: dict[str, str]


class Kill(Frame, frozen=True, kw_only=True):
    """End the rank at once."""


class Credits(Frame, frozen=True, kw_only=True):
    """So many events of call ``number`` have been consumed."""

    number: int
    consumed: int


class Halt(Frame, frozen=True, kw_only=True):
    """Call ``number`` is cancelled: hold the rank at its next checkpoint, answer ``Halted``."""

    number: int


class LeaveAt(Frame, frozen=True, kw_only=True):
    """Every rank leaves call ``number`` at checkpoint ``step``."""

    number: int
    step: int


class AskIdle(Frame, frozen=True, kw_only=True):
    """For how long has the rank made no progress? Answered with ``Idle``."""


# --- relay to runner --------------------------------------------------------------------------


class Connected(Frame, frozen=True, kw_only=True):
    """The relay is there."""


class Opened(Frame, frozen=True, kw_only=True):
    """Ready for the rank; beside rank 0, where its process group will meet."""

    host: str
    port: int


class Launched(Frame, frozen=True, kw_only=True):
    """The rank's process is there."""

    pid: int


class Refused(Frame, frozen=True, kw_only=True):
    """``Open`` or ``Launch`` failed."""

    message: str


class Output(Frame, frozen=True, kw_only=True):
    """A line that the rank has printed."""

    stream: str
    line: str


class Exited(Frame, frozen=True, kw_only=True):
    """The rank's process has ended."""

    code: int | None
    signal: str | None


class Halted(Frame, frozen=True, kw_only=True):
    """``step`` is the last checkpoint of call ``number`` that the rank has passed."""

    number: int
    step: int


class Idle(Frame, frozen=True, kw_only=True):
    """For so long the rank has made no progress."""

    seconds: float


ToRelay: TypeAlias = Open | Launch | Kill | Credits | Halt | LeaveAt | AskIdle | wire.ToRank
FromRelay: TypeAlias = (
    Connected | Opened | Launched | Refused | Output | Exited | Halted | Idle | wire.FromRank
)

_to_relay: msgspec.msgpack.Decoder[ToRelay] = msgspec.msgpack.Decoder(ToRelay)
_from_relay: msgspec.msgpack.Decoder[FromRelay] = msgspec.msgpack.Decoder(FromRelay)


def decode_to_relay(parts: Sequence[Buffer]) -> tuple[ToRelay, Sequence[Buffer]]:
    """Frame and inline buffers of a message that a relay received."""
    return _to_relay.decode(parts[0]), parts[1:]


def decode_from_relay(parts: Sequence[Buffer]) -> tuple[FromRelay, Sequence[Buffer]]:
    """Frame and inline buffers of a message that the runner received."""
    return _from_relay.decode(parts[0]), parts[1:]

"""The messages between a runner and its fork server, over one SEQPACKET socket."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

MAX_MESSAGE = 1 << 16
MAX_FDS = 16


class Spawn(msgspec.Struct, tag=True, frozen=True):
    """Fork one rank. Descriptors follow: stdout, stderr, then those named by ``fds``."""

    key: int
    spec: bytes
    fds: list[str]


class Started(msgspec.Struct, tag=True, frozen=True):
    """The fork server is ready to fork; ``problem`` is why it did not preload, or ""."""

    import_s: float
    preload_s: float
    problem: str


class Spawned(msgspec.Struct, tag=True, frozen=True):
    """The rank's process; its pidfd follows."""

    key: int
    pid: int


class Exited(msgspec.Struct, tag=True, frozen=True):
    """The rank's process has ended with this wait status."""

    key: int
    status: int


class Frozen(msgspec.Struct, tag=True, frozen=True):
    """The rank's process was stopped by this signal."""

    key: int
    signal: int


FromServer: TypeAlias = Started | Spawned | Exited | Frozen

encode = msgspec.msgpack.Encoder().encode
decode_spawn = msgspec.msgpack.Decoder(Spawn).decode
decode_from_server = msgspec.msgpack.Decoder(FromServer).decode

"""What a rank process is told before it can listen."""

from __future__ import annotations

import msgspec


class RankSpec(msgspec.Struct, frozen=True):
    """Where to connect and as whom; the descriptors are inherited.

    ``inbox_fd``, ``outbox_fd`` and ``control_fd`` are shared memory (values to and from the rank,
    control words), ``credit_fd`` an eventfd, ``store_fd`` rank 0's listening rendezvous socket.
    """

    address: str
    identity: bytes
    epoch: int
    group: int
    rank: int
    world_size: int
    environment: dict[str, str]
    ranks_here: int
    inbox_fd: int = -1
    outbox_fd: int = -1
    control_fd: int = -1
    credit_fd: int = -1
    store_fd: int = -1

    def descriptors(self) -> dict[str, int]:
        """The descriptors to hand over, by field."""
        fields = ("inbox_fd", "outbox_fd", "control_fd", "credit_fd", "store_fd")
        return {name: fd for name in fields if (fd := getattr(self, name)) >= 0}

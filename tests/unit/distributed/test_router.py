"""One socket of the runner serves all ranks."""

from __future__ import annotations

import asyncio

import pytest
import zmq

from polyrank.distributed import wire
from polyrank.distributed.router import Router


async def test_a_frame_that_cannot_be_handled_holds_up_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What came together is read together: the socket tells of it once."""
    router = Router("tcp://127.0.0.1:*", wire.decode_from_rank)
    heard = asyncio.Event()

    def fail(frame: wire.FromRank, inline: list[bytes]) -> None:
        raise ZeroDivisionError

    router.register(b"0.0.1", fail)
    router.register(b"0.1.1", lambda frame, inline: heard.set())
    with zmq.Context() as context:
        for identity in (b"0.0.1", b"0.1.1"):
            with context.socket(zmq.DEALER) as rank:
                rank.setsockopt(zmq.IDENTITY, identity)
                rank.connect(router.address)
                rank.send_multipart(wire.encode(wire.Hello(epoch=1)))
        await heard.wait()
    router.close()
    assert "a frame of rank 0.0.1 could not be handled" in caplog.text
    assert "ZeroDivisionError" in caplog.text

"""What is done at the same time ends together."""

from __future__ import annotations

import asyncio

import pytest

from polyrank.distributed.remote import frames
from polyrank.distributed.remote.link import RemoteLink
from polyrank.distributed.router import Router
from polyrank.distributed.tasks import all_or_none
from polyrank.errors import SetupFailed


class Station:
    """A place whose relay is there at once, never, or cannot be."""

    def __init__(self, comes: asyncio.Event, error: Exception | None = None) -> None:
        self.identity = b""
        self.lost = asyncio.get_running_loop().create_future()
        self.is_starting = False
        self._comes = comes
        self._error = error

    async def start(self) -> Station:
        self.is_starting = True
        try:
            await self._comes.wait()
            if self._error is not None:
                raise self._error
            return self
        finally:
            await asyncio.sleep(0)  # as if something had to be taken back
            self.is_starting = False


async def test_results_come_in_the_order_of_the_works() -> None:
    comes = asyncio.Event()
    stations = [Station(comes) for _ in range(3)]
    starting = asyncio.create_task(all_or_none(station.start() for station in stations))
    await asyncio.sleep(0)
    comes.set()
    assert await starting == stations


async def test_where_one_fails_the_others_have_ended() -> None:
    never, comes = asyncio.Event(), asyncio.Event()
    comes.set()
    patient = Station(never)
    with pytest.raises(SetupFailed, match="no place"):
        await all_or_none([patient.start(), Station(comes, SetupFailed("no place")).start()])
    assert not patient.is_starting


async def test_all_end_with_whoever_waits_for_them() -> None:
    stations = [Station(asyncio.Event()) for _ in range(2)]
    waiting = asyncio.create_task(all_or_none(station.start() for station in stations))
    while not all(station.is_starting for station in stations):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not any(station.is_starting for station in stations)


async def test_a_machine_that_is_lost_in_the_start_leaves_no_other_starting() -> None:
    """The next try would find half a start there, and wait for it for ever."""
    comes = asyncio.Event()
    comes.set()
    patient, lost = Station(asyncio.Event()), Station(comes, SetupFailed("the relay was lost"))
    router = Router("tcp://127.0.0.1:*", frames.decode_from_relay)
    try:
        with pytest.raises(SetupFailed, match="was lost"):
            await RemoteLink([patient, lost], router, group=0, epoch=1).open()
        assert not patient.is_starting
    finally:
        router.close()

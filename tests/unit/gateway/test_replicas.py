"""Places at the replicas of an app: who gets which, and in which order."""

import asyncio

import pytest

from polyrank.errors import ReplicaUnreachable
from polyrank.gateway.answers import UnknownApp
from polyrank.gateway.replicas import HostedReplica, Replicas
from polyrank.gateway.upstream import Upstream


def replica(id: str, limit: int = 1, *hints: str) -> HostedReplica:
    return HostedReplica(id, Upstream("127.0.0.1", 9), limit, hints=frozenset(hints))


async def waiting(replicas: Replicas, count: int) -> None:
    """Lets tasks run until so many callers wait."""
    while len(replicas.waiting()) < count:
        await asyncio.sleep(0)


async def test_the_least_busy_replica_gets_the_next_request() -> None:
    replicas = Replicas()
    replicas.add(replica("one", 2))
    replicas.add(replica("two", 2))
    taken = [(await replicas.take()).replica.id for _ in range(4)]
    assert sorted(taken[:2]) == ["one", "two"] and sorted(taken) == ["one", "one", "two", "two"]
    assert replicas.is_busy


async def test_a_hint_is_preferred_while_that_replica_has_a_place() -> None:
    replicas = Replicas()
    replicas.add(replica("plain", 4))
    replicas.add(replica("cat", 1, "cat", "animal"))
    first, second = await replicas.take("cat"), await replicas.take("cat")
    assert (first.replica.id, second.replica.id) == ("cat", "plain")


async def test_places_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    demands: list[int] = []
    replicas = Replicas(on_demand=lambda: demands.append(1))
    replicas.add(replica("only"))
    held = await replicas.take()
    order: list[int] = []

    async def ask(number: int) -> None:
        slot = await replicas.take()
        order.append(number)
        slot.release()

    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(ask(number))
        await waiting(replicas, 5)
        assert replicas.take_free(10) == []  # nobody overtakes
        held.release()
    assert order == [0, 1, 2, 3, 4] and len(demands) == 5


async def test_whoever_stops_waiting_loses_nobody_a_place() -> None:
    replicas = Replicas()
    replicas.add(replica("only"))
    held = await replicas.take()
    impatient = asyncio.create_task(replicas.take())
    await waiting(replicas, 1)
    held.release()  # the place is the waiter's, who does not want it any more
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert (await replicas.take()).replica.id == "only"


async def test_who_only_asks_takes_no_place_but_needs_a_replica() -> None:
    replicas = Replicas()
    asking = asyncio.create_task(replicas.take(weight=0))
    working = asyncio.create_task(replicas.take())
    await waiting(replicas, 1)
    replicas.add(replica("only"))
    assert (await asking).replica.id == (await working).replica.id == "only"
    assert (await replicas.take(weight=0)).replica.taken == 1


async def test_who_only_asks_waits_behind_nobody() -> None:
    replicas = Replicas()
    replicas.add(replica("only"))
    held = await replicas.take()
    working = asyncio.create_task(replicas.take())
    await waiting(replicas, 1)
    async with asyncio.timeout(60):
        assert (await replicas.take(weight=0)).replica.id == "only"
    held.release()
    (await working).release()


async def test_a_replica_that_drains_gets_nothing_and_is_empty_in_the_end() -> None:
    replicas = Replicas()
    replicas.add(replica("old", 2))
    held = [await replicas.take(), await replicas.take()]
    draining = asyncio.create_task(replicas.drain("old"))
    replicas.add(replica("new", 2))
    await asyncio.sleep(0)
    assert [(await replicas.take()).replica.id for _ in range(2)] == ["new", "new"]
    held[0].release()
    await asyncio.sleep(0)
    assert not draining.done()
    held[1].release()
    await draining
    assert not replicas.get("old").is_open  # type: ignore[union-attr]


async def test_the_patient_wait_on_when_there_is_nobody_to_serve() -> None:
    replicas = Replicas()
    patient = asyncio.create_task(replicas.take(patient=True))
    caller = asyncio.create_task(replicas.take())
    await waiting(replicas, 1)
    replicas.fail(ReplicaUnreachable("it did not start"))
    with pytest.raises(ReplicaUnreachable):
        await caller
    replicas.add(replica("only"))
    assert (await patient).replica.id == "only"


async def test_a_request_for_a_dead_address_goes_to_another_replica() -> None:
    lost: list[str] = []
    replicas = Replicas(
        on_lost=lambda replica: (lost.append(replica.id), replicas.remove(replica.id))
    )  # type: ignore[func-returns-value]
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    replicas.add(replica("dead"))
    replicas.add(HostedReplica("alive", Upstream("127.0.0.1", port), 1, running=0))
    slot = await replicas.take()
    assert slot.replica.id == "dead"
    async with server, slot.call("GET", b"/", [], b"") as exchange:
        assert await exchange.body() == b"here"
    slot.release()
    assert lost == ["dead"] and slot.replica.id == "alive"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nhere")
    await writer.drain()
    writer.close()


async def test_nobody_waits_for_an_app_that_is_gone() -> None:
    replicas = Replicas()
    early = asyncio.create_task(replicas.take())
    await waiting(replicas, 1)
    replicas.close(UnknownApp("local/gone is not served here any more"))
    for late in (early, replicas.take()):
        with pytest.raises(UnknownApp):
            await late

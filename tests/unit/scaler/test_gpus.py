"""Leases of GPUs and slots, on machines as they are declared."""

import asyncio
from collections.abc import Iterator
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from polyrank.errors import NotEnoughDevices
from polyrank.machines import Machine
from polyrank.scaler.gpus import (
    Device,
    Elsewhere,
    Inventory,
    Lease,
    LeaseConflict,
    Wanted,
    best_linked,
)
from polyrank.scaler.nvml import Links
from polyrank.settings import ServerSettings

A100 = "NVIDIA A100-SXM4-80GB"
H100 = "NVIDIA H100 80GB HBM3"
ONE = Wanted.of("GPU")
TWO = Wanted.of("GPU", 2)


def pairs(board: range) -> Iterator[tuple[int, int]]:
    return combinations(board, 2)


async def settle() -> None:
    """Lets every task go on until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def joined(*pairs: tuple[int, int, int]) -> Links:
    return {frozenset({f"GPU-{one}", f"GPU-{other}"}): count for one, other, count in pairs}


# Two boards of four GPUs each.
TWO_BOARDS = joined(*((a, b, 4) for board in (range(4), range(4, 8)) for a, b in pairs(board)))


async def test_a_replica_leases_whole_gpus_and_gives_them_back() -> None:
    inventory = Inventory.declared([H100] * 2)
    lease = await inventory.lease(TWO, "r1")
    assert lease.visible_devices == "GPU-0,GPU-1"
    assert [each.owner for each in inventory.devices()] == ["r1", "r1"]
    lease.release()
    lease.release()
    assert [each.owner for each in inventory.devices()] == [None, None]


async def test_who_asks_first_is_served_first_even_if_less_would_be_had_sooner() -> None:
    inventory = Inventory.declared([H100] * 2)
    first = await inventory.lease(ONE, "r1")
    order: list[str] = []

    async def ask(wanted: Wanted, owner: str) -> Lease:
        lease = await inventory.lease(wanted, owner)
        order.append(owner)
        return lease

    two = asyncio.create_task(ask(TWO, "r2"))
    await settle()
    one = asyncio.create_task(ask(ONE, "r3"))
    await settle()
    # One GPU is free, and r3 must not take it from under r2's eyes.
    assert order == []
    first.release()
    (await two).release()
    (await one).release()
    assert order == ["r2", "r3"]


async def test_who_wants_something_else_does_not_stand_in_line() -> None:
    inventory = Inventory.declared([H100, A100], slots=2)
    await inventory.lease(Wanted.of("GPU-H100"), "r1")
    waiting = asyncio.create_task(inventory.lease(Wanted.of("GPU-H100"), "r2"))
    await settle()
    assert (await inventory.lease(Wanted.of("GPU-A100"), "r3")).gpus == ("GPU-1",)
    assert (await inventory.lease(Wanted.of("S"), "r4")).slots == 1
    assert not waiting.done()
    waiting.cancel()


async def test_of_several_machine_types_the_first_that_is_free_is_taken() -> None:
    inventory = Inventory.declared([A100, H100])
    either = Wanted.of(["GPU-H100", "GPU-A100"])
    assert (await inventory.lease(either, "r1")).machine == Machine("GPU-H100", 1)
    second = await inventory.lease(either, "r2")
    assert second.machine == Machine("GPU-A100", 1)
    third = asyncio.create_task(inventory.lease(either, "r3"))
    await settle()
    second.release()
    assert (await third).machine == Machine("GPU-A100", 1)


async def test_an_operator_says_what_a_type_stands_for() -> None:
    """An app written for H100s runs on what there is, without a change."""
    stands_for = ServerSettings.model_validate(
        {"machine_types": "gpu-h100=GPU-A100, GPU-B200 = GPU"}
    ).machine_types
    inventory = Inventory.declared([A100, H100], stands_for=stands_for)
    assert (await inventory.lease(Wanted.of("GPU-H100"), "r1")).gpus == ("GPU-0",)
    assert (await inventory.lease(Wanted.of("GPU-B200"), "r2")).gpus == ("GPU-1",)
    with pytest.raises(ValidationError, match="is not like GPU-H100=GPU-RTX4090"):
        ServerSettings.model_validate({"machine_types": "GPU-H100"})


async def test_what_can_never_be_had_is_an_error_that_says_what_is_there() -> None:
    inventory = Inventory.declared([A100, A100])
    says = f"asks for 4 x GPU-H100; this machine has 2 x {A100}"
    with pytest.raises(NotEnoughDevices, match=f"^{says}$") as raised:
        await inventory.lease(Wanted.of("GPU-H100", 4), "r1")
    assert (raised.value.needed, raised.value.found) == (4, 2)
    with pytest.raises(NotEnoughDevices, match="POLYRANK_MACHINE_TYPES can say which of them"):
        await inventory.lease(Wanted.of("GPU-H100", 2), "r1")
    with pytest.raises(NotEnoughDevices, match="asks for 1 x GPU; this machine has no GPU"):
        await Inventory.declared().lease(Wanted.of("GPU", device="cuda"), "r1")


async def test_without_gpus_ranks_run_on_slots() -> None:
    inventory = Inventory.declared(slots=4)
    lease = await inventory.lease(Wanted.of("GPU-H100", 2), "r1")
    assert (lease.gpus, lease.slots, lease.visible_devices) == ((), 2, "")
    assert (await inventory.lease(Wanted.of("M"), "r2")).slots == 2
    waiting = asyncio.create_task(inventory.lease(Wanted.of("S"), "r3"))
    await settle()
    assert not waiting.done()
    lease.release()
    assert (await waiting).slots == 1


async def test_on_a_machine_with_gpus_a_replica_may_still_be_kept_on_the_cpu() -> None:
    inventory = Inventory.declared([H100], slots=8)
    lease = await inventory.lease(Wanted.of("GPU-H100", 2, device="cpu"), "r1")
    assert (lease.gpus, lease.slots) == ((), 2)


async def test_a_size_above_the_machine_is_all_of_it() -> None:
    inventory = Inventory.declared(slots=2)
    assert (await inventory.lease(Wanted.of("XL"), "r1")).slots == 2


async def test_who_gives_up_waiting_lets_the_next_one_through() -> None:
    inventory = Inventory.declared([H100] * 2)
    await inventory.lease(ONE, "r1")
    two = asyncio.create_task(inventory.lease(TWO, "r2"))
    await settle()
    one = asyncio.create_task(inventory.lease(ONE, "r3"))
    await settle()
    two.cancel()
    assert (await one).gpus == ("GPU-1",)


async def test_a_replica_that_takes_the_place_of_another_goes_before_those_who_wait() -> None:
    inventory = Inventory.declared([H100])
    old = await inventory.lease(ONE, "r1")
    other = asyncio.create_task(inventory.lease(ONE, "r2"))
    await settle()
    new = asyncio.create_task(inventory.lease(ONE, "r3", ahead=True))
    await settle()
    old.release()
    (await new).release()
    assert (await other).gpus == ("GPU-0",)


async def test_a_lease_that_is_granted_to_somebody_who_has_just_gone_is_not_lost() -> None:
    inventory = Inventory.declared([H100])
    first = await inventory.lease(ONE, "r1")
    waiting = asyncio.create_task(inventory.lease(ONE, "r2"))
    await settle()
    first.release()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    assert (await inventory.lease(ONE, "r3")).gpus == ("GPU-0",)


async def test_a_replica_has_one_lease() -> None:
    inventory = Inventory.declared([H100] * 2)
    await inventory.lease(ONE, "r1")
    with pytest.raises(LeaseConflict, match="r1 has a lease"):
        await inventory.lease(ONE, "r1")


async def test_the_leases_of_replicas_that_a_server_finds_running_are_taken_over() -> None:
    inventory = Inventory.declared([H100] * 2, slots=2)
    lease = inventory.adopt("r1", ["GPU-1"])
    assert inventory.adopt("r2", slots=1).slots == 1
    assert (await inventory.lease(ONE, "r3")).gpus == ("GPU-0",)
    with pytest.raises(LeaseConflict, match="r4 runs on GPU GPU-1, and so does r1"):
        inventory.adopt("r4", ["GPU-1"])
    with pytest.raises(LeaseConflict, match="GPU-7, which is not here any more"):
        inventory.adopt("r4", ["GPU-7"])
    lease.release()
    assert (await inventory.lease(ONE, "r4")).gpus == ("GPU-1",)


async def test_a_broken_gpu_is_taken_out_and_its_holder_told() -> None:
    inventory = Inventory.declared([H100] * 2)
    told: asyncio.Future[Device] = asyncio.get_running_loop().create_future()
    inventory.watch(told.set_result)
    lease = await inventory.lease(ONE, "r1")
    inventory.take_out("GPU-0", "the driver reports XID 79")
    device = await told
    assert (device.owner, device.broken) == ("r1", "the driver reports XID 79")
    lease.release()
    assert (await inventory.lease(ONE, "r2")).gpus == ("GPU-1",)
    assert "not used: the driver reports XID 79" in inventory.describe()
    says = "this machine has 2 x .*, of which 1 GPU cannot be used"
    with pytest.raises(NotEnoughDevices, match=says):
        await inventory.lease(TWO, "r3")


async def test_who_waits_for_a_gpu_that_breaks_is_told_that_it_will_never_come() -> None:
    inventory = Inventory.declared([H100] * 2)
    await inventory.lease(ONE, "r1")
    two = asyncio.create_task(inventory.lease(TWO, "r2"))
    await settle()
    one = asyncio.create_task(inventory.lease(ONE, "r3"))
    await settle()
    inventory.take_out("GPU-0", "it has fallen off the bus")
    with pytest.raises(NotEnoughDevices):
        await two
    assert (await one).gpus == ("GPU-1",)


async def test_linked_gpus_are_leased_together() -> None:
    inventory = Inventory.declared([H100] * 4, links=joined((0, 2, 4), (1, 3, 4), (0, 1, 1)))
    assert (await inventory.lease(TWO, "r1")).gpus == ("GPU-0", "GPU-2")
    assert (await inventory.lease(TWO, "r2")).gpus == ("GPU-1", "GPU-3")


async def test_a_single_gpu_is_taken_where_it_breaks_the_fewest_links() -> None:
    inventory = Inventory.declared([H100] * 8, links=TWO_BOARDS)
    (await inventory.lease(ONE, "r1")).release()
    await inventory.lease(Wanted.of("GPU", 3), "r2")
    # The fourth of the board that is begun already, and not one of the whole board.
    assert (await inventory.lease(ONE, "r3")).gpus == ("GPU-3",)
    assert (await inventory.lease(Wanted.of("GPU", 4), "r4")).gpus == tuple(
        f"GPU-{index}" for index in range(4, 8)
    )


def test_on_a_machine_with_many_gpus_a_good_set_is_found() -> None:
    gpus = [f"GPU-{index}" for index in range(16)]
    boards = joined(
        *((a, b, 1) for board in (range(0, 16, 2), range(1, 16, 2)) for a, b in pairs(board))
    )
    assert best_linked(gpus, 8, boards) in (tuple(gpus[::2]), tuple(gpus[1::2]))


async def test_how_many_replicas_there_is_room_for() -> None:
    inventory = Inventory.declared([H100] * 3 + [A100], slots=4)
    assert inventory.room(TWO) == inventory.capacity(TWO) == 2
    assert inventory.room(Wanted.of(["GPU-A100", "M"])) == 3
    await inventory.lease(Wanted.of("GPU-H100"), "r1")
    assert (inventory.room(TWO), inventory.capacity(TWO)) == (1, 2)
    assert inventory.capacity(Wanted.of("GPU-H100", 4)) == 0


async def test_an_app_learns_how_many_of_its_replicas_hold_what_others_wait_for() -> None:
    inventory = Inventory.declared([H100] * 3 + [A100])
    for name in ("a1", "a2", "a3"):
        await inventory.lease(Wanted.of("GPU-H100"), name)
    mine = ["a1", "a2", "a3"]
    assert inventory.claims(mine) == 0
    waiting = asyncio.create_task(inventory.lease(Wanted.of("GPU-H100", 2), "b1"))
    await settle()
    assert inventory.claims(mine) == 2
    # What one app gives back, another one need not.
    inventory.expect_back("a1")
    assert inventory.claims(mine) == 1
    inventory.expect_back("a2")
    assert inventory.claims(mine) == 0
    other = asyncio.create_task(inventory.lease(Wanted.of("GPU-H100"), "c1"))
    await settle()
    assert inventory.claims(mine) == 1
    # It has nothing that helps.
    await inventory.lease(Wanted.of("GPU-A100"), "d1")
    assert inventory.claims(["d1"]) == 0
    waiting.cancel()
    other.cancel()


async def test_on_a_cluster_every_replica_may_be_tried_to_be_placed() -> None:
    cluster = Elsewhere()
    for number in range(3):
        lease = await cluster.lease(Wanted.of("GPU-H100", 8), f"r{number}")
        assert lease.machine == Machine("GPU-H100", 8)
    assert min(cluster.room(TWO), cluster.capacity(TWO)) > 1_000_000
    assert cluster.claims(["r0", "r1", "r2"]) == 0


def test_an_inventory_is_told_in_words() -> None:
    inventory = Inventory.declared([H100] * 2, slots=16, links=joined((0, 1, 18)))
    inventory.adopt("r1", ["GPU-1"])
    assert inventory.describe().splitlines() == [
        "2 GPUs, 16 slots",
        f"  0  {H100}  GPU-0  free",
        f"  1  {H100}  GPU-1  held by r1",
        "  0 and 1 are joined by 18 NVLinks",
    ]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from([H100, A100]), min_size=1, max_size=6),
    st.lists(
        st.tuples(
            st.sampled_from(["GPU", "GPU-H100", ["GPU-H100", "GPU-A100"], "S", "M"]),
            st.sampled_from([None, 1, 2, 3]),
        ),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_nothing_is_leased_twice_and_everybody_is_served_in_the_end(gpus, asked, random) -> None:  # type: ignore[no-untyped-def]
    async def serve_all() -> None:
        inventory = Inventory.declared(gpus, slots=2)
        held: list[Lease] = []
        served = 0

        async def ask(owner: str, wanted: Wanted) -> None:
            nonlocal served
            try:
                held.append(await inventory.lease(wanted, owner))
            except NotEnoughDevices:
                assert inventory.capacity(wanted) == 0
            served += 1

        tasks = []
        for number, (machine_type, count) in enumerate(asked):
            wanted = Wanted.of(machine_type, count)
            tasks.append(asyncio.create_task(ask(f"r{number}", wanted)))
        await settle()
        while held:
            taken = [uuid for lease in held for uuid in lease.gpus]
            assert len(set(taken)) == len(taken)
            assert sum(lease.slots for lease in held) <= 2
            held.pop(random.randrange(len(held))).release()
            await settle()
        assert served == len(asked)
        await asyncio.gather(*tasks)

    asyncio.run(serve_all())

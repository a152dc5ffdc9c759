"""torch.distributed is ready in every worker, on the CPU as on GPUs."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from polyrank.distributed import DistributedRunner
from polyrank.errors import NotEnoughDevices

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[1, 2, 4])
async def ranks(
    request: pytest.FixtureRequest, running: Callable[..., Any]
) -> AsyncIterator[DistributedRunner]:
    async with running(world_size=request.param) as runner:
        yield runner


async def test_all_reduce_adds_up_over_the_ranks(ranks: DistributedRunner) -> None:
    """Row 15: no GPU, no NCCL, the same program."""
    assert await ranks.invoke({"do": "total", "values": [1, 20, 300, 4000]}) == int(
        "4321"[-ranks.world_size :]
    )


async def test_rank_0_gathers_a_tensor_of_every_rank(ranks: DistributedRunner) -> None:
    gathered = await ranks.invoke({"do": "gather"})
    assert [tensor.tolist() for tensor in gathered] == [
        [[float(rank)] * 2] * 2 for rank in range(ranks.world_size)
    ]


async def test_every_rank_draws_random_numbers_of_its_own(ranks: DistributedRunner) -> None:
    """torch's, numpy's and Python's."""
    drawn = await ranks.invoke({"do": "draw"})
    for numbers in zip(*drawn, strict=True):
        assert len(set(numbers)) == ranks.world_size


async def test_a_worker_knows_its_place(ranks: DistributedRunner) -> None:
    """Row 17: the worker runs in the main thread of its rank, where the device is current."""
    who = await ranks.invoke({"do": "who"})
    assert (who["rank"], who["world_size"]) == (0, ranks.world_size)
    assert (who["device"], who["thread"]) == ("cpu", True)


async def test_more_gpus_than_there_are_is_an_error_that_counts_them(
    running: Callable[..., Any],
) -> None:
    with pytest.raises(NotEnoughDevices, match="999 GPUs; this machine has") as caught:
        async with running(world_size=999, device="cuda"):
            pass
    assert caught.value.needed == 999
    assert caught.value.found < 999


async def test_auto_is_the_cpu_where_a_setting_says_so(
    running: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYRANK_DEVICE", "cpu")
    async with running(world_size=2, device="auto") as runner:
        assert (await runner.invoke({"do": "who"}))["device"] == "cpu"


async def test_arguments_for_ports_and_devices_are_accepted_and_ignored(
    running: Callable[..., Any],
) -> None:
    """Row 14: there is no fixed port to collide on."""
    ports = {
        "master_addr": "127.0.0.1",
        "master_port": 29500,
        "worker_addr": "127.0.0.1",
        "worker_port": 54923,
        "set_device": True,
    }
    async with running(world_size=2, **ports) as first, running(world_size=2, **ports) as second:
        assert await first.invoke({"do": "total", "values": [1, 2]}) == 3
        assert await second.invoke({"do": "total", "values": [3, 4]}) == 7

"""What it costs ranks to show each other a tensor, inside a CUDA graph.

    python -m benchmarks.exchange --ranks 4

By symmetric memory and over NCCL, the way the layers of a divided model do; microseconds of one
exchange, and whether every rank got what every rank gave, on fresh data in every replay.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from polyrank.distributed import DistributedRunner, DistributedWorker

# Rows of a share and bytes of a row: moments of a norm, those with edges of SDXL's levels, keys and
# values. What has several rows is a part of as many that are half as long again, with the queries.
SHARES = {
    "moments of a norm": (1, 256),
    "moments and edges, 128 x 320": (1, 256 + 4 * 2 * 128 * 320),
    "edges, 128 x 320, float16": (1, 2 * 2 * 128 * 320),
    "keys and values, 512 x 1280": (512, 2 * 2 * 1280),
    "keys and values, 2048 x 640": (2048, 2 * 2 * 640),
    "keys and values, 8192 x 640": (8192, 2 * 2 * 640),
}
CHAIN = 50
REPLAYS = 10


class Measured(DistributedWorker):
    """Times exchanges among all ranks."""

    def __call__(self, streaming: bool = False, *, symmetric: bool) -> list[tuple[float, bool]]:
        """For each of SHARES: microseconds, and whether all replays were right."""
        import torch
        import torch.distributed as dist

        from polyrank.diffusion.exchange import Exchange, GroupExchange
        from polyrank.diffusion.symmetric import SymmetricExchange

        group = dist.group.WORLD
        exchange: Exchange = GroupExchange(group)
        if symmetric:
            exchange = SymmetricExchange(group, self.device, exchange)
        found = []
        for rows, size in SHARES.values():
            width = size // 4
            whole = torch.zeros(rows, width if rows == 1 else width * 3 // 2, device=self.device)
            share = whole[:, -width:]
            replay, gathered = self.record(exchange, share)
            right = True
            for _ in range(REPLAYS):
                share.normal_()
                expected = share.new_empty(self.world_size, rows, width)
                dist.all_gather(list(expected), share.contiguous())
                replay()
                right &= bool(torch.equal(gathered[-1], expected))
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            dist.barrier()
            begin.record()
            for _ in range(REPLAYS):
                replay()
            end.record()
            end.synchronize()
            found.append((begin.elapsed_time(end) * 1000 / REPLAYS / CHAIN, right))
        return found

    def record(self, exchange: Any, share: Any) -> tuple[Callable[[], None], list[Any]]:
        """A graph of CHAIN exchanges, and what they give."""
        import torch

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            exchange(share)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                gathered = [exchange(share) for _ in range(CHAIN)]
        torch.cuda.current_stream().wait_stream(stream)
        return graph.replay, gathered


async def measure(ranks: int) -> None:
    """Prints the table."""
    async with DistributedRunner(Measured, ranks, device="cuda") as runner:
        nccl = await runner.invoke({"symmetric": False})
        own = await runner.invoke({"symmetric": True})
    print(
        f"{ranks} ranks; microseconds of an exchange inside a graph\n\n"
        "| a rank's share | bytes | NCCL | symmetric memory |\n|---|---|---|---|"
    )
    for (name, (rows, row)), over_nccl, by_memory in zip(SHARES.items(), nccl, own, strict=True):
        cells = [f"{us:.1f}{'' if right else ' WRONG'}" for us, right in (over_nccl, by_memory)]
        print(f"| {name} | {rows * row} | {cells[0]} | {cells[1]} |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ranks", type=int, default=2)
    asyncio.run(measure(parser.parse_args(arguments).ranks))


if __name__ == "__main__":
    main()

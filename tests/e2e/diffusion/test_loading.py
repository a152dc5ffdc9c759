"""Ranks that load a model together, which are processes on the CPU here."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from loading_workers import MODEL, Loader

from polyrank.distributed import DistributedRunner

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def loader() -> AsyncIterator[DistributedRunner]:
    async with DistributedRunner(Loader, world_size=2, device="cpu") as runner:
        yield runner


async def test_each_rank_reads_its_share_and_has_all(loader: DistributedRunner) -> None:
    result = await loader.invoke({"folders": [str(MODEL / "vae")] * 2})
    (one_same, one_read), (other_same, other_read) = result["ranks"]
    assert one_same and other_same
    [file] = (MODEL / "vae").glob("*.safetensors")
    assert 0.99 * file.stat().st_size < one_read + other_read < file.stat().st_size
    assert abs(one_read - other_read) < 0.2 * one_read


async def test_ranks_with_different_files_are_told_so(
    loader: DistributedRunner, tmp_path: Path
) -> None:
    other = tmp_path / "vae"
    shutil.copytree(MODEL / "vae", other)
    [file] = other.glob("*.safetensors")
    data = file.read_bytes()
    assert data.count(b"decoder.conv_in.bias") == 1
    file.write_bytes(data.replace(b"decoder.conv_in.bias", b"decoder.conv_in.bins"))
    result = await loader.invoke({"folders": [str(MODEL / "vae"), str(other)]})
    assert "rank 0 and rank 1 of the group have different files of weights" in result["error"]

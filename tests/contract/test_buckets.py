"""Files in a bucket: the S3 protocol, spoken with a server of it."""

import logging
from collections.abc import AsyncIterator, Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from polyrank.errors import FilesUnavailable, UploadTooLarge
from polyrank.files.blobs import Blobs


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of an empty bucket; where it is served and for whom stands in the environment,
    as it does for every client of S3."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }.items():
            environment.setenv(name, value)
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="polyrank")
        yield "s3://polyrank/files"
    server.stop()


async def bytes_of(size: int, chunk: int = 2**16) -> AsyncIterator[bytes]:
    for start in range(0, size, chunk):
        yield bytes((start // chunk + each) % 251 for each in range(min(chunk, size - start)))


@pytest.mark.parametrize("size", [0, 1, 6 * 2**20])
async def test_what_goes_in_comes_out(bucket: str, size: int) -> None:
    blobs = Blobs(bucket)
    written = await blobs.put(f"{size}/1", bytes_of(size), max_bytes=size)
    assert written.size == size
    wanted = b"".join([chunk async for chunk in bytes_of(size)])
    assert b"".join([chunk async for chunk in blobs.read(f"{size}/1", 0, size)]) == wanted
    middle = [chunk async for chunk in blobs.read(f"{size}/1", size // 2, size)]
    assert b"".join(middle) == wanted[size // 2 :]
    await blobs.remove_below(str(size))
    if size:
        with pytest.raises(FilesUnavailable):
            _ = [chunk async for chunk in blobs.read(f"{size}/1", 0, 1)]


async def test_what_breaks_off_is_not_there(bucket: str) -> None:
    blobs = Blobs(bucket)
    with pytest.raises(UploadTooLarge):
        await blobs.put("large/1", bytes_of(6 * 2**20), max_bytes=5 * 2**20)
    with pytest.raises(FilesUnavailable):
        _ = [chunk async for chunk in blobs.read("large/1", 0, 1)]


async def test_a_bucket_that_is_not_there_is_a_clear_error(bucket: str) -> None:
    with pytest.raises(FilesUnavailable, match="s3://nobody/files failed"):
        await Blobs("s3://nobody/files").put("a/1", bytes_of(1), max_bytes=1)

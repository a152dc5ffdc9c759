"""Files on their way in: bytes into blobs, and, when all are there, one step that shows the file.

Whatever fails or dies in between leaves nothing that could be seen; the sweep removes it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from polyrank.errors import InvalidInput, PolyrankError, UploadTooLarge
from polyrank.files.blobs import Blobs
from polyrank.store.files import Blob, Completed, File, Files, NewFile, etag_of

MAX_PARTS = 10_000


class UnknownUpload(PolyrankError):
    """No such upload here, or none any more."""

    status = 404
    code = "upload_not_found"


class UploadConflict(PolyrankError):
    """The file is whole already, of other bytes."""

    status = 409
    code = "upload_conflict"


class IncompleteUpload(InvalidInput):
    """The bytes that arrived are not those that were announced. Details: ``missing`` parts."""

    status = 400
    code = "upload_incomplete"


@dataclass(frozen=True)
class Part:
    """A part as a caller names it to complete an upload."""

    number: int
    etag: str


class Uploads:
    """Takes files into ``blobs``, and keeps what is known of them in ``files``.

    ``on_change`` is called when there is a file whose time will be over.
    """

    def __init__(
        self, files: Files, blobs: Blobs, *, max_bytes: int, on_change: Callable[[], None]
    ) -> None:
        self.files = files
        self.blobs = blobs
        self.max_bytes = max_bytes
        self._on_change = on_change

    async def begin(self, new: NewFile) -> File:
        """Makes room for a file; its bytes follow in one or in parts."""
        if new.declared_size is not None:
            self.check_size(new.declared_size)
        self._on_change()
        return await self.files.create(new)

    def check_size(self, size: int) -> None:
        """Raises UploadTooLarge if no file may be of this size."""
        if size > self.max_bytes:
            raise UploadTooLarge(
                f"a file may have {self.max_bytes} bytes, not {size}", max_bytes=self.max_bytes
            )

    async def put(self, file: File, chunks: AsyncIterator[bytes]) -> str:
        """Takes all bytes of the file at once; its tag."""
        blob = await self._write(file, chunks, max_bytes=self.max_bytes)
        if file.declared_size not in (None, blob.size):
            await self.blobs.remove(blob.key)
            raise IncompleteUpload(
                f"{blob.size} bytes arrived and {file.declared_size} were announced"
            )
        outcome = await self.files.complete(file.id, [blob])
        if outcome is not Completed.DONE:
            await self.blobs.remove(blob.key)
        _check(outcome, file)
        self._on_change()
        return blob.etag

    async def put_part(self, file: File, number: int, chunks: AsyncIterator[bytes]) -> Blob:
        """Takes one part, in any order; a part that was there is replaced."""
        if not 1 <= number <= MAX_PARTS:
            raise InvalidInput(f"parts are numbered from 1 to {MAX_PARTS}, not {number}")
        if file.is_whole:
            raise UploadConflict(f"{file.name} is whole already: it takes no more parts")
        there = await self.files.parts(file.id)
        others = sum(blob.size for each, blob in there.items() if each != number)
        blob = await self._write(file, chunks, max_bytes=self.max_bytes - others)
        if not blob.size:
            await self.blobs.remove(blob.key)
            # fal-client before 1.0.3 sends the first part only of bytes that it has in memory.
            raise IncompleteUpload(
                f"part {number} is empty; fal-client 1.0.1 and older lose bytes in upload(): "
                "use upload_file(), or a newer one"
            )
        if (before := await self.files.set_part(file.id, number, blob)) is not None:
            await self.blobs.remove(before.key)
        return blob

    async def complete(self, file: File, named: Sequence[Part]) -> str:
        """Makes the file whole of its parts, in the order of their numbers; its tag."""
        named = sorted(named, key=lambda part: part.number)
        if file.is_whole:  # the answer may have been lost on its way to the caller
            if etag_of([part.etag for part in named]) != file.etag:
                _check(Completed.OTHERWISE, file)
            return file.etag
        there = await self.files.parts(file.id)
        _check_parts(named, there)
        blobs = list(there.values())
        size = sum(blob.size for blob in blobs)
        self.check_size(size)
        if file.declared_size not in (None, size):
            raise IncompleteUpload(f"{size} bytes arrived and {file.declared_size} were announced")
        _check(await self.files.complete(file.id, blobs), file)
        self._on_change()
        return etag_of([blob.etag for blob in blobs])

    async def _write(self, file: File, chunks: AsyncIterator[bytes], max_bytes: int) -> Blob:
        key = f"{file.id}/{secrets.token_hex(8)}"
        written = await self.blobs.put(key, chunks, max_bytes=max_bytes)
        return Blob(key, written.size, written.etag)


def _check(outcome: Completed, file: File) -> None:
    if outcome is Completed.GONE:
        raise UnknownUpload("the time to upload this file is over")
    if outcome is Completed.OTHERWISE:
        raise UploadConflict(f"{file.name} is whole already, of other bytes")


def _check_parts(named: Sequence[Part], there: dict[int, Blob]) -> None:
    """Raises IncompleteUpload unless the parts named are all that there are, with no gap."""
    numbers = [part.number for part in named]
    if not numbers:
        raise IncompleteUpload("name the parts that make up the file")
    if len(set(numbers)) < len(numbers):
        raise IncompleteUpload("a part is named twice")
    wanted = set(range(1, max([*numbers, *there]) + 1))
    if missing := sorted((wanted - set(there)) | (wanted - set(numbers))):
        listed = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        raise IncompleteUpload(f"these parts are missing: {listed}", missing=missing[:1000])
    for part in named:
        if part.etag != there[part.number].etag:
            raise IncompleteUpload(
                f"part {part.number} arrived with the tag {there[part.number].etag}, "
                f"not {part.etag}: upload it again",
                missing=[part.number],
            )

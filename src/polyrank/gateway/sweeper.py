"""Makes room: removes files and values whose time is over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from polyrank.errors import FilesUnavailable, StoreUnavailable
from polyrank.files.blobs import Blobs
from polyrank.store.files import Files
from polyrank.store.key_values import KeyValues

log = logging.getLogger("polyrank.gateway")

# A sweep hides nothing: what is over is not shown any more, swept or not. So it may come late.
SWEEP_EVERY_S = 60.0


class Sweeper:
    """Removes the files and values whose time is over."""

    def __init__(self, files: Files, blobs: Blobs, key_values: KeyValues) -> None:
        self._files = files
        self._blobs = blobs
        self._key_values = key_values
        self._wake = asyncio.Event()

    def note_change(self) -> None:
        """Something was kept whose time may be over earlier than that of all else."""
        self._wake.set()

    async def run(self) -> None:
        """Sweeps whenever something is due, until cancelled."""
        is_tidy = False
        while True:
            self._wake.clear()
            try:
                if not is_tidy:
                    await self._blobs.sweep()
                    is_tidy = True
                await self.sweep()
                due = await self._next_due()
            except (StoreUnavailable, FilesUnavailable) as error:
                log.error("%s; sweeping again in %g s", error, SWEEP_EVERY_S)
                due = time.time()
            await asyncio.sleep(SWEEP_EVERY_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - time.time())):
                    await self._wake.wait()

    async def sweep(self) -> None:
        """Removes all that is over now."""
        while ids := await self._files.due():
            for id in ids:
                await self._blobs.remove_below(id)
            await self._files.remove(ids)
        while await self._key_values.sweep():
            pass

    async def _next_due(self) -> float | None:
        times = (await self._files.next_due(), await self._key_values.next_due())
        return min((time for time in times if time is not None), default=None)

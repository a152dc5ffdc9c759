"""What the server has to write down, however long the database is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from polyrank.errors import StoreUnavailable

T = TypeVar("T")

log = logging.getLogger("polyrank.gateway")

# How long to leave a database alone that has just failed.
PAUSE_S = 1.0


async def stored(
    write: Callable[[], Awaitable[T]], what: str, on_late: Callable[[], None] = lambda: None
) -> T:
    """What ``write`` returns, once the database is there for it; ``what`` waits for that.

    A write whose connection broke may have been done: it has to be one that may be done twice.
    ``on_late`` is called when the first try has failed, for those who are not to wait.
    """
    is_late = False
    while True:
        try:
            result = await write()
        except StoreUnavailable as error:
            if not is_late:
                log.error("%s waits for the database: %s", what, error)
                on_late()
            is_late = True
            await asyncio.sleep(PAUSE_S)
        else:
            if is_late:
                log.warning("%s has been written down", what)
            return result

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


async def stored(write: Callable[[], Awaitable[T]], what: str) -> T:
    """What ``write`` returns, once the database is there for it; ``what`` waits for that.

    A write whose connection broke may have been done: it has to be one that may be done twice.
    """
    while True:
        try:
            return await write()
        except StoreUnavailable as error:
            log.error("%s waits: %s; trying again", what, error)
            await asyncio.sleep(PAUSE_S)

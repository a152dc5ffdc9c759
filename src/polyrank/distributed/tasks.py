"""Work that is done at the same time and belongs together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def all_or_none(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all; where one fails, the others are cancelled and have ended by then.

    ``asyncio.gather`` leaves them running, and ``asyncio.TaskGroup`` hides the error in a group.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""For endpoints that ask to be cancelled when their caller hangs up."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import Request


@contextlib.asynccontextmanager
async def cancel_on_disconnect(request: Request) -> AsyncIterator[None]:
    """Marks work that ends when the caller of ``request`` hangs up.

    The app's server cancels every endpoint's task then, inside of this and outside.
    """
    yield

"""Serving an app inside a test: no port, no process, the real HTTP stack."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import httpx

from polyrank.app.app import App
from polyrank.app.server import build


@contextlib.asynccontextmanager
async def serve(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """A client of ``app``, between its ``setup`` and its ``teardown``.

    Example::

        async with serve(Hello()) as client:
            answer = await client.post("/", json={"name": "you"})
    """
    api = build(app)
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with (
        api.router.lifespan_context(api),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client

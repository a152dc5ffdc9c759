"""The dashboard's routes: its pages, and what is deployed as a stream of changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from polyrank.gateway.callers import require
from polyrank.gateway.deployment import Deployment
from polyrank.gateway.deployments import Deployments
from polyrank.gateway.fleet import Fleet
from polyrank.gateway.notices import FLEET, Notices
from polyrank.gateway.pages import page
from polyrank.store.keys import Scope

# What happens within this time is told in one event: a busy app changes with every request.
SETTLE_S = 0.3

Described = dict[str, dict[str, Any]]


class Dashboard:
    """The handlers of these routes. The pages hold nothing; the rest needs a key with the scope
    ADMIN."""

    def __init__(self, fleet: Fleet, deployments: Deployments, notices: Notices) -> None:
        self._fleet = fleet
        self._deployments = deployments
        self._notices = notices

    def routes(self) -> list[BaseRoute]:
        """The routes, for the server's own pages."""
        return [
            Route("/dashboard", page("dashboard.html"), methods=["GET"]),
            Route("/dashboard/{app:path}", page("dashboard-app.html"), methods=["GET"]),
            Route("/deployed/events", self.events, methods=["GET"]),
            Route("/deployments", self.deployments, methods=["GET"]),
        ]

    async def deployments(self, request: Request) -> Response:
        """The deployments that are under way or ended within the last hour: ``?app=``."""
        require(request, Scope.ADMIN)
        wanted = request.query_params.get("app")
        return JSONResponse({"deployments": list(self._list_deployments(wanted).values())})

    async def events(self, request: Request) -> Response:
        """What is deployed, as server-sent events: ``?app=``. The first has all, the others what
        has changed since the one before."""
        require(request, Scope.ADMIN)
        events = self._changes(request.query_params.get("app"))
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def _changes(self, wanted: str | None) -> AsyncIterator[bytes]:
        told: tuple[Described, Described] | None = None
        with self._notices.watch(FLEET) as changed:
            while not self._notices.is_closed:
                changed.clear()
                seen = await self._list_apps(wanted), self._list_deployments(wanted)
                if seen != told:
                    yield b"data: %s\n\n" % json.dumps(_difference(told or ({}, {}), seen)).encode()
                    told = seen
                await asyncio.sleep(SETTLE_S)
                await changed.wait()

    async def _list_apps(self, wanted: str | None) -> Described:
        return {
            app["name"]: app
            for app in await self._deployments.describe_all()
            if wanted in (None, app["name"])
        }

    def _list_deployments(self, wanted: str | None) -> Described:
        return {
            each.id: _describe(each)
            for each in self._fleet.deployments
            if wanted in (None, each.revision.app)
        }


def _difference(
    before: tuple[Described, Described], now: tuple[Described, Described]
) -> dict[str, Any]:
    apps, deployments = (
        [each for key, each in new.items() if each != old.get(key)]
        for old, new in zip(before, now, strict=True)
    )
    gone = [name for name in before[0] if name not in now[0]]
    return {"apps": apps, "gone": gone, "deployments": deployments}


def _describe(deployment: Deployment) -> dict[str, Any]:
    return {
        "id": deployment.id,
        "app": deployment.revision.app,
        "revision": deployment.revision.id,
        "number": deployment.revision.number,
        "state": deployment.state,
        "phase": deployment.phase,
        "error": deployment.error,
        "begun_at": deployment.begun_at,
        "ended_at": deployment.ended_at,
    }

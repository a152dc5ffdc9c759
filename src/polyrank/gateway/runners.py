"""The routes below ``/runners``: the replicas that run and that ran, their logs, their end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from polyrank.errors import InvalidInput
from polyrank.gateway.appfleet import AppFleet, Kept
from polyrank.gateway.callers import require
from polyrank.gateway.deployments import describe_replica
from polyrank.gateway.fleet import Fleet
from polyrank.scaler.logs import Line, Logs
from polyrank.scaler.states import ReplicaState
from polyrank.store.apps import NotDeployed, ReplicaRow
from polyrank.store.keys import Scope

MOST_LINES = 100_000


class Runners:
    """The handlers of these routes. All of them need a key with the scope ADMIN."""

    def __init__(self, fleet: Fleet, logs: Logs) -> None:
        self._fleet = fleet
        self._logs = logs

    def routes(self) -> list[BaseRoute]:
        """The routes, for the server's own pages."""
        return [
            Route("/runners", self.all, methods=["GET"]),
            Route("/runners/{replica}/logs", self.logs, methods=["GET"]),
            Route("/runners/{replica}/stop", self.stop, methods=["POST"]),
            Route("/runners/{replica}/kill", self.kill, methods=["POST"]),
        ]

    async def all(self, request: Request) -> Response:
        """Every replica that runs; with ``?since=`` (seconds since 1970) also those that ended."""
        require(request, Scope.ADMIN)
        since = _number(request, "since")
        live = [describe_replica(fleet, kept) for fleet in self._fleet for kept in fleet]
        if since is None:
            return JSONResponse({"runners": live})
        known = {each["id"] for each in live}
        rows = await self._fleet.apps.replicas(since=since)
        ended = [_ended(row) for row in rows if row.id not in known and row.ended_at is not None]
        return JSONResponse({"runners": live + ended})

    async def logs(self, request: Request) -> Response:
        """Lines of a replica's log as JSON, one a line: ``?limit=&since=&until=&search=&follow=``.

        A replica that has ended is named by its whole id.
        """
        require(request, Scope.ADMIN)
        id = self._logged(request.path_params["replica"])
        limit = _number(request, "limit")
        lines = self._logs.read(
            id,
            limit=min(MOST_LINES, int(limit)) if limit is not None else 1000,
            since=_number(request, "since"),
            until=_number(request, "until"),
            search=request.query_params.get("search", ""),
            follow=request.query_params.get("follow") == "1",
        )
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(
            _as_text(lines), media_type="application/x-ndjson", headers=headers
        )

    async def stop(self, request: Request) -> Response:
        """Ends a replica in order; answers when it has ended."""
        fleet, kept = self._found(request)
        await fleet.end(kept)
        return JSONResponse({"id": kept.id})

    async def kill(self, request: Request) -> Response:
        """Ends a replica at once."""
        fleet, kept = self._found(request)
        if kept.handle is not None:
            kept.handle.kill()
        await fleet.end(kept, at_once=True)
        return JSONResponse({"id": kept.id})

    def _found(self, request: Request) -> tuple[AppFleet, Kept]:
        require(request, Scope.ADMIN)
        return self._fleet.find(request.path_params["replica"])

    def _logged(self, begun: str) -> str:
        """The id of a replica that runs, or that has ended and whose log is kept."""
        try:
            return self._fleet.find(begun)[1].id
        except NotDeployed:
            if not self._logs.has(begun):
                raise
            return begun


async def _as_text(lines: AsyncIterator[Line]) -> AsyncIterator[bytes]:
    async for line in lines:
        yield json.dumps(line.to_dict()).encode() + b"\n"


def _ended(row: ReplicaRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "app": row.app,
        "revision": row.revision,
        "number": "-",
        "state": ReplicaState.TERMINATED.value,
        "since": row.ended_at,
        "created_at": row.created_at,
        "running": 0,
        "pid": None,
        "gpus": list(row.gpus),
        "reason": row.reason,
    }


def _number(request: Request, name: str) -> float | None:
    text = request.query_params.get(name)
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"{name} is a number, not {text!r}") from None

"""The routes below ``/apps`` and ``/deployments``: what is deployed, and how that changes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from polyrank.app.options import AppOptions, checked
from polyrank.deploy.manifest import HEADER, from_header
from polyrank.errors import AppError, InvalidInput
from polyrank.gateway.answers import read_object
from polyrank.gateway.appfleet import AppFleet, Kept
from polyrank.gateway.callers import Caller, require
from polyrank.gateway.deployment import Deployment
from polyrank.gateway.fleet import Fleet
from polyrank.gateway.staging import Staging
from polyrank.gateway.terms import effective_options
from polyrank.store.apps import MAIN, DeployedApp, Revision, full_name
from polyrank.store.keys import Scope
from polyrank.store.requests import Requests

STRATEGIES = ("rolling", "recreate")
# Options that may be changed apart from a deployment.
SCALABLE = (
    "min_concurrency",
    "max_concurrency",
    "concurrency_buffer",
    "concurrency_buffer_perc",
    "scaling_delay",
    "keep_alive",
    "max_multiplexing",
    "request_timeout",
    "request_start_timeout",
    "startup_timeout",
    "machine_type",
)
DEFAULTS = {name: field.default for name, field in AppOptions.model_fields.items()}


class Deployments:
    """The handlers of these routes. All of them need a key with the scope ADMIN."""

    def __init__(self, fleet: Fleet, staging: Staging, requests: Requests) -> None:
        self._fleet = fleet
        self._apps = fleet.apps
        self._staging = staging
        self._requests = requests

    def routes(self) -> list[BaseRoute]:
        """The routes, for the server's own pages."""
        app = "/apps/{owner}/{name}"
        return [
            Route(app, self.get, methods=["GET"]),
            Route(app, self.delete, methods=["DELETE"]),
            Route(f"{app}/revisions", self.revisions, methods=["GET"]),
            Route(f"{app}/revisions", self.deploy, methods=["POST"]),
            Route(f"{app}/revisions/current", self.set_revision, methods=["PUT"]),
            Route(f"{app}/rollout", self.restart, methods=["POST"]),
            Route(f"{app}/scaling", self.scale, methods=["PATCH"]),
            Route(f"{app}/queue", self.queue_size, methods=["GET"]),
            Route(f"{app}/queue", self.flush_queue, methods=["DELETE"]),
            Route("/deployed", self.all, methods=["GET"]),
            Route("/deployments/{deployment}/events", self.events, methods=["GET"]),
        ]

    async def all(self, request: Request) -> Response:
        """Every app that is deployed."""
        require(request, Scope.ADMIN)
        return JSONResponse({"apps": await self.describe_all()})

    async def get(self, request: Request) -> Response:
        """One app: its revision, its replicas, its options as they hold."""
        _, name = self._named(request)
        return JSONResponse(await self.describe(name))

    async def delete(self, request: Request) -> Response:
        """Takes an app away: its replicas end in order. Requests that are kept stay readable."""
        _, name = self._named(request)
        await self._fleet.delete(name)
        return Response(status_code=204)

    async def revisions(self, request: Request) -> Response:
        """What was deployed of an app, the newest first."""
        _, name = self._named(request)
        app = await self._apps.get(name)
        listed = [_public(each, app) for each in await self._apps.revisions(name)]
        return JSONResponse({"revisions": listed})

    async def deploy(self, request: Request) -> Response:
        """Takes a bundle (the body), with its manifest in a header, and begins to deploy it."""
        caller, _ = self._named(request)
        manifest = from_header(request.headers.get(HEADER, ""))
        if manifest.app_name != request.path_params["name"]:
            raise InvalidInput(f"the manifest is that of another app, {manifest.app_name}")
        await self._staging.keep(manifest.code_hash, request.stream())
        deployment = await self._fleet.deploy(
            request.path_params["owner"],
            manifest,
            created_by=caller.name,
            resets_scaling=request.query_params.get("reset_scaling") == "1",
        )
        return _accepted(deployment)

    async def set_revision(self, request: Request) -> Response:
        """Brings an earlier revision back into service: ``{"revision": its number or id}``."""
        _, name = self._named(request)
        body = await read_object(request)
        revision = await self._apps.find_revision(name, str(body.get("revision", "")))
        return _accepted(self._fleet.roll_out(revision, _strategy(body)))

    async def restart(self, request: Request) -> Response:
        """Replaces all replicas by new ones of the same revision."""
        _, name = self._named(request)
        app = await self._apps.get(name)
        if app.revision is None:
            raise InvalidInput(f"no deployment of {name} has succeeded yet")
        revision = await self._apps.revision(app.revision)
        return _accepted(self._fleet.roll_out(revision, _strategy(await read_object(request))))

    async def scale(self, request: Request) -> Response:
        """Changes options of the app, by their names; null goes back to the revision's."""
        _, name = self._named(request)
        changes = await read_object(request)
        for unknown in changes.keys() - set(SCALABLE):
            raise InvalidInput(f"{unknown!r} cannot be changed; these can: {', '.join(SCALABLE)}")
        try:
            checked("scaling", AppOptions, {k: v for k, v in changes.items() if v is not None})
        except AppError as error:
            raise InvalidInput(error.message) from None
        await self._fleet.scale(name, changes)
        return JSONResponse(await self.describe(name))

    async def queue_size(self, request: Request) -> Response:
        """How many requests wait for an app."""
        _, name = self._named(request)
        await self._apps.get(name)
        return JSONResponse({"size": await self._requests.count_queued(name)})

    async def flush_queue(self, request: Request) -> Response:
        """Cancels every request that waits for an app; those that run go on."""
        _, name = self._named(request)
        await self._apps.get(name)
        return JSONResponse({"cancelled": await self._requests.flush(name)})

    async def events(self, request: Request) -> Response:
        """What a deployment is at, as server-sent events; the last is ``done`` or ``failed``.
        ``Last-Event-ID`` goes on behind that one."""
        require(request, Scope.ADMIN)
        deployment = self._fleet.deployment(request.path_params["deployment"])
        last = request.headers.get("last-event-id", "0")
        events = _as_text(deployment, int(last) if last.isdigit() else 0)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    def _named(self, request: Request) -> tuple[Caller, str]:
        caller = require(request, Scope.ADMIN)
        owner, alias = request.path_params["owner"], request.path_params["name"]
        environment = request.query_params.get("env") or MAIN
        return caller, full_name(owner, alias, environment)

    async def describe_all(self) -> list[dict[str, Any]]:
        """Every app, by name."""
        queued = await self._requests.queue_sizes()
        return [
            await self._describe(app, queued.get(app.name, 0)) for app in await self._apps.all()
        ]

    async def describe(self, name: str) -> dict[str, Any]:
        """One app. Raises NotDeployed."""
        app = await self._apps.get(name)
        return await self._describe(app, await self._requests.count_queued(name))

    async def _describe(self, app: DeployedApp, queued: int) -> dict[str, Any]:
        fleet = self._fleet.fleet(app.name)
        described = {
            "name": app.name,
            "owner": app.owner,
            "alias": app.alias,
            "environment": app.environment,
            "state": "failed" if fleet is None else fleet.hosted.state,
            "why": "" if fleet is None else fleet.why,
            "scaling": dict(app.scaling),
            "replicas": [] if fleet is None else [describe_replica(fleet, kept) for kept in fleet],
            "requests": _count_requests(fleet, queued),
            "updated_at": app.updated_at,
            "revision": None,
            "options": {},
        }
        if app.revision is not None:
            revision = await self._apps.revision(app.revision)
            options = effective_options(revision, app.scaling)
            described["revision"] = _public(revision, app)
            described["options"] = {name: options.get(name, DEFAULTS[name]) for name in SCALABLE}
        return described


def describe_replica(fleet: AppFleet, kept: Kept) -> dict[str, Any]:
    """A replica that has not ended, for people and programs."""
    hosted = fleet.hosted.replicas.get(kept.id)
    return {
        "id": kept.id,
        "app": fleet.hosted.name,
        "revision": kept.revision.id,
        "number": kept.revision.number,
        "state": fleet.state_of(kept).value,
        "since": kept.since,
        "created_at": kept.created_at,
        "running": 0 if hosted is None else hosted.running,
        "pid": None if kept.handle is None else kept.handle.pid,
        "gpus": list(kept.gpus),
    }


def _count_requests(fleet: AppFleet | None, queued: int) -> dict[str, int]:
    if fleet is None:
        return {"queued": queued, "waiting": 0, "running": 0, "completed": 0}
    hosted = fleet.hosted
    return {
        "queued": queued,
        "waiting": len(hosted.replicas.waiting()),
        "running": sum(each.running for each in hosted.replicas),
        "completed": hosted.traffic.completed.all().total(),
    }


def _public(revision: Revision, app: DeployedApp) -> dict[str, Any]:
    manifest = revision.manifest
    return {
        "id": revision.id,
        "number": revision.number,
        "state": revision.state,
        "is_current": revision.id == app.revision,
        "error": revision.error,
        "message": manifest.get("message") or "",
        "annotations": manifest.get("annotations") or {},
        "ref": manifest.get("ref"),
        "manifest": dict(manifest),
        "code_hash": revision.code_hash,
        "created_by": revision.created_by,
        "created_at": revision.created_at,
    }


def _accepted(deployment: Deployment) -> Response:
    revision = deployment.revision
    body = {
        "deployment": deployment.id,
        "app": revision.app,
        "revision": revision.id,
        "number": revision.number,
    }
    return JSONResponse(body, 202)


async def _as_text(deployment: Deployment, begin: int) -> AsyncIterator[bytes]:
    async for position, event in deployment.follow(begin):
        yield b"id: %d\ndata: %s\n\n" % (position, json.dumps(event).encode())


def _strategy(body: dict[str, Any]) -> Any:
    strategy = body.get("strategy", "rolling")
    if strategy not in STRATEGIES:
        raise InvalidInput(f"strategy is rolling or recreate, not {strategy!r}")
    return strategy

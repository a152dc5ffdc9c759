"""The apps that are deployed on a server, each with its replicas and its deployments."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import msgspec
from prometheus_client import Metric

from polyrank import reports
from polyrank.deploy.manifest import Manifest
from polyrank.errors import InvalidInput, PolyrankError
from polyrank.gateway import families
from polyrank.gateway.appfleet import AppFleet, Ground, Kept
from polyrank.gateway.deployment import Deployment, DeploymentFailed
from polyrank.gateway.notices import FLEET
from polyrank.gateway.rollout import Rollout, Strategy
from polyrank.gateway.server import Server
from polyrank.gateway.staging import Staging
from polyrank.gateway.storing import stored
from polyrank.gateway.terms import Terms
from polyrank.scaler.gpus import Device, Inventory, LeaseConflict, Wanted
from polyrank.scaler.launch.base import Handle, Launcher
from polyrank.scaler.logs import Logs
from polyrank.store.apps import MAIN, Apps, DeployedApp, NotDeployed, Revision

log = logging.getLogger("polyrank.gateway")

# How long a deployment that is over can still be followed.
REMEMBERED_S = 3600.0
# How often bundles, environments and old rows are looked through.
SWEEP_EVERY_S = 3600.0
LOST = "it ended while nobody was there to note it"
# Options that a deployment sets anew even where `apps scale` has set them.
RESET_BY_DEPLOY = frozenset({"max_multiplexing", "startup_timeout", "machine_type"})


class Fleet:
    """Hosts what is deployed, brings new revisions into service, and takes apps away."""

    def __init__(
        self,
        server: Server,
        launcher: Launcher,
        inventory: Inventory,
        staging: Staging,
        logs: Logs,
        name: str,
    ) -> None:
        """``name`` is that of this server, the same after each start."""
        server.metrics.more = self._metrics
        server.on_deployed = self._follow_another
        self.apps = Apps(server.database, server=name, origin=server.id)
        self.inventory = inventory
        self._server = server
        self._launcher = launcher
        self._staging = staging
        self._ground = Ground(
            apps=self.apps,
            launcher=launcher,
            inventory=inventory,
            prepare=staging.prepare,
            forget=self._forget,
            add_line=server.add_line,
            logs=logs,
            on_places=self._look,
            on_change=self._tell,
            server=name,
        )
        self._fleets: dict[str, AppFleet] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._deployments: dict[str, Deployment] = {}
        self._rolling: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: asyncio.TaskGroup | None = None
        self._keeps_replicas = False
        self._is_ending = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serves what is deployed inside the block; at its end replicas are ended, or left to the
        next server after ``leave``."""
        await self.apps.fail_unfinished("the server ended during the deployment; deploy again")
        left = list(await self._launcher.recover())
        self.inventory.watch(self._is_broken)
        async with asyncio.TaskGroup() as self._tasks:
            for app in await self.apps.all():
                if app.revision is not None:
                    await self._take_up(app, left)
            for handle in left:
                log.warning("ending replica %s, which is not served any more", handle.spec.id)
                self._tasks.create_task(handle.terminate())
            await self._end_lost()
            self._server.apps.settle()
            sweeping = self._tasks.create_task(self._sweep())
            try:
                yield
            finally:
                self._is_ending = True
                sweeping.cancel()
                await self._end()

    def leave(self) -> None:
        """This server ends and another will follow: the replicas go on."""
        self._keeps_replicas = True
        for fleet in self._fleets.values():
            fleet.leave()

    def __iter__(self) -> Iterator[AppFleet]:
        return iter(list(self._fleets.values()))

    def fleet(self, app: str) -> AppFleet | None:
        """The replicas of an app, if it is hosted here."""
        return self._fleets.get(app)

    def find(self, begun: str) -> tuple[AppFleet, Kept]:
        """The replica whose id begins so and that has not ended, and its app's. Raises NotDeployed,
        or InvalidInput where it may be several."""
        found = [(fleet, kept) for fleet in self for kept in fleet if kept.id.startswith(begun)]
        if len(found) > 1:
            ids = ", ".join(kept.id for _, kept in found)
            raise InvalidInput(f"{begun!r} begins the ids of several replicas: {ids}")
        if not found:
            raise NotDeployed(f"no replica {begun!r} runs here; `polyrank runners list` shows them")
        return found[0]

    def deployment(self, id: str) -> Deployment:
        """A deployment that is under way or has just ended. Raises NotDeployed."""
        if (deployment := self._deployments.get(id)) is None:
            raise NotDeployed(f"there is no deployment {id!r}, or it ended long ago")
        return deployment

    @property
    def deployments(self) -> list[Deployment]:
        """Those that are under way or have just ended, the newest first."""
        return list(reversed(self._deployments.values()))

    async def deploy(
        self,
        owner: str,
        manifest: Manifest,
        *,
        created_by: str,
        resets_scaling: bool = False,
    ) -> Deployment:
        """Brings what was uploaded into service as a new revision."""
        revision = await self.apps.begin(
            owner=owner,
            alias=manifest.app_name,
            environment=manifest.environment or MAIN,
            manifest=manifest.model_dump(mode="json"),
            code_hash=manifest.code_hash,
            created_by=created_by,
        )
        app = await self.apps.get(revision.app)
        kept = {
            name: value
            for name, value in app.scaling.items()
            if not resets_scaling and name not in RESET_BY_DEPLOY
        }
        await self.apps.set_scaling(app.name, kept)
        return self.roll_out(revision, manifest.strategy)

    def roll_out(self, revision: Revision, strategy: Strategy = "rolling") -> Deployment:
        """Brings a revision into service: a new one, an earlier one, or the same anew."""
        assert self._tasks is not None
        deployment = Deployment(secrets.token_hex(6), revision, self._tell)
        self._forget_deployments()
        self._deployments[deployment.id] = deployment
        self._tasks.create_task(self._roll_out(deployment, strategy))
        self._tell()
        return deployment

    async def scale(self, name: str, changes: Mapping[str, Any]) -> DeployedApp:
        """Changes options of a deployed app, None to what its revision says."""
        app = await self.apps.get(name)
        scaling = {**app.scaling, **changes}
        scaling = {name: value for name, value in scaling.items() if value is not None}
        await self.apps.set_scaling(name, scaling)
        if (fleet := self._fleets.get(name)) is not None and fleet.revision is not None:
            fleet.rescale(Terms.of(fleet.revision, scaling))
        self._tell()
        return await self.apps.get(name)

    async def delete(self, name: str) -> None:
        """Ends an app's replicas, in order, and forgets it. Raises NotDeployed."""
        async with self._rolling[name]:
            await self.apps.get(name)
            await self._retire(name)
            await self._server.requests.flush(name)
            await self.apps.delete(name)
            self._tell()

    # How it is done.

    async def _take_up(self, app: DeployedApp, left: list[Handle]) -> None:
        """Serves an app again, with those of its replicas that still run."""
        assert app.revision is not None
        revision = await self.apps.revision(app.revision)
        fleet = self._host(app.name, revision)
        fleet.serve(revision, Terms.of(revision, app.scaling))
        for handle in [each for each in left if each.spec.app == app.name]:
            if handle.spec.revision == revision.id:
                gpus = handle.spec.gpus or ()
                slots = 0 if gpus else slots_of(fleet.wanted)
                try:
                    lease = self.inventory.adopt(handle.spec.id, gpus, slots)
                except LeaseConflict as error:
                    log.error("%s: %s", app.name, error)
                    continue  # it is ended, and another one started elsewhere
                left.remove(handle)
                fleet.adopt(handle, revision, lease)
        await self._begin(fleet)

    def _follow_another(self, app: str) -> None:
        """Another server has changed what is deployed of an app, or with no name perhaps of any."""
        if self._tasks is not None and not self._is_ending:
            self._tasks.create_task(self._catch_up(app))

    async def _catch_up(self, name: str) -> None:
        """Serves what the store says that is deployed, as the server does that was told so."""
        try:
            deployed = {app.name: app for app in await self.apps.all()}
            for each in [name] if name else {*deployed, *self._fleets}:
                async with self._rolling[each]:
                    await self._catch_up_with(each, deployed.get(each))
        except PolyrankError as error:
            log.error("another server has changed %s, and this one cannot: %s", name, error)

    async def _catch_up_with(self, name: str, app: DeployedApp | None) -> None:
        fleet = self._fleets.get(name)
        if app is None:
            await self._retire(name)
        elif app.revision is None:
            return
        elif fleet is None or fleet.revision is None:
            await self._take_up(app, [])
        else:
            revision = await self.apps.revision(app.revision)
            terms = Terms.of(revision, app.scaling)
            if fleet.revision.id == revision.id:
                return fleet.rescale(terms)

            async def on_ready(*_: object) -> None:
                fleet.hosted.openapi = _document(revision)

            deployment = Deployment(secrets.token_hex(6), revision)
            await self._staging.build(revision, deployment.add_line)
            rollout = Rollout(fleet, revision, deployment, terms, on_ready)
            await rollout.run(revision.manifest["strategy"])

    def _host(self, name: str, revision: Revision) -> AppFleet:
        limits = msgspec.convert(revision.limits or {}, reports.Limits)
        hosted = self._server.host(name, limits)
        hosted.routes = [dict(route) for route in revision.routes or ()]
        hosted.openapi = _document(revision)
        changed = asyncio.Event()
        hosted.on_demand = hosted.on_idle = changed.set
        fleet = AppFleet(hosted, self._ground, changed, lambda: self._server.requests.backlog(name))
        hosted.on_lost = fleet.is_lost
        hosted.on_unfit = fleet.is_unfit
        hosted.census = fleet.census
        self._fleets[name] = fleet
        return fleet

    def _tell(self) -> None:
        """Whoever watches what is deployed looks again."""
        self._server.notices.publish(FLEET)

    def _look(self) -> None:
        for fleet in self._fleets.values():
            fleet.look()

    def _is_broken(self, device: Device) -> None:
        """A GPU has failed: the replica that computes on it is replaced."""
        for fleet in self._fleets.values():
            if device.owner in fleet.kept:
                fleet.is_unfit(device.owner)

    async def _begin(self, fleet: AppFleet) -> None:
        assert self._tasks is not None
        self._running[fleet.hosted.name] = self._tasks.create_task(fleet.run())
        await fleet.begun.wait()

    async def _retire(self, name: str) -> None:
        """Ends an app's replicas, in order, and serves it no more."""
        if (fleet := self._fleets.get(name)) is not None:
            fleet.is_paused = True
            await fleet.end_all()
            self._unhost(name)

    def _unhost(self, name: str) -> None:
        self._running.pop(name).cancel()
        del self._fleets[name]
        self._server.unhost(name)

    async def _roll_out(self, deployment: Deployment, strategy: Strategy) -> None:
        revision = deployment.revision
        lock = self._rolling[revision.app]
        if lock.locked():
            deployment.enter("waiting", "for another deployment of the app")
        async with lock:
            try:
                await self._bring(deployment, strategy)
            except PolyrankError as error:
                log.error("deployment of %s failed: %s", revision.app, error)
                await self._note_failed(deployment, error)
            except asyncio.CancelledError:
                deployment.fail(DeploymentFailed("the server is ending"))
                raise
            except Exception as error:
                log.exception("deployment of %s failed", revision.app)
                failure = DeploymentFailed(f"{type(error).__name__}: {error}")
                await self._note_failed(deployment, failure)

    async def _note_failed(self, deployment: Deployment, why: PolyrankError) -> None:
        id = deployment.revision.id

        def tell() -> None:
            if not deployment.is_over:
                deployment.fail(why)

        note = functools.partial(self.apps.note_failed, id, why.message)
        await stored(note, f"the failure of {id}", on_late=tell)
        tell()

    async def _bring(self, deployment: Deployment, strategy: Strategy) -> None:
        revision = deployment.revision
        app = await self.apps.get(revision.app)
        deployment.enter("building")
        await self._staging.build(revision, deployment.add_line)
        is_new = app.name not in self._fleets
        fleet = self._fleets[app.name] if not is_new else self._host(app.name, revision)
        if is_new:
            await self._begin(fleet)

        async def on_ready(ready: reports.Ready, limits: reports.Limits, openapi: bytes) -> None:
            document = json.loads(openapi) if openapi else None
            await self.apps.note_ready(
                revision.id,
                routes=ready.routes,
                limits=msgspec.to_builtins(limits),
                openapi=document,
            )
            await self.apps.set_current(app.name, revision.id)
            fleet.hosted.openapi = document

        terms = Terms.of(revision, app.scaling)
        rollout = Rollout(fleet, revision, deployment, terms, on_ready)
        try:
            await rollout.run(strategy)
        except BaseException:
            if is_new and fleet.revision is None:
                await fleet.end_all()
                self._unhost(app.name)
            raise
        deployment.succeed(
            app=app.name, revision=revision.id, number=revision.number, routes=fleet.hosted.routes
        )

    async def _sweep(self) -> None:
        """Removes now and then what nothing needs any more."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            if any(lock.locked() for lock in self._rolling.values()):
                continue
            in_use = [fleet.revision for fleet in self if fleet.revision is not None]
            try:
                await self._staging.sweep(in_use)
                await self.apps.sweep_replicas()
            except PolyrankError as error:
                log.error("what is not needed any more could not be removed: %s", error)

    async def _end_lost(self) -> None:
        """Replicas that ended while no server of ours was there, or no database, have ended."""
        rows = await self.apps.replicas(since=time.time())
        running = {kept.id for fleet in self for kept in fleet}
        for row in rows:
            if row.server == self._ground.server and row.id not in running and not row.ended_at:
                await self.apps.update_replica(row.id, ended_at=time.time(), reason=LOST)
                await self._forget(row.id)

    async def _forget(self, replica: str) -> None:
        """A replica has ended: its key is good no more."""
        row = await self.apps.replica(replica)
        if row is not None and row.key_id is not None:
            await self._server.keys.revoke(row.key_id)

    def _forget_deployments(self) -> None:
        over = time.time() - REMEMBERED_S
        for id, deployment in list(self._deployments.items()):
            if deployment.ended_at is not None and deployment.ended_at < over:
                del self._deployments[id]

    async def _metrics(self) -> list[Metric]:
        serving = {
            fleet.hosted.name: fleet.revision.number for fleet in self if fleet.revision is not None
        }
        return [
            families.of_gpus(self.inventory.devices()),
            *families.of_deployments(await self.apps.outcomes(), serving),
        ]

    async def _end(self) -> None:
        if not self._keeps_replicas:
            for fleet in self._fleets.values():
                fleet.is_paused = True
            ending = [fleet.end_all(at_once=True) for fleet in self._fleets.values()]
            await asyncio.gather(*ending)
        for task in self._running.values():
            task.cancel()
        await self._launcher.close(keep=self._keeps_replicas)
        await self.inventory.close()


def _document(revision: Revision) -> dict[str, Any] | None:
    return None if revision.openapi is None else dict(revision.openapi)


def slots_of(wanted: Wanted) -> int:
    """How many slots a replica has that runs without a GPU."""
    machine = wanted.machines[0]
    return machine.cores or machine.gpus

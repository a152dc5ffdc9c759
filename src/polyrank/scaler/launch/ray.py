"""Replicas on the machines of a Ray cluster: each beside an actor, which outlives the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from polyrank import reports
from polyrank.distributed.launch.ray import connect
from polyrank.errors import PolyrankError
from polyrank.scaler.environments import EnvironmentSpec
from polyrank.scaler.launch.base import Ended, LaunchFailed, ReplicaSpec, Waiting
from polyrank.scaler.launch.bulletin import Bulletin, News
from polyrank.scaler.launch.local import TOLD, Keeping, sweep
from polyrank.scaler.mirror import Mirror, Piece
from polyrank.scaler.node import Node, Package, pack

log = logging.getLogger("polyrank.scaler")

# Where a replica has not been given a place for so long, it is said what is missing.
PATIENCE_S = 3.0
PREFIX = "replica-"
# What the end of the log gets to arrive once its replica has ended.
LAST_LINES_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """How replicas are placed and kept.

    ``namespace`` holds one server's replicas: servers that share a cluster need different ones.
    ``node_folder`` is where, on each machine, files and environments are kept. ``linger_s`` is how
    long a replica runs on with no server there.
    """

    namespace: str = "polyrank"
    node_folder: Path = Path("/tmp/polyrank-node")
    linger_s: float = 600.0
    cpus: float = 1.0


class ReplicaActor:
    """On the replica's machine: starts it, tells of it, and ends it if no server comes."""

    def __init__(self, spec: ReplicaSpec, cluster: Cluster) -> None:
        self._spec = spec
        self._linger_s = cluster.linger_s
        self._node = Node(cluster.node_folder)
        self._replica: Any = None
        self._bulletin = Bulletin()
        self._starting: asyncio.Task[None] | None = None
        self._lease: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._log_reader = 0

    async def spec(self) -> ReplicaSpec:
        """What was started; also says that the actor is there."""
        return self._spec

    async def start(self, package: Package, data: list[Any]) -> None:
        """Starts the replica; ``follow`` tells how that goes. ``data`` refers to the archive."""

        async def fetch() -> bytes:
            archive: bytes = await data[0]
            return archive

        self._starting = asyncio.create_task(self._run(package, fetch))

    async def renew(self) -> None:
        """A server is there."""
        if self._lease is not None:
            self._lease.cancel()
        loop = asyncio.get_running_loop()
        self._lease = loop.call_later(self._linger_s, self._end_alone)

    async def follow(self) -> AsyncIterator[News]:
        """What is known so far, and what follows until the end; for one server, the latest."""
        self._bulletin.send_away()
        async for news in self._bulletin.follow():
            yield news

    async def log(self, position: int) -> AsyncIterator[Piece]:
        """The replica's log from ``position`` on, until it has ended; for the latest server."""
        self._log_reader = reader = self._log_reader + 1
        async for piece in self._node.log(position):
            if reader != self._log_reader:
                return
            yield piece

    async def end(self, *, at_once: bool) -> None:
        """Ends the replica; ``follow`` tells when it has ended."""
        if self._replica is None:
            if self._starting is not None:
                self._starting.cancel()
            self._bulletin.publish(Ended("it was asked to end before it ran", 128 + signal.SIGTERM))
        elif at_once:
            self._replica.kill()
        else:
            await self._replica.terminate()

    async def leave(self) -> None:
        """The replica has ended, and a server knows all of it."""
        await self._node.leave()

    async def _run(self, package: Package, fetch: Callable[[], Awaitable[bytes]]) -> None:
        host = ray.util.get_node_ip_address()
        address = ray.get_runtime_context().gcs_address
        spec = replace(
            self._spec,
            host=host,
            # Those that Ray has chosen are in our environment, which the replica inherits.
            gpus=None if self._spec.num_gpus else (),
            environment={"RAY_ADDRESS": address, **self._spec.environment},
        )
        try:
            self._replica = await self._node.start(
                spec, package, fetch, lambda what: self._bulletin.publish(Waiting(what))
            )
        except Exception as error:
            reason = str(error) if isinstance(error, PolyrankError) else repr(error)
            return self._bulletin.publish(Ended(reason, 1))
        async for news in self._replica.follow():
            self._bulletin.publish(news)

    def _end_alone(self) -> None:
        self._lease = None
        self._ending = asyncio.create_task(self._end_and_leave())

    async def _end_and_leave(self) -> None:
        log.warning("no server has been there for replica %s: ending it", self._spec.id)
        await self.end(at_once=False)
        ray.actor.exit_actor()


class RayLauncher:
    """Starts replicas on the cluster; ``folder`` is where this server keeps their logs.

    ``environment_of`` tells which environment a replica's machine is to build, None for the one
    that the machine has.
    """

    def __init__(
        self,
        folder: Path,
        cluster: Cluster | None = None,
        environment_of: Callable[[ReplicaSpec], EnvironmentSpec | None] = lambda spec: None,
    ) -> None:
        self.folder = folder
        self._cluster = cluster or Cluster()
        self._environment_of = environment_of
        self._handles: dict[str, RayHandle] = {}

    async def start(self, spec: ReplicaSpec) -> RayHandle:
        """Asks for a place; ``follow`` tells of the waiting, too."""
        await asyncio.to_thread(connect)
        try:
            code_hash, data = await asyncio.to_thread(pack, spec.folder)
            archive = await asyncio.to_thread(ray.put, data)
            actor = await asyncio.to_thread(self._place, spec)
        except (OSError, RayError) as error:
            raise LaunchFailed(f"no replica can be placed: {error}") from error
        package = Package(code_hash, self._environment_of(spec))
        actor.start.remote(package, [archive])
        return self._add(RayHandle(spec, actor, self._cluster, archive))

    async def recover(self) -> list[RayHandle]:
        """Those that a server before us, of the same namespace, has left."""
        await asyncio.to_thread(connect)
        return [self._add(handle) for handle in await asyncio.to_thread(self._find)]

    async def close(self, *, keep: bool) -> None:
        """Lets them go: with ``keep`` they run on, without it they are ended first."""
        handles = list(self._handles.values())
        if not keep:
            await asyncio.gather(*(handle.terminate() for handle in handles))
        await asyncio.gather(*(handle.let_go() for handle in handles))

    def _place(self, spec: ReplicaSpec) -> Any:
        """An actor is on one machine with all that it asks for, and gives it back with its end."""
        options = {
            "name": PREFIX + spec.id,
            "namespace": self._cluster.namespace,
            "lifetime": "detached",
            "num_cpus": self._cluster.cpus,
            "num_gpus": spec.num_gpus,
            "max_restarts": 0,
        }
        return ray.remote(ReplicaActor).options(**options).remote(spec, self._cluster)

    def _find(self) -> list[RayHandle]:
        found = []
        for each in ray.util.list_named_actors(all_namespaces=True):
            if each["namespace"] != self._cluster.namespace or not each["name"].startswith(PREFIX):
                continue
            with contextlib.suppress(ValueError, RayError):  # it is just ending
                actor = ray.get_actor(each["name"], each["namespace"])
                spec = ray.get(actor.spec.remote())
                found.append(RayHandle(spec, actor, self._cluster))
        return found

    def _add(self, handle: RayHandle) -> RayHandle:
        self._handles[handle.spec.id] = handle
        handle.listen(self.folder / handle.spec.id, self._forget)
        return handle

    def _forget(self, handle: RayHandle) -> None:
        self._handles.pop(handle.spec.id)
        (self.folder / handle.spec.id / TOLD).touch()
        sweep(self.folder, Keeping())


class RayHandle:
    """A replica on the cluster, as its actor tells of it."""

    pid: int | None = None  # it runs on another machine

    def __init__(
        self, spec: ReplicaSpec, actor: Any, cluster: Cluster, archive: Any = None
    ) -> None:
        self.spec = spec
        self._actor = actor
        self._cluster = cluster
        self._archive = archive  # kept until the replica's machine has fetched it
        self._bulletin = Bulletin()
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_placed = False
        self._why = ""

    def listen(self, folder: Path, on_over: Callable[[RayHandle], None]) -> None:
        """Hears what the actor tells, until the end; keeps the log in ``folder``."""
        create = asyncio.get_running_loop().create_task
        self._tasks = [
            create(self._listen(on_over), name=f"replica-{self.spec.id}"),
            create(self._renew(), name=f"lease-{self.spec.id}"),
            create(self._copy_log(Mirror(folder)), name=f"log-{self.spec.id}"),
        ]

    def follow(self) -> AsyncIterator[News]:
        """What is known so far, and what follows until the end."""
        return self._bulletin.follow()

    async def terminate(self) -> None:
        """Ends it in order; its actor sees to it that it ends. One without a place gives up."""
        self._end(at_once=False)
        await self._over.wait()

    def kill(self) -> None:
        """Ends it at once."""
        self._end(at_once=True)

    async def let_go(self) -> None:
        """Hears no more of it; those who follow are sent away."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._bulletin.close()

    def _end(self, *, at_once: bool) -> None:
        if self._is_placed:
            self._actor.end.remote(at_once=at_once)
        elif not self._over.is_set():
            self._why = "it was asked to end before it had a place in the cluster"
            ray.kill(self._actor)

    async def _listen(self, on_over: Callable[[RayHandle], None]) -> None:
        try:
            await self._arrive()
            ended = await self._hear()
        except RayError as error:
            ended = Ended(self._why or f"it was lost: {_first_line(error)}", 128 + signal.SIGKILL)
        await self._clean_up()
        self._over.set()
        self._bulletin.publish(ended)
        on_over(self)

    async def _arrive(self) -> None:
        """Waits until the actor has a place, and says so if that takes long."""
        placed = asyncio.wrap_future(self._actor.spec.remote().future())
        if not (await asyncio.wait([placed], timeout=PATIENCE_S))[0]:
            reason = await asyncio.to_thread(shortage, self.spec, self._cluster)
            log.warning("replica %s of %s waits: it %s", self.spec.id, self.spec.app, reason)
            self._bulletin.publish(Waiting(reason))
        await placed
        self._is_placed = True

    async def _hear(self) -> Ended:
        async for coming in self._actor.follow.options(num_returns="streaming").remote():
            news: News = await coming
            if isinstance(news, Ended):
                return news
            if isinstance(news, reports.Loaded):
                self._archive = None
            self._bulletin.publish(news)
        return Ended("its actor fell silent", 128 + signal.SIGKILL)

    async def _renew(self) -> None:
        """Tells the actor that a server is there, as long as there is an actor."""
        with contextlib.suppress(RayError):
            while True:
                await self._actor.renew.remote()
                await asyncio.sleep(self._cluster.linger_s / 3)

    async def _copy_log(self, mirror: Mirror) -> None:
        """Keeps the log here, too: its machine may go."""
        try:
            await mirror.open()
            log_of = self._actor.log.options(num_returns="streaming")
            async for coming in log_of.remote(mirror.position):
                mirror.keep(await coming)
        except RayError:
            pass  # the machine has gone
        finally:
            mirror.close()

    async def _clean_up(self) -> None:
        """The replica has ended: so may the actor, once we have the end of the log."""
        _, renewing, copying = self._tasks
        renewing.cancel()
        await asyncio.wait([copying], timeout=LAST_LINES_S)
        copying.cancel()
        with contextlib.suppress(RayError):
            await self._actor.leave.remote()
        await asyncio.to_thread(ray.kill, self._actor)


def shortage(spec: ReplicaSpec, cluster: Cluster) -> str:
    """What is asked for, and what there is."""
    there, free = ray.cluster_resources(), ray.available_resources()
    wanted = {"GPU": spec.num_gpus, "CPU": cluster.cpus}
    kinds = [
        f"{count:g} {kind}s on one machine (the cluster has {there.get(kind, 0):g}, free are "
        f"{free.get(kind, 0):g})"
        for kind, count in wanted.items()
        if count
    ]
    return f"asks for {' and '.join(kinds)}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

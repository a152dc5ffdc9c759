"""Ranks on the machines of a Ray cluster: one actor beside each, all in one placement group."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from polyrank.distributed.guard import Guard, Keys
from polyrank.distributed.launch.base import Devices, Exit
from polyrank.distributed.launch.preload import Preload
from polyrank.distributed.remote import frames
from polyrank.distributed.remote.link import RemoteLink
from polyrank.distributed.remote.relay import Relay
from polyrank.distributed.router import Router
from polyrank.errors import NotEnoughDevices, SetupFailed

log = logging.getLogger("polyrank.distributed")

# Where ranks have not been given a place for so long, it is said what is missing.
PATIENCE_S = 3.0
END_S = 10.0


class RelayActor:
    """A relay in a process of Ray's, which holds the rank's share of the machine."""

    def __init__(self) -> None:
        self._keys = Keys.create()

    async def public_key(self) -> bytes:
        """By which the runner will know this relay; the secret key stays here."""
        return self._keys.public

    async def serve(
        self, address: str, server_key: bytes, identity: bytes, preload: Preload
    ) -> None:
        """Relays until the runner ends the connection."""
        host = ray.util.get_node_ip_address()
        await Relay(address, server_key, self._keys, identity, host, preload).run()


class RayLauncher:
    """A placement group for each group of ranks, and a guarded socket for their relays."""

    def __init__(self, preload: Preload) -> None:
        self._preload = preload
        self._guard = Guard()
        self._router: Router[frames.FromRelay]
        self._places: dict[int, Places] = {}
        self._share: dict[str, float] = {"CPU": 1}

    async def choose_devices(self, wanted: str, groups: int, world_size: int) -> Devices:
        """GPUs if the cluster has any, else CPUs. Connects to the cluster first."""
        await asyncio.to_thread(connect)
        ranks = groups * world_size
        gpus = int(_total("GPU"))
        if wanted == "auto":
            wanted = "cuda" if gpus else "cpu"
            if not gpus:
                log.info("the cluster has no GPU: %d rank(s) run on the CPU", ranks)
        if wanted == "cuda":
            self._share = {"CPU": 1, "GPU": 1}
            if not gpus:
                raise NotEnoughDevices(
                    f"{groups} group(s) of {world_size} rank(s) need {ranks} GPUs; the cluster "
                    "has none; run on the CPU with device='cpu'",
                    needed=ranks,
                    found=0,
                )
        return Devices(wanted, threads=1)

    async def start(self) -> dict[str, float]:
        """Opens the socket, once, on this machine's address in the cluster."""
        if not hasattr(self, "_router"):
            host = ray.util.get_node_ip_address()
            self._router = Router(f"tcp://{host}:*", frames.decode_from_relay, self._guard)
        return {}

    def link(self, group: int, epoch: int, world_size: int) -> RemoteLink:
        """A link to ranks in the group's places."""
        if group not in self._places:
            self._places[group] = Places(
                group, world_size, self._share, self._router, self._guard, self._preload
            )
        return RemoteLink(self._places[group].stations, self._router, group, epoch)

    async def stop(self) -> None:
        """Hangs up, which ends every relay and its rank, and gives the places back."""
        if hasattr(self, "_router"):
            self._router.close()
        await asyncio.gather(*(places.close() for places in self._places.values()))


class Places:
    """The placement group of a group: a bundle, and an actor in it, for each rank."""

    def __init__(
        self,
        group: int,
        world_size: int,
        share: dict[str, float],
        router: Router[frames.FromRelay],
        guard: Guard,
        preload: Preload,
    ) -> None:
        self.preload = preload
        self.stations = [
            RayStation(self, f"{group}.{rank}", rank, router, guard) for rank in range(world_size)
        ]
        self.share = share
        self._reserving: asyncio.Task[PlacementGroup] | None = None

    async def reserve(self) -> PlacementGroup:
        """The placement group; near each other is better, apart is allowed."""
        if self._reserving is None or _has_failed(self._reserving):
            bundles = [dict(self.share) for _ in self.stations]
            self._reserving = asyncio.create_task(
                asyncio.to_thread(placement_group, bundles, strategy="PACK")
            )
        # Whoever waits may be cancelled; what the cluster has been asked for it gives all the same.
        return await asyncio.shield(self._reserving)

    def shortage(self) -> str:
        """What is asked for, and what there is."""
        there = ray.available_resources()
        wanted = {kind: each * len(self.stations) for kind, each in self.share.items()}
        kinds = [
            f"{wanted[kind]:g} {kind}s (the cluster has {_total(kind):g}, free are "
            f"{there.get(kind, 0):g})"
            for kind in wanted
        ]
        return f"{len(self.stations)} rank(s) ask for {' and '.join(kinds)}"

    async def close(self) -> None:
        """Ends the actors and gives the resources back."""
        await asyncio.gather(*(station.close() for station in self.stations))
        if self._reserving is not None:
            with contextlib.suppress(RayError):
                await asyncio.to_thread(remove_placement_group, await self._reserving)


class RayStation:
    """The bundle of one rank, and the actor in it."""

    def __init__(
        self,
        places: Places,
        name: str,
        index: int,
        router: Router[frames.FromRelay],
        guard: Guard,
    ) -> None:
        self.identity = b""
        self.lost: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._places = places
        self._name = name
        self._index = index
        self._router = router
        self._guard = guard
        self._actor: Any = None
        self._key = b""
        self._incarnation = 0
        self._life: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts an actor, unless there is one, and waits for its relay."""
        if self._actor is not None and not self.lost.done():
            return
        try:
            await self._connect()
        except BaseException as error:
            await self._end_actor()
            if isinstance(error, RayError):
                raise SetupFailed(f"no place for rank {self._index}: {error}") from error
            raise

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._guard.forbid(self._key)
        self._incarnation += 1
        self.identity = f"{self._name}.{self._incarnation}".encode()
        self.lost = loop.create_future()
        connected = asyncio.Event()
        self._actor = await asyncio.to_thread(self._create, await self._places.reserve())
        self._key = await self._arrival()
        self._guard.allow(self._key)
        self._router.register(self.identity, lambda *_: connected.set())
        self._life = loop.create_task(
            self._watch(self._actor, self.lost), name=f"polyrank-relay-{self._name}"
        )
        self.lost.add_done_callback(lambda _: connected.set())
        await connected.wait()
        if self.lost.done():
            raise SetupFailed(f"the relay of rank {self._index} {self.lost.result()}")

    async def _arrival(self) -> bytes:
        """Waits until the actor has a place, and says so if that takes long; its public key."""
        key = asyncio.wrap_future(self._actor.public_key.remote().future())
        try:
            is_here, _ = await asyncio.wait([key], timeout=PATIENCE_S)
            if not is_here and self._index == 0:  # all of a group are placed, or none
                missing = await asyncio.to_thread(self._places.shortage)
                log.warning("waiting for a place in the cluster: %s", missing)
            found: bytes = await key
            return found
        finally:
            key.cancel()

    async def close(self) -> None:
        """Waits for the end of the relay, which the router's end brings; then ends the actor."""
        if self._life is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await self._life
        await self._end_actor()

    async def _end_actor(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None:
            await asyncio.to_thread(ray.kill, actor)

    def _create(self, placed: PlacementGroup) -> Any:
        strategy = PlacementGroupSchedulingStrategy(
            placed, placement_group_bundle_index=self._index
        )
        actor = ray.remote(RelayActor).options(
            num_cpus=self._places.share["CPU"],
            num_gpus=self._places.share.get("GPU", 0),
            scheduling_strategy=strategy,
            max_restarts=0,
        )
        return actor.remote()

    async def _watch(self, actor: Any, lost: asyncio.Future[Exit]) -> None:
        """Waits for the end of the actor; Ray tells how it came about."""
        try:
            await actor.serve.remote(
                self._router.address,
                self._guard.keys.public,
                self.identity,
                self._places.preload,
            )
            reason = "its connection to the runner broke"
        except RayError as error:
            reason = _first_line(error)
        lost.set_result(Exit(reason=reason))


def connect() -> None:
    """Connects this process to the cluster, once. Raises SetupFailed where there is none."""
    if ray.is_initialized():
        return
    try:
        ray.init(
            address="auto", namespace="polyrank", log_to_driver=False, logging_level=logging.ERROR
        )
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise SetupFailed(
            "no Ray cluster is to be found; start one on this machine with `ray start --head`, or "
            f"name one in RAY_ADDRESS ({error})"
        ) from error


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and task.exception() is not None


def _total(kind: str) -> float:
    return float(ray.cluster_resources().get(kind, 0))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

"""The GPUs and slots of this machine, and which replica holds them.

One server per machine owns all of them: it keeps the leases in memory and nobody else looks there.
Of two servers on one machine each is to be given its own GPUs with CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from polyrank.distributed.devices import Gpu
from polyrank.errors import NotEnoughDevices, PolyrankError
from polyrank.machines import Machine, is_of_type, machines
from polyrank.scaler.nvml import Links, Nvml

log = logging.getLogger("polyrank.scaler")

# So many sets of GPUs are compared; where there are more, a good one is looked for.
MOST_SETS = 2000


class LeaseConflict(PolyrankError):
    """A lease that is to be taken over holds what is not here, or what another one has."""

    status = 409
    code = "lease_conflict"


@dataclass(frozen=True)
class Wanted:
    """What one replica needs: the first of these machines that can be had."""

    machines: tuple[Machine, ...]
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @classmethod
    def of(
        cls,
        machine_type: str | Sequence[str] = "S",
        num_gpus: int | None = None,
        ranks: int | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> Wanted:
        """By the options of an app."""
        return cls(machines(machine_type, num_gpus, ranks), device)

    def __str__(self) -> str:
        return " or ".join(str(each) for each in self.machines)


@dataclass(frozen=True)
class Device:
    """A GPU as it stands: why it is not used, and which replica has it."""

    gpu: Gpu
    broken: str | None = None
    owner: str | None = None


@dataclass(frozen=True, eq=False)
class Lease:
    """What a replica has until ``release``: whole GPUs, or slots."""

    owner: str
    machine: Machine
    gpus: tuple[str, ...]
    slots: int
    release_to: Callable[[Lease], None]

    @property
    def visible_devices(self) -> str:
        """The value of CUDA_VISIBLE_DEVICES; without GPUs it hides all of them."""
        return ",".join(self.gpus)

    def release(self) -> None:
        """Gives all of it back. A second time does nothing."""
        self.release_to(self)


@dataclass(eq=False)
class _Waiter:
    owner: str
    wanted: Wanted
    machines: tuple[Machine, ...]  # as they can be had here
    granted: asyncio.Future[Lease]


class Inventory:
    """Leases GPUs and slots to replicas, in the order in which they were asked for.

    A later one goes first only where it takes nothing that an earlier one could use. To be used
    from one event loop. Where there is no GPU at all, those who ask for GPUs with device "auto" get
    a slot for each: ranks run on the CPU.
    """

    def __init__(
        self,
        gpus: Sequence[Gpu],
        slots: int,
        *,
        links: Links | None = None,
        driver: Nvml | None = None,
        avoid_others: bool = False,
        stands_for: Mapping[str, str] | None = None,
    ) -> None:
        if slots < 1:
            raise ValueError(f"a machine has at least one slot, not {slots}")
        self.slots = slots
        self._gpus = {each.uuid: each for each in gpus}
        self._links = links or {}
        self._driver = driver
        self._avoid_others = avoid_others
        self._stands_for = {name.upper(): other for name, other in (stands_for or {}).items()}
        self._broken: dict[str, str] = {}
        self._leases: dict[str, Lease] = {}
        self._expected: set[str] = set()  # owners whose leases are about to come back
        self._waiters: list[_Waiter] = []
        self._exits: dict[int, int] = {}  # pidfd of each process that is waited for
        self._on_broken: Callable[[Device], None] | None = None

    @classmethod
    def detect(
        cls,
        *,
        slots: int | None = None,
        avoid_others: bool = False,
        environment: Mapping[str, str] = os.environ,
        driver: Nvml | None = None,
        stands_for: Mapping[str, str] | None = None,
    ) -> Inventory:
        """What this machine has: the GPUs that NVML and CUDA_VISIBLE_DEVICES show, and its cores.

        ``stands_for`` says which type of GPU is meant by another: ``{"GPU-H100": "GPU-RTX4090"}``.

        With ``avoid_others`` a GPU on which a process of somebody else computes is not leased;
        else it is only taken last.
        """
        slots = len(os.sched_getaffinity(0)) if slots is None else slots
        driver = driver or Nvml.open()
        if driver is None:
            return cls((), slots, stands_for=stands_for)
        gpus = driver.gpus(environment)
        faults = {each.uuid: driver.fault(each.uuid) for each in gpus}
        links = driver.links([each for each in gpus if faults[each.uuid] is None])
        found = cls(
            gpus,
            slots,
            links=links,
            driver=driver,
            avoid_others=avoid_others,
            stands_for=stands_for,
        )
        for uuid, fault in faults.items():
            if fault is not None:
                found.take_out(uuid, fault)
        return found

    @classmethod
    def declared(
        cls,
        gpus: Iterable[str] = (),
        *,
        slots: int = 1,
        links: Links | None = None,
        stands_for: Mapping[str, str] | None = None,
    ) -> Inventory:
        """A machine as it is said to be: its GPUs by name; their UUIDs are GPU-0, GPU-1, …"""
        found = [Gpu(index, f"GPU-{index}", name) for index, name in enumerate(gpus)]
        return cls(found, slots, links=links, stands_for=stands_for)

    def watch(self, on_broken: Callable[[Device], None] | None = None) -> None:
        """From now on GPUs that break are taken out, and ``on_broken`` is told in this loop."""
        loop = asyncio.get_running_loop()
        self._on_broken = on_broken

        def report(uuid: str, reason: str) -> None:
            loop.call_soon_threadsafe(self.take_out, uuid, reason)

        if self._driver is not None:
            self._driver.watch(list(self._gpus.values()), report)

    async def close(self) -> None:
        """Ends the watch. Leases are left as they are: replicas may outlive this server."""
        loop = asyncio.get_running_loop()
        for pidfd in self._exits.values():
            loop.remove_reader(pidfd)
            os.close(pidfd)
        self._exits.clear()
        if self._driver is not None:
            await asyncio.to_thread(self._driver.close)

    def devices(self) -> list[Device]:
        """All GPUs as they stand."""
        return [self._device(uuid) for uuid in self._gpus]

    def describe(self) -> str:
        """All of it, for people."""
        lines = [f"{_count(len(self._gpus), 'GPU')}, {_count(self.slots, 'slot')}"]
        for each in self.devices():
            memory = f" {each.gpu.memory / 2**30:.0f} GiB" if each.gpu.memory else ""
            state = "free" if each.owner is None else f"held by {each.owner}"
            if each.broken is not None:
                state = f"not used: {each.broken}"
            elif each.owner is None and (others := self._others(each.gpu.uuid)):
                state = f"in use by {_count(len(others), 'other process', 'es')}"
            lines.append(f"  {each.gpu.index}  {each.gpu.name}{memory}  {each.gpu.uuid}  {state}")
        for pair, count in self._links.items():
            one, other = sorted(self._gpus[uuid].index for uuid in pair)
            lines.append(f"  {one} and {other} are joined by {_count(count, 'NVLink')}")
        return "\n".join(lines)

    async def lease(self, wanted: Wanted, owner: str, *, ahead: bool = False) -> Lease:
        """Waits its turn, and takes all that is needed at once.

        ``ahead`` of those who wait already is for a replica that takes the place of another one,
        which would otherwise lose it to them.

        Raises NotEnoughDevices if that can never be had here, and LeaseConflict if the owner has
        or waits for a lease already.
        """
        if owner in self._leases or any(each.owner == owner for each in self._waiters):
            raise LeaseConflict(f"{owner} has a lease, or waits for one")
        granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(owner, wanted, self._here(wanted), granted)
        self._check_possible(waiter)
        self._waiters.insert(0 if ahead else len(self._waiters), waiter)
        self._serve()
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                granted.result().release()
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                self._serve()

    def adopt(self, owner: str, gpus: Sequence[str] = (), slots: int = 0) -> Lease:
        """The lease of a replica that an earlier server has left running.

        Raises LeaseConflict if one of its GPUs is unknown or held by another.
        """
        for uuid in gpus:
            if uuid not in self._gpus:
                raise LeaseConflict(f"{owner} runs on GPU {uuid}, which is not here any more")
            if (other := self._device(uuid).owner) is not None:
                raise LeaseConflict(f"{owner} runs on GPU {uuid}, and so does {other}")
        slots = min(slots, self.slots)
        machine = Machine("GPU", len(gpus)) if gpus else Machine("CPU", cores=slots)
        return self._grant(owner, machine, tuple(gpus))

    def take_out(self, uuid: str, reason: str) -> None:
        """A GPU is broken: nobody gets it any more, and its holder is told.

        A waiter that can never be served without it gets NotEnoughDevices.
        """
        self._mark_broken(uuid, reason)
        self._serve()

    def room(self, wanted: Wanted) -> int:
        """How many leases of this kind could be had at once, now."""
        free = [each for each in self._gpus if self._is_free(each)]
        return self._fit(wanted, free, self._free_slots())

    def capacity(self, wanted: Wanted) -> int:
        """How many leases of this kind the machine has room for when nothing else runs."""
        usable = [each for each in self._gpus if each not in self._broken]
        return self._fit(wanted, usable, self.slots)

    def expect_back(self, owner: str) -> None:
        """An owner is about to give its lease back: nobody else needs to for the same waiter."""
        if owner in self._leases:
            self._expected.add(owner)

    def claims(self, owners: Sequence[str]) -> int:
        """How many of these owners, the first of them first, hold what others wait for.

        What is expected back is as good as free.
        """
        gone = [self._leases[each] for each in self._expected]
        gpus = {each for each in self._gpus if self._is_free(each)}
        gpus |= {uuid for each in gone for uuid in each.gpus if uuid not in self._broken}
        slots = self._free_slots() + sum(each.slots for each in gone)
        staying = self._leases.keys() - self._expected
        held = [self._leases[each] for each in owners if each in staying]
        claimed = 0
        for waiter in self._waiters:
            machine = self._possible(waiter)[0]
            while held and not self._suffices(machine, gpus, slots):
                if not (useful := [each for each in held if self._helps(each, machine)]):
                    break
                held.remove(useful[0])
                claimed += 1
                gpus |= {uuid for uuid in useful[0].gpus if uuid not in self._broken}
                slots += useful[0].slots
            gpus -= set([uuid for uuid in gpus if self._is(uuid, machine)][: machine.gpus])
            slots -= machine.cores
        return claimed

    def _device(self, uuid: str) -> Device:
        holders = (each.owner for each in self._leases.values() if uuid in each.gpus)
        owner = next(holders, None)
        return Device(self._gpus[uuid], self._broken.get(uuid), owner)

    def _others(self, uuid: str) -> tuple[int, ...]:
        """Processes on a GPU that no replica holds; our own servers compute on none."""
        return () if self._driver is None else tuple(self._driver.processes(uuid))

    def _here(self, wanted: Wanted) -> tuple[Machine, ...]:
        """The machines that are asked for, as this one can be: see the class."""
        on_cpu = wanted.device == "cpu" or (wanted.device == "auto" and not self._gpus)
        found = [
            Machine(each.type, cores=each.gpus) if each.gpus and on_cpu else each
            for each in wanted.machines
        ]
        return tuple(replace(each, cores=min(each.cores, self.slots)) for each in found)

    def _possible(self, waiter: _Waiter) -> list[Machine]:
        usable = [each for each in self._gpus if each not in self._broken]
        return [
            machine
            for machine in waiter.machines
            if sum(self._is(each, machine) for each in usable) >= machine.gpus
        ]

    def _check_possible(self, waiter: _Waiter) -> None:
        if self._possible(waiter):
            return
        names = [each.name for each in self._gpus.values()]
        there = ", ".join(f"{names.count(each)} x {each}" for each in dict.fromkeys(names))
        message = f"asks for {waiter.wanted}; this machine has {there or 'no GPU'}"
        if self._broken:
            message += f", of which {_count(len(self._broken), 'GPU')} cannot be used"
        elif len(names) >= min(each.gpus for each in waiter.machines):
            message += "; POLYRANK_MACHINE_TYPES can say which of them stand for those"
        needed = max(each.gpus for each in waiter.machines)
        raise NotEnoughDevices(message, needed=needed, found=len(names) - len(self._broken))

    def _mark_broken(self, uuid: str, reason: str) -> None:
        if uuid not in self._gpus or uuid in self._broken:
            return
        self._broken[uuid] = reason
        device = self._device(uuid)
        gpu = device.gpu
        log.error("GPU %d (%s, %s) is taken out: %s", gpu.index, gpu.name, gpu.uuid, reason)
        if self._on_broken is not None:  # which may well release or lease something
            asyncio.get_running_loop().call_soon(self._on_broken, device)
        for waiter in self._waiters:
            try:
                self._check_possible(waiter)
            except NotEnoughDevices as error:
                if not waiter.granted.done():
                    waiter.granted.set_exception(error)

    def _serve(self) -> None:
        """Grants what can be granted, the first who asked first."""
        kept: set[str] = set()
        slots_are_kept = False
        for waiter in list(self._waiters):
            for machine in self._possible(waiter):
                if machine.cores and (slots_are_kept or machine.cores > self._free_slots()):
                    continue
                gpus = self._choose(machine, kept)
                if waiter.granted.done():  # given up, or a GPU that it needs has just been lost
                    break
                if gpus is not None:
                    waiter.granted.set_result(self._grant(waiter.owner, machine, gpus))
                    self._waiters.remove(waiter)
                    break
            else:
                for machine in self._possible(waiter):
                    kept |= {uuid for uuid in self._gpus if self._is(uuid, machine)}
                    slots_are_kept |= machine.cores > 0

    def _choose(self, machine: Machine, kept: Collection[str]) -> tuple[str, ...] | None:
        """The GPUs for a machine that are free and fit, those with the most links among them."""
        if not machine.gpus:
            return ()
        free = [each for each in self._gpus if self._is_free(each) and each not in kept]
        fitting = [each for each in free if self._is(each, machine)]
        shared = {each: others for each in fitting if (others := self._others(each))}
        alone = [each for each in fitting if each not in shared]
        candidates = alone if len(alone) >= machine.gpus or self._avoid_others else fitting
        if self._avoid_others and len(candidates) < machine.gpus:
            self._await_exits(pid for others in shared.values() for pid in others)
        if len(candidates) < machine.gpus:
            return None
        chosen = best_linked(candidates, machine.gpus, self._links)
        faults = {each: fault for each in chosen if (fault := self._fault(each)) is not None}
        for uuid, fault in faults.items():
            self._mark_broken(uuid, fault)
        return self._choose(machine, kept) if faults else chosen

    def _fault(self, uuid: str) -> str | None:
        return None if self._driver is None else self._driver.fault(uuid)

    def _await_exits(self, pids: Iterable[int]) -> None:
        """Serves again when one of these processes has ended, if the system lets us wait for it."""
        loop = asyncio.get_running_loop()
        for pid in pids:
            if pid not in self._exits:
                with contextlib.suppress(OSError):  # of another container
                    self._exits[pid] = pidfd = os.pidfd_open(pid)
                    loop.add_reader(pidfd, self._note_exit, pid)

    def _note_exit(self, pid: int) -> None:
        pidfd = self._exits.pop(pid)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        self._serve()

    def _grant(self, owner: str, machine: Machine, gpus: tuple[str, ...]) -> Lease:
        lease = Lease(owner, machine, gpus, 0 if gpus else machine.cores, self._take_back)
        self._leases[owner] = lease
        return lease

    def _take_back(self, lease: Lease) -> None:
        if self._leases.get(lease.owner) is lease:
            del self._leases[lease.owner]
            self._expected.discard(lease.owner)
            self._serve()

    def _is(self, uuid: str, machine: Machine) -> bool:
        type = self._stands_for.get(machine.type.upper(), machine.type)
        return machine.gpus > 0 and is_of_type(self._gpus[uuid].name, type)

    def _is_free(self, uuid: str) -> bool:
        held = any(uuid in each.gpus for each in self._leases.values())
        return uuid not in self._broken and not held

    def _free_slots(self) -> int:
        return self.slots - sum(each.slots for each in self._leases.values())

    def _fit(self, wanted: Wanted, gpus: list[str], slots: int) -> int:
        count = 0
        for machine in self._here(wanted):
            fitting = [each for each in gpus if self._is(each, machine)]
            if machine.gpus:
                times = len(fitting) // machine.gpus
                taken = set(fitting[: times * machine.gpus])
                gpus = [each for each in gpus if each not in taken]
            else:
                times = max(0, slots) // max(1, machine.cores)
                slots -= times * machine.cores
            count += times
        return count

    def _suffices(self, machine: Machine, gpus: Collection[str], slots: int) -> bool:
        fitting = sum(self._is(each, machine) for each in gpus)
        return fitting >= machine.gpus and slots >= machine.cores

    def _helps(self, lease: Lease, machine: Machine) -> bool:
        return any(self._is(each, machine) for each in lease.gpus) or bool(
            machine.cores and lease.slots
        )


class Elsewhere(Inventory):
    """For launchers that find places themselves, on other machines: everything is granted."""

    def __init__(self) -> None:
        super().__init__((), slots=sys.maxsize)

    def _here(self, wanted: Wanted) -> tuple[Machine, ...]:
        return wanted.machines[:1]

    def _possible(self, waiter: _Waiter) -> list[Machine]:
        return list(waiter.machines)

    def _choose(self, machine: Machine, kept: Collection[str]) -> tuple[str, ...]:
        return ()

    def room(self, wanted: Wanted) -> int:
        """There may always be a place; whoever looks for it says if there is none."""
        return sys.maxsize

    def capacity(self, wanted: Wanted) -> int:
        """The same as ``room``."""
        return self.room(wanted)

    def describe(self) -> str:
        """All of it, for people."""
        return "replicas are placed on the machines of a cluster"


def best_linked(free: Sequence[str], count: int, links: Links) -> tuple[str, ...]:
    """So many of the free GPUs with the most links among them.

    Of several such sets, one that leaves the most links among the rest: the next who asks wants
    linked ones too. Exact on machines with up to eight GPUs.
    """
    if math.comb(len(free), count) <= MOST_SETS:
        sets: Iterable[tuple[str, ...]] = combinations(free, count)
    else:
        sets = (_grown(seed, free, count, links) for seed in free)

    def merit(chosen: tuple[str, ...]) -> tuple[int, int]:
        rest = [each for each in free if each not in chosen]
        return _links_among(chosen, links), _links_among(rest, links)

    return max(sets, key=merit)


def _grown(seed: str, free: Sequence[str], count: int, links: Links) -> tuple[str, ...]:
    """A set around one GPU: always the next that has the most links to those there are."""
    chosen = [seed]
    while len(chosen) < count:
        rest = [each for each in free if each not in chosen]
        chosen.append(
            max(rest, key=lambda one: sum(links.get(frozenset({one, it}), 0) for it in chosen))
        )
    return tuple(sorted(chosen, key=free.index))


def _links_among(gpus: Iterable[str], links: Links) -> int:
    return sum(links.get(frozenset(pair), 0) for pair in combinations(gpus, 2))


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"

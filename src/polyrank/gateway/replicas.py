"""The replicas that serve an app, and the places for requests at them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from polyrank.errors import PolyrankError, ReplicaUnreachable
from polyrank.gateway.upstream import Exchange, RawHeaders, Refused, Upstream

HINTS = b"x-fal-runner-hints"
CHECK = b"x-fal-runner-health-check"
# What an app answers that cannot go on: the GPU has failed, say.
UNFIT = 503
# How long a replica may take to show that it is still there.
CHECK_S = 2.0


@dataclass(eq=False)
class HostedReplica:
    """A replica that serves: where, and how many requests it works on and may work on."""

    id: str
    upstream: Upstream
    limit: int
    # Places that are taken, and those of them in which a request is being worked on: whoever looks
    # for a request has a place before there is one.
    taken: int = 0
    running: int = 0
    hints: frozenset[str] = frozenset()
    # When it last worked on a request, on the monotonic clock; None if it never did.
    used_at: float | None = None
    is_open: bool = True
    # Whether it reports the ends of queued requests.
    tells_ends: bool = False
    # Called when an answer of it asks for its health check.
    on_check: Callable[[], None] | None = None
    emptied: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_free(self) -> bool:
        """Whether it takes another request."""
        return self.is_open and self.taken < self.limit


@dataclass(eq=False)
class _Waiter:
    """Somebody who waits for a place."""

    place: asyncio.Future[HostedReplica]
    hint: str | None
    weight: int
    is_patient: bool
    since: float


class Replicas:
    """Gives places to those who ask, in the order in which they asked.

    ``on_demand`` is called when somebody has to wait, ``on_lost`` with a replica at whose address
    nobody listens any more, and ``on_unfit`` with one that has answered 503. ``on_use`` is called
    when other requests than before run or wait, ``on_idle`` when a replica has ended its last one.
    """

    def __init__(
        self,
        on_demand: Callable[[], None] = lambda: None,
        on_lost: Callable[[HostedReplica], None] = lambda replica: None,
        on_unfit: Callable[[HostedReplica], None] = lambda replica: None,
        on_use: Callable[[], None] = lambda: None,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_demand = on_demand
        self._on_lost = on_lost
        self.on_unfit = on_unfit
        self._on_use = on_use
        self._on_idle = on_idle
        self._serving: dict[str, HostedReplica] = {}
        self._waiters: dict[_Waiter, None] = {}  # in their order
        self._opened = asyncio.Event()
        self._closed: PolyrankError | None = None

    def __iter__(self) -> Iterator[HostedReplica]:
        return iter(list(self._serving.values()))

    def __len__(self) -> int:
        return len(self._serving)

    @property
    def is_open(self) -> bool:
        """Whether any of them takes requests, now or when it is less busy."""
        return self._opened.is_set()

    @property
    def is_busy(self) -> bool:
        """Whether no replica takes another request now."""
        return not any(each.is_free for each in self._serving.values())

    @property
    def places(self) -> int:
        """How many requests all of them work on at most."""
        return sum(each.limit for each in self._serving.values() if each.is_open)

    def waiting(self) -> list[float]:
        """Since when callers wait for a place, on the monotonic clock; the first comes first."""
        return [each.since for each in self._waiters if not each.is_patient and each.weight]

    def get(self, id: str) -> HostedReplica | None:
        """The replica of that id, if it serves."""
        return self._serving.get(id)

    def add(self, replica: HostedReplica) -> None:
        """A replica serves from now on."""
        self._serving[replica.id] = replica
        self._serve_waiters()

    def remove(self, id: str) -> HostedReplica | None:
        """A replica serves no more; what it works on is on its own."""
        replica = self._serving.pop(id, None)
        if replica is not None:
            replica.is_open = False
            replica.upstream.close()
            self._note_open()
        return replica

    def close(self, error: PolyrankError) -> None:
        """There will be no replica ever again: whoever asks for a place is told."""
        self._closed = error
        self.fail(error)

    def fail(self, error: PolyrankError) -> None:
        """There is no replica and none will come soon: those who are not patient are told."""
        for waiter in list(self._waiters):
            if not waiter.is_patient and not waiter.place.done():
                waiter.place.set_exception(error)

    async def drain(self, id: str) -> None:
        """Gives the replica no more requests; returns when it works on none."""
        if (replica := self._serving.get(id)) is None:
            return
        replica.is_open = False
        self._note_open()
        while replica.taken:
            await replica.emptied.wait()

    async def wait_open(self) -> None:
        """Waits until one of them takes requests."""
        await self._opened.wait()

    async def take(
        self, hint: str | None = None, *, weight: int = 1, patient: bool = False
    ) -> Slot:
        """A place at the replica that has the ``hint``, else at the one with the least to do.

        Who only asks something takes no place: ``weight`` 0. Unless ``patient``, this raises what
        ``fail`` is called with while it waits, or ``close`` was.
        """
        if self._closed is not None and not patient:
            raise self._closed
        # Who takes no place waits behind nobody.
        is_next = not self._waiters or weight == 0
        if is_next and (replica := self._choose(hint, weight)) is not None:
            return self._taken(replica, weight)
        place = asyncio.get_running_loop().create_future()
        waiter = _Waiter(place, hint, weight, patient, time.monotonic())
        self._waiters[waiter] = None
        self._on_demand()
        try:
            return Slot(self, await place, weight)
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.give_back(place.result(), weight, was_used=False)
            raise
        finally:
            self._waiters.pop(waiter, None)
            self._on_use()

    def take_free(self, limit: int) -> list[Slot]:
        """Up to ``limit`` places that are free now and that nobody waits for."""
        slots: list[Slot] = []
        while len(slots) < limit and not self._waiters:
            if (replica := self._choose(None, 1)) is None:
                break
            slots.append(self._taken(replica, 1))
        return slots

    def give_back(self, replica: HostedReplica, weight: int, *, was_used: bool = True) -> None:
        """A place is free again."""
        if weight == 0:
            return
        replica.taken -= 1
        if was_used:
            replica.used_at = time.monotonic()
        self._on_use()
        if replica.taken == 0:
            replica.emptied.set()
            if was_used:
                self._on_idle()
        if self._waiters:
            self._serve_waiters()

    def lost(self, replica: HostedReplica) -> None:
        """Nobody listens at the replica's address."""
        if self._serving.get(replica.id) is replica:
            self._on_lost(replica)

    def _serve_waiters(self) -> None:
        self._note_open()
        for waiter in list(self._waiters):
            if waiter.place.done():
                continue
            replica = self._choose(waiter.hint, waiter.weight)
            if replica is None:
                if waiter.weight:
                    break
                continue
            self._taken(replica, waiter.weight)
            waiter.place.set_result(replica)

    def _choose(self, hint: str | None, weight: int) -> HostedReplica | None:
        best: HostedReplica | None = None
        for replica in self._serving.values():
            if not (replica.is_free if weight else replica.is_open):
                continue
            if hint is not None and hint in replica.hints:
                return replica
            if best is None or replica.taken < best.taken:
                best = replica
        return best

    def _taken(self, replica: HostedReplica, weight: int) -> Slot:
        if weight:
            replica.taken += 1
            replica.emptied.clear()
            self._on_use()
        return Slot(self, replica, weight)

    def _note_open(self) -> None:
        if any(each.is_open for each in self._serving.values()):
            self._opened.set()
        else:
            self._opened.clear()


class Slot:
    """A place at a replica, until ``release``."""

    def __init__(self, replicas: Replicas, replica: HostedReplica, weight: int) -> None:
        self._replicas = replicas
        self._weight = weight
        self._is_taken = True
        self._has_begun = False
        self.replica = replica

    def begin(self) -> None:
        """A request is being worked on in this place from now on."""
        if self._weight and not self._has_begun:
            self._has_begun = True
            self.replica.running += 1

    async def send(self, method: str, path: bytes, headers: RawHeaders, body: bytes) -> Exchange:
        """Sends a request to the replica, or to another if nobody listens there any more; see
        ``Upstream.send``."""
        while True:
            self.begin()
            try:
                exchange = await self.replica.upstream.send(method, path, headers, body)
            except Refused:
                await self.move()  # nothing was sent: the request is for the next replica
            else:
                if len(self._replicas) > 1 or self.replica.on_check is not None:
                    self._note_headers(exchange.headers)
                if exchange.status == UNFIT and self._weight:
                    self._replicas.on_unfit(self.replica)
                return exchange

    @contextlib.asynccontextmanager
    async def call(
        self, method: str, path: bytes, headers: RawHeaders, body: bytes
    ) -> AsyncIterator[Exchange]:
        """``send``; what is left of the answer at the end of the block is dropped."""
        exchange = await self.send(method, path, headers, body)
        try:
            yield exchange
        finally:
            exchange.release()

    async def move(self) -> None:
        """Takes a place at another replica: nobody listens at this one's address."""
        self._replicas.lost(self.replica)
        self.release()
        self.replica = (await self._replicas.take(weight=self._weight)).replica
        self._is_taken = True

    async def check(self) -> None:
        """A connection to the replica broke off: finds out whether the replica is still there.

        A process that is killed closes its sockets one by one; without this, those who wait behind
        the one it worked for would be sent to it too.
        """
        try:
            async with asyncio.timeout(CHECK_S):
                (await self.replica.upstream.send("GET", b"/health", [], b"")).release()
        except TimeoutError:
            pass  # busy, and so not gone
        except ReplicaUnreachable:
            self._replicas.lost(self.replica)

    def release(self, *, was_used: bool = True) -> None:
        """Gives the place back, once."""
        if self._has_begun:
            self._has_begun = False
            self.replica.running -= 1
        if self._is_taken:
            self._is_taken = False
            self._replicas.give_back(self.replica, self._weight, was_used=was_used)

    def _note_headers(self, headers: RawHeaders) -> None:
        """What the replica tells about itself."""
        for name, value in headers:
            lower = name.lower()
            if lower == HINTS:
                listed = (each.strip() for each in value.decode("latin-1").split(","))
                self.replica.hints = frozenset(each for each in listed if each)
            elif lower == CHECK and self.replica.on_check is not None:
                self.replica.on_check()

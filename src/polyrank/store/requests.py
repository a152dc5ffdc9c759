"""The queue of requests, and their answers.

A request is queued, then running under a lease, then done. Whoever runs it renews the lease; when
a lease is over, whoever held it is taken for dead and the request is queued again. ``attempt``
counts the leases and is the proof of the current one: an answer of an older attempt is dropped, so
a request ends once however often it was run.

Callers are served in turns (start-time fair queueing, Goyal et al. 1996, all costs equal): a
request's turn is one later than its caller's last waiting one, and never earlier than that of the
first in the queue. Who submits a thousand and who submits one alternate.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from polyrank.errors import IdempotencyConflict, QueueFull
from polyrank.store import changes
from polyrank.store.database import Database
from polyrank.store.tables import QUEUED, RUNNING, requests, webhooks

RESULT_TTL_S = 24 * 3600.0
MAX_RETRIES = 10
# How many a sweep deletes at once, so that it never holds the writer for long.
SWEEP = 500

NORMAL, LOW = 0, 1


class Cancelled(StrEnum):
    """What became of a wish to cancel."""

    DONE = "done"  # it waited; it is over now
    REQUESTED = "requested"  # it runs, and whoever runs it will be told
    TOO_LATE = "too_late"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class NewRequest:
    """What a caller submits. Times are in seconds, from now."""

    app: str
    caller: str
    body: bytes
    path: str = "/"
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    hint: str | None = None
    priority: int = NORMAL
    start_timeout_s: float | None = None
    timeout_s: float | None = None
    idempotency_key: str | None = None
    webhook_url: str | None = None

    @property
    def fingerprint(self) -> str:
        """What an idempotency key stands for: two requests with one key must agree in it."""
        parts = [self.app, self.method, self.path]
        if self.webhook_url is not None:
            parts.append(self.webhook_url)
        return hashlib.sha256("\n".join(parts).encode() + b"\n" + self.body).hexdigest()


@dataclass(frozen=True)
class Submitted:
    """An accepted request. ``created`` is False if its idempotency key had been seen before."""

    id: str
    created: bool


@dataclass(frozen=True)
class Lease:
    """A request to run now; ``until`` is when the lease is over unless it is renewed."""

    id: str
    attempt: int
    app: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    hint: str | None
    timeout_s: float | None
    until: float
    retries: int


@dataclass(frozen=True)
class Answer:
    """How a request ended; ``error`` is empty when it ended well."""

    status_code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str | None = None
    error_type: str | None = None
    logs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Renewal:
    """What a renewal says about leases: those to stop because of a cancel, and those lost."""

    to_cancel: list[str]
    lost: list[str]


class Changed(NamedTuple):
    """A request that ended or was put back; without ``status`` it has not ended.

    ``webhook_url`` is set if its end is to be told to somebody, ``started_at`` if it ran.
    """

    id: str
    app: str
    webhook_url: str | None = None
    status: int | None = None
    submitted_at: float = 0.0
    started_at: float | None = None
    finished_at: float = 0.0

    @property
    def waited_s(self) -> float:
        """How long it waited until it ran, or until it ended."""
        until = self.finished_at if self.started_at is None else self.started_at
        return until - self.submitted_at

    @property
    def ran_s(self) -> float | None:
        """How long it ran; None if it did not."""
        return None if self.started_at is None else self.finished_at - self.started_at


class Requests:
    """The requests of one database. Every method is one transaction."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        *,
        origin: str = "",
        on_webhook: Callable[[], None] = lambda: None,
        on_end: Callable[[Changed], None] = lambda ended: None,
    ) -> None:
        """``origin`` names this server among those that share a Postgres database. ``on_webhook``
        is called when the end of a request is in the outbox of webhooks, ``on_end`` with each
        request that this server has ended."""
        self._database = database
        self._clock = clock
        self._origin = origin
        self._on_webhook = on_webhook
        self._on_end = on_end
        self._insert = database.insert(requests).on_conflict_do_nothing().returning(requests.c.id)

    async def submit(self, new: NewRequest, *, max_queued: int | None = None) -> Submitted:
        """Keeps a request; once this returns, nothing but its end or its expiry removes it.

        Raises QueueFull if ``max_queued`` requests of the app wait, IdempotencyConflict if the key
        came with another request.
        """
        return await self._database.write(lambda c: self._submit(c, new, max_queued))

    async def lease(self, app: str, owner: str, *, limit: int, lease_s: float) -> list[Lease]:
        """Takes up to ``limit`` requests of an app that may start now, first in turn first."""
        return await self._database.write(lambda c: self._lease(c, app, owner, limit, lease_s))

    async def renew(self, leases: Mapping[str, int], *, lease_s: float) -> Renewal:
        """Renews leases, given as attempt by request id."""
        return await self._database.write(lambda c: self._renew(c, leases, lease_s))

    async def finish(self, id: str, attempt: int, answer: Answer) -> bool:
        """Ends a request. False, and nothing is changed, if this attempt's lease is over."""
        return await self._change(lambda c: self._end(c, _is_attempt(id, attempt), answer)) == [id]

    async def put_back(
        self,
        id: str,
        attempt: int,
        *,
        delay_s: float,
        why: Answer,
        max_retries: int = MAX_RETRIES,
    ) -> bool:
        """Queues a running request again where it was; ends it with ``why`` if it has had
        all its retries. False if this attempt's lease is over."""
        is_it = _is_attempt(id, attempt)
        changed = await self._change(
            lambda c: self._put_back(c, is_it, delay_s, why, max_retries=max_retries)
        )
        return changed == [id]

    async def cancel(self, id: str) -> Cancelled:
        """Ends a request that waits; marks one that runs, for ``renew`` to tell."""
        outcome, ended = await self._database.write(lambda c: self._cancel(c, id))
        self._announce(ended)
        return outcome

    async def expire(self) -> list[str]:
        """Ends or requeues what is past its time: waiting ones past their start deadline, running
        ones past their lease. The ids of all of them."""
        return await self._change(self._expire)

    async def recover(self) -> list[str]:
        """Queues again what ran when the server died. Only where no other server can be running
        it: on Postgres others may, and their leases run out by themselves."""
        if self._database.dialect == "postgresql":
            return []
        # That was no fault of theirs, and costs them no retry.
        return await self._change(lambda c: self._put_back(c, RUNNING, 0, LOST, cost=0))

    async def sweep(self) -> int:
        """Deletes some of the answers whose time to live is over; how many."""
        return await self._database.write(self._sweep)

    async def get(self, id: str) -> RowMapping | None:
        """The request's row; None if there is none (any more)."""
        query = sa.select(requests).where(requests.c.id == id)
        return await self._database.read(lambda c: c.execute(query).mappings().first())

    async def whose(self, id: str) -> tuple[str, str] | None:
        """Who submitted a request, and of which app it is; None if there is no such request."""
        query = sa.select(requests.c.caller, requests.c.app).where(requests.c.id == id)
        row = await self._database.read(lambda c: c.execute(query).first())
        return None if row is None else (row.caller, row.app)

    async def position(self, id: str) -> int | None:
        """How many wait before it; None if it does not wait."""
        return await self._database.read(lambda c: _position(c, id))

    async def count_queued(self, app: str) -> int:
        """How many requests of an app wait."""
        return await self._database.read(lambda c: _count_queued(c, app))

    async def queue_sizes(self) -> dict[str, int]:
        """How many requests wait, for each app for which some do."""
        query = sa.select(requests.c.app, sa.func.count()).where(QUEUED).group_by(requests.c.app)
        return await self._database.read(lambda c: {app: n for app, n in c.execute(query)})

    async def backlog(self, app: str) -> tuple[int, float | None]:
        """How many requests of an app wait and may be run now, and since when the first waits."""
        is_due = requests.c.not_before <= self._clock()
        query = sa.select(sa.func.count(), sa.func.min(requests.c.submitted_at)).where(
            requests.c.app == app, QUEUED, is_due
        )
        row = await self._database.read(lambda c: c.execute(query).one())
        return int(row[0]), row[1]

    async def flush(self, app: str) -> int:
        """Cancels every request of an app that waits; how many."""
        waiting = (requests.c.app == app) & QUEUED
        return len(await self._change(lambda c: self._end(c, waiting, CANCELLED)))

    async def next_due(self) -> float | None:
        """When ``expire`` or ``lease`` will next have something to do that no event announces."""
        return await self._database.read(self._next_due)

    async def find(
        self,
        *,
        app: str | None = None,
        caller: str | None = None,
        state: str | None = None,
        before: float | None = None,
        limit: int = 100,
    ) -> list[RowMapping]:
        """Requests, the newest first, without bodies and answers."""
        columns = [c for c in requests.c if c.name not in ("body", "answer")]
        query = sa.select(*columns).order_by(requests.c.submitted_at.desc()).limit(limit)
        if app is not None:
            query = query.where(requests.c.app == app)
        if caller is not None:
            query = query.where(requests.c.caller == caller)
        if state is not None:
            query = query.where(requests.c.state == state)
        if before is not None:
            query = query.where(requests.c.submitted_at < before)
        return await self._database.read(lambda c: list(c.execute(query).mappings()))

    async def _change(self, work: Callable[[Connection], list[Changed]]) -> list[str]:
        changed = await self._database.write(work)
        self._announce(changed)
        return [each.id for each in changed]

    def _announce(self, changed: list[Changed]) -> None:
        for each in changed:
            if each.status is not None:
                self._on_end(each)
        if any(each.webhook_url is not None for each in changed):
            self._on_webhook()

    def _submit(self, connection: Connection, new: NewRequest, limit: int | None) -> Submitted:
        if new.idempotency_key is not None:
            if (known := _known(connection, new)) is not None:
                return known
        if limit is not None and (waiting := _count_queued(connection, new.app)) >= limit:
            raise QueueFull(
                f"{waiting} requests wait for {new.app}, as many as may",
                waiting=waiting,
                limit=limit,
            )
        now = self._clock()
        id = str(uuid.uuid4())
        values: dict[str, Any] = {
            "id": id,
            "app": new.app,
            "caller": new.caller,
            "method": new.method,
            "path": new.path,
            "headers": dict(new.headers),
            "body": new.body,
            "hint": new.hint,
            "idempotency_key": new.idempotency_key,
            "fingerprint": new.fingerprint if new.idempotency_key is not None else None,
            "webhook_url": new.webhook_url,
            "state": "queued",
            "priority": new.priority,
            "turn": _next_turn(connection, new.app, new.caller),
            "attempt": 0,
            "retries": 0,
            "not_before": now,
            "start_deadline": None if new.start_timeout_s is None else now + new.start_timeout_s,
            "timeout_s": new.timeout_s,
            "cancel_requested": False,
            "submitted_at": now,
        }
        if connection.scalar(self._insert, values) is None:  # another was quicker with this key
            known = _known(connection, new)
            assert known is not None
            return known
        self._tell(connection, [(id, new.app)])
        return Submitted(id, created=True)

    def _lease(
        self, connection: Connection, app: str, owner: str, limit: int, lease_s: float
    ) -> list[Lease]:
        now = self._clock()
        chosen = (
            sa.select(requests.c.seq)
            .where(requests.c.app == app, QUEUED)
            .where(requests.c.not_before <= now)
            .where(sa.or_(requests.c.start_deadline.is_(None), requests.c.start_deadline > now))
            .order_by(requests.c.priority, requests.c.turn, requests.c.seq)
            .limit(limit)
            .with_for_update(skip_locked=True)  # SQLite has one writer, and leaves this out
        )
        seqs = connection.scalars(chosen).all()
        if not seqs:
            return []
        update = (
            sa.update(requests)
            .where(requests.c.seq.in_(seqs))
            .values(
                state="running",
                attempt=requests.c.attempt + 1,
                lease_owner=owner,
                lease_until=now + lease_s,
                started_at=now,
            )
            .returning(requests)
        )
        rows = connection.execute(update).mappings().all()
        self._tell(connection, [(row["id"], row["app"]) for row in rows])
        order = {seq: place for place, seq in enumerate(seqs)}
        return [
            Lease(
                id=row["id"],
                attempt=row["attempt"],
                app=row["app"],
                method=row["method"],
                path=row["path"],
                headers=row["headers"],
                body=row["body"],
                hint=row["hint"],
                timeout_s=row["timeout_s"],
                until=row["lease_until"],
                retries=row["retries"],
            )
            for row in sorted(rows, key=lambda row: order[row["seq"]])
        ]

    def _renew(self, connection: Connection, leases: Mapping[str, int], lease_s: float) -> Renewal:
        update = (
            sa.update(requests)
            .where(requests.c.id.in_(leases), RUNNING)
            .values(lease_until=self._clock() + lease_s)
            .returning(requests.c.id, requests.c.attempt, requests.c.cancel_requested)
        )
        held = {
            id: cancel
            for id, attempt, cancel in connection.execute(update)
            if leases[id] == attempt
        }
        return Renewal(
            to_cancel=[id for id, cancel in held.items() if cancel],
            lost=[id for id in leases if id not in held],
        )

    def _end(
        self, connection: Connection, which: sa.ColumnElement[bool], answer: Answer
    ) -> list[Changed]:
        """Every end of a request is this one, its row in the outbox of webhooks included."""
        now = self._clock()
        update = (
            sa.update(requests)
            .where(which)
            .values(
                state="done",
                finished_at=now,
                expires_at=now + RESULT_TTL_S,
                lease_owner=None,
                lease_until=None,
                status_code=answer.status_code,
                answer_headers=dict(answer.headers),
                answer=answer.body,
                error=answer.error,
                error_type=answer.error_type,
                logs=list(answer.logs),
            )
            .returning(*_ENDED)
        )
        ended = self._told(connection, update)
        due = [
            {"request_id": each.id, "url": each.webhook_url, "state": "pending"}
            | {"attempts": 0, "due_at": now}
            for each in ended
            if each.webhook_url is not None
        ]
        if due:
            connection.execute(sa.insert(webhooks), due)
        return ended

    def _put_back(
        self,
        connection: Connection,
        which: sa.ColumnElement[bool],
        delay_s: float,
        why: Answer,
        cost: int = 1,
        max_retries: int = MAX_RETRIES,
    ) -> list[Changed]:
        # A request that its caller has cancelled meanwhile is not run again.
        cancelled = self._end(connection, which & requests.c.cancel_requested, CANCELLED)
        ended = self._end(connection, which & (requests.c.retries + cost > max_retries), why)
        update = (
            sa.update(requests)
            .where(which)
            .values(
                state="queued",
                not_before=self._clock() + delay_s,
                retries=requests.c.retries + cost,
                lease_owner=None,
                lease_until=None,
                started_at=None,
            )
            .returning(requests.c.id, requests.c.app)
        )
        return cancelled + ended + self._told(connection, update)

    def _cancel(self, connection: Connection, id: str) -> tuple[Cancelled, list[Changed]]:
        is_it = requests.c.id == id
        if ended := self._end(connection, is_it & QUEUED, CANCELLED):
            return Cancelled.DONE, ended
        mark = (
            sa.update(requests)
            .where(is_it, RUNNING)
            .values(cancel_requested=True)
            .returning(requests.c.id, requests.c.app)
        )
        if self._told(connection, mark):
            return Cancelled.REQUESTED, []
        known = connection.scalar(sa.select(requests.c.seq).where(is_it))
        return Cancelled.UNKNOWN if known is None else Cancelled.TOO_LATE, []

    def _expire(self, connection: Connection) -> list[Changed]:
        now = self._clock()
        late = QUEUED & (requests.c.start_deadline <= now)
        lost = RUNNING & (requests.c.lease_until <= now)
        return self._end(connection, late, NOT_STARTED) + self._put_back(connection, lost, 0, LOST)

    def _told(self, connection: Connection, update: sa.UpdateBase) -> list[Changed]:
        """Runs an update that returns ids and apps, and tells other servers of it."""
        changed = [Changed(*row) for row in connection.execute(update)]
        self._tell(connection, [(each.id, each.app) for each in changed])
        return changed

    def _tell(self, connection: Connection, changed: Iterable[tuple[str, str]]) -> None:
        """Tells the other servers of this database, once the transaction is committed."""
        if self._database.dialect == "postgresql":
            for id, app in changed:
                changes.tell(connection, self._origin, id, app)

    def _sweep(self, connection: Connection) -> int:
        old = (
            sa.select(requests.c.seq)
            .where(requests.c.expires_at <= self._clock())
            .order_by(requests.c.expires_at)
            .limit(SWEEP)
        )
        return connection.execute(sa.delete(requests).where(requests.c.seq.in_(old))).rowcount

    def _next_due(self, connection: Connection) -> float | None:
        now = self._clock()
        times = [
            connection.scalar(sa.select(sa.func.min(requests.c.start_deadline)).where(QUEUED)),
            connection.scalar(sa.select(sa.func.min(requests.c.lease_until)).where(RUNNING)),
            connection.scalar(
                sa.select(sa.func.min(requests.c.not_before)).where(
                    QUEUED, requests.c.not_before > now
                )
            ),
        ]
        return min((t for t in times if t is not None), default=None)


CANCELLED = Answer(499, error="the request was cancelled", error_type="client_cancelled")
NOT_STARTED = Answer(
    504,
    headers={"x-fal-request-timeout-type": "user"},
    error="the request did not start within the time that its caller gave it",
    error_type="request_timeout",
)
LOST = Answer(503, error="whoever ran the request is gone", error_type="runner_disconnected")


# Statements are built once: building one costs SQLAlchemy more than SQLite takes to run it.
_waiting = (requests.c.app == sa.bindparam("app")) & QUEUED
_place = (requests.c.priority, requests.c.turn, requests.c.seq)
_KNOWN = sa.select(requests.c.id, requests.c.fingerprint).where(
    requests.c.caller == sa.bindparam("caller"),
    requests.c.idempotency_key == sa.bindparam("key"),
)
# The columns of a Changed that has ended.
_ENDED = (
    *(requests.c.id, requests.c.app, requests.c.webhook_url, requests.c.status_code),
    *(requests.c.submitted_at, requests.c.started_at, requests.c.finished_at),
)
_COUNT_QUEUED = sa.select(sa.func.count()).select_from(requests).where(_waiting)
_LAST_TURN_OF_CALLER = sa.select(sa.func.max(requests.c.turn)).where(
    _waiting, requests.c.caller == sa.bindparam("caller")
)
_FIRST_TURN = sa.select(requests.c.turn).where(_waiting).order_by(*_place).limit(1)
_PLACE = sa.select(requests.c.app, *_place).where(requests.c.id == sa.bindparam("id"), QUEUED)
_COUNT_AHEAD = _COUNT_QUEUED.where(
    sa.tuple_(*_place)
    < sa.tuple_(sa.bindparam("priority"), sa.bindparam("turn"), sa.bindparam("seq"))
)


def _is_attempt(id: str, attempt: int) -> sa.ColumnElement[bool]:
    return sa.and_(requests.c.id == id, requests.c.attempt == attempt, RUNNING)


def _known(connection: Connection, new: NewRequest) -> Submitted | None:
    """The request that came with the same idempotency key, if one did."""
    parameters = {"caller": new.caller, "key": new.idempotency_key}
    row = connection.execute(_KNOWN, parameters).first()
    if row is None:
        return None
    if row.fingerprint != new.fingerprint:
        raise IdempotencyConflict(
            f"Idempotency-Key {new.idempotency_key!r} came with another request before"
        )
    return Submitted(row.id, created=False)


def _next_turn(connection: Connection, app: str, caller: str) -> int:
    last = connection.scalar(_LAST_TURN_OF_CALLER, {"app": app, "caller": caller})
    if last is not None:
        return int(last) + 1
    return int(connection.scalar(_FIRST_TURN, {"app": app}) or 0)


def _position(connection: Connection, id: str) -> int | None:
    row = connection.execute(_PLACE, {"id": id}).mappings().first()
    return None if row is None else int(connection.scalar(_COUNT_AHEAD, dict(row)) or 0)


def _count_queued(connection: Connection, app: str) -> int:
    return int(connection.scalar(_COUNT_QUEUED, {"app": app}) or 0)

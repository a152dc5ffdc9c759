"""The outbox of webhooks: whom to tell how a request ended, and how telling them went.

The row is written by the transaction that ends the request, so neither is there without the other.
A server that tells somebody holds a lease meanwhile; if it dies the lease runs out and another try
is made: whoever is told is told at least once.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from polyrank.store.database import Database
from polyrank.store.tables import PENDING, webhooks


@dataclass(frozen=True)
class Delivery:
    """A try to make now: ``attempts`` were made before it."""

    request_id: str
    url: str
    attempts: int
    lease: str


@dataclass(frozen=True)
class Outcome:
    """How a try went: the receiver's status, or why there is none. ``retry_at`` is when to try
    again; None for never."""

    status: int | None
    error: str | None
    retry_at: float | None = None


class Webhooks:
    """The outbox of one database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def lease(self, *, limit: int, lease_s: float) -> list[Delivery]:
        """Takes up to ``limit`` tries that are due, those that have been due longest first."""
        return await self._database.write(lambda c: self._lease(c, limit, lease_s))

    async def finish(self, delivery: Delivery, outcome: Outcome) -> bool:
        """Keeps how a try went; False if its lease is over and another try has begun."""
        return await self._database.write(lambda c: self._finish(c, delivery, outcome))

    async def recover(self) -> None:
        """Makes due what was being told when the server died; see ``Requests.recover``."""
        if self._database.dialect == "postgresql":
            return
        now = self._clock()
        update = sa.update(webhooks).where(PENDING, webhooks.c.lease.is_not(None))
        await self._database.write(
            lambda c: c.execute(update.values(lease=None, due_at=now)).rowcount
        )

    async def again(self, request_id: str) -> bool:
        """Tells somebody once more, from the first try; False if nobody was to be told."""
        update = (
            sa.update(webhooks)
            .where(webhooks.c.request_id == request_id)
            .values(state="pending", attempts=0, due_at=self._clock(), lease=None)
        )
        return await self._database.write(lambda c: bool(c.execute(update).rowcount))

    async def get(self, request_id: str) -> RowMapping | None:
        """How telling stands; None before the request's end, and if nobody is to be told."""
        query = sa.select(webhooks).where(webhooks.c.request_id == request_id)
        return await self._database.read(lambda c: c.execute(query).mappings().first())

    async def next_due(self) -> float | None:
        """When ``lease`` will next have something."""
        query = sa.select(sa.func.min(webhooks.c.due_at)).where(PENDING)
        return await self._database.read(lambda c: c.scalar(query))

    def _lease(self, connection: Connection, limit: int, lease_s: float) -> list[Delivery]:
        now, lease = self._clock(), uuid.uuid4().hex
        chosen = (
            sa.select(webhooks.c.request_id)
            .where(PENDING, webhooks.c.due_at <= now)
            .order_by(webhooks.c.due_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        ids = connection.scalars(chosen).all()
        if not ids:
            return []
        update = (
            sa.update(webhooks)
            .where(webhooks.c.request_id.in_(ids))
            .values(lease=lease, due_at=now + lease_s)
            .returning(webhooks.c.request_id, webhooks.c.url, webhooks.c.attempts)
        )
        rows = connection.execute(update).mappings()
        return [Delivery(**row, lease=lease) for row in rows]

    def _finish(self, connection: Connection, delivery: Delivery, outcome: Outcome) -> bool:
        now = self._clock()
        values = {
            "attempts": delivery.attempts + 1,
            "lease": None,
            "last_attempt_at": now,
            "last_status": outcome.status,
            "last_error": outcome.error,
        }
        if outcome.error is None:
            values |= {"state": "delivered", "delivered_at": now}
        elif outcome.retry_at is None:
            values |= {"state": "failed"}
        else:
            values |= {"due_at": outcome.retry_at}
        update = sa.update(webhooks).where(
            webhooks.c.request_id == delivery.request_id, webhooks.c.lease == delivery.lease
        )
        return bool(connection.execute(update.values(values)).rowcount)

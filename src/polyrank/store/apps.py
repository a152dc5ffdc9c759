"""What is deployed: apps, the revisions of each, and the replicas that were started of them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from polyrank.errors import PolyrankError
from polyrank.store import changes
from polyrank.store.database import Database
from polyrank.store.tables import apps, replicas, revisions

ID_BYTES = 6
MAIN = "main"
# How long the row of a replica that has ended is kept.
HISTORY_S = 7 * 24 * 3600.0


class NotDeployed(PolyrankError):
    """There is no such app, or no such revision of it."""

    status = 404
    code = "not_found"


def new_id() -> str:
    """A name for a revision or a replica."""
    return secrets.token_hex(ID_BYTES)


def full_name(owner: str, alias: str, environment: str = MAIN) -> str:
    """An app's name: ``owner/alias``, with its environment unless that is the main one."""
    return f"{owner}/{alias}" if environment == MAIN else f"{owner}/{alias}--{environment}"


@dataclass(frozen=True)
class DeployedApp:
    """An app; ``revision`` is the one that serves, and ``scaling`` what was set apart from it."""

    name: str
    owner: str
    environment: str
    revision: str | None
    scaling: Mapping[str, Any]
    created_at: float
    updated_at: float

    @property
    def alias(self) -> str:
        """Its name without the owner."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class Revision:
    """What one deployment has brought."""

    id: str
    app: str
    number: int
    manifest: Mapping[str, Any]
    code_hash: str
    server: str
    created_by: str
    created_at: float
    state: str = "deploying"
    error: str | None = None
    routes: Sequence[Mapping[str, Any]] | None = None
    limits: Mapping[str, Any] | None = None
    openapi: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ReplicaRow:
    """A replica that was started; times are in seconds since 1970."""

    id: str
    app: str
    revision: str
    server: str
    gpus: Sequence[str] = ()
    key_id: str | None = None
    created_at: float = field(default_factory=time.time)
    ready_at: float | None = None
    ended_at: float | None = None
    reason: str | None = None


class Apps:
    """The apps of one database. Every method is one transaction."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        *,
        server: str = "",
        origin: str = "",
    ) -> None:
        """``server`` names this server, also after its next start; ``origin`` names this start of
        it to the others that share a Postgres database."""
        self._database = database
        self._clock = clock
        self._server = server
        self._origin = origin

    async def all(self) -> list[DeployedApp]:
        """Every app, by name."""
        query = sa.select(apps).order_by(apps.c.name)
        rows = await self._database.read(lambda c: c.execute(query).mappings().all())
        return [DeployedApp(**row) for row in rows]

    async def get(self, name: str) -> DeployedApp:
        """The app. Raises NotDeployed."""
        query = sa.select(apps).where(apps.c.name == name)
        row = await self._database.read(lambda c: c.execute(query).mappings().first())
        if row is None:
            raise NotDeployed(f"{name!r} is not deployed here; `polyrank apps list` shows what is")
        return DeployedApp(**row)

    async def begin(
        self,
        *,
        owner: str,
        alias: str,
        environment: str,
        manifest: Mapping[str, Any],
        code_hash: str,
        created_by: str,
    ) -> Revision:
        """A new revision, of an app that may be new too. It serves once ``set_current`` says so."""
        name, now = full_name(owner, alias, environment), self._clock()

        def begin(connection: Connection) -> Revision:
            if (
                connection.execute(sa.select(apps.c.name).where(apps.c.name == name)).first()
                is None
            ):
                values = {"name": name, "owner": owner, "environment": environment}
                connection.execute(
                    sa.insert(apps), {**values, "scaling": {}, "created_at": now, "updated_at": now}
                )
            last = sa.select(sa.func.max(revisions.c.number)).where(revisions.c.app == name)
            number = (connection.execute(last).scalar() or 0) + 1
            revision = Revision(
                new_id(), name, number, manifest, code_hash, self._server, created_by, now
            )
            connection.execute(sa.insert(revisions), vars(revision))
            return revision

        return await self._database.write(begin)

    async def revision(self, id: str) -> Revision:
        """The revision. Raises NotDeployed."""
        query = sa.select(revisions).where(revisions.c.id == id)
        row = await self._database.read(lambda c: c.execute(query).mappings().first())
        if row is None:
            raise NotDeployed(f"there is no revision {id!r}; `polyrank apps list-rev` shows them")
        return Revision(**row)

    async def find_revision(self, app: str, wanted: str) -> Revision:
        """The revision of an app by its id or number. Raises NotDeployed."""
        for revision in await self.revisions(app):
            if wanted in (revision.id, str(revision.number)):
                return revision
        raise NotDeployed(f"{app} has no revision {wanted!r}; `polyrank apps list-rev` shows them")

    async def revisions(self, app: str) -> list[Revision]:
        """The revisions of an app, the newest first."""
        query = (
            sa.select(revisions).where(revisions.c.app == app).order_by(revisions.c.number.desc())
        )
        rows = await self._database.read(lambda c: c.execute(query).mappings().all())
        return [Revision(**row) for row in rows]

    async def outcomes(self) -> dict[tuple[str, str], int]:
        """How many revisions of each app are in each state."""
        query = sa.select(revisions.c.app, revisions.c.state, sa.func.count()).group_by(
            revisions.c.app, revisions.c.state
        )
        rows = await self._database.read(lambda c: c.execute(query).all())
        return {(app, state): count for app, state, count in rows}

    async def note_ready(
        self,
        id: str,
        *,
        routes: Sequence[Mapping[str, Any]],
        limits: Mapping[str, Any],
        openapi: Mapping[str, Any] | None,
    ) -> None:
        """A replica of the revision has been ready, and has told this."""
        values = {"routes": routes, "limits": limits, "openapi": openapi}
        await self._update_revision(id, state="ready", error=None, **values)

    async def note_failed(self, id: str, error: str) -> None:
        """The deployment of the revision has failed."""
        await self._update_revision(id, state="failed", error=error)

    async def fail_unfinished(self, error: str) -> None:
        """The deployments that this server has not ended before it ended have failed."""
        update = (
            sa.update(revisions)
            .where(revisions.c.state == "deploying", revisions.c.server == self._server)
            .values(state="failed", error=error)
        )
        await self._database.write(lambda c: c.execute(update).rowcount)

    async def set_current(self, app: str, revision: str) -> None:
        """The revision serves the app from now on. Raises NotDeployed."""
        await self._update_app(app, revision=revision)

    async def set_scaling(self, app: str, scaling: Mapping[str, Any]) -> None:
        """What is set apart from the revisions. Raises NotDeployed."""
        await self._update_app(app, scaling=dict(scaling))

    async def delete(self, app: str) -> None:
        """The app and its revisions are gone; requests that were kept stay. Raises NotDeployed."""
        if not await self._change(app, sa.delete(apps).where(apps.c.name == app)):
            raise NotDeployed(f"{app!r} is not deployed here")

    async def add_replica(self, row: ReplicaRow) -> None:
        """A replica is being started. May be told twice."""
        insert = self._database.insert(replicas).on_conflict_do_nothing()
        await self._database.write(lambda c: c.execute(insert, vars(row)).rowcount)

    async def update_replica(self, id: str, **values: Any) -> None:
        """Something has become known of a replica."""
        update = sa.update(replicas).where(replicas.c.id == id).values(**values)
        await self._database.write(lambda c: c.execute(update).rowcount)

    async def replica(self, id: str) -> ReplicaRow | None:
        """The replica of this id."""
        query = sa.select(replicas).where(replicas.c.id == id)
        row = await self._database.read(lambda c: c.execute(query).mappings().first())
        return None if row is None else ReplicaRow(**row)

    async def replicas(self, app: str | None = None, since: float = 0.0) -> list[ReplicaRow]:
        """The replicas that run, and those that have ended ``since`` a time, the newest first."""
        query = sa.select(replicas).where(
            sa.or_(replicas.c.ended_at.is_(None), replicas.c.ended_at >= since)
        )
        if app is not None:
            query = query.where(replicas.c.app == app)
        query = query.order_by(replicas.c.created_at.desc()).limit(1000)
        rows: Sequence[RowMapping] = await self._database.read(
            lambda c: c.execute(query).mappings().all()
        )
        return [ReplicaRow(**row) for row in rows]

    async def sweep_replicas(self) -> list[str]:
        """Forgets replicas that ended long ago; their ids."""
        is_old = replicas.c.ended_at < self._clock() - HISTORY_S

        def sweep(connection: Connection) -> list[str]:
            ids = list(connection.execute(sa.select(replicas.c.id).where(is_old)).scalars())
            connection.execute(sa.delete(replicas).where(replicas.c.id.in_(ids)))
            return ids

        return await self._database.write(sweep)

    async def _update_app(self, name: str, **values: Any) -> None:
        update = sa.update(apps).where(apps.c.name == name)
        update = update.values(updated_at=self._clock(), **values)
        if not await self._change(name, update):
            raise NotDeployed(f"{name!r} is not deployed here")

    async def _change(self, app: str, change: sa.Update | sa.Delete) -> int:
        """Changes the row of an app, and tells the other servers of it; 0 if there is none."""

        def work(connection: Connection) -> int:
            if self._database.dialect == "postgresql":
                changes.tell(connection, self._origin, changes.DEPLOYED, app)
            return connection.execute(change).rowcount

        return await self._database.write(work)

    async def _update_revision(self, id: str, **values: Any) -> None:
        update = sa.update(revisions).where(revisions.c.id == id).values(**values)
        await self._database.write(lambda c: c.execute(update).rowcount)

"""The keys that callers show, known by their hashes.

A secret is 256 random bits, so nobody can guess it from its hash however fast that hash is: the
slow hashes that passwords need would only cost time here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy import RowMapping

from polyrank.errors import InvalidInput, PolyrankError
from polyrank.store.database import Database
from polyrank.store.tables import keys

SECRET_BYTES = 32
ID_BYTES = 8
KEY_ID = re.compile(r"[0-9a-f]{16}")
# How exact the time of a key's last use is: noting each use would be a write for each call.
NOTE_USE_EVERY_S = 60.0


class Scope(StrEnum):
    """What a key is good for."""

    API = "API"  # call apps, and keep files for them
    ADMIN = "ADMIN"  # everything, also on other callers' behalf


class UnknownKey(PolyrankError):
    """No key has this id."""

    status = 404
    code = "key_not_found"


@dataclass(frozen=True)
class Rate:
    """So many calls in so many seconds; written ``10/s``, ``600/m`` or ``5000/h``."""

    calls: int
    period_s: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """The rate that ``text`` stands for. Raises InvalidInput if it stands for none."""
        written = re.fullmatch(r"([1-9][0-9]{0,8})/([smh])", text.strip())
        if written is None:
            raise InvalidInput(f"a rate is written as 10/s, 600/m or 5000/h, not {text!r}")
        return cls(int(written[1]), _PERIODS[written[2]])

    def __str__(self) -> str:
        unit = next(unit for unit, period in _PERIODS.items() if period == self.period_s)
        return f"{self.calls}/{unit}"


_PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Key:
    """What is known of a key. Whoever holds it acts for ``owner``."""

    id: str
    owner: str
    scopes: frozenset[Scope]
    description: str
    rate: Rate | None
    created_at: float
    last_used_at: float | None
    revoked_at: float | None
    secret_hash: bytes

    def has_secret(self, secret: str) -> bool:
        """Whether this is its secret; the time it takes to say so does not depend on it."""
        return hmac.compare_digest(_hash(secret), self.secret_hash)


class Keys:
    """The keys of one database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self,
        *,
        owner: str,
        scopes: Collection[Scope],
        description: str = "",
        rate: Rate | None = None,
    ) -> tuple[Key, str]:
        """A new key, and the text that its holder shows (``id:secret``), which is kept nowhere."""
        id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
        key = Key(
            id=id,
            owner=owner,
            scopes=frozenset(scopes),
            description=description,
            rate=rate,
            created_at=self._clock(),
            last_used_at=None,
            revoked_at=None,
            secret_hash=_hash(secret),
        )
        values = {
            **vars(key),
            "scopes": sorted(scopes),
            "rate": None if rate is None else str(rate),
        }
        await self._database.write(lambda c: c.execute(sa.insert(keys), values))
        return key, f"{id}:{secret}"

    async def get(self, id: str) -> Key | None:
        """The key of this id, revoked or not."""
        query = sa.select(keys).where(keys.c.id == id)
        row = await self._database.read(lambda c: c.execute(query).mappings().first())
        return None if row is None else _key(row)

    async def all(self) -> list[Key]:
        """Every key, the oldest first."""
        query = sa.select(keys).order_by(keys.c.created_at, keys.c.id)
        rows = await self._database.read(lambda c: c.execute(query).mappings().all())
        return [_key(row) for row in rows]

    async def revoke(self, id: str) -> None:
        """Ends a key for good; no matter if it has been ended before. Raises UnknownKey."""
        revoked = sa.func.coalesce(keys.c.revoked_at, self._clock())
        update = sa.update(keys).where(keys.c.id == id).values(revoked_at=revoked)
        if not await self._database.write(lambda c: c.execute(update).rowcount):
            raise UnknownKey(f"there is no key {id!r}; `polyrank keys list` shows those there are")

    def note_use(self, key: Key) -> None:
        """Notes that a key is in use, once in a while. Nobody waits for it: a note that is lost
        is no loss."""
        now = self._clock()
        if key.last_used_at is None or now - key.last_used_at > NOTE_USE_EVERY_S:
            update = sa.update(keys).where(keys.c.id == key.id).values(last_used_at=now)
            self._database.submit(lambda c: c.execute(update).rowcount)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _key(row: RowMapping) -> Key:
    rate = None if row["rate"] is None else Rate.parse(row["rate"])
    scopes = frozenset(Scope(name) for name in row["scopes"])
    return Key(**{**row, "rate": rate, "scopes": scopes})

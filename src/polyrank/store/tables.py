"""The tables, as SQLAlchemy Core knows them. ``migrations/`` brings a database to this shape."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

# SQLite counts up only a column of exactly this type.
_Serial = BigInteger().with_variant(Integer, "sqlite")

# All times are seconds since 1970, UTC.
requests = Table(
    "requests",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    # What is asked for, of whom, by whom.
    Column("app", Text, nullable=False),
    Column("caller", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("headers", JSON, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("hint", Text),
    Column("idempotency_key", Text),
    Column("fingerprint", Text),
    # Who wants to be told how it ended.
    Column("webhook_url", Text),
    # Where it stands: "queued", "running" or "done".
    Column("state", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    # Place among requests of one priority; see requests.py on fairness.
    Column("turn", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("not_before", Double, nullable=False),
    Column("start_deadline", Double),
    Column("timeout_s", Double),
    Column("cancel_requested", Boolean, nullable=False),
    Column("lease_owner", Text),
    Column("lease_until", Double),
    Column("submitted_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("expires_at", Double),
    # The answer. ``error`` is empty for a good one.
    Column("status_code", Integer),
    Column("answer_headers", JSON),
    Column("answer", LargeBinary),
    Column("error", Text),
    Column("error_type", Text),
    Column("logs", JSON),
    UniqueConstraint("caller", "idempotency_key"),
)

# Literals, not parameters: a planner must see them to know that a partial index has the rows.
QUEUED = requests.c.state == literal_column("'queued'")
RUNNING = requests.c.state == literal_column("'running'")

# Partial indexes: what the dispatcher asks for costs the same however many requests are done.
Index(
    "ix_requests_queued",
    requests.c.app,
    requests.c.priority,
    requests.c.turn,
    requests.c.seq,
    sqlite_where=QUEUED,
    postgresql_where=QUEUED,
)
Index(
    "ix_requests_queued_caller",
    requests.c.app,
    requests.c.caller,
    requests.c.turn,
    sqlite_where=QUEUED,
    postgresql_where=QUEUED,
)
Index(
    "ix_requests_start_deadline",
    requests.c.start_deadline,
    sqlite_where=QUEUED,
    postgresql_where=QUEUED,
)
Index(
    "ix_requests_lease_until",
    requests.c.lease_until,
    sqlite_where=RUNNING,
    postgresql_where=RUNNING,
)
Index("ix_requests_expires_at", requests.c.expires_at)
Index("ix_requests_app_submitted_at", requests.c.app, requests.c.submitted_at)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("owner", Text, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("description", Text, nullable=False),
    Column("rate", Text),
    Column("created_at", Double, nullable=False),
    Column("last_used_at", Double),
    Column("revoked_at", Double),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("name", Text, primary_key=True),
    Column("key", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
)

# The outbox: one row for each request whose end somebody is to be told of.
webhooks = Table(
    "webhooks",
    metadata,
    Column("request_id", Text, ForeignKey(requests.c.id, ondelete="CASCADE"), primary_key=True),
    Column("url", Text, nullable=False),
    # "pending", "delivered" or "failed".
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    # When to try next; while a server tries, when it is taken for dead.
    Column("due_at", Double, nullable=False),
    # Of the try that is under way: it alone may say how that went.
    Column("lease", Text),
    Column("last_attempt_at", Double),
    Column("last_status", Integer),
    Column("last_error", Text),
    Column("delivered_at", Double),
)

PENDING = webhooks.c.state == literal_column("'pending'")

Index("ix_webhooks_due_at", webhooks.c.due_at, sqlite_where=PENDING, postgresql_where=PENDING)

files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    # The owner's wishes; see files/lifecycle.py.
    Column("lifetime_s", Double),
    Column("acl", JSON(none_as_null=True)),
    # Whoever knows it may add to the file until it is whole.
    Column("upload_id", Text, nullable=False, unique=True),
    Column("declared_size", BigInteger),
    Column("created_at", Double, nullable=False),
    # Before the file is whole: when its upload is given up. After: when its life is over.
    Column("expires_at", Double),
    # What a whole file is: the blobs [key, size] that it is made of, one after the other.
    Column("completed_at", Double),
    Column("size", BigInteger),
    Column("etag", Text),
    Column("blobs", JSON(none_as_null=True)),
)

Index("ix_files_expires_at", files.c.expires_at)

file_parts = Table(
    "file_parts",
    metadata,
    Column("file_id", Text, ForeignKey(files.c.id, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("key", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("etag", Text, nullable=False),
)

# What apps keep with KVStore. Several apps may use one ``space``.
key_values = Table(
    "key_values",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("space", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("expires_at", Double, nullable=False),
)

Index("ix_key_values_expires_at", key_values.c.expires_at)

# What is deployed. An app's name is owner/alias, or owner/alias--environment.
apps = Table(
    "apps",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("environment", Text, nullable=False),
    # The revision that serves; none until the first deployment has succeeded.
    Column("revision", Text),
    # What `apps scale` has set, by the option's name; it outlives deployments.
    Column("scaling", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
)

revisions = Table(
    "revisions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("app", Text, ForeignKey(apps.c.name, ondelete="CASCADE"), nullable=False),
    # Counts up within the app.
    Column("number", Integer, nullable=False),
    # What was deployed, with all its options; see deploy/manifest.py.
    Column("manifest", JSON, nullable=False),
    Column("code_hash", Text, nullable=False),
    # Which server deploys it.
    Column("server", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    # "deploying", "ready" or "failed", and why.
    Column("state", Text, nullable=False),
    Column("error", Text),
    # What its first replica has told: where it may be called, and the limits in front of it.
    Column("routes", JSON(none_as_null=True)),
    Column("limits", JSON(none_as_null=True)),
    Column("openapi", JSON(none_as_null=True)),
    UniqueConstraint("app", "number"),
)

# One row for each replica that was ever started, kept for a while after its end.
replicas = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("app", Text, nullable=False),
    Column("revision", Text, nullable=False),
    # Which server keeps it running.
    Column("server", Text, nullable=False),
    Column("gpus", JSON, nullable=False),
    # The key that it calls other apps with.
    Column("key_id", Text),
    Column("created_at", Double, nullable=False),
    Column("ready_at", Double),
    Column("ended_at", Double),
    Column("reason", Text),
)

Index("ix_replicas_app_created_at", replicas.c.app, replicas.c.created_at)
Index("ix_replicas_ended_at", replicas.c.ended_at)

# Beside the main one, which every owner has.
environments = Table(
    "environments",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("description", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("environment", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    # Encrypted; see keyring.py.
    Column("value", LargeBinary, nullable=False),
    # Whether apps get it that do not ask for it by name.
    Column("exposed", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
)

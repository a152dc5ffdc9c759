"""The queue of requests."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the table and its indexes."""
    queued, running = sa.text("state = 'queued'"), sa.text("state = 'running'")
    op.create_table(
        "requests",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("app", sa.Text(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("start_deadline", sa.Double(), nullable=True),
        sa.Column("timeout_s", sa.Double(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("submitted_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("answer_headers", sa.JSON(), nullable=True),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("logs", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_requests")),
        sa.UniqueConstraint(
            "caller", "idempotency_key", name=op.f("uq_requests_caller_idempotency_key")
        ),
        sa.UniqueConstraint("id", name=op.f("uq_requests_id")),
    )
    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.create_index("ix_requests_app_submitted_at", ["app", "submitted_at"], unique=False)
        batch_op.create_index("ix_requests_expires_at", ["expires_at"], unique=False)
        batch_op.create_index(
            "ix_requests_lease_until",
            ["lease_until"],
            unique=False,
            sqlite_where=running,
            postgresql_where=running,
        )
        batch_op.create_index(
            "ix_requests_queued",
            ["app", "priority", "turn", "seq"],
            unique=False,
            sqlite_where=queued,
            postgresql_where=queued,
        )
        batch_op.create_index(
            "ix_requests_queued_caller",
            ["app", "caller", "turn"],
            unique=False,
            sqlite_where=queued,
            postgresql_where=queued,
        )
        batch_op.create_index(
            "ix_requests_start_deadline",
            ["start_deadline"],
            unique=False,
            sqlite_where=queued,
            postgresql_where=queued,
        )

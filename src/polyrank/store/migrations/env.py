"""Alembic's entry point: migrates over the connection that ``upgrade`` hands it."""

from alembic import context

from polyrank.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()

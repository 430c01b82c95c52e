"""Alembic's entry: runs inside the write transaction that ``tasks.store.database.migrate`` holds."""

from alembic import context

from tasks.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # on SQLite too: half a schema is never seen
)
with context.begin_transaction():
    context.run_migrations()

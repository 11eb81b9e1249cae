"""Run by Alembic, in the connection and transaction of `service.database.migrate`."""

from alembic import context

from service.rows import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()

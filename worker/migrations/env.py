"""Alembic's entry: runs on the connection that `worker.database` hands over."""

from alembic import context

from worker.database import VERSION_TABLE
from worker.models import Notification

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Notification.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    user_module_prefix="models.",
)
with context.begin_transaction():
    context.run_migrations()

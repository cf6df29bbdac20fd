"""Alembic's environment; `worker.database` runs it."""

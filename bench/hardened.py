"""The hand-written worker's app on Bellhop's transport, for empty tasks: `celery -A bench.hardened worker`."""

from worker import transport

transport.install()

from bench.naive import app  # noqa: E402

__all__ = ["app"]

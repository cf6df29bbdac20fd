"""Real Celery workers for the tests, and an application of somebody else's that talks to them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import Celery

from tests.catalogue import write_catalogue
from tests.servers import Process, wait_until

ROOT = Path(__file__).parent.parent
READY = "worker@tests ready"


def worker_process(folder: Path, settings: dict[str, str], *options: str) -> Process:
    """Start `celery -A worker worker` with these settings and the tests' own catalogue."""
    env = {**write_catalogue(folder / "catalogue"), **settings}
    command = [sys.executable, "-m", "celery", "-A", "worker", "worker", "-l", "INFO", "-n", "worker@tests"]
    return Process([*command, "-c", "2", "-E", "--without-mingle", *options], folder / "worker.log", env=env, cwd=ROOT)


@contextmanager
def running_worker(folder: Path, settings: dict[str, str], *options: str) -> Iterator[Process]:
    """A worker that takes messages."""
    with worker_process(folder, settings, *options) as worker:
        wait_until(lambda: READY in worker.log_text() or worker.returncode() is not None, 60, "the worker is ready")
        assert worker.returncode() is None, worker.log_text()
        yield worker


@contextmanager
def foreign_app(url: str, *, results: bool = False) -> Iterator[Celery]:
    """A Celery app that knows nothing of Bellhop but the broker and the names of tasks and queues."""
    app = Celery("foreign", broker=url, backend=url if results else None, set_as_current=False)
    try:
        yield app
    finally:
        if results:
            app.backend.client.close()
            app.backend.result_consumer.stop()
        app.close()

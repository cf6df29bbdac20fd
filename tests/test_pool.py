"""What a worker's processes were just given when it is told to stop. The processes are real, the broker is not."""

import os
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.pool import RUN
from celery import Celery
from celery.concurrency.prefork import TaskPool
from kombu.asynchronous import Hub

from worker import pool as handing
from worker.transport import PlainConsumer

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of threads, which the child does not use

#: More than a pipe holds, so that the process has to read before all of it is written.
LARGE = 20_000_000


class Worker:
    """The parts of a worker with one process that matter while it stops; its event loop runs by hand."""

    def __init__(self) -> None:
        app = Celery("pool", broker="memory://", set_as_current=False)
        self.pool, self.hub = TaskPool(1, app=app, initargs=(app, "tests"), threads=False, forking_enable=True), Hub()
        self.consumer = PlainConsumer(
            print, pool=self.pool, hub=self.hub, app=app, controller=SimpleNamespace(semaphore=None, use_eventloop=True)
        )
        self.pool.start()
        self.pool.register_with_event_loop(self.hub)
        self.processes: Any = self.pool._pool
        self.results: list[object] = []
        self.turn_until(lambda: self.processes._all_inqueues)

    def turn_until(self, known: Callable[[], object]) -> None:
        while not known():
            next(self.hub.loop)

    def hand_over(self, size: int) -> Any:
        """Begin to write a task into the process's pipe, and read no answer; gives what the pool knows of it."""
        job = self.pool.apply_async(len, args=(b"x" * size,), callback=self.results.append)
        self.turn_until(lambda: job._write_to)
        return job

    def stop(self) -> None:
        """As `WorkController.stop` begins."""
        self.pool.close()
        self.consumer.on_close()

    def end(self) -> None:
        if self.pool._pool is not None:  # the test did not come to its end, or the task was forgotten
            (done,) = self.processes._on_ready_counters.values()
            self.turn_until(lambda: done.value)  # the process waits for that before it ends
            self.pool.terminate()
        self.hub.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.end()


@pytest.mark.parametrize("size", [1, LARGE])
def test_a_task_just_handed_over_is_under_way(worker: Worker, size: int) -> None:
    """The worker stops before it read that the process has the task, or while half of it is written: it is finished."""
    job = worker.hand_over(size)
    assert not job.accepted()
    worker.stop()
    assert job.accepted()
    worker.pool.stop()
    assert [size] == worker.results


def test_a_process_that_says_nothing_is_not_waited_for_long(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not run: the task is given up, as Celery does at once."""
    monkeypatch.setattr(handing, "HEAR_SECONDS", 0.1)
    process = worker.processes._pool[0].pid
    os.kill(process, signal.SIGSTOP)
    worker.hand_over(1)
    worker.stop()
    os.kill(process, signal.SIGCONT)
    assert not worker.processes._cache


def test_nothing_is_waited_for_unless_the_worker_stops(worker: Worker) -> None:
    """The broker is lost: the message will come again, and the task is forgotten, as Celery does."""
    job = worker.hand_over(1)
    assert worker.processes._state == RUN
    worker.consumer.on_close()
    assert not job.accepted()
    assert not worker.processes._cache

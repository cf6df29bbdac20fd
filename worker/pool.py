"""What a stopping worker would forget: a task just written to a process of its pool, which has not answered yet.

Celery 5.7 takes it for not begun, and its message goes back to the queue. But the process works on it, and nothing cuts
that off; the result stays unread in the pipe, and the process waits half a minute for that before it ends. Of a large
task perhaps only a part is written: its process waits for the rest, and the worker for its process, for ever.
"""

import select
from collections.abc import Iterator
from contextlib import suppress
from inspect import isgenerator
from time import monotonic
from typing import Any

from billiard.pool import CLOSE
from celery.concurrency.asynpool import AsynPool

#: Seconds. An idle process says at once that it has a task; one that was stopped, or just ends, does not.
HEAR_SECONDS = 2


def hear_out(pool: Any, hub: Any) -> None:
    """Finish what is half written, and wait, not for long, until each process has said that it has its task.

    From then on it is a task under way like any other. Call it once the pool is closed, before Celery forgets; while
    the pool runs, and for a pool without pipes, nothing is done.
    """
    if not isinstance(pool, AsynPool) or pool._state != CLOSE:
        return
    deadline = monotonic() + HEAR_SECONDS
    while (processes := list(_unheard(pool, hub))) and monotonic() < deadline:
        _turn(processes, hub)


def _unheard(pool: Any, hub: Any) -> Iterator[Any]:
    """The processes that have a task, or a part of one, and have not said so. What waits to be written has none."""
    for job in tuple(pool._cache.values()):  # SIGQUIT may come meanwhile, and its handler removes some
        process = job._write_to
        written = process and job not in pool.outbound_buffer
        if written and not job._accepted and process.outqR_fd in hub.readers and process._is_alive():
            yield process


def _turn(processes: list[Any], hub: Any) -> None:
    """The event loop's turn, for the pipes of these processes alone: no message comes from the broker any more."""
    poll = select.poll()
    for process in processes:
        poll.register(process.outqR_fd, select.POLLIN)
        if hub.writers.get(process.inqW_fd):  # else all is written
            poll.register(process.inqW_fd, select.POLLOUT)
    for fd, _ in poll.poll(100):
        callback, arguments = hub.readers.get(fd) or hub.writers.get(fd) or (tuple, ())
        with suppress(StopIteration, OSError):  # the end of the message, or of the process
            next(callback) if isgenerator(callback) else callback(*arguments)

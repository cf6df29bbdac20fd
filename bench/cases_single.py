"""Single notifications from end to end: enqueued one by one, until the row is committed and the mail accepted."""

import time

from bench import counting
from bench.measure import NAIVE, OURS, Book, Contender, Result, Size, turns
from bench.publishers import Publishers
from bench.servers import Stand, Workers

EMPTY = "empty Celery task"
DURABLE, TOGETHER = "Bellhop, durable", "Bellhop, durable, 100 per transaction"
QUEUE = {OURS: "queue", NAIVE: "queue_delay", EMPTY: "queue_empty"}
PUBLISH = {OURS: "one", NAIVE: "delay", EMPTY: "empty", DURABLE: "durable", TOGETHER: "durable_many"}

#: Publisher processes where a publisher runs beside the workers.
PUBLISHERS = 4


def title(email: bool) -> str:
    return "with mail" if email else "in-app"


class Single:
    """The workers of both, and what they are given."""

    def __init__(self, stand: Stand, publishers: Publishers) -> None:
        self.stand, self.publishers = stand, publishers

    def done(self, name: str, count: int, email: bool) -> float:
        """Wait until all is there; gives when the last one was."""
        if name == EMPTY:
            counting.until(lambda: -self.stand.queued(self.stand.naive_broker), 0, "empty tasks", pause=0.005)
            return time.time()
        ours = name != NAIVE
        end = counting.rows(self.stand.db if ours else self.stand.naive_db, count)
        if email:
            end = max(end, counting.sent(self.stand.db, count) if ours else 0.0)
            seen = counting.mails(self.stand.sink, count)
            end = end if ours else max(end, seen)
        return end

    def queued(self, name: str, workers: Workers, email: bool) -> Contender:
        """Everything is in the queue before the workers go on."""

        def run(count: int) -> float:
            self.prepare()
            workers.pause()
            self.publishers.publish(QUEUE[name], count, email=email)
            began = workers.resume()
            return self.done(name, count, email) - began

        return Contender(name, run, start=200, most=40_000)

    def running(self, name: str, email: bool) -> Contender:
        """From the first request of the publishers on."""

        def run(count: int) -> float:
            self.prepare()
            began, _ = self.publishers.publish(PUBLISH[name], count, email=email)
            return self.done(name, count, email) - began

        return Contender(name, run, start=400, most=60_000)

    def prepare(self) -> None:
        """Nothing is left of what was before."""
        self.stand.reset()
        self.stand.sink.reset()


def checked(single: Single, workers: Workers, name: str) -> None:
    """Compare once, outside of what is timed, for whom the mails were: a count alone hides one lost and one double."""
    single.stand.reset()
    single.stand.sink.reset(identities=True)
    single.publishers.publish(QUEUE[name], 100, email=True)
    single.done(name, 100, True)
    counting.addresses(single.stand.sink, 100)


def measure(stand: Stand, size: Size, book: Book) -> None:
    """Already queued with every number of processes; with the most of them also beside publishers."""
    with Publishers(stand, PUBLISHERS) as publishers:
        single = Single(stand, publishers)
        for processes in size.processes:
            with (
                Workers(stand, "worker", processes, beat=True) as ours,
                Workers(stand, "bench.naive", processes) as naive,
            ):
                for email in (False, True):
                    book.add(_queued(single, size, processes, email, ours, naive))
                if processes == max(size.processes):
                    checked(single, ours, OURS)
                    checked(single, naive, NAIVE)
                    for email in (False, True):
                        book.add(_running(single, size, processes, email))


def _queued(single: Single, size: Size, processes: int, email: bool, ours: Workers, naive: Workers) -> Result:
    contenders = [single.queued(OURS, ours, email), single.queued(NAIVE, naive, email)]
    if not email:
        contenders.append(single.queued(EMPTY, naive, email))
    name = f"single notifications, already queued, -c {processes}, {title(email)}"
    return turns(f"single/queued/{title(email)}/{processes}", name, size, *contenders)


def _running(single: Single, size: Size, processes: int, email: bool) -> Result:
    contenders = [single.running(name, email) for name in (OURS, DURABLE, TOGETHER, NAIVE)]
    name = f"single notifications, {PUBLISHERS} publishers running, -c {processes}, {title(email)}"
    return turns(f"single/running/{title(email)}", name, size, *contenders)

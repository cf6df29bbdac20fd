"""What the broker costs: empty tasks on Redis and RabbitMQ by the shape of a worker, then notifications on RabbitMQ."""

import time

from bench import transport
from bench.cases_single import DURABLE, EMPTY, PUBLISH, PUBLISHERS, Single, title
from bench.counting import Wrong
from bench.measure import NAIVE, OURS, Book, Contender, Result, Size, turns
from bench.publishers import Publishers
from bench.servers import Stand, Workers
from tests.rabbit import RabbitServer, find_rabbitmq
from tests.servers import MissingServer

HARDENED, RABBIT = "empty task, our transport", "empty task, RabbitMQ"
OURS_RABBIT, NAIVE_RABBIT = f"{OURS}, RabbitMQ", f"{NAIVE}, RabbitMQ"
#: Ways to ask beside running publishers.
ASKED = {
    OURS_RABBIT: PUBLISH[OURS],
    f"{DURABLE}, RabbitMQ": PUBLISH[DURABLE],
    f"{OURS}, notify_many, RabbitMQ": "many",
    NAIVE_RABBIT: PUBLISH[NAIVE],
}
NO_RABBIT = "RabbitMQ is not installed, so it takes no part"

#: Pool processes of the workers.
PROCESSES = 4
#: Empty tasks per second that fill a turn, about; the stock transport takes longer for each.
TASKS, STOCK_TASKS = 8_000, 2_000


def measure(stand: Stand, size: Size, book: Book) -> None:
    """Empty tasks, then enqueuing and single notifications."""
    try:
        find_rabbitmq()
    except MissingServer:
        for result in _empty(stand, size, None):
            result.notes.append(NO_RABBIT)
            book.add(result)
        return
    folder = stand.folder / "rabbitmq"
    folder.mkdir()
    with RabbitServer(folder) as rabbit:
        for result in _empty(stand, size, rabbit.url):
            book.add(result)
        with stand.on(rabbit.url), Publishers(stand, PUBLISHERS) as publishers:
            book.add(_enqueue(publishers, rabbit, size))
            with (
                Workers(stand, "worker", PROCESSES, beat=True) as ours,
                Workers(stand, "bench.naive", PROCESSES) as naive,
            ):
                single = Single(stand, publishers)
                for email in (False, True):
                    book.add(_queued(single, ours, naive, size, email))
                    book.add(_running(single, size, email))


def _empty(stand: Stand, size: Size, rabbit: str | None) -> list[Result]:
    """A worker of one process that does its work itself, and one with a pool.

    Not the former on RabbitMQ: it waits for delayed acknowledgements of TCP or does not, and so runs 40 tasks a second
    or 3,400.
    """
    redis = stand.broker.removesuffix("/0") + "/2"
    cases = [transport.Case(HARDENED, redis, "ours"), transport.Case(EMPTY, redis, "stock")]
    both = [*cases, transport.Case(RABBIT, rabbit, "stock")] if rabbit else cases
    results = []
    for shape, taking_part in (("1 solo", cases), (f"prefork -c{PROCESSES}", both)):
        contenders = []
        for case in taking_part:
            count = max(50, int(size.seconds * (STOCK_TASKS if case.name == EMPTY else TASKS)))

            def run(count: int, case: transport.Case = case, shape: str = shape) -> float:
                return count / case.throughput(count, *transport.SHAPES[shape])

            contenders.append(Contender(case.name, run, count, most=count))
        results.append(turns(f"broker/empty/{shape}", f"empty tasks, already queued, {shape}", size, *contenders))
    return results


def _enqueue(publishers: Publishers, rabbit: RabbitServer, size: Size) -> Result:
    def contender(name: str, kind: str, queue: str) -> Contender:
        def run(count: int) -> float:
            began, ended = publishers.publish(kind, count)
            with rabbit.channel() as channel:
                found = channel.queue_purge(queue)
            if found != count:
                raise Wrong(f"{name}: {found:,} enqueued instead of {count:,}")
            return ended - began

        return Contender(name, run, start=200, most=20_000)

    contenders = contender(OURS_RABBIT, "one", "notifications"), contender(NAIVE_RABBIT, "delay", "celery")
    result = turns("broker/enqueue", "enqueue one by one, RabbitMQ", size, *contenders)
    result.notes.append("ours to a quorum queue with confirms, the hand-written to a classic one without")
    return result


def _queued(single: Single, ours: Workers, naive: Workers, size: Size, email: bool) -> Result:
    def contender(name: str, kind: str, workers: Workers) -> Contender:
        def run(count: int) -> float:
            single.prepare()
            workers.pause()
            single.publishers.publish(kind, count, email=email)
            time.sleep(0.1)  # the last messages of a queue without confirms
            began = workers.resume()
            return single.done(OURS if kind == "queue" else NAIVE, count, email) - began

        return Contender(name, run, start=200, most=20_000)

    both = contender(OURS_RABBIT, "queue", ours), contender(NAIVE_RABBIT, "queue_delay", naive)
    name = f"single notifications, already queued, -c {PROCESSES}, {title(email)}, RabbitMQ"
    return turns(f"broker/queued/{title(email)}", name, size, *both)


def _running(single: Single, size: Size, email: bool) -> Result:
    def contender(name: str, kind: str) -> Contender:
        def run(count: int) -> float:
            single.prepare()
            began, _ = single.publishers.publish(kind, count, email=email)
            return single.done(NAIVE if kind == "delay" else OURS, count, email) - began

        return Contender(name, run, start=400, most=20_000)

    contenders = [contender(name, kind) for name, kind in ASKED.items()]
    name = f"single notifications, {PUBLISHERS} publishers running, -c {PROCESSES}, {title(email)}, RabbitMQ"
    return turns(f"broker/running/{title(email)}", name, size, *contenders)

"""Curves, not points: what one more costs as the table grows, memory as work goes on, a long backlog of mails."""

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from bench import counting
from bench.cases_fan_out import fill_directory
from bench.cases_single import Single
from bench.inbox_rows import fill
from bench.measure import OURS, Book, Result, Size, amount, timed
from bench.publishers import Publishers
from bench.servers import Place, Stand, Workers
from worker import inbox

#: The recipient whose inbox stays the same as the table grows.
STEADY = """
INSERT INTO notifications (id, request_id, recipient_id, event_config_name, lang, lang_asked, title, text,
    created_at, updated_at, seen_at)
SELECT gen_random_uuid(), gen_random_uuid(), 'steady', 'mention', 'en', 'en', 'A title', 'A text',
    now() - make_interval(mins => i), now(), CASE WHEN i > 50 THEN now() END
FROM generate_series(1, 500) AS i
"""
#: The fan-out's recipients, at most.
FAN_OUT = 100_000
MEMORY_STEPS = 10


#: Turns of each table; the machine's ups and downs are as large as what is looked for.
ROUNDS = 5
#: The first of the numbers of Redis' databases that the tables' workers have their queues in.
FIRST = 3


def measure(stand: Stand, size: Size, book: Book) -> None:
    """The same work by turns on tables of growing size, each with workers of its own."""
    audience = min(FAN_OUT, max(size.fan_out))
    single = Result("growth/single", "single notifications, already queued, by rows in the table", "per second")
    everybody = Result("growth/fan-out", f"fan-out to {audience:,}, by rows in the table", "per second")
    count = Result("growth/unseen", "unseen count, by rows in the table", "ms", "less")
    page = Result("growth/page", "first page, by rows in the table", "ms", "less")
    places = {rows: filled(stand, rows, number, audience) for number, rows in enumerate(size.growth, FIRST)}
    with ExitStack() as stack:
        work = {}
        for rows, place in places.items():
            with stand.at(place):
                work[rows] = _Work(stand, stack, audience, size)
        for turn in range(min(ROUNDS, 2 * size.rounds + 1)):
            for rows, place in places.items():
                with stand.at(place):
                    single.values.setdefault(f"{rows:,} rows", []).append(work[rows].singles())
                    everybody.values.setdefault(f"{rows:,} rows", []).append(work[rows].fan_out())
                    if not turn:
                        stand.rest()
    for rows, (counts, pages) in _reads(stand, places).items():
        count.values[f"{rows:,} rows"], page.values[f"{rows:,} rows"] = [counts], [pages]
    for result in (single, everybody, count, page):
        result.curve = [[rows, result.median(f"{rows:,} rows") or 0] for rows in places]
        book.add(result)


def filled(stand: Stand, rows: int, number: int, audience: int) -> Place:
    """A table of so many rows, an inbox that is the same at every size, and a directory."""
    place = stand.place(f"growth_{rows}", number)
    with stand.at(place):
        fill(stand.url.replace("+psycopg", ""), rows)
        stand.db.execute(STEADY)
        fill_directory(stand, (audience,))
        stand.rest()
    return place


def fan_out(single: Single, audience: int) -> float:
    """Seconds of one to everybody, on a table at rest."""
    began, _ = single.publishers.publish("group", audience)
    return single.done(OURS, audience, False) - began


class _Work:
    """Publishers and workers of a table, until the stack ends."""

    def __init__(self, stand: Stand, stack: ExitStack, audience: int, size: Size) -> None:
        self.single = Single(stand, stack.enter_context(Publishers(stand)))
        workers = stack.enter_context(Workers(stand, "worker", beat=True))
        self._singles, self.audience = self.single.queued(OURS, workers, False), audience
        self.count = amount(self._singles, size)
        self.fan_out()

    def singles(self) -> float:
        """How many a second."""
        return self.count / self._singles.run(self.count)

    def fan_out(self) -> float:
        """How many recipients a second."""
        self.single.stand.reset()
        return self.audience / fan_out(self.single, self.audience)


def _reads(stand: Stand, places: Mapping[int, Place]) -> dict[int, tuple[float, float]]:
    """Milliseconds of an unseen count and of a first page, the tables by turns."""
    found: dict[int, tuple[list[float], list[float]]] = {rows: ([], []) for rows in places}
    with ExitStack() as stack:
        sessions = {}
        for rows, place in places.items():
            with stand.at(place):
                stand.reset()
                stand.rest()
            engine = create_engine(place.url)
            stack.callback(engine.dispose)
            sessions[rows] = stack.enter_context(Session(engine))
        for turn in range(220):
            for rows, session in sessions.items():
                times = (
                    timed(lambda s=session: inbox.unseen_count(s, "steady")),  # type: ignore[misc]
                    timed(lambda s=session: inbox.list(s, "steady")),  # type: ignore[misc]
                )
                session.expunge_all()
                if turn >= 20:
                    found[rows][0].append(1e3 * times[0])
                    found[rows][1].append(1e3 * times[1])
    return {rows: (statistics.median(counts), statistics.median(pages)) for rows, (counts, pages) in found.items()}


def measure_memory(stand: Stand, size: Size, book: Book) -> None:
    """Resident memory of the largest worker process, as notifications go through."""
    step = max(audience for audience in size.fan_out if audience <= 100_000)
    first = max(step // 10, 1)
    fill_directory(stand, (first, step))
    result = Result(
        "memory", f"memory of the largest worker process over {MEMORY_STEPS * step:,} notifications", "MiB", "less"
    )
    with Publishers(stand) as publishers, Workers(stand, "worker", beat=True) as workers:
        single, done = Single(stand, publishers), 0
        for turn in range(MEMORY_STEPS + 1):
            count = step if turn else first
            stand.reset()
            publishers.publish("many" if turn % 2 else "group", count)
            single.done(OURS, count, False)
            done += count
            result.curve.append([done, max(workers.memory()) / 2**20])
    result.values = {f"after {int(done):,}": [value] for done, value in (result.curve[0], result.curve[-1])}
    book.add(result)


def measure_events(stand: Stand, size: Size, book: Book) -> None:
    """Single notifications with and without the events that Flower shows."""
    from bench.measure import Contender, turns
    from worker.client import connect

    with Publishers(stand, 2) as publishers, Workers(stand, "worker", beat=True) as workers:
        single, control = Single(stand, publishers), connect(stand.broker).control

        def contender(name: str, switch: str) -> Contender:
            def run(count: int) -> float:
                getattr(control, switch)()
                time.sleep(0.3)
                return single.queued(OURS, workers, False).run(count)

            return Contender(name, run, 200, 40_000)

        both = contender("events on (default)", "enable_events"), contender("events off", "disable_events")
        book.add(turns("events", "single notifications, already queued", size, *both))


BACKLOG = """
INSERT INTO notifications (id, request_id, recipient_id, event_config_name, lang, lang_asked, title, text,
    created_at, updated_at)
SELECT gen_random_uuid(), gen_random_uuid(), 'r-' || lpad(i::text, 8, '0'), 'book_available', 'en', 'en', 'A title',
    'A text', now(), now()
FROM generate_series(0, %(count)s::int - 1) AS i
"""
DUE = """
INSERT INTO deliveries (id, notification_id, channel, address, parts, status, urgency, attempts, due_at, lease_until)
SELECT gen_random_uuid(), id, 'email', recipient_id || '@example.org',
    '{"subject": "A subject", "text": "A text", "html": "<p>A text</p>"}', 'pending', 1, 0,
    now() - interval '1 day' + make_interval(secs => substr(recipient_id, 3)::int / 1000.0), now() - interval '1 day'
FROM notifications
"""
#: Of mails sent so far, at most so far out of order: what all workers hold at once.
ORDER = 20_000


def measure_backlog(stand: Stand, size: Size, book: Book) -> None:
    """Mails that are due, handed over by beat's task: a thousand at most, and as many as the largest fan-out."""
    result = Result("backlog", "mails that were already due, by length of the backlog", "per second")
    largest = max(size.fan_out)
    for backlog in (min(1_000, largest // 5), largest):
        stand.reset()
        stand.sink.reset()
        stand.db.execute(BACKLOG.encode(), {"count": backlog})
        stand.db.execute("ANALYZE notifications")  # or each delivery's foreign key may be looked up row by row
        stand.db.execute(DUE.encode())
        stand.db.execute("ANALYZE deliveries")
        with Workers(stand, "worker", beat=True) as workers:
            rate = _send_due(stand, min(backlog, 50_000), max(30, 10 * size.seconds))
            memory = max(workers.memory()) / 2**20
        result.values[f"{backlog:,} due"] = [rate]
        result.curve.append([backlog, rate])
        late = stand.db.execute(
            "SELECT count(*) FROM deliveries WHERE status = 'sent' AND due_at > (SELECT min(due_at) "
            "FROM deliveries WHERE status = 'pending') + make_interval(secs => %s / 1000.0)",
            (ORDER,),
        ).fetchone()
        if late and late[0]:
            result.notes.append(f"of {backlog:,} due, {late[0]:,} went more than {ORDER:,} places before their turn")
        result.notes.append(f"{memory:.0f} MiB in the largest process with {backlog:,} due")
    stand.reset()
    book.add(result)


def _send_due(stand: Stand, goal: int, patience: float) -> float:
    """Have so many sent, or as many as the time allows; gives how many per second."""
    from worker.client import connect

    connect(stand.broker).send_task("notifications.dispatch_due", queue="maintenance", ignore_result=True)
    began = time.time()
    while (sent := counting.counter(stand.db, "deliveries", "status = 'sent'")()) < goal:
        if time.time() - began > patience:
            break
        time.sleep(0.1)
    return sent / (time.time() - began)

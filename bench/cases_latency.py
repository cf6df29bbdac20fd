"""How long after `notify` the row is committed and the mail accepted: idle, and at half of what the worker can do."""

import time

from bench import counting
from bench.cases_single import PUBLISHERS, title
from bench.measure import NAIVE, OURS, Book, Result, Size, percentile
from bench.publisher import person
from bench.publishers import Publishers
from bench.servers import Stand, Workers
from bench.sinks import OwnSink

EMPTY = "empty Celery task"
#: Per second, when idle.
IDLE = 25
KINDS = {OURS: "one", NAIVE: "delay"}


def measure(stand: Stand, size: Size, book: Book) -> None:
    """Idle and at half load, in-app and with mail."""
    with (
        stand.own_sink() as sink,
        Publishers(stand, PUBLISHERS) as publishers,
        Workers(stand, "worker", beat=True, sink=sink),
        Workers(stand, "bench.naive", sink=sink),
    ):
        latency = _Latency(stand, publishers, sink, size)
        for email in (False, True):
            latency.compare(book, "idle", email, dict.fromkeys(KINDS, IDLE))
            if rates := _half(book, email):
                latency.compare(book, "half load", email, rates)


def _half(book: Book, email: bool) -> dict[str, float]:
    """Half of what each did in this run."""
    if not (found := book.results.get(f"single/running/{title(email)}")):
        return {}
    return {name: (found.median(name) or 0) / 2 for name in KINDS}


class _Latency:
    def __init__(self, stand: Stand, publishers: Publishers, sink: OwnSink, size: Size) -> None:
        self.stand, self.publishers, self.sink, self.size = stand, publishers, sink, size
        self.rates: dict[str, float] = {}
        """What the publishers came to, in the last round."""

    def compare(self, book: Book, load: str, email: bool, rates: dict[str, float]) -> None:
        """The contenders in turns; each round's p50 and p99."""
        what = "mail" if email else "row"
        results = {
            share: Result(f"latency/{load}/{what}/{share}", f"enqueue to {what}, {load}, {share}", "ms", "less")
            for share in ("p50", "p99")
        }
        for turn in range(self.size.rounds + 1):
            for name in (*rates, *((EMPTY,) if load == "idle" and not email else ())):
                rate = rates.get(name, IDLE)
                count = max(20, int(rate * self.size.seconds))
                late = self.stamps(count) if name == EMPTY else self.notifications(name, count, rate, email)
                for share, result in results.items() if turn else ():
                    result.values.setdefault(name, []).append(1e3 * percentile(late, int(share[1:]) / 100))
                    result.counts[name] = count
        for result in results.values():
            if load != "idle":
                result.notes.append(", ".join(f"{name} at {rate:,.0f} per second" for name, rate in self.rates.items()))
            book.add(result)

    def notifications(self, name: str, count: int, rate: float, email: bool) -> list[float]:
        """Seconds that each took."""
        self.stand.reset()
        self.sink.reset()
        db = self.stand.db if name == OURS else self.stand.naive_db
        first, last = self.publishers.publish(KINDS[name], count, email=email, rate=rate, stamps=True)
        self.rates[name] = count / (last - first)
        began = self.publishers.stamps()
        counting.rows(db, count)
        if not email:
            return [moment - began[recipient] for recipient, moment in counting.commits(db).items()]
        counting.mails(self.sink, count)
        counting.addresses(self.sink, count)
        arrived = self.sink.mails()
        return [moment - began[address.partition("@")[0]] for moment, address in arrived]

    def stamps(self, count: int) -> list[float]:
        """The same for a task that only tells when it runs."""
        from bench.naive import stamp

        path = self.stand.folder / f"stamped-{time.monotonic_ns()}"
        path.touch()
        began = {}
        with stamp.app.connection_for_write(self.stand.naive_broker) as connection:
            for number in range(count):
                began[person(number)[0]] = time.time()
                stamp.apply_async((person(number)[0], str(path)), connection=connection)
                time.sleep(1 / IDLE)
        counting.until(lambda: len(path.read_text().splitlines()), count, "stamps")
        ran = dict(line.split() for line in path.read_text().splitlines())
        return [float(moment) - began[name] for name, moment in ran.items()]

"""What Bellhop aims at, as ratios of one run; met or not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench import cases_broker, cases_single, cases_table
from bench.measure import DECENT, FLOOR, NAIVE, NAIVE_FAN, OURS, Result

Results = Mapping[str, Result]


@dataclass(frozen=True)
class Goal:
    """`value` of the results, none where the case was not measured; `limit` is the least, or the most."""

    text: str
    value: Callable[[Results], float | None]
    limit: float
    at_most: bool = False

    def met(self, results: Results) -> bool | None:
        """None where it was not measured."""
        value = self.value(results)
        if value is None:
            return None
        return value <= self.limit if self.at_most else value >= self.limit


def ratio(key: str, name: str, other: str, other_key: str = "") -> Callable[[Results], float | None]:
    """How many times better than another contender, of the same case or of another one."""

    def value(results: Results) -> float | None:
        if key not in results or (other_key or key) not in results:
            return None
        mine, theirs = results[key].median(name), results[other_key or key].median(other)
        if not mine or not theirs:
            return None
        return mine / theirs if results[key].better == "more" else theirs / mine

    return value


def inverse(value: Callable[[Results], float | None]) -> Callable[[Results], float | None]:
    """How many times worse."""
    return lambda results: 1 / found if (found := value(results)) else None


def median(key: str, name: str) -> Callable[[Results], float | None]:
    """The median itself."""
    return lambda results: results[key].median(name) if key in results else None


def curve(key: str) -> Callable[[Results], float | None]:
    """How much worse the worst point of a curve is than its first."""

    def value(results: Results) -> float | None:
        if key not in results or not results[key].curve:
            return None
        first, rest = results[key].curve[0][1], [point[1] for point in results[key].curve]
        return first / min(rest) if results[key].better == "more" else max(rest) / first

    return value


def worst(prefix: str, contains: str, other: str) -> Callable[[Results], float | None]:
    """Of several cases that one in which ours compares worst with the other: ours / other in time."""

    def value(results: Results) -> float | None:
        found = [
            1 / times
            for key, result in results.items()
            if key.startswith(prefix) and contains in key and (times := result.times(OURS, other))
        ]
        return max(found, default=None)

    return value


_SHARED, _OWN = "fan-out/shared/in-app/100000", "fan-out/own/in-app/100000"
_MAIL = "fan-out/shared/with mail/100000"
_POOL, _STOCK = "broker/empty/prefork -c4", cases_single.EMPTY
_QUEUED, _RUNNING = "single/queued/in-app/4", "single/running/in-app"

GOALS = (
    Goal("fan-out to 100,000, in-app, shared context: times the hand-written worker", ratio(_SHARED, OURS, NAIVE), 150),
    Goal("the same: times the hand-written fan-out", ratio(_SHARED, OURS, NAIVE_FAN), 80),
    Goal("the same: times the decent fan-out", ratio(_SHARED, OURS, DECENT), 4),
    Goal("the same: share of server-side INSERT ... SELECT", ratio(_SHARED, OURS, FLOOR), 0.5),
    Goal("fan-out to 100,000, own contexts: times the decent fan-out", ratio(_OWN, OURS, DECENT), 2),
    Goal("fan-out to 100,000 with mail: times the hand-written worker", ratio(_MAIL, OURS, NAIVE), 50),
    Goal("the same: times the decent fan-out", ratio(_MAIL, OURS, DECENT), 15),
    Goal("single, already queued, 4 processes: times the hand-written worker", ratio(_QUEUED, OURS, NAIVE), 60),
    Goal("single, publishers running: times the hand-written worker", ratio(_RUNNING, OURS, NAIVE), 10),
    Goal("single, durable, enqueue included: times the hand-written worker",
         ratio(_RUNNING, cases_single.DURABLE, NAIVE), 20),
    Goal("the same, 100 requests in each transaction", ratio(_RUNNING, cases_single.TOGETHER, NAIVE), 20),
    Goal("publishing many distinct requests: times delay() in a loop", ratio("enqueue/many", OURS, NAIVE), 40),
    Goal("latency when idle, p50: of the hand-written worker's", inverse(ratio("latency/idle/row/p50", OURS, NAIVE)),
         1, at_most=True),
    Goal("latency when idle, p99: of the hand-written worker's", inverse(ratio("latency/idle/row/p99", OURS, NAIVE)),
         1, at_most=True),
    Goal("latency when idle, p99: of an empty Celery task's",
         inverse(ratio("latency/idle/row/p99", OURS, cases_single.EMPTY)), 3, at_most=True),
    Goal("latency at half load, p99, ms", median("latency/half load/row/p99", OURS), 250, at_most=True),
    Goal("mails on loopback: times the hand-written worker's", ratio("mail/near", OURS, NAIVE), 10),
    Goal("mails at 10 ms round trip: times the hand-written worker's", ratio("mail/far", OURS, NAIVE), 20),
    Goal("mails on loopback: share of smtp-source's", ratio("mail/near", OURS, FLOOR), 0.5),
    Goal("render: times bare Jinja's time", inverse(ratio("render", OURS, FLOOR)), 1.5, at_most=True),
    Goal("unseen count: times psycopg's time", worst("inbox/", "unseen count", "psycopg"), 1.5, at_most=True),
    Goal("first page: times psycopg's time", worst("inbox/", "first page", "psycopg"), 1.5, at_most=True),
    Goal("unseen count of a heavy inbox: times faster than the ORM",
         ratio("inbox/unseen count, heavy-3", OURS, "ORM"), 50),
    Goal("first page of a heavy inbox: times faster than the ORM",
         ratio("inbox/first page of 10, heavy-3", OURS, "ORM"), 50),
    Goal("deep page: times the first page's time", inverse(ratio("inbox/turns", OURS, cases_table.FIRST)),
         1.5, at_most=True),
    Goal("purge: times one DELETE's time", inverse(ratio("purge/speed", OURS, FLOOR)), 3, at_most=True),
    Goal("purge: longest wait of an update, ms", median("purge/waits", OURS), 20, at_most=True),
    Goal("purge: p99 of inserts, times that without a purge",
         inverse(ratio("purge/inserts", OURS, "without a purge")), 1.5, at_most=True),
    Goal("empty tasks, a pool of 4: times stock Celery on Redis", ratio(_POOL, cases_broker.HARDENED, _STOCK), 5),
    Goal("the same, one process without a pool", ratio("broker/empty/1 solo", cases_broker.HARDENED, _STOCK), 5),
    Goal("empty tasks, a pool of 4: times stock Celery on RabbitMQ",
         ratio(_POOL, cases_broker.HARDENED, cases_broker.RABBIT), 1),
    Goal("memory over the run: times that after the first", curve("memory"), 1.1, at_most=True),
    Goal("a long backlog of mails: times a short one's time per mail", curve("backlog"), 1.1, at_most=True),
    Goal("a growing table: times the cost of a single notification", curve("growth/single"), 1.5, at_most=True),
    Goal("a growing table: times the cost of a fan-out's recipient", curve("growth/fan-out"), 1.5, at_most=True),
    Goal("a growing table: times the unseen count's time", curve("growth/unseen"), 1.5, at_most=True),
    Goal("a growing table: times the first page's time", curve("growth/page"), 1.5, at_most=True),
)  # fmt: skip

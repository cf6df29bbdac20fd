"""Large audiences: one request to a group, or requests with a context for each recipient, until all is there."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench import floors
from bench.cases_single import Single, title
from bench.measure import DECENT, FLOOR, NAIVE, NAIVE_FAN, OURS, Book, Contender, Result, Size, turns
from bench.naive import CHUNK
from bench.publishers import Publishers
from bench.servers import Stand, Workers

PROCESSES = 4
KINDS = {
    "shared": {OURS: "group", NAIVE: "delay", NAIVE_FAN: "fan_out", DECENT: "decent"},
    "own": {OURS: "each", NAIVE: "delay", NAIVE_FAN: "fan_out_own", DECENT: "decent_own"},
}
#: From so many recipients on, one round is enough, and nobody else takes part.
LARGE = 1_000_000
#: Seconds that such a round may take, judged by the next smaller one.
PATIENCE = 150


def fill_directory(stand: Stand, sizes: tuple[int, ...]) -> None:
    """Recipients, and a group of each size."""
    stand.db.execute("TRUNCATE recipients, recipient_groups")
    number = "lpad(i::text, 8, '0')"
    stand.db.execute(
        "INSERT INTO recipients (id, email, lang) "
        f"SELECT 'r-' || {number}, 'r-' || {number} || '@example.org', 'en' "
        f"FROM generate_series(0, {max(sizes) - 1}) AS i".encode()
    )
    for size in sizes:
        stand.db.execute(
            f"INSERT INTO recipient_groups SELECT 'everyone-{size}', 'r-' || {number} "
            f"FROM generate_series(0, {size - 1}) AS i".encode()
        )
    stand.db.execute("ANALYZE recipients, recipient_groups")


def measure(stand: Stand, size: Size, book: Book) -> None:
    """Every audience, context and channel."""
    fill_directory(stand, size.fan_out)
    with (
        Publishers(stand) as publishers,
        Workers(stand, "worker", PROCESSES, beat=True) as ours,
        Workers(stand, "bench.naive", PROCESSES),
    ):
        fan_out = _FanOut(stand, publishers)
        for email in (False, True):
            for context in KINDS:
                for audience in size.fan_out:
                    if audience < LARGE:
                        fan_out.compare(book, size, audience, context, email)
                    else:
                        smaller = max(other for other in size.fan_out if other < audience)
                        fan_out.alone(book, ours, audience, smaller, context, email)


class _FanOut:
    def __init__(self, stand: Stand, publishers: Publishers) -> None:
        self.stand, self.publishers = stand, publishers
        self.single = Single(stand, publishers)

    def run(self, name: str, kind: str, count: int, email: bool) -> float:
        """From the request on."""
        self.single.prepare()
        began, _ = self.publishers.publish(kind, count, email=email)
        return self.single.done(NAIVE if name != OURS else OURS, count, email) - began

    def compare(self, book: Book, size: Size, audience: int, context: str, email: bool) -> None:
        """All contenders; those who would take too long have a smaller audience, which costs them no more for each."""
        contenders = []
        for name, kind in KINDS[context].items():

            def run(count: int, name: str = name, kind: str = kind) -> float:
                return self.run(name, kind, count, email)

            start = audience if name == OURS else min(audience, 500)
            least = min(audience, PROCESSES * CHUNK) if name in (NAIVE_FAN, DECENT) else 1
            contenders.append(Contender(name, run, start, most=audience, least=least))
        if not email:
            contenders.append(
                Contender(FLOOR, lambda count: floors.insert(self.stand, count, PROCESSES), audience, audience)
            )
        elif floors.can_mail():
            contenders.append(Contender(FLOOR, lambda n: floors.mail(self.stand, n, PROCESSES), audience, audience))
        key = f"fan-out/{context}/{title(email)}/{audience}"
        book.add(turns(key, f"fan-out to {audience:,}, {context} context, {title(email)}", size, *contenders))

    def alone(self, book: Book, ours: Workers, audience: int, smaller: int, context: str, email: bool) -> None:
        """One round of ours, with the memory of the workers meanwhile."""
        kind, name = f"fan-out/{context}/{title(email)}", f"fan-out to {audience:,}, {context} context, {title(email)}"
        before = book.results[f"{kind}/{smaller}"].median(OURS) or 1
        result = Result(f"{kind}/{audience}", name, "per second", counts={OURS: audience})
        if audience / before > PATIENCE:
            result.notes.append(f"left out: at {before:,.0f} per second it would take {audience / before:,.0f} s")
        else:
            with memory(ours, result):
                result.values[OURS] = [audience / self.run(OURS, KINDS[context][OURS], audience, email)]
        book.add(result)


@contextmanager
def memory(workers: Workers, result: Result) -> Iterator[None]:
    """Sample the memory of the largest worker process: seconds and MiB, into the result's curve."""
    ended, began = threading.Event(), time.monotonic()

    def sample() -> None:
        while not ended.wait(0.25):
            if sizes := workers.memory():
                result.curve.append([round(time.monotonic() - began, 2), round(max(sizes) / 2**20, 1)])

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

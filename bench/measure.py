"""Taking turns: every contender once in each round, several rounds, medians and spread."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

#: What begins with the first one's name is ours as well.
OURS, NAIVE, NAIVE_FAN, DECENT = "Bellhop", "hand-written", "hand-written fan-out", "decent fan-out"
FLOOR = "floor"

#: A turn of at least one in so many parts of the wanted time tells how many fill it.
ENOUGH = 2

#: What always does so many needs no turn that is not counted.
LARGE = 10_000


@dataclass
class Size:
    """How much is done."""

    first: int
    """The most in a first turn, which is not counted."""
    rounds: int
    """Turns of each contender."""
    seconds: float
    """About how long each turn takes."""
    fan_out: tuple[int, ...]
    """Recipients of the fan-outs."""
    processes: tuple[int, ...]
    """Pool processes of the workers."""
    table: int
    """Rows of the large table for the purge and the inbox."""
    growth: tuple[int, ...]
    """Rows of the growing table."""


@dataclass
class Contender:
    """`run` does the work so many times, checks that it is all there, and gives the seconds that it took."""

    name: str
    run: Callable[[int], float]
    start: int = 100
    """How many in the first turn, which is not counted; later turns take as many as the time allows."""
    most: int = 100_000
    least: int = 1
    """Fewer in a counted turn would not be fair, as they would not keep all processes busy."""


@dataclass
class Result:
    """One case."""

    key: str
    title: str
    unit: str
    better: str = "more"
    values: dict[str, list[float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    curve: list[list[float]] = field(default_factory=list)

    def median(self, name: str) -> float | None:
        """The contender's median."""
        return statistics.median(self.values[name]) if self.values.get(name) else None

    def spread(self, name: str) -> float:
        """The distance between the least and the greatest, as a share of the median."""
        values = self.values[name]
        middle = statistics.median(values)
        return (max(values) - min(values)) / middle if middle else 0.0

    def times(self, name: str, other: str) -> float | None:
        """How many times better `name` is than `other`."""
        mine, theirs = self.median(name), self.median(other)
        if not mine or not theirs:
            return None
        return mine / theirs if self.better == "more" else theirs / mine


class Book:
    """All results, in order."""

    def __init__(self, show: Callable[[Result], None]) -> None:
        self.results: dict[str, Result] = {}
        self.show = show

    def add(self, result: Result) -> Result:
        """Keep and show it."""
        self.results[result.key] = result
        self.show(result)
        return result


def turns(key: str, title: str, size: Size, *contenders: Contender, unit: str = "per second") -> Result:
    """Let the contenders take turns; gives how many per second."""
    result = Result(key, title, unit)
    amounts = {}
    for one in contenders:
        if one.start < one.most:
            amounts[one.name] = amount(one, size)
            continue
        amounts[one.name] = one.most
        if one.most < LARGE:
            one.run(one.most)
    result.counts = amounts
    for _ in range(size.rounds):
        for one in contenders:
            count = amounts[one.name]
            result.values.setdefault(one.name, []).append(count / one.run(count))
    return result


def amount(one: Contender, size: Size) -> int:
    """How many take about the wanted time: tried with more and more, for a few tell of the beginning alone."""
    count = min(one.start, size.first)
    while True:
        taken = max(one.run(count), 1e-6)
        wanted = max(count, one.least, min(one.most, int(count / taken * size.seconds)))
        if taken >= size.seconds / ENOUGH or wanted <= count:
            return wanted
        count = wanted


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def percentile(values: list[float], share: float) -> float:
    """The value that so many stay below."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

"""One notification after the other in this process, without a broker: `python -m bench.alone ours|naive COUNT`.

What a worker does for one once it has its message; prints the median in milliseconds.
"""

import statistics
import sys
from collections.abc import Callable

from bench import naive
from bench.measure import timed
from bench.publisher import own, person, request

#: How many are not counted: statements are prepared, connections made.
FIRST = 50


def main(who: str, count: int) -> None:
    """Measure."""
    ways: dict[str, Callable[[int], object]] = {"ours": _ours, "naive": _naive}
    times = [timed(lambda number=number: ways[who](number)) for number in range(FIRST + count)]  # type: ignore[misc]
    print(1e3 * statistics.median(times[FIRST:]))


def _ours(number: int) -> object:
    from worker import tasks

    return tasks.create(request=request(number, False))


def _naive(number: int) -> object:
    return naive.notify.run(person(number)[0], None, own(number))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

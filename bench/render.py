"""What rendering costs above bare Jinja: `python -m bench.render`.

For each event: `worker.render.render` of all parts, against the same compiled templates rendered one after the other.
Interleaved, so that noise hits both alike; medians of the runs. The goal is a ratio of at most 1.5.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from worker import render
from worker.events import get_events

PARTS = ("title.txt", "text.txt", "subject.txt", "email.txt", "email.html")
RUNS, RENDERINGS = 15, 200
LANG = "de"


def bare(event: str, context: Mapping[str, Any]) -> Callable[[], object]:
    """The event's templates and the frame's, as `jinja2.Template.render` alone renders them."""
    values = {**context, "timezone": "UTC", render.Images.NAME: render.Images(())}
    parts = [t for name in PARTS if (t := render._template(LANG, f"{event}/{LANG}/{name}"))]
    frames = [t for name in ("_layout/email.txt", render.FRAME) if (t := render._template(LANG, name))]
    framed = {"title": "A title", "subject": "A subject", "body": "A body"}
    return lambda: [*(t.render(values) for t in parts), *(t.render(framed) for t in frames)]


def microseconds(work: Callable[[], object]) -> float:
    """Time one piece of work."""
    start = time.perf_counter()
    for _ in range(RENDERINGS):
        work()
    return (time.perf_counter() - start) / RENDERINGS * 1e6


def main() -> int:
    """Print the table; exit code 1 where the goal is missed."""
    print(f"{'event':<36}{'render µs':>10}{'bare µs':>10}{'ratio':>8}")
    ratios = []
    for name, event in sorted(get_events().items()):
        context, floor = event.example, bare(name, event.example)
        floor()
        render.render(name, LANG, context)
        pairs = []
        for _ in range(RUNS):
            ours = microseconds(lambda name=name, context=context: render.render(name, LANG, context))  # type: ignore[misc]
            pairs.append((ours, microseconds(floor)))
        ratio = statistics.median(ours / floor for ours, floor in pairs)
        ratios.append(ratio)
        ours, least = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(f"{name:<36}{ours:>10.0f}{least:>10.0f}{ratio:>8.2f}")
    print(f"median ratio {statistics.median(ratios):.2f}, worst {max(ratios):.2f}; goal 1.5")
    return statistics.median(ratios) > 1.5


if __name__ == "__main__":
    sys.exit(main())

"""What it costs the application to ask: one by one, and many at once."""

import base64
import json
from typing import Any

from bench.counting import Wrong, counter
from bench.measure import FLOOR, NAIVE, OURS, Book, Contender, Size, turns
from bench.publishers import Publishers
from bench.servers import Stand

PIPELINED = "hand-written, pipelined"
DURABLE, TOGETHER = "Bellhop, durable", "Bellhop, durable, 100 per transaction"


def measure(stand: Stand, size: Size, book: Book) -> None:
    """Both cases."""
    with Publishers(stand) as publishers:
        bench = _Enqueue(stand, publishers)
        book.add(
            turns(
                "enqueue/one", "enqueue one by one", size,
                bench.contender(OURS, "one"), bench.contender(DURABLE, "durable"),
                bench.contender(NAIVE, "delay"), bench.contender(FLOOR, "push"),
            )
        )  # fmt: skip
        book.add(
            turns(
                "enqueue/many", "enqueue many distinct requests", size,
                bench.contender(OURS, "many"), bench.contender(TOGETHER, "durable_many"),
                bench.contender(NAIVE, "delay"), bench.contender(PIPELINED, "queue_delay"),
                bench.contender(FLOOR, "push_many"),
            )
        )  # fmt: skip
    book.results["enqueue/many"].notes.append(
        "pipelined: by kombu's `producer.batch`; the floor is LPUSH of the same bytes, 100 to a round trip"
    )


class _Enqueue:
    def __init__(self, stand: Stand, publishers: Publishers) -> None:
        self.stand, self.publishers = stand, publishers

    def contender(self, name: str, kind: str) -> Contender:
        def run(count: int) -> float:
            self.stand.reset()
            began, ended = self.publishers.publish(kind, count)
            found = self.found(kind)
            if found != count:
                raise Wrong(f"{name}: {found:,} enqueued instead of {count:,}")
            return ended - began

        return Contender(name, run, start=200, most=50_000)

    def found(self, kind: str) -> int:
        if kind.startswith("durable"):
            return counter(self.stand.db, "requests", "status = 'pending'")()
        naive = kind in ("delay", "queue_delay", "push", "push_many")
        broker, queue = (self.stand.naive_broker, "celery") if naive else (self.stand.broker, "notifications")
        messages = self.stand.clients[broker].lrange(queue, 0, -1)
        return len(messages) if naive else len({id for message in messages for id in _ids(json.loads(message))})


def _ids(message: dict[str, Any]) -> list[str]:
    """The requests in a message."""
    _, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    return [asked["id"] for asked in kwargs.get("requests") or [kwargs["request"]]]

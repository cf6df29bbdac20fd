"""A producer in a process of its own: enqueues until SIGTERM and keeps its own ledger of what was accepted.

`python -m tests.chaos.load SYSTEM WAY LEDGER`, SYSTEM `bellhop` or `handwritten`, WAY `broker` or `durable`. A request
is accepted when the call returned, or when the application's own transaction has committed. What was refused is told
apart by a `-` before its id: it may be there or not.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

from celery import Celery
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from tests.chaos import handwritten
from worker.client import connect, notify

#: In every address, and in every context's value: neither may be seen anywhere but in rows, messages and mails.
CANARY = "canary-chaos"
#: Requests in a second, while nothing is refused.
RATE = 12

Enqueue = Callable[[UUID], object]


class Asked(NamedTuple):
    """What one producer asked for."""

    accepted: list[UUID]
    refused: list[UUID]


def address_of(id: UUID) -> str:
    """The address that a request's mail goes to; a request has one recipient."""
    return f"{CANARY}-{id}@example.org"


def read_ledger(path: Path) -> Asked:
    """Give a producer's ledger."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    accepted = [UUID(line) for line in lines if line[0] != "-"]
    return Asked(accepted, [UUID(line[1:]) for line in lines if line[0] == "-"])


def bellhop(way: str) -> Enqueue:
    """`notify`, without or with a session."""
    app, engine = connect(os.environ["BROKER_URL"]), create_engine(os.environ["DATABASE_URL"], pool_pre_ping=True)

    def ask(id: UUID, session: Session | None = None) -> None:
        to = {"id": f"reader-{id}", "email": address_of(id)}
        notify("book_available", to=to, context={"title": f"{CANARY}-title"}, id=id, app=app, session=session)

    def durably(id: UUID) -> None:
        with Session(engine) as session, session.begin():
            ask(id, session)

    return durably if way == "durable" else ask


def by_hand(way: str) -> Enqueue:
    """`send_task`; durably: the application commits, then publishes, as applications do."""
    app = Celery("producer", broker=os.environ["BROKER_URL"], set_as_current=False)
    app.conf.update(handwritten.client_settings(os.environ["BROKER_URL"]))
    engine = create_engine(os.environ["DATABASE_URL"], pool_pre_ping=True)

    def ask(id: UUID) -> None:
        kwargs = {"id": str(id), "email": address_of(id), "title": f"{CANARY}-title"}
        app.send_task("handwritten.notify", kwargs=kwargs, queue=handwritten.QUEUE)

    def durably(id: UUID) -> None:
        with Session(engine) as session, session.begin():
            session.add(handwritten.Order(id=id))
        _note(id)  # the order stands, so the reader must hear of it, whatever becomes of the publishing
        ask(id)

    return durably if way == "durable" else ask


SYSTEMS: dict[str, Callable[[str], Enqueue]] = {"bellhop": bellhop, "handwritten": by_hand}

_ledger = 1
_noted: set[UUID] = set()


def _note(id: UUID, sign: str = "") -> None:
    if id not in _noted:
        _noted.add(id)
        os.write(_ledger, f"{sign}{id}\n".encode())


@contextmanager
def _until_told() -> Iterator[list[int]]:
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    yield told


def main(system: str, way: str, ledger: Path) -> None:
    """Enqueue until SIGTERM; a call under way is finished."""
    global _ledger
    _ledger = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    enqueue = SYSTEMS[system](way)
    with _until_told() as told:
        while not told:
            started, id = time.monotonic(), uuid4()
            try:
                enqueue(id)
            except Exception as error:
                _note(id, "-")
                print(f"refused: {type(error).__name__}", flush=True)
            else:
                _note(id)
            time.sleep(max(0.0, started + 1 / RATE - time.monotonic()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))

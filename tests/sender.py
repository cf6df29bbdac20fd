"""A process that does the work of beat and of an email worker until it is killed; `jumping`: on a mad host clock."""

import datetime as dt
import sys
import time

from worker import database
from worker.database import transaction, utcnow
from worker.deliver import deliver
from worker.dispatch import take_due


class Jumping(dt.datetime):
    """A host clock that is ten minutes early, and a quarter of each second ten minutes late."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> "Jumping":
        minutes = 10 if time.monotonic() % 1 < 0.75 else -10
        return super().now(tz) + dt.timedelta(minutes=minutes)


def work(limit: int) -> None:
    """Hand over and deliver so many at a time."""
    while True:
        with transaction() as session:
            due = take_due(session, utcnow(), limit)
        for ids in due.values():
            deliver(transaction, ids)
        if not due:
            time.sleep(0.05)


if __name__ == "__main__":
    if "jumping" in sys.argv:
        setattr(database, "datetime", Jumping)  # noqa: B010 - mypy forbids to assign a class
    print("ready", flush=True)
    # It looks more often than the other, so that it also looks while that one has some in hand.
    work(3 if "jumping" in sys.argv else 10)

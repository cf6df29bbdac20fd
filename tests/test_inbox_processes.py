"""Several processes at one recipient's inbox at the same time, on both stores."""

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests.inbox_actor import STEPS
from tests.rows import put_notifications
from tests.servers import Process
from tests.store import rows, together
from worker import inbox
from worker.database import transaction
from worker.inbox import Counts
from worker.models import Notification

ACTOR = (sys.executable, "-m", "tests.inbox_actor")

pytestmark = pytest.mark.usefixtures("engine")


def test_processes_at_one_inbox(tmp_path: Path, database_url: str) -> None:
    """None fails; nothing is lost or removed twice, and the counts are those of the rows."""
    with ExitStack() as stack:
        actors = [
            stack.enter_context(Process([*ACTOR, str(n)], tmp_path / f"{n}.log", env={"DATABASE_URL": database_url}))
            for n in range(2)
        ]
        codes = [actor.wait(60) for actor in actors]
        logs = [actor.log_text() for actor in actors]
    assert [0, 0] == codes, logs
    done = [[int(number) for number in log.split()] for log in logs]
    created, _, removed = (sum(each) for each in zip(*done, strict=True))
    left = rows(Notification)
    assert (2 * STEPS, created - removed) == (created, len(left))
    with transaction() as session:
        assert Counts(len(left), sum(row.seen_at is None for row in left)) == inbox.counts(session, "paul")
        assert inbox.unseen_count(session, "paul") == inbox.counts(session, "paul").unseen


def test_each_is_marked_and_removed_by_one() -> None:
    """Of four who mark everything at once, and then remove it, the numbers they are told add up."""
    put_notifications(300, seen_at=None, recipient_id="paul")

    def mark() -> int:
        with transaction() as session:
            return inbox.mark_all_seen(session, "paul")

    def remove() -> int:
        with transaction() as session:
            return inbox.delete_seen(session, "paul")

    assert 300 == sum(together(*[mark] * 4))
    assert 300 == sum(together(*[remove] * 4))
    with transaction() as session:
        assert 0 == session.scalar(select(func.count()).select_from(Notification))

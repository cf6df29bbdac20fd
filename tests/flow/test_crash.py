"""What is killed or goes away in the middle of the work, and what is there afterwards."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import ROOT
from tests.flow.system import System
from tests.servers import PostgresServer, RedisTestServer, wait_until
from worker.embedded.smtp import MailCatcher

#: Worker processes that send at the same time, and mails that each may have out unrecorded when it is killed.
SENDERS, RECORD_WINDOW = 2, 20


@pytest.fixture
def system(postgres: PostgresServer, tmp_path: Path) -> Iterator[System]:
    """A worker and beat with short leases, so that what a dead worker held is soon taken up."""
    url = postgres.create_database("crash", template="migrated")
    with (
        pytest.MonkeyPatch.context() as patch,
        RedisTestServer(tmp_path / "redis") as broker,
        MailCatcher(tmp_path / "mail") as catcher,
    ):
        patch.chdir(ROOT)
        times = {"LEASE_SECONDS": 6, "HANDOVER_SECONDS": 4, "TASK_TIME_LIMIT_SECONDS": 4}
        whole = System(tmp_path, url, broker, catcher, VISIBILITY_TIMEOUT_SECONDS=6, **times)
        try:
            whole.start("worker", "beat")
            whole.wait_worker()
            yield whole
        finally:
            whole.stop()
    postgres.drop_database("crash")


def publish(system: System, count: int) -> None:
    """Ask for so many notifications with email, each to a recipient of its own."""
    for number in range(count):
        request = {
            "id": str(uuid4()),
            "to": {"id": f"reader-{number}", "email": f"reader-{number}@example.org"},
            "event_config_name": "book_available",
            "context": {"title": f"Book {number}"},
        }
        system.send("notifications.create", request=request)


def test_kill_of_every_worker_process_loses_and_doubles_nothing(
    system: System, record_property: Callable[[str, object], None]
) -> None:
    """SIGKILL in the middle of 500 emailed notifications: all are there and mailed; a double shows its Message-ID."""
    publish(system, 500)
    wait_until(lambda: len(system.catcher.messages()) >= 60, 60, "the worker is in the middle of it")
    system.processes["worker"].kill_group()
    before = len(system.catcher.messages())
    assert before < 500, "killed in the middle"

    system.start("worker")
    system.wait_worker()
    wait_until(system.broker_is_idle, 60, "every message is worked off")
    unsent = "SELECT count(*) FROM deliveries WHERE status <> 'sent'"
    wait_until(lambda: not system.count(unsent), 90, "every delivery is sent")

    rows = system.count("SELECT count(*) FROM notifications")
    copies = Counter(str(mail["Message-ID"]) for mail in system.catcher.messages())
    doubled = sum(count - 1 for count in copies.values())
    record_property("mails sent again", doubled)
    print(f"\nkilled after {before} mails: {doubled} mails sent again")
    assert 500 == rows == len(copies)
    assert doubled <= SENDERS * RECORD_WINDOW


def test_worker_survives_a_redis_restart(system: System) -> None:
    """Redis is killed and comes back while tasks run: the same worker process goes on, and all arrives."""
    pid = system.processes["worker"].pid
    publish(system, 150)
    wait_until(lambda: len(system.catcher.messages()) >= 20, 60, "the worker is in the middle of it")
    system.broker.kill()
    system.broker.start()
    publish(system, 1)
    wait_until(lambda: len(system.catcher.messages()) >= 21, 60, "the worker goes on")
    wait_until(system.broker_is_idle, 90, "every message is worked off")
    unsent = "SELECT count(*) FROM deliveries WHERE status <> 'sent'"
    wait_until(lambda: not system.count(unsent), 60, "every delivery is sent")

    assert pid == system.processes["worker"].pid
    assert system.processes["worker"].returncode() is None
    os.kill(pid, 0)
    copies = Counter(str(mail["Message-ID"]) for mail in system.catcher.messages())
    assert 151 == system.count("SELECT count(*) FROM notifications") == len(copies)

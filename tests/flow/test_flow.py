"""The whole way, with real processes: enqueue -> rows -> mail -> seen -> purged, and who may see what."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import ROOT
from tests.flow.system import System
from tests.servers import PostgresServer, RedisTestServer, wait_until
from worker.embedded.smtp import MailCatcher


@pytest.fixture(scope="module")
def system(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Worker, beat and Flower on PostgreSQL, Redis and an SMTP server."""
    folder = tmp_path_factory.mktemp("flow")
    url = postgres.create_database("flow", template="migrated")
    with (
        pytest.MonkeyPatch.context() as patch,
        RedisTestServer(folder / "redis") as broker,
        MailCatcher(folder / "mail") as catcher,
    ):
        patch.chdir(ROOT)
        whole = System(folder, url, broker, catcher, PURGE_CRON="* * * * *")
        try:
            whole.start("flower", "worker", "beat")
            whole.wait_worker()
            wait_until(lambda: whole.flower("/healthcheck")[0], 60, "Flower answers")
            yield whole
        finally:
            whole.stop()
    postgres.drop_database("flow")


def request(**fields: object) -> dict[str, object]:
    """A request for one emailed notification to a recipient of its own."""
    name = f"reader-{uuid4().hex[:8]}"
    base = {
        "id": str(uuid4()),
        "to": {"id": name, "email": f"{name}@example.org"},
        "event_config_name": "book_available",
        "context": {"title": "Dune"},
    }
    return base | fields


def mails_to(system: System, address: str) -> list[str]:
    """Give the subjects of the mails that arrived for an address."""
    return [str(mail["Subject"]) for mail in system.catcher.messages() if address in str(mail["To"])]


def settled(system: System, request_id: object) -> Callable[[], bool]:
    """Tell whether the request's deliveries are there and none is on its way."""
    sql = """SELECT count(*), count(*) FILTER (WHERE status IN ('pending', 'sending')) FROM deliveries
             JOIN notifications ON notifications.id = notification_id WHERE request_id = :id"""

    def check() -> bool:
        there, on_their_way = system.rows(sql, id=request_id)[0]
        return bool(there) and not on_their_way

    return check


def test_enqueued_rendered_mailed_seen_purged(system: System) -> None:
    """A plain `send_task` from a foreign app goes the whole way; beat purges it once it was seen long ago."""
    asked = request(lang="pt-BR")
    who = asked["to"]
    assert isinstance(who, dict)
    system.send("notifications.create", request=asked)
    wait_until(settled(system, asked["id"]), 20, "the mail is sent")

    (row,) = system.rows(
        "SELECT title, text, lang, lang_asked, seen_at FROM notifications WHERE request_id = :id", id=asked["id"]
    )
    assert ("Dune chegou", "Dune está disponível.", "pt", "pt-BR", None) == row
    (delivery,) = system.rows(
        "SELECT status, attempts, parts, last_error FROM deliveries WHERE address = :email", email=who["email"]
    )
    assert ("sent", 1, None, None) == delivery
    assert ["Livro: Dune"] == mails_to(system, who["email"])

    # Read and seen through tasks, with results.
    page = system.send("inbox.list", recipient_id=who["id"]).get(timeout=10)
    assert ["Dune chegou"] == [item["title"] for item in page["items"]]
    marked = system.send("inbox.mark_seen", recipient_id=who["id"], id=page["items"][0]["id"]).get(timeout=10)
    assert marked["seen_at"] is not None

    # Long ago, for one; the other was seen just now.
    lately = request()
    system.send("notifications.create", request=lately)
    wait_until(settled(system, lately["id"]), 20, "the second mail is sent")
    past = datetime.now(UTC) - timedelta(days=91)
    system.rows("UPDATE notifications SET seen_at = now(), updated_at = now() WHERE request_id = :id", id=lately["id"])
    system.rows("UPDATE notifications SET seen_at = :past, updated_at = :past WHERE request_id = :id",
                past=past, id=asked["id"])  # fmt: skip
    count = "SELECT count(*) FROM notifications WHERE request_id = :id"
    wait_until(lambda: not system.count(count, id=asked["id"]), 75, "beat's purge removes what was seen 91 days ago")
    assert 1 == system.count(count, id=lately["id"])
    ledger = "SELECT count(*) FROM purge_runs WHERE removed = 1"
    wait_until(lambda: system.count(ledger) == 1, 10, "the ledger says so")


def test_each_recipient_of_one_request_has_their_own_context(system: System) -> None:
    """Told with their own values in the inbox and by email, by a large audience's way too."""
    names = [f"reader-{uuid4().hex[:8]}" for _ in range(3)]
    to = [{"id": name, "email": f"{name}@example.org", "context": {"title": name}} for name in names]
    small, large = request(to=to), request(to=to)
    system.send("notifications.create", request=small)
    system.send("notifications.fan_out", request=large)
    for asked in (small, large):
        wait_until(settled(system, asked["id"]), 20, "the mails are sent")
        told = system.rows("SELECT recipient_id, title FROM notifications WHERE request_id = :id", id=asked["id"])
        assert {(name, f"{name} is here") for name in names} == {tuple(row) for row in told}
    for name in names:
        assert [f"{name} is here"] * 2 == mails_to(system, f"{name}@example.org")


def test_same_request_three_times_is_one_notification_and_one_mail(system: System) -> None:
    """Published three times at once, and again later, the same request adds nothing."""
    asked = request()
    who = asked["to"]
    assert isinstance(who, dict)
    create = ("notifications.create",)
    threads = [threading.Thread(target=system.send, args=create, kwargs={"request": asked}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(settled(system, asked["id"]), 20, "the mail is sent")
    wait_until(system.broker_is_idle, 10, "none of the three is left that would take the next one along")
    again = system.send("notifications.create", request=asked)
    wait_until(lambda: system.flower_tasks().get(again.id, {}).get("state") == "SUCCESS", 20, "the repeat is done")
    assert 1 == system.count("SELECT count(*) FROM notifications WHERE request_id = :id", id=asked["id"])
    wait_until(system.broker_is_idle, 10, "all is done")
    assert ["Dune is here"] == mails_to(system, who["email"])


def test_same_key_with_another_text_is_a_named_error(system: System) -> None:
    """The second request fails in Flower as IdempotencyConflict; the first stays as it is."""
    key = uuid4().hex
    first = request(idempotency_key=key)
    system.send("notifications.create", request=first)
    wait_until(settled(system, first["id"]), 20, "the first is sent")
    other = request(idempotency_key=key, context={"title": "Solaris"}, to=first["to"])
    failed = system.send("notifications.create", request=other)
    task = wait_until(
        lambda: (found := system.flower_tasks().get(failed.id, {})).get("state") == "FAILURE" and found,
        20,
        "the second fails",
    )
    assert isinstance(task, dict)
    assert "IdempotencyConflict" in task["exception"]
    assert 0 == system.count("SELECT count(*) FROM notifications WHERE request_id = :id", id=other["id"])


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"event_config_name": "nothing_of_the_kind"}, "UnknownEvent"),
        ({"event_config_name": "off"}, "InactiveEvent"),
        ({"context": {}}, "InvalidContext"),
        ({"context": {"title": "Dune", "colour": "red"}}, "InvalidContext"),
        ({"to": {"username": "nobody-here"}}, "UnknownRecipient"),
        ({"to": {"group": "empty"}}, "EmptyGroup"),
        ({"lang": "../../etc"}, "InvalidRequest"),
        ({"surprise": 1}, "InvalidRequest"),
    ],
)
def test_what_is_wrong_fails_once_by_name(system: System, fields: dict[str, object], error: str) -> None:
    """The task fails in Flower under a named exception and is not retried; what was asked is kept, and no more."""
    asked = request(**fields)
    task_id = system.send("notifications.create", request=asked).id
    task = wait_until(
        lambda: (found := system.flower_tasks().get(task_id, {})).get("state") == "FAILURE" and found, 20, "it fails"
    )
    assert isinstance(task, dict)
    assert error in task["exception"]
    assert not task["retries"]
    assert 0 == system.count("SELECT count(*) FROM notifications WHERE request_id = :id", id=asked["id"])
    kept = system.rows("SELECT id <> :id, status, error, payload FROM requests WHERE request_id = :id", id=asked["id"])
    assert [(True, "failed", asked)] == [(other, status, payload) for other, status, _error, payload in kept]
    assert kept[0][2].startswith(f"{error}: ")


def test_the_doctor_finds_what_was_wrong_and_nothing_else(system: System) -> None:
    """Servers, worker, beat and mail server are as they should be; requests that were refused are to be mended."""
    wrong = request(surprise=1)
    system.send("notifications.create", request=wrong)
    kept = "SELECT count(*) FROM requests WHERE request_id = :id AND status = 'failed'"
    wait_until(lambda: system.count(kept, id=wrong["id"]), 20, "what is wrong is kept")
    command = [sys.executable, "-m", "worker.cli", "doctor", "--json"]
    environment = {**os.environ, **system.environment}

    def look() -> tuple[list[dict[str, Any]], int] | None:
        """None where no worker was heard in time: the doctor gives it two seconds, a busy machine perhaps not."""
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60, check=False
        )
        checks = json.loads(done.stdout)
        heard = any(check["ok"] for check in checks if check["subject"] == "workers")
        return (checks, done.returncode) if heard else None

    found = wait_until(look, 60, "the worker is heard")
    assert found
    checks, code = found
    assert {"requests"} == {check["subject"] for check in checks if not check["ok"]}, checks
    assert {"settings", "events", "database", "clock", "beat", "channel", "broker", "workers", "queues", "mail"} <= {
        check["subject"] for check in checks if check["ok"]
    }
    assert 1 == code


def test_nobody_sees_personal_data(system: System) -> None:
    """A canary address and value: only the create message in the broker holds them; no log, page, event or result."""
    address, value = "canary-address@example.org", "canary-value"
    asked = request(to={"id": "watched-reader", "email": address}, context={"title": value})
    wrong = request(to={"id": "watched-reader", "email": address}, context={"title": value, value: value})
    with system.watch_broker("canary-") as carried:
        tasks = [
            system.send("notifications.create", request=asked).id,
            system.send("notifications.create", request=wrong).id,
        ]
        wait_until(settled(system, asked["id"]), 20, "the mail is sent")
        wait_until(lambda: system.flower_tasks().get(tasks[1], {}).get("state") == "FAILURE", 20, "the wrong one fails")
        wait_until(system.broker_is_idle, 20, "the broker is idle")
    assert [value + " is here"] == mails_to(system, address)
    others = [line for line in carried if "notifications.create" not in line or "PUBLISH" in line]
    assert [] == others
    assert carried, "the watch saw the create message"

    pages = ["/api/tasks?limit=10000", "/api/workers?refresh=1", "/workers", "/tasks", "/broker", "/metrics"]
    pages += [f"/task/{id}" for id in tasks] + [f"/api/task/info/{id}" for id in tasks]
    workers = system.flower("/api/workers?refresh=1")[1]
    pages += [f"/worker/{name}" for name in json.loads(workers)]
    for page in pages:
        status, body = system.flower(page)
        assert (page, 200) == (page, status)
        assert "canary-" not in body, page
    for name, process in system.processes.items():
        assert "canary-" not in process.log_text(), name
    assert [] == system.broker_holds("canary-")


def test_flower_is_closed_without_its_password(system: System) -> None:
    """401 without it; with it the tasks are listed."""
    assert 401 == system.flower("/api/tasks", login="")[0]
    assert 401 == system.flower("/", login="operator:wrong")[0]
    names = {task["name"] for task in system.flower_tasks().values()}
    assert {"notifications.create", "notifications.deliver", "notifications.dispatch_due"} <= names

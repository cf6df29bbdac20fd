"""The shells around the use cases, called in this process; with a real broker to see what they publish."""

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import Celery
from sqlalchemy import select

from tests.rows import THEN, ago, put_deliveries, put_notifications
from tests.servers import RedisTestServer, free_port
from tests.store import rows
from worker import celery as root
from worker import directory_tasks, handover, inbox_tasks, recipients, tasks
from worker.celery import make_app
from worker.database import transaction, utcnow
from worker.dispatch import take_due
from worker.errors import IdempotencyConflict, InvalidRequest, PartlyRefused
from worker.ids import uuid7
from worker.models import Delivery, GroupMember, Notification, Preference, PurgeRun, Recipient, Request, Suppression
from worker.settings import Settings

Configure = Callable[..., None]

pytestmark = pytest.mark.usefixtures("catalogue", "engine")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisTestServer]:
    with RedisTestServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def broker(redis: RedisTestServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """An empty broker that the tasks publish to."""
    with redis.server.client() as client:
        client.flushall()
    app = make_app(Settings(broker_url=redis.url))
    root.app.set_current()
    monkeypatch.setattr(handover, "app", app)
    yield app
    app.close()


def published(app: Celery, queue: str) -> list[tuple[str, dict[str, Any]]]:
    """Take what waits in a queue: names and arguments."""
    found = []
    with app.connection_for_read() as connection:
        while message := connection.default_channel.basic_get(queue, no_ack=True):
            found.append((message.headers["task"], message.payload[1]))
    return found


def wire(to: Any = "reader", **fields: Any) -> dict[str, Any]:
    """A request as applications send it."""
    book = {"event_config_name": "book_available", "context": {"title": "Dune"}}
    return {"id": str(uuid7()), "to": to, **({} if "title" in fields else book), **fields}


MAILED = {"id": "reader", "email": "reader@example.com"}
URGENT = {"event_config_name": "password_reset", "context": {"link": "https://example.com/reset"}}


def test_create_writes_and_hands_over(broker: Celery, redis: RedisTestServer) -> None:
    """One request: its rows are there, and one message for its deliveries, with ids alone, in the email queue."""
    expected = {"notifications": 1, "deliveries": 1, "repeated": 0}
    assert expected == tasks.create(request=wire(MAILED))
    [delivery] = rows(Delivery)
    assert [("notifications.deliver", {"delivery_ids": [str(delivery.id)]})] == published(broker, "email")
    with redis.server.client() as client:
        assert [] == client.pubsub_channels("*task-meta*"), "nobody waits for a result that nobody stores"


def test_urgent_deliveries_have_their_own_queue(broker: Celery) -> None:
    """A password mail does not wait behind the others."""
    tasks.create_many(requests=[wire(MAILED), wire(MAILED, **URGENT)])
    assert [1, 1] == [len(published(broker, queue)) for queue in ("email_high", "email")]


def test_a_repeated_create_adds_nothing(broker: Celery) -> None:
    """The broker may deliver the message again, even much later."""
    request = wire(MAILED)
    tasks.create(request=request)
    assert {"notifications": 0, "deliveries": 0, "repeated": 1} == tasks.create(request=request)
    assert [1, 1] == [len(rows(Notification)), len(published(broker, "email"))]


def test_create_many_creates_the_right_ones(broker: Celery) -> None:
    """Those that are wrong are named by place or id; the others are there all the same."""
    known = wire("first")
    tasks.create(request=known)
    conflict = {**known, "context": {"title": "Emma"}}
    with pytest.raises(PartlyRefused, match="2 of 4 requests refused") as caught:
        tasks.create_many(requests=[wire("second"), {"to": []}, conflict, wire("third")])
    assert "requests.1: " in str(caught.value)
    assert f"{known['id']}: {IdempotencyConflict.__name__}" in str(caught.value)
    assert {"first", "second", "third"} == {row.recipient_id for row in rows(Notification)}
    kept = [row.payload for row in rows(Request) if row.status == "failed"]
    expected: list[Any] = [{"to": []}, conflict]
    assert all(asked in kept for asked in expected)


def test_a_large_audience_is_fanned_out(broker: Celery, configure: Configure) -> None:
    """It waits as pages, which wake-ups on the bulk queue create; asked again either way, everyone is told once."""
    configure(CREATE_BATCH=2)
    request = wire([f"reader-{number}" for number in range(5)])
    assert 1 == tasks.create(request=request)["fan_outs"]
    wake_up = ("notifications.create_pending", {"bulk": True})
    assert [wake_up] == published(broker, "bulk")
    assert {"fan_outs": 0} == tasks.fan_out(request=request)
    assert 1 == tasks.create(request=request)["repeated"]
    assert {"requests": 4} == tasks.create_pending(bulk=True)
    assert [wake_up] * 3 == published(broker, "bulk"), "one for each page, so that others help"
    assert 5 == len(rows(Notification))


def test_beat_finds_what_nobody_took(broker: Celery) -> None:
    """Due deliveries are handed over in batches, urgent ones apart; waiting requests are woken, each in its queue."""
    ids = {str(id) for id in put_deliveries(60)}
    [urgent] = put_deliveries(urgency=0)
    with transaction() as session:
        for bulk in (False, True):
            waiting = {"fingerprint": "0" * 64, "status": "pending", "payload": wire(), "created_at": ago(hours=1)}
            session.add(Request(id=uuid7(), bulk=bulk, **waiting))

    assert {"deliveries": 61} == tasks.dispatch_due()
    assert [{"delivery_ids": [str(urgent)]}] == [arguments for _, arguments in published(broker, "email_high")]
    batches = [arguments["delivery_ids"] for _, arguments in published(broker, "email")]
    assert [50, 10] == [len(batch) for batch in batches]
    assert ids == {id for batch in batches for id in batch}
    for queue, bulk in (("notifications", False), ("bulk", True)):
        assert [("notifications.create_pending", {"bulk": bulk})] == published(broker, queue)
    assert {"deliveries": 0} == tasks.dispatch_due()


def test_no_more_is_handed_over_than_workers_take(broker: Celery, configure: Configure) -> None:
    """A backlog stays in the database while messages wait; a full batch that is done makes room for the next."""
    configure(DELIVER_BATCH=2, SMTP_URL=f"smtp://127.0.0.1:{free_port()}?tls=none")
    put_deliveries(100)
    most = 2 * handover.DISPATCH_AHEAD
    assert [{"deliveries": most}, {"deliveries": 0}] == [tasks.dispatch_due(), tasks.dispatch_due()]
    first, *others = published(broker, "email")
    assert handover.DISPATCH_AHEAD == 1 + len(others)
    done = tasks.deliver(**first[1])
    assert 2 == done["later"] + done["given_back"]
    assert handover.DISPATCH_AHEAD == len(published(broker, "email"))


def test_a_purge_that_runs_out_of_time_goes_on(broker: Celery, configure: Configure) -> None:
    """It publishes itself again with the same cutoff, until it is done."""
    configure(PURGE_BATCH=2, PURGE_BUDGET_SECONDS="0.000000001")
    put_notifications(3)
    cutoff = (THEN + timedelta(days=1)).isoformat()
    assert {"removed": 2, "finished": False} == tasks.purge_seen(older_than=cutoff)
    [(name, arguments)] = published(broker, "maintenance")
    assert "notifications.purge_seen" == name
    assert {"removed": 1, "finished": True} == tasks.purge_seen(**arguments)
    assert [] == published(broker, "maintenance")
    assert 1 == len({row.cutoff for row in rows(PurgeRun)})


@pytest.mark.parametrize("older_than", ["2026-01-31T12:00:00", "yesterday", ["2026"]])
def test_a_cutoff_without_zone_is_refused(older_than: Any) -> None:
    """A moment that could mean several is no cutoff."""
    put_notifications(3)
    with pytest.raises(InvalidRequest, match="older_than"):
        tasks.purge_seen(older_than=older_than)
    assert 3 == len(rows(Notification))


def test_retract_removes_what_is_about_the_object(broker: Celery) -> None:
    """And the email that had not gone out yet; what is about something else stays."""
    about = {"object_type": "book", "object_id": "1"}
    tasks.create_many(requests=[wire(MAILED, **about), wire(MAILED), wire(MAILED, **{**about, "object_id": "2"})])
    assert {"removed": 1} == tasks.retract(**about)
    assert [2, 2] == [len(rows(Notification)), len(rows(Delivery))]
    assert {"removed": 0} == tasks.retract(**about)


def test_the_broker_away_loses_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The rows are committed, the failed hand-over is logged without ids or addresses, and beat finds them later."""
    app = make_app(Settings(broker_url=f"redis://127.0.0.1:{free_port()}/0"))
    root.app.set_current()
    monkeypatch.setattr(handover, "app", app)
    with caplog.at_level(logging.WARNING, "worker.handover"):
        assert 1 == tasks.create(request=wire(MAILED))["deliveries"]
    app.close()

    assert "the broker could not be reached" in caplog.text
    [delivery] = rows(Delivery)
    assert ("pending", 0) == (delivery.status, delivery.attempts)
    assert not {"reader", "example.com", str(delivery.id)} & set(caplog.text.split())
    with transaction() as session:
        assert {1: [delivery.id]} == take_due(session, utcnow() + timedelta(minutes=2), 10)


def json_of(private: Any) -> Any:
    """What the caller of a task gets."""
    return private.__json__()


def test_the_inbox_by_tasks(broker: Celery) -> None:
    """Every function of the inbox, for callers without the database: the same results, as JSON."""
    for title in ("first", "second"):
        tasks.create(request=wire(title=title))
    page = json_of(inbox_tasks.list_(recipient_id="reader", per_page=1, order="asc"))
    assert ["first"] == [item["title"] for item in page["items"]]
    rest = json_of(inbox_tasks.list_(recipient_id="reader", order="asc", cursor=page["next_cursor"]))
    assert ["second"] == [item["title"] for item in rest["items"]]

    id = page["items"][0]["id"]
    assert "first" == json_of(inbox_tasks.get(recipient_id="reader", id=id))["title"]
    assert json_of(inbox_tasks.get(recipient_id="other", id=id)) is None
    assert json_of(inbox_tasks.mark_seen(recipient_id="reader", id=id))["seen_at"]
    assert {"total": 2, "unseen": 1} == json_of(inbox_tasks.counts(recipient_id="reader"))
    assert json_of(inbox_tasks.mark_seen(recipient_id="reader", id=str(uuid4()))) is None
    assert 1 == json_of(inbox_tasks.mark_all_seen(recipient_id="reader"))
    assert [] == json_of(inbox_tasks.event_types(recipient_id="reader"))
    assert json_of(inbox_tasks.delete(recipient_id="reader", id=id)) is True
    assert json_of(inbox_tasks.delete(recipient_id="reader", id=id)) is False
    assert 0 == json_of(inbox_tasks.delete_seen(recipient_id="reader", older_than=ago(days=1).isoformat()))
    assert 1 == json_of(inbox_tasks.delete_seen(recipient_id="reader"))


def test_the_directory_by_tasks() -> None:
    """Recipients, groups, preferences and suppressions, as `worker.recipients` keeps them."""
    assert 1 == json_of(directory_tasks.upsert(entries=[{**MAILED, "lang": "de"}]))
    directory_tasks.set_group(group="readers", recipient_ids=["reader"])
    directory_tasks.set_preference(recipient_id="reader", event_config_name="mention", enabled=False)
    directory_tasks.suppress(address="Away@example.com")
    found = [
        rows(Recipient)[0].lang,
        rows(GroupMember)[0].name,
        rows(Preference)[0].enabled,
        rows(Suppression)[0].reason,
    ]
    assert ["de", "readers", False, "asked"] == found
    with transaction() as session:
        assert {"away@example.com"} == recipients.suppressed(session, ["AWAY@example.com"])
    assert json_of(directory_tasks.remove(recipient_id="reader")) is True
    assert json_of(directory_tasks.remove(recipient_id="reader")) is False


@pytest.mark.parametrize(
    ("task", "arguments", "named"),
    [
        (inbox_tasks.get, {"recipient_id": "reader", "id": "canary"}, "id: "),
        (inbox_tasks.list_, {"recipient_id": "reader", "order": "canary"}, "order: "),
        (inbox_tasks.list_, {"recipient_id": "reader", "per_page": 100_000}, "per_page: "),
        (inbox_tasks.counts, {}, "recipient_id: "),
        (directory_tasks.upsert, {"entries": [{"id": "canary", "lang": "canary!"}]}, "recipients.0.lang: "),
        (directory_tasks.suppress, {"address": "canary"}, "address: "),
        (directory_tasks.suppress, {"address": "a@example.org", "reason": "canary" * 10}, "reason: "),
        (directory_tasks.preferences, {"recipient_id": "reader", "channel": "canary"}, "channel: "),
        *(
            (task, {"address": "a@example.org", "channel": "inbox"}, "channel: ")
            for task in (directory_tasks.suppress, directory_tasks.unsuppress, directory_tasks.is_suppressed)
        ),
        (
            directory_tasks.set_preference,
            {"recipient_id": "reader", "event_config_name": "mention", "enabled": False, "channel": "canary"},
            "channel: ",
        ),
        (tasks.deliver, {"delivery_ids": ["canary"]}, "delivery_ids.0: "),
    ],
)
def test_wrong_arguments_are_named(task: Any, arguments: dict[str, Any], named: str) -> None:
    """The field and its rule, never the value."""
    with pytest.raises(InvalidRequest, match=named) as caught:
        task(**arguments)
    assert "canary" not in str(caught.value)


def test_deliver_takes_ids_as_text(configure: Configure) -> None:
    """As the broker brings them; what they are about is decided by the rows."""
    configure(SMTP_URL=f"smtp://127.0.0.1:{free_port()}?tls=none")
    [id] = put_deliveries()
    done = tasks.deliver(delivery_ids=[str(id), str(uuid7())])
    assert {"sent": 0, "later": 1, "failed": 0, "skipped": 0, "given_back": 0} == done
    with transaction() as session:
        assert UUID(str(id)) == session.scalar(select(Delivery.id).where(Delivery.status == "pending"))


def test_old_request_records_are_forgotten() -> None:
    """The shell of the use case that test_purge checks."""
    with transaction() as session:
        session.add(Request(id=uuid7(), fingerprint="0" * 64, status="created", created_at=ago(days=400)))
    assert {"removed": 1} == tasks.purge_requests()

"""What an operator sees of deliveries and requests that failed, and how they are put back."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import delete, update

from tests.channel import hold
from tests.rows import THEN, ago, change_delivery, get_delivery, put_deliveries
from tests.store import NOW, ask, create, enqueue, rows
from worker import failed, handover, intake, recipients
from worker.channels import Outcome, Verdict
from worker.claims import claim
from worker.cli import cli
from worker.cli import repair as commands
from worker.database import transaction, utcnow
from worker.errors import IdempotencyConflict, InvalidRequest, UnknownRecipient
from worker.failed import Failure
from worker.ids import uuid7
from worker.models import AttachmentContent, Attempt, Content, Delivery, Notification, Request
from worker.outcomes import record
from worker.tables import Base

pytestmark = pytest.mark.usefixtures("catalogue", "engine")

MAILED = {"id": "paul", "email": "paul.atreides@example.org"}


@pytest.fixture(autouse=True)
def woken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that the commands publish."""
    published: list[str] = []
    monkeypatch.setattr(handover, "publish", lambda name, **_: published.append(name))
    return published


def run(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, input=input, catch_exceptions=False)


def listed(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(*arguments, "--json").output)
    return found


def keep(to: Any, error: Exception, **fields: Any) -> UUID:
    """A message that failed; gives the id that it was asked under."""
    id = fields.pop("id", None) or uuid7()
    payload = {"id": str(id), "to": to, "event_config_name": "book_available", "context": {"title": "Dune"}, **fields}
    with transaction() as session:
        failed.keep(session, [Failure(payload, error)], now=utcnow())
    return UUID(str(id))


def test_deliveries_are_chosen_and_masked() -> None:
    """The newest first, those that wait the most urgent first; addresses only when asked for."""
    [old] = put_deliveries(due_at=ago(days=2), status="failed", reason="transient", last_error="RCPT: 450 busy")
    [new] = put_deliveries(status="failed", event="mention", address=None)
    [late, urgent] = [*put_deliveries(due_at=ago(hours=2)), *put_deliveries(urgency=0)]
    assert [new, old] == [UUID(row["id"]) for row in listed("deliveries", "--status", "failed")]
    assert [urgent, late] == [UUID(row["id"]) for row in listed("deliveries", "--status", "pending")]
    assert [new] == [UUID(row["id"]) for row in listed("deliveries", "--event", "mention")]
    assert [old] == [UUID(row["id"]) for row in listed("deliveries", "--status", "failed", "--before", "1d")]
    assert [new] == [UUID(row["id"]) for row in listed("deliveries", "--status", "failed", "--since", "1d")]
    assert [] == listed("deliveries", "--recipient", "nobody")
    shown = run("deliveries", "--id", str(old)).output
    assert all(part in shown for part in (str(old), "failed: transient", "r***@example.com", "RCPT: 450 busy"))
    assert "reader@example.com" not in shown
    assert "reader@example.com" in run("deliveries", "--show-addresses").output
    assert "1 shown; there may be more" in run("deliveries", "--limit", "1").output


def test_what_waits_for_its_channel_says_so() -> None:
    """In the list and in the story, while the channel is paused or cut off; of what does not wait, nothing."""
    [waits], [lost] = put_deliveries(), put_deliveries(status="failed")
    assert [None, None] == [row["held"] for row in listed("deliveries")]
    assert "held" not in explained(waits)
    for state, words in (
        ({"paused_at": THEN}, "email is paused by an operator since 2026-01-31 12:00:00 UTC"),
        ({"paused_at": None, "failures": 5, "open_until": ago(hours=-1)}, "cut off by its circuit breaker"),
    ):
        hold(**state)
        shown = " ".join(run("deliveries", "--status", "pending").output.split())
        assert words in shown
        assert words not in " ".join(run("deliveries", "--status", "failed").output.split())
        [story, other] = explained(waits), explained(lost)
        assert words in story
        assert "`bellhop resume email` lets it go on" in story
        assert words not in other
    states = {row["id"]: row["held"] and row["held"]["state"] for row in listed("deliveries")}
    assert {str(waits): "cut off", str(lost): None} == states


def test_requests_are_chosen() -> None:
    """Those that failed say why; what was asked is shown only when asked for."""
    create(ask("paul"))
    id = keep({"username": "CANARY"}, UnknownRecipient("to.0: no such username"))
    [row] = listed("requests", "--status", "failed")
    assert (str(id), "UnknownRecipient: to.0: no such username") == (row["id"], row["error"])
    output = run("requests").output
    assert all(part in output for part in (str(id), "failed", "created", "no such username", "2 shown"))
    assert "CANARY" not in output
    [shown] = json.loads(run("requests", "--id", str(id), "--payload").output)
    assert {"username": "CANARY"} == shown["payload"]["to"]


def test_replay_puts_failed_deliveries_back(woken: list[str]) -> None:
    """Due now, as if never tried, under the same id; nothing that was sent, waits, or is not meant."""
    [lost] = put_deliveries(status="failed", reason="transient", attempts=12, last_error="RCPT: 450 busy")
    [other] = put_deliveries(status="failed", event="mention")
    held, sent = put_deliveries(status="unknown") + put_deliveries(status="sent", parts=None)
    arguments = ["--event", "book_available"]
    assert "1 would be put back\n" == run("replay", *arguments, "--dry-run").output
    assert ([], "failed") == (woken, get_delivery(lost).status)
    assert "1 put back\n" == run("replay", *arguments).output
    row = get_delivery(lost)
    assert ("pending", 0, None) == (row.status, row.attempts, row.reason)
    assert row.due_at <= utcnow()
    assert ["notifications.dispatch_due"] == woken
    assert ["failed", "unknown", "sent"] == [get_delivery(id).status for id in (other, held, sent)]
    assert "1 put back\n" == run("replay", "--status", "unknown", "--id", str(held)).output
    for status in ("sent", "pending", "sending"):
        assert 2 == run("replay", "--status", status).exit_code
    change_delivery(other, parts=None)
    gone = run("replay")
    assert (1, True) == (gone.exit_code, "could not be put back" in gone.output)


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_replay_of_an_id_that_there_is_not(options: list[str]) -> None:
    """It is named, with exit code 1; the others are put back. Of a delivery its notification's id is as good."""
    [lost], [sent] = put_deliveries(status="failed"), put_deliveries(status="sent", parts=None)
    about, wrong = get_delivery(lost).notification_id, uuid7()
    ids = [f"--id={id}" for id in (about, sent, wrong)]
    result = run("replay", *ids, *options)
    assert (1, "1") == (result.exit_code, result.stdout.split()[0])
    assert f"{wrong}: there is no such delivery that is failed\n" in result.stderr
    assert (True, False) == (str(sent) in result.stderr, str(about) in result.stderr)

    asked = keep({"username": "muaddib"}, UnknownRecipient())
    result = run("replay", "--requests", "--id", str(wrong), "--id", str(asked), *options)
    assert (1, "1") == (result.exit_code, result.stdout.split()[0])
    assert f"{wrong}: there is no such request that is failed\n" == result.stderr


FILE = {"name": "plan.txt", "content_type": "text/plain", "content": "Q0FOQVJZ"}


@pytest.mark.parametrize("gone", [Content, AttachmentContent])
def test_a_dry_run_says_what_the_run_does(gone: type[Base]) -> None:
    """Also of mails, alone or with much in common, whose contents or files are gone: those are not put back."""
    for to in (MAILED, [{**MAILED, "id": name} for name in ("chani", "jessica")]):
        create(ask(to, attachments=[FILE]), ask(to))
    with transaction() as session:
        session.execute(update(Delivery).values(status="failed"))
    assert ("6 would be put back\n", 0) == ((all_of := run("replay", "--dry-run")).output, all_of.exit_code)
    assert {"failed"} == {row.status for row in rows(Delivery)}
    assert [] == rows(Attempt)
    with transaction() as session:
        session.execute(delete(gone))
    rehearsed, done = run("replay", "--dry-run"), run("replay")
    left = {Content: 2, AttachmentContent: 3}[gone]
    assert done.output.startswith(f"{left} put back\n{6 - left} could not be put back: their text or a file")
    assert (done.output.replace("put back\n", "would be put back\n"), 1) == (rehearsed.output, rehearsed.exit_code)
    with transaction() as session:
        _claimed, skipped = claim(session, [row.id for row in rows(Delivery)], utcnow(), utcnow())
    assert 0 == skipped


def test_replay_of_what_was_skipped_names_its_reason() -> None:
    """Its text was never kept, and that is said; else whatever was skipped on purpose would be sent."""
    create(ask("paul"))
    assert 2 == run("replay", "--status", "skipped").exit_code
    result = run("replay", "--status", "skipped", "--reason", "no_address")
    assert (1, True) == (result.exit_code, "their text or a file is not kept" in result.output)
    assert ["skipped"] == [row.status for row in rows(Delivery)]


def test_replay_of_many_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is told not to."""
    monkeypatch.setattr(commands, "ASK_ABOVE", 2)
    put_deliveries(3, status="failed")
    assert 1 == run("replay", input="n\n").exit_code
    assert {"failed"} == {row.status for row in rows(Delivery)}
    assert 0 == run("replay", "--yes").exit_code
    assert {"pending"} == {row.status for row in rows(Delivery)}


def test_replay_of_requests_creates_what_was_mended(woken: list[str]) -> None:
    """A message and a waiting row alike, with their ids and keys; what is still no good stays, with its error."""
    mended = keep({"username": "muaddib"}, UnknownRecipient(), idempotency_key="loan-1")
    wrong = keep([], InvalidRequest("to: at least one recipient"))
    enqueue(ask({"username": "muaddib"}))
    list(intake.take_waiting(transaction, limit=9, bulk=False, ends=()))
    with transaction() as session:
        recipients.upsert(session, [{"id": "paul", "username": "muaddib"}])

    before = [(row.id, row.status, row.error) for row in rows(Request)]
    rehearsed = run("replay", "--requests", "--dry-run")
    assert ([], before) == (woken, [(row.id, row.status, row.error) for row in rows(Request)])
    result = run("replay", "--requests")
    assert (1, result.output.replace("2 put", "2 would be put")) == (rehearsed.exit_code, rehearsed.output)
    assert (1, True) == (result.exit_code, f"{wrong} is still refused: InvalidRequest" in result.output)
    assert "2 put back\n" in result.output
    assert ["notifications.create_pending"] == woken
    list(intake.take_waiting(transaction, limit=9, bulk=False, ends=()))
    assert ["paul", "paul"] == [row.recipient_id for row in rows(Notification)]
    states = {row.request_id or row.id: (row.status, row.idempotency_key) for row in rows(Request)}
    assert (("created", "loan-1"), ("failed", None)) == (states[mended], states[wrong])


def test_replay_keeps_the_time_of_asking() -> None:
    """Whether it is refused again, as often as it may be, or created."""
    id = keep({"username": "muaddib"}, UnknownRecipient())
    asked, seen = ago(days=3), []
    with transaction() as session:
        session.execute(update(Request).values(created_at=asked))
    for _ in range(2):
        assert "1 put back\n" == run("replay", "--requests").output
        list(intake.take_waiting(transaction, limit=9, bulk=False, ends=()))
        [row] = rows(Request)
        seen.append((row.status, row.created_at))
    with transaction() as session:
        recipients.upsert(session, [{"id": "paul", "username": "muaddib"}])
    run("replay", "--requests", "--id", str(id))
    list(intake.take_waiting(transaction, limit=9, bulk=False, ends=()))
    [row] = rows(Request)
    assert [("failed", asked)] * 2 + [("created", asked)] == [*seen, (row.status, row.created_at)]


def test_replay_of_a_conflict_stays_refused() -> None:
    """The other request has the name; asked meanwhile as it is, it has been created."""
    first = ask("paul", idempotency_key="loan-1")
    create(first)
    keep("chani", IdempotencyConflict(), idempotency_key="loan-1")
    same = first.to_wire()
    keep(same.pop("to"), IdempotencyConflict(), **same)
    result = run("replay", "--requests")
    assert (1, True) == (result.exit_code, "is still refused: IdempotencyConflict" in result.output)
    assert "0 put back\n1 had been created meanwhile\n" in result.output
    assert ["failed"] == [row.status for row in rows(Request) if row.request_id]


def test_replay_with_another_payload(tmp_path: Path) -> None:
    """What cannot be mended elsewhere is asked in other words, under its own id."""
    id = keep([], InvalidRequest())
    file = tmp_path / "mended.json"
    file.write_text('{"to": "paul", "title": "Mended"}', encoding="utf-8")
    assert 2 == run("replay", "--requests", "--payload", str(file)).exit_code
    assert "1 put back\n" == run("replay", "--requests", "--id", str(id), "--payload", str(file)).output
    list(intake.take_waiting(transaction, limit=9, bulk=False, ends=()))
    assert [(id, "Mended")] == [(row.request_id, row.title) for row in rows(Notification)]


def explained(name: object) -> str:
    result = run("explain", str(name))
    assert 0 == result.exit_code
    return result.output


def test_explain_tells_the_whole_story() -> None:
    """By the id of the notification, of the delivery, of the request, or by its key: asked, decided, tried, sent."""
    request = ask(MAILED, lang="fi", idempotency_key="loan-1")
    create(request, now=utcnow())
    [delivery], [notification] = rows(Delivery), rows(Notification)
    for verdict, words in ((Verdict.TRANSIENT, "RCPT: 450 4.2.0 busy"), (Verdict.SENT, "250 ok")):
        change_delivery(delivery.id, due_at=ago(seconds=1))
        with transaction() as session:
            [one], _skipped = claim(session, [delivery.id], utcnow(), utcnow())
            record(session, [(one, Outcome(delivery.id, verdict, words))], utcnow())
    [attempt] = rows(Attempt)
    assert (1, "transient", "RCPT: 450 4.2.0 busy") == (attempt.number, attempt.verdict, attempt.detail)
    stories = {explained(name) for name in (notification.id, delivery.id, request.id, "loan-1")}
    assert 1 == len(stories)
    [story] = stories
    for part in (
        f"Request {request.id}",
        "under the key loan-1",
        f"Notification {notification.id}: book_available, to paul",
        "language en, as there is none in fi",
        "p***@example.org",
        "transient: RCPT: 450 4.2.0 busy",
        f"at try 2, Message-ID <{delivery.id}@",
        "seen     no",
    ):
        assert part in story
    assert "atreides" not in story
    assert (
        str(delivery.id)
        == json.loads(run("explain", "loan-1", "--json").output)["notifications"][0]["deliveries"][0]["id"]
    )


def test_explain_tells_why_there_is_nothing() -> None:
    """No email, no notification any more, a request that failed; and what nobody knows is a failure."""
    quiet, gone = ask("paul", "quiet", context={"title": "Dune"}), ask("chani")
    create(quiet, gone)
    assert "none asked for: the event asks for no email" in explained(quiet.id)
    assert "skipped: no_address, neither the request nor the directory" in explained(gone.id)
    with transaction() as session:
        recipients.erase(session, "chani", now=NOW)
    assert "No notification of it is left" in explained(gone.id)
    refused = keep("paul", InvalidRequest("to: wrong"))
    assert all(part in explained(refused) for part in ("as a message", "failed; what was asked is kept", "to: wrong"))
    nothing = run("explain", str(uuid7()))
    assert (1, True) == (nothing.exit_code, "Nothing of that id" in nothing.output)

"""A context for each recipient of one request: who reads what, what is checked, and that it stays theirs."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from tests.store import LATER, NOW, ask, by_recipient, counted, create, enqueue, filled, rows, take
from worker import fan_out, recipients, repair
from worker import prepare as preparing
from worker.database import transaction
from worker.errors import BellhopError, IdempotencyConflict, InvalidContext, InvalidRequest, TemplateFailed
from worker.models import Content, Delivery, Notification, Request
from worker.render import Rendered, render
from worker.request import NotificationRequest

pytestmark = pytest.mark.usefixtures("catalogue")

CANARY = "Quetz4lcoatl"


def who(id: str, title: str | None = None, **fields: Any) -> dict[str, Any]:
    """An entry of `to`, about a book of its own if one is named."""
    return {"id": id, **fields, **({"context": {"title": title}} if title is not None else {})}


def titles() -> dict[str, str]:
    return {id: row.title for id, row in by_recipient().items()}


def refused(request: NotificationRequest) -> BellhopError:
    """The one reason why the request was not created; no row is left of it."""
    [error] = create(request).refused.values()
    assert not filled() & {"notifications", "deliveries", "requests"}
    return error


def test_what_has_no_context_of_its_own() -> None:
    """A group's members get the request's; a literal text has none."""
    with pytest.raises(InvalidRequest, match=r"^to\.0: context goes with an id or a username"):
        ask({"group": "fremen", "context": {"title": "Dune"}})
    with pytest.raises(InvalidRequest, match=r"^request: context is given only with event_config_name"):
        ask([who("paul", "Dune")], None, title="Hi")
    with pytest.raises(InvalidRequest), transaction() as session:
        recipients.upsert(session, who("paul", "Dune"))


def test_two_contexts_are_two_requests(engine: Engine) -> None:
    """Whatever the order of their names; another value under the same key is a conflict."""
    both = {"title": "Dune", "pickup_location": "desk"}
    first = ask({"id": "paul", "context": both}, idempotency_key="k")
    again = ask({"id": "paul", "context": dict(reversed(both.items()))}, idempotency_key="k")
    other = ask(who("paul", "Solaris"), idempotency_key="k")
    assert (1, 1) == (create(first).notifications, create(again).repeated)
    assert [IdempotencyConflict] == [type(error) for error in create(other).refused.values()]
    assert {"paul": "Dune is here"} == titles()


# What becomes of it.


def test_each_reads_their_own(engine: Engine) -> None:
    """Its values win over the request's; who has none reads the request's; language and username as ever."""
    with transaction() as session:
        recipients.upsert(session, {"id": "chani", "username": "sihaya", "lang": "pt"})
    to = [who("paul", "Solaris", lang="de"), {"username": "sihaya", "context": {"title": "Ubik"}}, "stilgar"]
    to.append({"id": "alia", "context": {"pickup_location": "the desk"}})
    done = create(ask(to, should_email=False))
    assert (4, 0) == (done.notifications, done.deliveries)
    found = by_recipient()
    assert {id: (row.lang, row.title, row.context) for id, row in found.items()} == {
        "paul": ("de", "Solaris ist da", {"title": "Solaris"}),
        "chani": ("pt", "Ubik chegou", {"title": "Ubik"}),
        "stilgar": ("en", "Dune is here", {"title": "Dune"}),
        "alia": ("en", "Dune is here", {"title": "Dune", "pickup_location": "the desk"}),
    }
    assert "Pick up Dune at the desk." == found["alia"].text


def test_each_gets_their_own_email(engine: Engine) -> None:
    """Its parts are its own; who gets none is skipped for the reason there is."""
    to = [who(f"r{n}", f"Volume {n}", email=f"r{n}@example.org") for n in range(4)] + [who("nobody", "Ubik")]
    with transaction() as session:
        recipients.suppress(session, "r2@example.org", "bounced", NOW)
    assert 5 == create(ask(to)).deliveries
    told = {row.id: row.recipient_id for row in rows(Notification)}
    found = {told[row.notification_id]: row for row in rows(Delivery)}
    subjects = {id: row.parts and row.parts["subject"] for id, row in found.items()}
    assert subjects == {"nobody": None, "r2": None} | {f"r{n}": f"Volume {n} is here" for n in (0, 1, 3)}
    assert [(None, "r1@example.org")] == [(row.content_id, row.address) for id, row in found.items() if id == "r1"]
    assert ("suppressed", "no_address") == (found["r2"].reason, found["nobody"].reason)
    assert [] == rows(Content)


def test_whoever_is_left_out_takes_no_one_elses(engine: Engine) -> None:
    """The sender, and those who turned the event off in their inbox or by email: the others keep their own."""
    with transaction() as session:
        recipients.set_preference(session, "b", "mention", enabled=False, channel="inbox")
        recipients.set_preference(session, "c", "mention", enabled=False)
    to = [{"id": id, "email": f"{id}@example.org", "context": {"who": id.upper()}} for id in "abcde"]
    create(ask(to, "mention", sender_id="a", context={"who": "nobody"}))
    found = {row.recipient_id: row for row in rows(Notification)}
    assert {id: f"{id.upper()} mentions you" for id in "bcde"} == {id: row.title for id, row in found.items()}
    assert ["b"] == [id for id, row in found.items() if row.expire_at == row.created_at]
    emails = {row.address: row.parts and row.parts["subject"] for row in rows(Delivery)}
    assert emails == {
        "b@example.org": "B mentions you", "c@example.org": None,
        "d@example.org": "D mentions you", "e@example.org": "E mentions you",
    }  # fmt: skip


def test_what_is_secret_is_not_kept(engine: Engine) -> None:
    """The email has it, the notification not."""
    to = [{"id": id, "email": f"{id}@example.org", "context": {"link": f"https://x.org/{id}"}} for id in ("a", "b")]
    create(ask(to, "password_reset"))
    assert {None} == {row.context for row in rows(Notification)}
    assert {"Reset it here: https://x.org/a", "Reset it here: https://x.org/b"} == {
        row.parts["text"].strip() for row in rows(Delivery) if row.parts
    }


def test_equal_contexts_are_rendered_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """For readers of one language; and the statements are as many as for one recipient."""
    seen = []

    def counting(name: str, lang: str, context: Mapping[str, Any], **more: Any) -> Rendered:
        seen.append((lang, context["title"]))
        return render(name, lang, context, **more)

    monkeypatch.setattr(preparing, "render", counting)
    with counted() as few:
        create(ask([who("r", "Ubik")]))
    seen.clear()
    with counted() as many:
        create(ask([who(f"r{n}", f"Volume {n % 3}", lang="de" if n % 2 else "en") for n in range(300)]))
    assert [(lang, f"Volume {n}") for lang in ("de", "en") for n in range(3)] == sorted(seen)
    assert len(few) == len(many)
    assert titles()["r298"] == "Volume 1 is here"


@pytest.mark.parametrize("bulk", [False, True])
def test_one_that_is_wrong_is_named_by_its_place(engine: Engine, configure: Callable[..., None], bulk: bool) -> None:
    """Nothing is created, of a large audience neither; the error holds no value."""
    configure(CREATE_BATCH=1 if bulk else 10)
    asked = ask(["paul", {"group": "g"}, who("chani", CANARY), {"id": "alia", "context": {CANARY: 1}}])
    with transaction() as session:
        recipients.set_group(session, "g", ["stilgar"])
    if not bulk:
        assert "to.3.context: context of book_available: not declared: " + CANARY == str(refused(asked))
        return
    enqueue(asked)
    assert 0 == take()[1].fan_outs
    [row] = rows(Request)
    assert ("failed", f"InvalidContext: to.3.context: context of book_available: not declared: {CANARY}") == (
        row.status, row.error,
    )  # fmt: skip
    assert row.payload is not None


@pytest.mark.parametrize("bulk", [False, True])
def test_what_all_lack_is_said_of_the_request(engine: Engine, configure: Callable[..., None], bulk: bool) -> None:
    """The one without a context of their own reads the request's, which is not whole."""
    asked = ask([who("paul", "Dune"), {"group": "g"} if bulk else "chani"], context={})
    if bulk:
        configure(CREATE_BATCH=1)
        with transaction() as session:
            recipients.set_group(session, "g", ["stilgar"])
        with pytest.raises(InvalidContext, match=r"^context of"), transaction() as session:
            fan_out.begin(session, asked, now=NOW)
        return
    error = refused(asked)
    assert (InvalidContext, "context of book_available: missing: title") == (type(error), str(error))


def test_who_is_named_twice_reads_their_own(engine: Engine) -> None:
    """Also where they are a member of a group as well."""
    with transaction() as session:
        recipients.set_group(session, "fremen", ["paul", "chani"])
    create(ask([{"group": "fremen"}, who("paul", "Ubik"), "paul"]))
    assert {"paul": "Ubik is here", "chani": "Dune is here"} == titles()


def test_a_template_that_fails_on_one(engine: Engine, tmp_path: Path, configure: Callable[..., None]) -> None:
    """Named by place, file and rule."""
    [broken] = tmp_path.rglob("book_available/en/title.txt")
    broken.write_text("{{ title.x.y }}{{ title }}")
    error = refused(ask([who("paul", CANARY)]))
    assert isinstance(error, TemplateFailed)
    assert str(error).startswith("to.0.context: book_available/en/title.txt:1: ")
    assert CANARY not in str(error)


# On its other ways.


def test_pages_of_a_large_audience_keep_them(engine: Engine, configure: Callable[..., None]) -> None:
    """Cut into pages, with a group beside, whose members read the request's."""
    configure(CREATE_BATCH=10)
    with transaction() as session:
        recipients.set_group(session, "crowd", [f"m{n}" for n in range(15)])
    enqueue(ask([{"group": "crowd"}, *(who(f"r{n}", f"Volume {n}", lang="de") for n in range(25))]))
    assert 1 == take()[1].fan_outs
    while take(1, bulk=True)[0]:
        pass
    expected = {f"r{n}": f"Volume {n} ist da" for n in range(25)} | {f"m{n}": "Dune is here" for n in range(15)}
    assert expected == titles()
    assert {"created"} == {row.status for row in rows(Request)}


def test_a_large_audience_needs_no_context_in_common(engine: Engine, configure: Callable[..., None]) -> None:
    """Where each has one of their own, the request's may be empty."""
    configure(CREATE_BATCH=1)
    enqueue(ask([who("paul", "Dune"), who("chani", "Ubik")], context={}))
    assert 1 == take()[1].fan_outs
    take(10, bulk=True), take(10, bulk=True)
    assert {"paul": "Dune is here", "chani": "Ubik is here"} == titles()


def test_answers_and_what_supersedes(engine: Engine) -> None:
    """Rows that are looked at one by one keep their own texts."""
    to = [{"id": id, "context": {"who": id.upper()}} for id in ("a", "b")]
    about = {"object_type": "user", "object_id": "1", "sender_id": "s", "should_email": True}
    first = ask([{**one, "email": "x@example.org"} for one in to], "follow_request", context={}, **about)
    create(first)
    create(ask([{**one, "email": "x@example.org"} for one in to], "follow", context={}, **about), now=LATER)
    assert {"a": "A follows you", "b": "B follows you"} == titles()
    create(ask([who("a", "Ubik"), who("b", "Solaris")], parent_id=first.id))
    answers = {row.recipient_id: row for row in rows(Notification) if row.parent_id}
    assert {"a": "Ubik is here", "b": "Solaris is here"} == {id: row.title for id, row in answers.items()}
    assert answers["a"].parent_id != answers["b"].parent_id


def test_it_is_replayed(engine: Engine) -> None:
    """What was refused waits with all of them, and is created once it is mended."""
    enqueue(ask([who("paul", "Dune"), {"id": "chani", "context": {"colour": "red"}}]))
    take()
    [row] = rows(Request)
    assert row.payload is not None
    mended = {**row.payload, "to": [row.payload["to"][0], {"id": "chani", "context": {"title": "Ubik"}}]}
    wanted = repair.Wanted(ids=[UUID(str(row.id))])
    assert 1 == repair.replay_requests(transaction, wanted, payload=mended).back
    take()
    assert {"paul": "Dune is here", "chani": "Ubik is here"} == titles()


def test_export_and_erase_take_only_ones_own(engine: Engine) -> None:
    """The others' values are none of theirs; what is erased is in no waiting request."""
    enqueue(ask([who("paul", "Solaris"), who("chani", CANARY)]))
    with transaction() as session:
        given = json.dumps(recipients.export(session, "paul"))
        assert recipients.erase(session, "chani", now=LATER)["requests"] == 1
    assert "Solaris" in given
    assert CANARY not in given
    [row] = rows(Request)
    assert CANARY not in json.dumps(row.payload)
    take()
    assert {"paul": "Solaris is here"} == titles()

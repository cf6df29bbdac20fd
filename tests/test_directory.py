"""The directory as applications keep it: look-ups, groups, preferences, suppressions, a view in its place."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, text

from tests.store import NOW, ask, by_recipient, create, enqueue, rows, take
from worker import directory_tasks, recipients
from worker.database import transaction
from worker.errors import DirectoryReadOnly, EmptyGroup, InvalidRequest, MandatoryEvent, UnknownEvent
from worker.models import Delivery, Notification, Preference

PAUL = {"id": "paul", "username": "muaddib", "email": "paul@example.org", "lang": "de", "timezone": "Europe/Berlin"}

pytestmark = pytest.mark.usefixtures("catalogue")


def test_one_recipient_is_put_and_found(engine: Engine) -> None:
    """By id and by username; nobody else is."""
    with transaction() as session:
        assert 1 == recipients.upsert(session, PAUL)
        found = [recipients.get(session, "paul"), recipients.find(session, "muaddib")]
        assert [PAUL, PAUL] == [row and recipients.as_dict(row) for row in found]
        assert recipients.get(session, "muaddib") is recipients.find(session, "paul") is None


def test_groups_grow_and_shrink(engine: Engine) -> None:
    """Members are added and removed one by one, twice without harm, and listed in order."""
    with transaction() as session:
        recipients.add_members(session, "fremen", ["stilgar", "paul", "paul"])
        recipients.add_members(session, "fremen", ["chani", "paul"])
        recipients.add_members(session, "atreides", ["paul"])
        assert ["chani", "paul", "stilgar"] == recipients.members(session, "fremen")
        assert [1, 0] == [recipients.remove_members(session, "fremen", ["chani", "jamis"]) for _ in range(2)]
        assert ["paul", "stilgar"] == recipients.members(session, "fremen")
        assert (["atreides", "fremen"], ["fremen"]) == (
            *(recipients.groups(session), recipients.groups(session, "stilgar")),
        )
        assert [] == recipients.members(session, "nobody")


@pytest.mark.parametrize("batch", [2, 1000])
def test_a_role_without_the_author(engine: Engine, configure: Callable[..., None], batch: int) -> None:
    """Members left out are not told, in one transaction as in pages; named otherwise, they are."""
    configure(CREATE_BATCH=batch)
    with transaction() as session:
        recipients.set_group(session, "admins", ["paul", "chani", "stilgar"])
    enqueue(ask({"group": "admins", "without": ["chani"]}))
    take()
    take(bulk=True)  # cuts the pages
    take(bulk=True)
    assert {"paul", "stilgar"} == set(by_recipient())


def test_leaving_everybody_out_is_no_error(engine: Engine) -> None:
    """The only administrator's own report tells nobody; a group without members is still an error."""
    with transaction() as session:
        recipients.set_group(session, "admins", ["paul"])
    assert (0, {}) == ((done := create(ask({"group": "admins", "without": ["paul"]}))).notifications, done.refused)
    [error] = create(ask({"group": "empty", "without": ["paul"]})).refused.values()
    assert isinstance(error, EmptyGroup)
    assert 1 == create(ask(["paul", {"group": "admins", "without": ["paul"]}])).notifications


def test_without_goes_with_a_group() -> None:
    """On any other entry it is a mistake."""
    with pytest.raises(InvalidRequest, match="without goes with a group only"):
        ask({"id": "paul", "without": ["chani"]})


def test_a_mandatory_event_cannot_be_turned_off(engine: Engine) -> None:
    """Nor can one that does not exist; turning a mandatory one on is harmless."""
    with transaction() as session:
        with pytest.raises(MandatoryEvent, match="password_reset"):
            recipients.set_preference(session, "paul", "password_reset", enabled=False)
        with pytest.raises(UnknownEvent):
            recipients.set_preference(session, "paul", "no_such_event", enabled=False)
        recipients.set_preference(session, "paul", "password_reset", enabled=True)
    assert [True] == [row.enabled for row in rows(Preference)]


def test_preferences_show_what_holds(engine: Engine) -> None:
    """Of every active event: on unless turned off, and whether it may be; of an event that is gone, nothing."""
    with transaction() as session:
        recipients.set_preference(session, "paul", "mention", enabled=False)
        for name in ("gone", "password_reset"):
            session.add(Preference(recipient_id="paul", event_config_name=name, channel="email", enabled=False))
    with transaction() as session:
        found = {one["event_config_name"]: one for one in recipients.preferences(session, "paul")}
    assert {"book_available", "quiet", "password_reset", "mention", "follow_request", "follow"} == set(found)
    assert (False, True, True) == tuple(found[n]["enabled"] for n in ("mention", "book_available", "password_reset"))
    assert ["password_reset"] == [name for name, one in found.items() if one["mandatory"]]


def test_suppressions_come_and_go(engine: Engine) -> None:
    """Whatever the case of its letters, an address is suppressed until it is taken off the list."""
    with transaction() as session:
        recipients.suppress(session, "Paul@Example.org", "bounced", NOW)
        assert recipients.is_suppressed(session, "paul@example.ORG")
        assert [True, False] == [recipients.unsuppress(session, "PAUL@example.org") for _ in range(2)]
        assert not recipients.is_suppressed(session, "paul@example.org")


def test_an_applications_own_table_as_a_view(engine: Engine) -> None:
    """Creating finds its users; writing is refused before it reaches the application's table."""
    with transaction() as session:
        session.execute(text("DROP TABLE recipients"))
        session.execute(
            text("CREATE TABLE users (id integer primary key, login text, mail text, locale text, zone text)")
        )
        session.execute(
            text(
                "CREATE VIEW recipients AS SELECT CAST(id AS varchar(255)) AS id, login AS username, mail AS email,"
                " locale AS lang, zone AS timezone FROM users"
            )
        )
        session.execute(text("INSERT INTO users VALUES (42, 'ada', 'ada@example.org', 'de', 'Europe/Berlin')"))
    create(ask({"username": "ada"}))
    assert [("42", "de")] == [(row.recipient_id, row.lang) for row in rows(Notification)]
    assert [("ada@example.org", "pending")] == [(row.address, row.status) for row in rows(Delivery)]
    with transaction() as session:
        with pytest.raises(DirectoryReadOnly, match="change"):
            recipients.upsert(session, {"id": "43"})
        with pytest.raises(DirectoryReadOnly, match="change"):
            recipients.delete(session, "42")
        assert 0 == recipients.erase(session, "42", now=NOW)["recipients"]
        assert 1 == session.scalar(text("SELECT count(*) FROM users"))
    assert [] == rows(Notification)


@pytest.mark.parametrize(
    ("should_email", "event", "expected"),
    [(False, "book_available", "asked_not"), (None, "quiet", "event_default"), (None, None, "no_event"),
     (True, None, None), (None, "book_available", None)],
)  # fmt: skip
def test_why_no_email_was_asked(engine: Engine, should_email: bool | None, event: str | None, expected: str) -> None:
    """The notification says it where no delivery row does; of the two exactly one is there."""
    about = {"title": "Hello"} if event is None else {"context": {"title": "Dune"}}
    create(ask("paul", event, should_email=should_email, **about))
    assert expected == by_recipient()["paul"].email_reason
    assert (expected is None) == bool(rows(Delivery))


def test_the_tasks_do_the_same(engine: Engine) -> None:
    """JSON in, JSON out."""
    directory_tasks.upsert(entries=PAUL)
    assert PAUL == directory_tasks.get(username="muaddib").__json__()
    assert directory_tasks.get(recipient_id="chani").__json__() is None
    with pytest.raises(InvalidRequest):
        directory_tasks.get()
    directory_tasks.add_members(group="fremen", recipient_ids=["paul"])
    assert (["paul"], ["fremen"]) == (
        directory_tasks.members(group="fremen").__json__(),
        directory_tasks.groups(recipient_id="paul").__json__(),
    )
    assert 1 == directory_tasks.remove_members(group="fremen", recipient_ids=["paul"]).__json__()
    assert directory_tasks.preferences(recipient_id="paul").__json__()
    directory_tasks.suppress(address="paul@example.org")
    assert directory_tasks.is_suppressed(address="paul@example.org").__json__()
    assert directory_tasks.unsuppress(address="paul@example.org").__json__()

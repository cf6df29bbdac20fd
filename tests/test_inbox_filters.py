"""What narrows an inbox down: the same filters, with the same meaning, in lists, counts, marks and removals."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy import text as sql
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from tests.store import counted, listed, put, rows, undone
from worker import inbox, inbox_tasks
from worker.database import transaction
from worker.errors import InvalidRequest
from worker.inbox import Counts
from worker.models import Notification

START = datetime(2020, 1, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
PARENT = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
THREAD = UUID("01890a5d-ac96-774b-bcce-b302099a8058")

CASES: list[tuple[dict[str, Any], str]] = [
    ({}, "abcdef"),
    ({"event_config_name": "mention"}, "cd"),
    ({"event_config_name": ["mention", "quiet"]}, "cde"),
    ({"event_config_name": ("mention", "quiet")}, "cde"),
    ({"event_config_name": []}, ""),
    ({"sender_id": "chani"}, "ac"),
    ({"not_sender_id": "chani"}, "bdef"),
    ({"not_sender_id": ["chani", "paul"]}, "bef"),
    ({"not_sender_id": []}, "abcdef"),
    ({"object_type": "book"}, "abe"),
    ({"object_type": "book", "object_id": "7"}, "ae"),
    ({"object_type": "film", "object_id": "7"}, "c"),
    ({"scope": "arrakis"}, "af"),
    ({"parent_id": PARENT}, "bd"),
    ({"thread_id": THREAD}, "abd"),
    ({"thread_id": PARENT}, ""),
    ({"since": START + 1 * MINUTE}, "bcdef"),
    ({"until": START + 1 * MINUTE}, "a"),
    ({"since": START + 1 * MINUTE, "until": START + 3 * MINUTE}, "bc"),
    ({"since": START + DAY, "until": START}, ""),
    ({"search": "dune"}, "abd"),
    ({"search": "DUNE messiah"}, "b"),
    ({"search": "messiah here"}, "b"),
    ({"search": "ssia"}, "b"),
    ({"search": "straße"}, "e"),
    ({"search": "図書"}, "f"),
    ({"search": "100%"}, "e"),
    ({"search": "_"}, ""),
    ({"search": "*"}, ""),
    ({"search": "[a-z]"}, ""),
    ({"search": 'say "now?"'}, "d"),
    ({"search": "back\\slash"}, "c"),
    ({"search": "  "}, "abcdef"),
    ({"event_config_name": "mention", "search": "dune", "sender_id": "paul"}, "d"),
]

SEEN = "bd"


def letters(found: Any) -> str:
    return "".join(sorted(row.title[0] for row in found))


@pytest.fixture
def six(engine: Engine) -> None:
    """Six of Paul's, and one of Chani's that each filter would fit."""
    book = {"object_type": "book", "object_id": "7"}
    answer: dict[str, Any] = {"parent_id": PARENT, "thread_id": THREAD}
    minute = iter(range(6))

    def add(title: str, **values: Any) -> None:
        seen = {"seen_at": START} if title[0] in SEEN else {}
        put("paul", START + next(minute) * MINUTE, title=title, **{"text": "-", **seen, **values})

    add("a: Dune is here", id=THREAD, sender_id="chani", scope="arrakis", event_config_name="book_available", **book)
    add("b: here", text="Dune\nMessiah", object_type="book", object_id="8", **answer)
    add("c: back\\slash", sender_id="chani", event_config_name="mention", object_type="film", object_id="7")
    add("d: say", text='"Now?" says Dune', sender_id="paul", event_config_name="mention", **answer)
    add("e: 100% of STRASSE, Straße", event_config_name="quiet", **book)
    add("f: 図書館からのお知らせ", scope="arrakis")
    put("chani", START, title="x dune", sender_id="chani", event_config_name="mention", **answer, **book)


@pytest.mark.usefixtures("six")
def test_filters_mean_the_same_everywhere() -> None:
    """Lists by cursor and by number, counts of each kind and the events agree about what a filter leaves."""
    for asked, expected in CASES:
        unseen = "".join(letter for letter in expected if letter not in SEEN)
        about = f"{asked}"
        assert (expected, unseen) == (letters(listed(**asked).items), letters(listed(**asked, seen=False).items)), about
        assert len(expected) == listed(**asked, page=1).total, about
        whole, second = listed(**asked, page=1, per_page=200), listed(**asked, page=2, per_page=2)
        assert expected[::-1] == "".join(row.title[0] for row in whole.items), about
        assert expected[::-1][2:4] == "".join(row.title[0] for row in second.items), about
        with transaction() as session:
            by_event = inbox.counts(session, "paul", by_event=True, **asked)
            assert Counts(len(expected), len(unseen)) == inbox.counts(session, "paul", **asked), about
            assert (len(expected), len(unseen)) == (by_event.total, by_event.unseen), about
            assert len(unseen) == inbox.unseen_count(session, "paul", **asked), about
            assert bool(unseen) is inbox.has_unseen(session, "paul", **asked), about
            assert sorted(by_event.by_event or ()) == inbox.event_types(session, "paul", **asked), about


@pytest.mark.usefixtures("six")
def test_filters_mean_the_same_in_changes() -> None:
    """What a filter leaves is what is marked, and then removed."""
    for asked, expected in CASES:
        about = f"{asked}"
        fresh = sum(letter not in SEEN for letter in expected)
        with undone() as session:
            left = select(func.substr(Notification.title, 1, 1))
            assert fresh == inbox.mark_all_seen(session, "paul", **asked), about
            assert set(SEEN + expected) == {*session.scalars(left.where(Notification.seen_at.is_not(None)))}, about
            assert len(expected) == inbox.delete_seen(session, "paul", **asked), about
            assert {*"abcdefx"} - {*expected} == {*session.scalars(left)}, about


@pytest.mark.usefixtures("six")
def test_a_condition_of_the_applications_own() -> None:
    """In lists, totals and unseen counts, beside other filters; it widens nothing."""
    short: dict[str, Any] = {"only": Notification.text == "-"}
    page = listed(**short, query="title = *e", page=1)
    assert ("acef", "ae", 2) == (letters(listed(**short).items), letters(page.items), page.total)
    with transaction() as session:
        assert (4, 2) == tuple(inbox.unseen_count(session, "paul", **short, scope=scope) for scope in (None, "arrakis"))
        assert inbox.has_unseen(session, "paul", **short)
        assert not inbox.has_unseen(session, "paul", only=Notification.recipient_id == "chani")
    assert [] == listed(only=Notification.recipient_id == "chani").items


@pytest.mark.usefixtures("six")
def test_counts_by_event() -> None:
    """Each event's own; what has no event is in the whole alone. As JSON in the task."""
    by_event = {"book_available": Counts(1, 1), "mention": Counts(2, 1), "quiet": Counts(1, 1)}
    with transaction() as session:
        assert Counts(6, 4, by_event) == inbox.counts(session, "paul", by_event=True)
        assert Counts(0, 0, {}) == inbox.counts(session, "nobody", by_event=True)
    plain = inbox_tasks.counts(recipient_id="paul", by_event=True, sender_id="chani").__json__()
    each = {"book_available": {"total": 1, "unseen": 1}, "mention": {"total": 1, "unseen": 1}}
    assert {"total": 2, "unseen": 2, "by_event": each} == plain


@pytest.mark.usefixtures("engine")
def test_the_unseen_count_is_one_query() -> None:
    """Whatever the store; and it knows what the session has changed but not yet written."""
    id = put("paul", START)
    with transaction() as session:
        row = session.get_one(Notification, id)
        with counted() as statements:
            assert (1, True) == (inbox.unseen_count(session, "paul"), inbox.has_unseen(session, "paul"))
        assert len([one for one in statements if one.startswith("SELECT")]) in (0, 2)  # 0: past SQLAlchemy's events
        row.seen_at = START
        assert (0, False) == (inbox.unseen_count(session, "paul"), inbox.has_unseen(session, "paul"))


def test_errors_of_the_quick_way_are_sqlalchemys(postgres_engine: Engine) -> None:
    """A connection that ended is an OperationalError, as with any other query, and the next session works."""
    with Session(postgres_engine) as session:
        pid = session.scalar(sql("SELECT pg_backend_pid()"))
        with postgres_engine.connect() as other:
            other.execute(sql("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with pytest.raises(OperationalError) as caught:
            inbox.unseen_count(session, "paul")
        assert caught.value.connection_invalidated
        assert "paul" not in str(caught.value)
    with Session(postgres_engine) as session:
        assert 0 == inbox.unseen_count(session, "paul")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"object_id": "7"}, "object_id: "),
    ({"since": datetime(2020, 1, 1)}, "since: "),
    ({"until": datetime(2020, 1, 1)}, "until: "),
    ({"search": "CANARY " + "x" * 200}, "search: "),
    ({"search": "CANARY " * 21}, "search: "),
    ({"search": "CANARY\0"}, "search: "),
    ({"scope": "CANARY\0"}, "scope: "),
    ({"sender_id": "CANARY\udc80"}, "sender_id: "),
    ({"event_config_name": ["mention", "CANARY\0"]}, "event_config_name: "),
    ({"not_sender_id": ("paul", "CANARY\0")}, "not_sender_id: "),
]

CALLS: list[Callable[..., Any]] = [
    inbox.list,
    inbox.counts,
    inbox.unseen_count,
    inbox.has_unseen,
    inbox.event_types,
    inbox.mark_all_seen,
    inbox.delete_seen,
]


@pytest.mark.usefixtures("engine")
def test_wrong_filters_are_invalid_requests() -> None:
    """Refused by name, and not shown, by each function."""
    for asked, named in WRONG:
        for call in CALLS:
            with transaction() as session, pytest.raises(InvalidRequest, match=f"^{named}") as caught:
                call(session, "paul", **asked)
            assert "CANARY" not in str(caught.value)


@pytest.mark.usefixtures("engine")
def test_unknown_filters_are_errors() -> None:
    """A misspelt filter must not give, or remove, everything: in Python and by tasks."""
    put("paul", START, seen_at=START)
    for call in CALLS:
        with transaction() as session, pytest.raises(TypeError, match="scoop"):
            call(session, "paul", scoop="x")
    for task in (inbox_tasks.list_, inbox_tasks.counts, inbox_tasks.mark_all_seen, inbox_tasks.delete_seen):
        with pytest.raises(InvalidRequest, match="scoop"):
            task(recipient_id="paul", scoop="x")
    with transaction() as session, pytest.raises(InvalidRequest, match="before, until"):
        inbox.mark_all_seen(session, "paul", before=START, until=START)
    assert 1 == len(rows(Notification))


@pytest.mark.usefixtures("six")
def test_filters_by_tasks() -> None:
    """As JSON: moments and ids are text there; a naive moment is refused."""
    listed_ = inbox_tasks.list_(
        recipient_id="paul",
        since="2020-01-01T13:01:00+01:00",
        until="2020-01-01T12:03:00Z",
        parent_id=str(PARENT),
        seen=True,
        search="dune",
        depth="name",
    ).__json__()
    assert [["id", "title"]] == [[*item] for item in listed_["items"]]
    assert "b: here" == listed_["items"][0]["title"]
    assert 2 == inbox_tasks.unseen_count(recipient_id="paul", sender_id="chani").__json__()
    assert inbox_tasks.has_unseen(recipient_id="paul", parent_id=str(PARENT)).__json__() is False
    assert (
        1
        == inbox_tasks.mark_all_seen(
            recipient_id="paul", event_config_name=["mention", "quiet"], object_type="film"
        ).__json__()
    )
    assert 2 == inbox_tasks.delete_seen(recipient_id="paul", event_config_name="mention").__json__()
    assert ["book_available", "quiet"] == inbox_tasks.event_types(recipient_id="paul", seen=False).__json__()
    with pytest.raises(InvalidRequest, match="since"):
        inbox_tasks.list_(recipient_id="paul", since="2020-01-01T13:01:00")


@pytest.mark.usefixtures("engine")
def test_depths() -> None:
    """`name` for menus, `list` without the text, `detail` with everything; microseconds are kept."""
    moment = START + timedelta(microseconds=7)
    put("paul", moment, sender_id="chani", seen_at=moment)
    [row] = rows(Notification)
    assert {"id": str(row.id), "title": "Dune is here"} == inbox.as_dict(row, "name")
    short = inbox.as_dict(row, "list")
    assert {"sender_id": "chani", "seen": True, "created_at": "2020-01-01T12:00:00.000007Z"}.items() <= short.items()
    assert not {"text", "context", "recipient_id"} & short.keys()
    whole = inbox.as_dict(row, "detail")
    assert whole == inbox.as_dict(row)
    assert short.items() <= whole.items()
    assert {*Notification.__table__.columns.keys(), "seen"} == {*whole}

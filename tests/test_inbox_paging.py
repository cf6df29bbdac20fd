"""Lists of one recipient's notifications: pages, order, cursors, filters."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest

from tests.store import listed, put, rows
from worker import inbox
from worker.database import transaction
from worker.errors import InvalidRequest
from worker.inbox import Page
from worker.models import Notification

pytestmark = pytest.mark.usefixtures("engine")

START = datetime(2020, 1, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


def ids(page: Page) -> list[UUID]:
    return [row.id for row in page.items]


def many(count: int, **values: Any) -> list[UUID]:
    """So many of Paul's, a minute apart, the newest first."""
    return [put("paul", START + number * MINUTE, **values) for number in range(count)][::-1]


def test_newest_first_ten_by_ten() -> None:
    """Without further wishes; an empty inbox is an empty page."""
    assert ([], None, False, False) == ((empty := listed()).items, empty.next_cursor, empty.has_next, empty.has_prev)
    newest = many(12)
    page = listed()
    assert newest[:10] == ids(page)
    assert (True, False, None, None, None) == (page.has_next, page.has_prev, page.page, page.pages, page.total)
    assert newest[10:] == ids(listed(cursor=page.next_cursor))
    assert newest[::-1][:10] == ids(listed(order="asc"))


@pytest.mark.parametrize("order", ["desc", "asc"])
@pytest.mark.parametrize("per_page", [1, 3, 7, 200])
def test_cursors_lose_and_repeat_nothing(order: Literal["desc", "asc"], per_page: int) -> None:
    """Even where many came at the same moment."""
    expected = [put("paul", START + minute * MINUTE) for minute in (0, 0, 0, 0, 0, 1, 2, 2, 2, 3) for _ in range(2)]
    found, cursor = list[UUID](), None
    while True:
        page = listed(order=order, per_page=per_page, cursor=cursor)
        found += ids(page)
        cursor = page.next_cursor
        if cursor is None:
            break
        assert per_page == len(page.items)
    assert sorted(expected) == sorted(found)
    moments = {row.id: (row.created_at, row.id) for row in rows(Notification)}
    assert sorted(found, key=moments.__getitem__, reverse=order == "desc") == found


def test_cursors_hold_while_rows_come_and_go() -> None:
    """New ones on top and deleted ones anywhere shift no page: whatever stays is given exactly once."""
    newest = many(30)
    found, page = list[UUID](), listed(per_page=4)
    for step in range(100):
        found += ids(page)
        put("paul", START + (100 + step) * MINUTE)
        with transaction() as session:
            # The last one given, which the cursor stands on, and one that is still to come.
            inbox.delete(session, "paul", found[-1])
            inbox.delete(session, "paul", newest[-1 - step])
        if page.next_cursor is None:
            break
        page = listed(per_page=4, cursor=page.next_cursor)
    kept = {row.id for row in rows(Notification)} & set(newest)
    assert len(found) == len(set(found))
    assert kept <= set(found) <= set(newest)
    assert [id for id in newest if id in set(found)] == found


def test_page_numbers() -> None:
    """As FitTrackee's pagination: has_next, has_prev, page, pages, total; past the end an empty page."""
    newest = many(12)
    first, last, past = (listed(page=number, per_page=5) for number in (1, 3, 4))
    assert (newest[:5], newest[10:], []) == (ids(first), ids(last), ids(past))
    assert (True, False, 1, 3, 12) == (first.has_next, first.has_prev, first.page, first.pages, first.total)
    assert (False, True, 3, 3, 12) == (last.has_next, last.has_prev, last.page, last.pages, last.total)
    assert (False, True, 12) == (past.has_next, past.has_prev, past.total)
    assert ([], 0, 0) == ((none := listed("chani", page=1)).items, none.total, none.pages)


def test_offsets() -> None:
    """As FOLIO's offset and limit: any number of rows is passed over, and the total is counted."""
    newest = many(12)
    for offset, follows in ((0, True), (4, True), (9, False), (12, False), (99, False)):
        page = listed(offset=offset, per_page=3)
        assert (newest[offset : offset + 3], offset, 12) == (ids(page), page.offset, page.total)
        assert (follows, offset > 0, offset // 3 + 1) == (page.has_next, page.has_prev, page.page)
    by_title = listed(offset=10, per_page=3, query="cql.allRecords=1 sortby createdDate")
    assert (newest[1::-1], None, False) == (ids(by_title), by_title.next_cursor, by_title.has_next)


def test_a_page_and_its_cursor_can_be_mixed() -> None:
    """Jump to a page, then go on from there."""
    newest = many(12)
    assert newest[10:] == ids(listed(cursor=listed(page=2, per_page=5).next_cursor))


FILTERS: list[tuple[dict[str, Any], str]] = [
    ({}, "abcdef"),
    ({"seen": True}, "bd"),
    ({"seen": False}, "acef"),
    ({"event_config_name": "mention"}, "cd"),
    ({"event_config_name": ["mention", "quiet"]}, "cde"),
    ({"event_config_name": []}, ""),
    ({"event_config_name": "nothing"}, ""),
    ({"scope": "arrakis"}, "aef"),
    ({"seen": False, "event_config_name": "mention"}, "c"),
    ({"seen": True, "scope": "arrakis"}, ""),
]


@pytest.mark.parametrize(("asked", "expected"), FILTERS)
def test_filters(asked: dict[str, Any], expected: str) -> None:
    """Seen or not, by one or more events, by scope, and all together; the total counts what they leave."""
    put("paul", START, title="a", event_config_name="book_available", scope="arrakis")
    put("paul", START, title="b", event_config_name="book_available", scope="caladan", seen_at=START)
    put("paul", START, title="c", event_config_name="mention")
    put("paul", START, title="d", event_config_name="mention", seen_at=START)
    put("paul", START, title="e", event_config_name="quiet", scope="arrakis")
    put("paul", START, title="f", scope="arrakis")
    page = listed(page=1, **asked)
    assert expected == "".join(sorted(row.title for row in page.items))
    assert len(expected) == page.total


def encoded(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


HOSTILE = {
    "empty": "",
    "text": "CANARY",
    "not base64": "!!!",
    "not ASCII": "ä",
    "NUL": "\0",
    "surrogate": "\udc80",
    "not UTF-8": base64.urlsafe_b64encode(b"\xff\xfe\xfd").decode(),
    "no list": encoded({"a": 1, "b": 2}),
    "number": encoded(1),
    "null": encoded("null"),
    "NaN": encoded("[NaN, NaN]"),
    "three": encoded([START.isoformat(), uuid4().hex, 1]),
    "one": encoded([START.isoformat()]),
    "numbers": encoded([1, 2]),
    "nulls": encoded([None, None]),
    "lists": encoded([[], []]),
    "no moment": encoded(["yesterday", uuid4().hex]),
    "no id": encoded([START.isoformat(), "' OR 1=1 --"]),
    "long id": encoded([START.isoformat(), "0" * 1000]),
    "before all time": encoded(["0001-01-01T00:00:00+23:59", uuid4().hex]),
    "after all time": encoded(["9999-12-31T23:59:59-23:59", uuid4().hex]),
    "deep": encoded("[" * 200_000),
    "large number": encoded("[" + "9" * 10_000 + ",1]"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_cursors_are_invalid_requests(name: str) -> None:
    """Whatever is given as a cursor, it is refused by name, and not shown."""
    with pytest.raises(InvalidRequest, match="cursor") as caught:
        listed(cursor=HOSTILE[name])
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    "asked",
    [
        {"order": "up"},
        {"page": 0},
        {"page": -1},
        {"page": 10**30},
        {"per_page": 0},
        {"per_page": -1},
        {"per_page": inbox.MAX_PER_PAGE + 1},
        {"page": 1, "cursor": "x"},
        {"offset": -1},
        {"offset": 10**30},
        {"offset": 0, "cursor": "x"},
    ],
)
def test_wrong_paging_is_an_invalid_request(asked: dict[str, Any]) -> None:
    """The message names the argument."""
    with pytest.raises(InvalidRequest, match=next(iter(asked))):
        listed(**asked)

"""The query language of inbox lists, on both stores: which rows a query finds, in which order."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, select

from tests.store import put
from worker import cql, inbox, inbox_tasks
from worker.database import transaction
from worker.errors import InvalidQuery, InvalidRequest
from worker.inbox import Page
from worker.models import Notification

DAY = datetime(2026, 1, 31, tzinfo=UTC)
HOUR = timedelta(hours=1)
ID = "0190b1c2-0000-7000-8000-00000000000"

#: What the reader has; the other recipient has the same once more.
ROWS: dict[str, dict[str, Any]] = {
    "a": {"title": "Dune is here", "text": "Pick up Dune.", "created_at": DAY, "sender_id": "desk", "lang": "en"},
    "b": {"title": "Dunedin", "text": "A town; 100% sunny", "created_at": DAY + HOUR, "event_config_name": "trip"},
    "c": {"title": "“Été” À PARIS", "text": "Harry-Potter, and\nmore", "created_at": DAY + 24 * HOUR, "lang": "fr"},
    "d": {"title": r"C:\temp\a_b*c?", "text": "1000 sunny", "created_at": DAY - HOUR, "link": "/users/1234"},
    "e": {"title": "", "text": "[x] ^y (z)", "created_at": DAY - 48 * HOUR, "seen_at": DAY, "scope": "Org 1"},
    "f": {"title": "dune again", "text": "harry potter", "created_at": DAY - 72 * HOUR, "seen_at": DAY + HOUR},
}


@pytest.fixture
def filled(engine: Engine) -> None:
    """The rows of two recipients, and of the reader's some that may not be seen yet or any more."""
    for number, (name, values) in enumerate(ROWS.items()):
        fixed = {"object_type": "row", "object_id": name, "lang": "en", **values}
        put("reader", **{"id": UUID(f"{ID}{number}"), "parent_id": UUID(f"{ID}{9 - number}"), **fixed})
        put("other", **fixed)
    put("reader", datetime.now(UTC) + 24 * HOUR, object_id="later")
    put("reader", DAY, object_id="over", expire_at=DAY + HOUR)


def listed(query: str, **arguments: Any) -> Page:
    """The reader's page for the query."""
    with transaction() as session:
        return inbox.list(session, "reader", query=query, **arguments)


def found(query: str, **arguments: Any) -> str:
    """The letters of the rows on that page, in the page's order."""
    return "".join(row.object_id or "" for row in listed(query, **arguments).items)


FOUND = {
    # Words: whole, together, whatever the case and what parts them.
    "title=dune": "af",
    "title=Dune*": "abf",
    "title=*dune*": "abf",
    "title=*ne": "af",
    "title=dun": "",
    "title=d?ne": "af",
    "title=du*e": "af",
    'title=" Dune! "': "af",
    'title="is here"': "a",
    'title="here is"': "",
    'text="harry potter"': "cf",
    'text="HARRY  potter"': "",
    'text="potter, and more"': "c",
    "title=été": "c",
    'title="à paris"': "c",
    "title=ete": "",
    # The whole text.
    'title=="dune is HERE"': "a",
    "title==dune": "",
    "title==dune*": "abf",
    "title==*n*": "abf",
    "title==Dune????": "",
    "title==Dune???": "b",
    'title==""': "e",
    'title<>"Dunedin"': "acdef",
    "title<>dune*": "cde",
    "title < c": "e",
    "title >= DUNE and title < e": "abf",
    # What other languages take for wild, and what this one does.
    "text=100%": "b",
    "text==*0%*": "b",
    "text=100*": "bd",
    r'title=="*\\temp\\*"': "d",
    r"title==*a_b\*c\?": "d",
    r"title==*b\?c*": "",
    r"title==*aXb*": "",
    'text=="[x]*"': "e",
    'text=="[a-z]*"': "",
    r'text=="*\^y*"': "e",
    'text=="*(z)"': "e",
    # Names: exact.
    "senderId=desk": "a",
    "senderId=Desk": "",
    "sender_id==de*": "a",
    "senderId==D*": "",
    "senderId<>x": "a",
    'senderId=""': "a",
    'cql.allRecords=1 not senderId=""': "bcdef",
    "not senderId=desk": "bcdef",
    'link="/users/1234"': "d",
    "eventConfigName=trip or event_config_name==none": "b",
    'scope="Org 1"': "e",
    "lang=fr": "c",
    "objectType=row and objectId > d": "ef",
    "object_id<=b": "ab",
    # Ids, flags.
    f"id={ID}0": "a",
    f"id=={ID.replace('c', 'C')}1": "b",
    f"id > {ID}3": "ef",
    f"parentId={ID}9": "a",
    f"parent_id<>{ID}9": "bcdef",
    "seen=true": "ef",
    "seen==FALSE": "abcd",
    "seen<>true": "abcd",
    'seenDate=""': "ef",
    # Times.
    "createdDate=2026-01-31": "ab",
    "metadata.createdDate==2026-01-31": "ab",
    "createdDate<>2026-01-31": "cdef",
    "createdDate > 2026-01-31": "bc",
    "createdDate >= 2026-01-31": "abc",
    "createdDate <= 2026-01-31": "adef",
    "createdDate == 2026-01-31T01:00:00Z": "b",
    "createdDate == 2026-01-31T02:00:00+01:00": "b",
    "created_at < 2026-01-31T00:00:00.000+00:00": "def",
    "createdDate=2026-01-31T01:00": "b",
    "seenDate < 2026-01-31T01:00": "e",
    "seen_at <> 2026-01-31T00:00": "f",
    "updatedDate < 2026-01-30 or updated_at >= 2026-02-01": "cef",
    # Whose they are can only be narrowed.
    "recipientId=reader": "abcdef",
    "recipientId=other": "",
    "recipient_id<>reader": "",
    "recipientId=other or cql.allRecords=1": "abcdef",
    "not recipientId=reader or recipientId==*": "abcdef",
    "objectId=later or objectId=over": "",
    # Left to right, all booleans alike.
    "objectId=a or objectId=b and objectId=b": "b",
    "objectId=a or (objectId=b and objectId=b)": "ab",
    "objectId=a and objectId=b or objectId=c": "c",
    "objectId=a or objectId=b not objectId=a": "b",
    "objectId=a or not objectId=b and seen=true": "ef",
    "not objectId=a and objectId=b": "b",
    "not (objectId=a or objectId=b)": "cdef",
    "cql.allRecords=1 not not objectId=a": "a",
    "not not objectId=a": "a",
    # Writing.
    "OBJECTID=a OR ObjectId=b": "ab",
    "objectId=a or(objectId=b)or objectId=c": "abc",
    "  objectId\n=\ta  ": "a",
    'objectId="a"or objectId="b"': "ab",
    "title=and or title=not or title=again": "f",
    '(title=="du*" or text=="du*" or link=="x*") and seen=="true" sortby title text': "f",
}


@pytest.mark.usefixtures("filled")
def test_queries_find_what_they_say() -> None:
    """Each query finds exactly its rows, and with a `not` around it exactly the others."""
    got = {query: "".join(sorted(found(query))) for query in FOUND}
    assert FOUND == got
    plain = [query for query in FOUND if "sortby" not in query]
    others = {query: "".join(sorted(set("abcdef") - set(FOUND[query]))) for query in plain}
    assert others == {query: "".join(sorted(found(f"not ({query})"))) for query in plain}


SORTED = {
    "createdDate": "fedabc",
    "createdDate/sort.descending": "cbadef",
    "createdDate / SORT.ascending": "fedabc",
    "title": "edfabc",
    "title/sort.descending objectId": "cbafde",
    "seen": "cbadef",
    "seen createdDate": "dabcfe",
    "seen/sort.descending created_at/sort.descending": "efcbad",
    "seenDate": "efcbad",
    "seenDate/sort.descending": "fecbad",
    "lang/sort.descending objectId/sort.descending": "cfedba",
}


@pytest.mark.usefixtures("filled")
def test_sort_orders() -> None:
    """What has no value comes last, text goes without regard to case, equals newest first."""
    assert SORTED == {keys: found(f"cql.allRecords=1 sortby {keys}") for keys in SORTED}
    assert "dabcfe" == found("cql.allRecords=1 sortby seen", order="asc")


@pytest.mark.usefixtures("filled")
def test_a_sorted_list_goes_on_by_page() -> None:
    """It counts from page 1, knows what follows, and gives and takes no cursor; without a sort a cursor works."""
    query = "cql.allRecords=1 sortby title"
    first, last = (listed(query, per_page=4, page=page) for page in (None, 2))
    assert ("edfa", "bc") == tuple("".join(row.object_id or "" for row in page.items) for page in (first, last))
    assert [(1, 2, 6, True, None), (2, 2, 6, False, None)] == [
        (page.page, page.pages, page.total, page.has_next, page.next_cursor) for page in (first, last)
    ]
    page = listed("cql.allRecords=1", per_page=4)
    assert (None, True) == (page.total, page.has_next)
    assert "ef" == found("cql.allRecords=1", cursor=page.next_cursor)
    with pytest.raises(InvalidRequest, match=r"^cursor: "):
        listed(query, cursor=page.next_cursor)


@pytest.mark.usefixtures("filled")
def test_a_query_joins_the_other_filters() -> None:
    """The filters of the list and the query must both hold, also where the query is an `or`."""
    assert "ab" == found("objectId=a or objectId=b or objectId=e", seen=False)[::-1]
    assert 1 == listed("objectId=a or objectId=e", seen=True, page=1).total


@pytest.mark.usefixtures("filled")
def test_the_task_takes_a_query() -> None:
    """`inbox.list` narrows by it, and an error of it is ours."""
    page = inbox_tasks.list_(recipient_id="reader", query="seen=true sortby createdDate").__json__()
    assert ["f", "e"] == [row["object_id"] for row in page["items"]]
    with pytest.raises(InvalidQuery):
        inbox_tasks.list_(recipient_id="reader", query="seen")


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("(" * 1900 + "senderId=desk" + ")" * 1900, "a"),
        ("not " * 50 + "senderId=desk", "a"),
        ("(" * 25 + "senderId=desk" + " or seen=true) and cql.allRecords=1" * 25, "aef"),
        ("(" * 25 + "senderId=x" + " or seen=true) not senderId=y" * 24 + ")", "ef"),
        ("seen=true or (lang<>x and (" * 25 + "seen=true" + "))" * 25, "ef"),
        ("not(seen=false or not(seen=true and " * 12 + "not senderId=x" + "))" * 12, "ef"),
        (" or ".join(['text="one two three four"'] * 99 + ["objectId=a"]), "a"),
        ("title=" + "a!" * 249 + "a", ""),
        ("text==" + "*?" * 250, ""),
        ("text==" + "*?" * 6, "abcdef"),
        ("text==" + "*" * 3000, "abcdef"),
        ("title==" + "*a" * 249 + " or seen=true", "ef"),
        (" and ".join(f"title<>{letter * 499}" for letter in "ιſkßσ"), "abcdef"),
    ],
)
def test_the_largest_queries_run(query: str, expected: str) -> None:
    """What the limits allow, both stores can answer."""
    assert expected == "".join(sorted(found(query)))


@pytest.mark.usefixtures("engine")
def test_case_is_folded_as_unicode_has_it() -> None:
    """Letters of three forms and of two code points are one letter, on both stores and in any locale."""
    id = put("reader", DAY, title="ΟΔΌΣ οδός STRAẞE 10\u212a")
    for word in ("οδόσ", "οδός", "Οδός", "straße", "10K"):
        assert [id] == [row.id for row in listed(f"title={word}").items], word


def test_the_condition_cannot_widen_what_it_is_joined_to() -> None:
    """It comes in parentheses of its own, even where a caller joins it as text."""
    for query in ("seen=true or seen=false", "seen=true", "cql.allRecords=1"):
        condition, _ = cql.compile(cql.parse(query))
        assert str(select(Notification).where(condition)).partition("WHERE ")[2].startswith("(")

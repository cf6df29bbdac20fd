"""What is no query, and what an error says; no database is asked."""

from dataclasses import FrozenInstanceError

import pytest

from worker import cql
from worker.cql.tree import FIELDS
from worker.errors import InvalidQuery

FIELDS_EXPECTED = (
    "one of the fields id, recipientId, senderId, title, text, link, eventConfigName, lang, seen, createdDate, "
    "updatedDate, seenDate, objectType, objectId, scope, parentId, cql.allRecords"
)

WRONG = {
    "": "1: expected a field, (, not",
    "title": "6: expected one of = == <> < <= > >=",
    "Dune or seen=true": "6: expected one of = == <> < <= > >=",
    "title=": "7: expected a value (in quotes if it holds spaces or any of ( ) = < > /)",
    "title==)": "8: expected a value (in quotes if it holds spaces or any of ( ) = < > /)",
    "link=/users/1": "6: expected a value (in quotes if it holds spaces or any of ( ) = < > /)",
    "title==/ignoreCase x": "8: expected a value (in quotes if it holds spaces or any of ( ) = < > /)",
    'title="Dune': '12: expected a closing "',
    r'title="Dune\"': '14: expected a closing "',
    "title=a title=b": "9: expected not, and, or, sortby, the end",
    "title=a prox text=b": "9: expected not, and, or, sortby, the end",
    "title=a andseen=true": "9: expected not, and, or, sortby, the end",
    "title=a\nand": "12: expected a field, (, not",
    "title=a and or": "15: expected one of = == <> < <= > >=",
    "(title=a": "9: expected not, and, or, )",
    "title=a)": "8: expected not, and, or, sortby, the end",
    "title=a sortby": "15: expected a field",
    "sortby title": "8: expected one of = == <> < <= > >=",
    "title=a sortby name": "16: expected FIELDS",
    "title=a sortby title/sort.up": "21: expected a field, /sort.ascending or /sort.descending",
    "title=a sortby cql.allRecords": "16: expected a field to sort by",
    "title=a sortby" + " title" * 11: "9: expected at most 10 fields to sort by",
    "seen=true and name=x": "15: expected FIELDS",
    "context=x": "1: expected FIELDS",
    "seen=yes": "6: expected true or false",
    'seen=""': "6: expected true or false",
    "seen<true": "5: expected one of = == <>",
    "cql.allRecords=2": "16: expected 1",
    "cql.allRecords<>1": "15: expected one of = ==",
    "id=1": "4: expected a UUID",
    "id=0190b1c20000700080000000000_0000": "4: expected a UUID",
    "id==0190b1c2*": "5: expected a value without * and ? (or with \\* and \\?)",
    'id==""': "5: expected a UUID",
    "createdDate=yesterday": "13: expected an ISO 8601 date or time",
    "createdDate=2026-02-30": "13: expected an ISO 8601 date or time",
    "createdDate=9999-12-31": "13: expected an ISO 8601 date or time",
    "createdDate<0001-01-01T00:00:00+01:00": "13: expected an ISO 8601 date or time",
    "title<a*": "7: expected a value without * and ? (or with \\* and \\?)",
    'title="..."': "7: expected a word",
    "title=ab^": "9: expected \\^ for the character ^",
    r'title="a\n"': '9: expected one of * ? ^ " \\ after the backslash',
    "title=" + "a" * 501: "7: expected a value of at most 500 characters",
    "title=" + "a" * 3995: "4001: expected at most 4000 characters",
    "title=a\0": "8: expected no NUL character and no lone surrogate",
    "title=\ud800": "7: expected no NUL character and no lone surrogate",
    "seen=true and " * 100 + "seen=true": "1397: expected at most 100 comparisons",
    "not " * 51 + "seen=true": "1: expected nesting of at most 50 levels",
    "seen=true" + " or seen=true and seen=true" * 26: "686: expected nesting of at most 50 levels",
}


def test_errors_name_the_column_and_what_was_expected() -> None:
    """Nothing of the query is repeated."""
    told = {}
    for query in WRONG:
        with pytest.raises(InvalidQuery) as caught:
            cql.parse(query)
        told[query] = str(caught.value).removeprefix("query: column ")
    assert {query: words.replace("FIELDS", FIELDS_EXPECTED) for query, words in WRONG.items()} == told


def test_a_query_is_frozen_and_comparable() -> None:
    """Two spellings of one query are equal; none can be changed."""
    query = cql.parse("eventConfigName = trip")
    assert cql.parse('EVENT_CONFIG_NAME="trip"') == query
    with pytest.raises(FrozenInstanceError):
        query.sort = ()  # type: ignore[misc]


def test_every_column_a_caller_may_know_has_its_names() -> None:
    """FOLIO's names and the columns' own lead to the same column."""
    for name, field in FIELDS.items():
        if "_" in name:
            assert name == field.column.key
            assert FIELDS[name.replace("_at", "_date").replace("_", "")] == field

"""Any text is a query that runs or an InvalidQuery; a generated query finds what plain Python finds.

Queries are generated together with their meaning: each piece of one is its text and a predicate on a row. `make fuzz`
runs many more of them than `make test`.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from tests.store import put
from worker import cql, inbox
from worker.database import make_engine
from worker.errors import InvalidQuery
from worker.models import Notification

Holds = Callable[[Any], bool]
Piece = tuple[str, Holds]

DAY = datetime(2026, 1, 31, tzinfo=UTC)
IDS = [UUID(int=number) for number in (0xA, 0xB, 0xC, 0xD, 0xE)]
TEXTS = ["aA.b", "Éa-b a", "(a)*b? 100%", r"[a-é]^_\b", "", "  ", "b\na|ß", "ςΣσ {a}+$"]
NAMES = [None, "a", "A", "a*b", "a_b", "é"]
TIMES = [DAY - timedelta(microseconds=1), DAY, DAY + timedelta(hours=25)]

FOLLOWING = {"title": "title", "text": "text", "sender_id": "senderId", "link": "LINK", "scope": "scope"}


@pytest.fixture
def sessions(
    new_postgres_url: Callable[[], str], migrated_sqlite: Path, tmp_path: Path, configure: Callable[..., None]
) -> Iterator[list[Session]]:
    """A session on each store, on the same rows of two recipients, and one that the reader may not see yet."""
    opened: list[Session] = []
    with ExitStack() as stack:
        for url in (new_postgres_url(), f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path / 'fuzz.db')}"):
            configure(DATABASE_URL=url, SIGNAL="off")
            fill()
            engine = make_engine(url)
            stack.callback(engine.dispose)
            opened.append(stack.enter_context(Session(engine)))
        yield opened


def fill() -> None:
    for number in range(48):
        values: dict[str, Any] = {
            "id": UUID(int=0xF00 + number),
            "request_id": UUID(int=number),
            "title": TEXTS[number % 8],
            "text": TEXTS[number * 3 % 7],
            "sender_id": NAMES[number % 6],
            "link": NAMES[number * 5 % 6],
            "scope": NAMES[number // 8],
            "parent_id": None if number % 3 else IDS[number % 5],
            "created_at": TIMES[number % 3],
            "updated_at": TIMES[number // 3 % 3],
            "seen_at": TIMES[number // 7 % 3] if number % 2 else None,
        }
        put("reader" if number % 4 else "other", **values)
    put("reader", datetime.now(UTC) + timedelta(days=1))


def fits(mask: list[str], text: str, same: Callable[[str, str], bool]) -> bool:
    """Whether the mask covers the whole text; in it ANY and ONE are wild."""
    reached = {0}
    for part in mask:
        if part == "ANY":
            reached = set(range(min(reached), len(text) + 1)) if reached else reached
        else:
            reached = {at + 1 for at in reached if at < len(text) and (part == "ONE" or same(part, text[at]))}
    return len(text) in reached


def caseless(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def wordwise(one: str, other: str) -> bool:
    return not other.isalnum() if not one.isalnum() else caseless(one, other)


def quoted(parts: list[str]) -> str:
    wild = {"ANY": "*", "ONE": "?"}
    return '"' + "".join(wild.get(part) or ("\\" + part if part in '*?^"\\' else part) for part in parts) + '"'


def words(parts: list[str]) -> list[str]:
    """Without the spaces and punctuation at both ends."""
    kept = [place for place, part in enumerate(parts) if part in ("ANY", "ONE") or part.isalnum()]
    return parts[kept[0] : kept[-1] + 1] if kept else []


masks = st.lists(st.sampled_from(["ANY", "ONE", *'aAbéÉßσς1 .*?^_%[]()-\\|\n"']), max_size=5)


def text_piece(field: str, relation: str, parts: list[str]) -> Piece:
    name, inside = FOLLOWING[field], words(parts)
    if not parts and relation == "=":
        return f'{name}=""', lambda row: True
    if relation == "=" and not inside:
        inside = parts = ["a"]

    def holds(row: Notification) -> bool:
        text = getattr(row, field)
        if relation == "=":
            return fits(["ANY", " ", *inside, " ", "ANY"], f" {text} ", wordwise)
        return fits(parts, text, caseless) == (relation == "==")

    return f"{name} {relation} {quoted(parts)}", holds


def name_piece(field: str, relation: str, parts: list[str]) -> Piece:
    if not parts and relation == "=":
        return f'{FOLLOWING[field]}=""', lambda row: getattr(row, field) is not None

    def holds(row: Notification) -> bool:
        text = getattr(row, field)
        return text is not None and fits(parts, text, str.__eq__) == (relation != "<>")

    return f"{FOLLOWING[field]}{relation}{quoted(parts)}", holds


ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda one, other: one == other,
    "==": lambda one, other: one == other,
    "<>": lambda one, other: one != other,
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}


def ordered_piece(field: str, relation: str, value: Any, written: str) -> Piece:
    def holds(row: Notification) -> bool:
        has = getattr(row, field)
        return has is not None and ORDER[relation](has, value)

    return f"{field}{relation}{written}", holds


def day_piece(field: str, relation: str) -> Piece:
    if relation not in ("=", "==", "<>"):
        return ordered_piece(field, relation, DAY, "2026-01-31")

    def holds(row: Notification) -> bool:
        has = getattr(row, field)
        return has is not None and (DAY <= has < DAY + timedelta(days=1)) == (relation != "<>")

    return f"{field} {relation} 2026-01-31", holds


equals, relations = st.sampled_from(["=", "==", "<>"]), st.sampled_from(sorted(ORDER))
times = st.sampled_from(["created_at", "updated_at", "seen_at"])
comparisons: st.SearchStrategy[Piece] = st.one_of(
    st.builds(text_piece, st.sampled_from(["title", "text"]), equals, masks),
    st.builds(name_piece, st.sampled_from(["sender_id", "link", "scope"]), equals, masks),
    st.builds(day_piece, times, relations),
    st.builds(
        lambda field, relation, at: ordered_piece(field, relation, at, at.isoformat()),
        times,
        relations,
        st.sampled_from(TIMES),
    ),
    st.builds(lambda relation, id: ordered_piece("parent_id", relation, id, str(id)), relations, st.sampled_from(IDS)),
    st.sampled_from(
        [("seen=true", lambda row: row.seen_at is not None), ("seen<>TRUE", lambda row: row.seen_at is None)]
    ),
    st.just(("cql.allRecords=1", lambda row: True)),
)


def chain(first: Piece, others: list[tuple[str, Piece]]) -> Piece:
    """CQL's reading: from left to right."""
    text, holds = first
    for operator, (more, also) in others:
        text = f"{text} {operator} {more}"
        holds = {
            "and": lambda row, one=holds, two=also: one(row) and two(row),
            "or": lambda row, one=holds, two=also: one(row) or two(row),
            "not": lambda row, one=holds, two=also: one(row) and not two(row),
        }[operator.lower()]
    return text, holds


operators = st.sampled_from(["and", "or", "not", "AND", "Or"])
queries: st.SearchStrategy[Piece] = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(
            lambda first, others: (f"({(made := chain(first, others))[0]})", made[1]),
            inner,
            st.lists(st.tuples(operators, inner), max_size=4),
        ),
        st.builds(lambda piece: (f"not {piece[0]}", lambda row: not piece[1](row)), inner),
    ),
    max_leaves=12,
)
whole_queries = st.builds(chain, queries, st.lists(st.tuples(operators, queries), max_size=4))

TOKENS = [
    *(
        "title",
        "seen",
        "createdDate",
        "id",
        "cql.allRecords",
        "=",
        "==",
        "<>",
        "<",
        ">=",
        "(",
        ")",
        '"',
        "\\",
        "*",
        "?",
    ),
    *(
        "and",
        "or",
        "not",
        "NOT",
        "sortby",
        "/sort.descending",
        "prox",
        "true",
        "1",
        "2026-01-31",
        "%",
        "'",
        "--",
        ";",
        ":a",
    ),
    *(
        str(IDS[0]),
        '"a b"',
        '"\\""',
        "$1",
        "\x00",
        "\ud800",
        "\u202e",
        "İ",
        "\n",
        "{",
        "[[:alpha:]]",
        "0001-01-01T00:00+14:00",
    ),
]
anything = st.text(st.characters(exclude_categories=()), max_size=60)
soup = st.builds(str.join, st.sampled_from(["", " "]), st.lists(st.sampled_from(TOKENS), max_size=25))
valued = st.builds(
    lambda name, relation, value: f'{name} {relation} "{value}"',
    st.sampled_from(["title", "text", "link", "scope", "lang", "createdDate", "id", "seen"]),
    relations,
    anything,
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid query with a piece cut out, doubled or replaced."""
    text = draw(whole_queries)[0] + draw(st.sampled_from(["", " sortby title/sort.descending seen"]))
    start, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    middle = draw(st.sampled_from(["", text[start:end] * 2, *TOKENS]))
    return text[:start] + middle + text[min(end, start + 8) :]


#: So many queries of each kind; with FUZZ=5000 so many.
MANY = int(os.environ.get("FUZZ", "0"))
quick = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


def test_any_text_gives_rows_or_invalid_query(sessions: list[Session]) -> None:
    """Never another error, never a row that the recipient may not see; the same on each store."""

    @settings(quick, max_examples=MANY or 100)
    @given(st.one_of(anything, soup, valued, mutated()))
    def check(query: str) -> None:
        try:
            condition, sort = cql.compile(cql.parse(query))
        except InvalidQuery:
            return
        statement = select(Notification.id).where(inbox.visible("reader"), condition).order_by(*sort)
        for session in sessions:
            assert mine.issuperset(session.scalars(statement))

    mine = {row.id for row in inbox.list(sessions[0], "reader", per_page=200).items}
    assert 36 == len(mine)
    check()


def test_generated_queries_agree_with_plain_python(sessions: list[Session]) -> None:
    """The rows are those that the query's meaning, evaluated in Python, holds for."""
    rows, same = (inbox.list(session, "reader", per_page=200).items for session in sessions)
    assert (36, rows) == (len(rows), same)

    @settings(quick, max_examples=MANY or 60)
    @given(whole_queries)
    def check(piece: Piece) -> None:
        text, holds = piece
        expected = [row for row in rows if holds(row)]
        for session in sessions:
            assert expected == inbox.list(session, "reader", per_page=200, query=text).items

    check()

"""Ids: ordered by time, and the same for the same request."""

import time
from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st

from worker.ids import derive, uuid7


def milliseconds(id: UUID) -> int:
    """The 48 bits in which versions 7 and our version 8 keep the Unix time."""
    return id.int >> 80


def test_uuid7_is_what_rfc_9562_says() -> None:
    """Version 7, variant 10, and the present time in front."""
    before = int(time.time() * 1000)
    id = uuid7()
    assert (id.version, id.variant) == (7, RFC_4122)
    assert before <= milliseconds(id) <= int(time.time() * 1000)


def test_later_ids_sort_after_earlier_ones() -> None:
    """Ids of different milliseconds sort by time, as UUIDs, as text and as bytes."""
    ids = [uuid7()]
    deadline = time.monotonic() + 5
    while len(ids) < 50 and time.monotonic() < deadline:
        id = uuid7()
        if milliseconds(id) > milliseconds(ids[-1]):
            ids.append(id)
    assert len(ids) == 50
    assert ids == sorted(ids) == sorted(ids, key=str) == sorted(ids, key=lambda id: id.bytes)


def test_ids_do_not_repeat() -> None:
    """Many ids of the same millisecond differ."""
    assert len({uuid7() for _ in range(20_000)}) == 20_000


@given(st.uuids(), st.lists(st.text(), max_size=4))
def test_derived_ids_keep_the_parents_time(parent: UUID, names: list[str]) -> None:
    """A derived id is of version 8 and variant 10, sorts with its parent, and is the same each time."""
    id = derive(parent, *names)
    assert (id.version, id.variant) == (8, RFC_4122)
    assert milliseconds(id) == milliseconds(parent)
    assert id == derive(parent, *names)


def test_derived_ids_differ() -> None:
    """By parent, by name, by the number of names and by where a name ends."""
    parent, other = uuid7(), uuid7()
    names = [("",), ("a",), ("b",), ("a", "b"), ("b", "a"), ("ab",), ("a", ""), ("", "a")]
    ids = {derive(one, *few) for one in (parent, other) for few in names}
    assert len(ids | {parent, other}) == 2 * len(names) + 2


def test_derived_ids_stay_the_same_in_later_versions() -> None:
    """A request that is repeated after an upgrade must find the rows that it made before."""
    parent = UUID("0197a3c4-0000-7000-8000-000000000001")
    assert str(derive(parent, "user-42")) == "0197a3c4-0000-8613-ae8e-6c2092b0edb2"
    assert str(derive(parent, "user-42", "email")) == "0197a3c4-0000-804a-b053-04431a98818e"

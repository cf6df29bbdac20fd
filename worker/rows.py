"""Many rows in one statement, on both stores."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Self, TypeVar
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BindParameter,
    ColumnElement,
    Dialect,
    Insert,
    Select,
    String,
    Text,
    TextClause,
    any_,
    bindparam,
    cast,
    false,
    func,
    literal,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlalchemy.types import NULLTYPE

from worker.contexts import PlainJson
from worker.models import Delivery, Notification
from worker.tables import Base

#: Values bound in one IN list; SQLite's limit is 32,766 variables.
CHUNK = 10_000

T = TypeVar("T")
Row = dict[str, Any]
_Names = tuple[str, ...]
_POSTGRESQL: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]


#: Columns that may be given as 32 hexadecimal digits, see `worker.ids`.
_IDS = {"id", "notification_id"}


def as_uuid(id: UUID | str) -> UUID:
    """An id, given as such or as hexadecimal digits."""
    return UUID(id) if isinstance(id, str) else id


@dataclass(slots=True)
class Block:
    """Rows of one table that have most values in common."""

    shared: Row
    """Columns with one value for all rows."""
    each: dict[str, list[Any]]
    """Columns with a value for each row; at least one."""

    @classmethod
    def of(cls, row: Row) -> Self:
        """A single row."""
        return cls({name: value for name, value in row.items() if name != "id"}, {"id": [row["id"]]})

    def __len__(self) -> int:
        return len(next(iter(self.each.values())))

    def rows(self) -> list[Row]:
        """Written out; ids that are text become UUIDs."""
        names = list(self.each)
        each = [map(as_uuid, values) if name in _IDS else values for name, values in self.each.items()]
        return [{**self.shared, **dict(zip(names, row, strict=True))} for row in zip(*each, strict=True)]

    def column(self, name: str) -> list[Any]:
        """A column's values, row by row."""
        return self.each[name] if name in self.each else [self.shared[name]] * len(self)


def insert_blocks(session: Session, model: type[Base], blocks: Sequence[Block], *, existing: bool = False) -> set[UUID]:
    """Insert the rows of all blocks in one statement, in this order; rows that are there already stay as they are.

    `existing`: give the ids of those, usually none. PostgreSQL gets each value once, however many rows have it.
    """
    if not blocks:
        return set()
    if session.get_bind().dialect.name == "postgresql":
        statement, values = _unnested(model, blocks, existing)
        result = session.execute(statement, values)
        return {row[0] for row in result} if existing else set()
    insert = insert_new(session, model)
    rows = [row for block in blocks for row in block.rows()]
    if existing:
        return {row["id"] for row in rows} - set(session.scalars(insert.returning(model.__table__.c.id), rows))
    session.execute(insert, rows)
    return set()


def _unnested(model: type[Base], blocks: Sequence[Block], existing: bool) -> tuple[TextClause, dict[str, str | None]]:
    each = tuple(sorted({name for block in blocks for name in block.each}))
    values: dict[str, Any] = {}
    constant, by_block = list[str](), list[str]()
    for name in blocks[0].shared:
        if name in each:
            continue
        of_blocks = [block.shared[name] for block in blocks]
        if of_blocks.count(of_blocks[0]) == len(of_blocks):
            constant.append(name)
            values[name] = None if of_blocks[0] is None else _text(of_blocks[0])
        else:
            by_block.append(name)
            values[name] = array(of_blocks)
    for name in each:
        values[name] = array([value for block in blocks for value in block.column(name)])
    if by_block:
        values["block"] = array([number for number, block in enumerate(blocks, start=1) for _ in range(len(block))])
    return _statement(model, tuple(constant), tuple(by_block), each, existing), values


@lru_cache(maxsize=256)
def _statement(model: type[Base], constant: _Names, by_block: _Names, each: _Names, existing: bool) -> TextClause:
    types = {name: _type(model, name) for name in (*constant, *by_block, *each)} | {"block": "integer"}
    names = ", ".join((*constant, *by_block, *each))
    chosen = [f"CAST(:{name} AS {types[name]}) AS {name}" for name in constant]
    chosen += [f"b.{name}" for name in by_block] + [f"e.{name}" for name in each]
    source = _unnest("e", (*each, "block") if by_block else each, types)
    if by_block:
        source += f" JOIN {_unnest('b', by_block, types)} ON b.n = e.block"
    given = f"SELECT {', '.join(chosen)} FROM {source} ORDER BY e.n"
    insert = f"INSERT INTO {model.__tablename__} ({names}) {{}} ON CONFLICT DO NOTHING"
    if not existing:
        return text(insert.format(given))
    new = insert.format(f"SELECT {names} FROM given") + " RETURNING id"
    return text(f"WITH given AS ({given}), new AS ({new}) SELECT id FROM given EXCEPT SELECT id FROM new")


def _unnest(alias: str, names: _Names, types: Mapping[str, str]) -> str:
    arrays = ", ".join(f"CAST(:{name} AS {types[name]}[])" for name in names)
    return f"unnest({arrays}) WITH ORDINALITY AS {alias}({', '.join(names)}, n)"


def _type(model: type[Base], name: str) -> str:
    column = model.__table__.c[name]
    # Not VARCHAR(n): a cast to it would cut what is longer, where an insert refuses it.
    return "text" if isinstance(column.type, String) else column.type.compile(_POSTGRESQL)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a naive time: times are aware everywhere")
        return value.isoformat()
    if isinstance(value, PlainJson):
        return value.text
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def array(values: Sequence[Any]) -> str:
    """The values as PostgreSQL writes an array; one string is bound far faster than a list."""
    if not values:
        return "{}"
    if None in values:
        return "{" + ",".join("NULL" if value is None else _quoted(_text(value)) for value in values) + "}"
    try:
        joined = "\0".join(values)
    except TypeError:
        joined = "\0".join(map(_text, values))
    if joined.count("\0") != len(values) - 1:
        raise ValueError("a NUL character, which PostgreSQL does not store")
    return "{" + _quoted(joined).replace("\0", '","') + "}"


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def is_in(session: Session, column: Any, values: Sequence[str] | Sequence[UUID]) -> ColumnElement[bool]:
    """Whether a column has one of the values, however many: they are bound as one."""
    postgres = session.get_bind().dialect.name == "postgresql"
    return _is_among(column, literal(bound(session, values), NULLTYPE if postgres else Text), postgres)


def is_in_bound(column: Any, name: str, *, postgres: bool) -> ColumnElement[bool]:
    """The same for a statement that is built once: the parameter of this name is given what `bound` makes."""
    return _is_among(column, bindparam(name, type_=NULLTYPE if postgres else Text), postgres)


def _is_among(column: Any, values: BindParameter[Any], postgres: bool) -> ColumnElement[bool]:
    if postgres:
        # Bound without a type of its own: else PostgreSQL would convert it anew for every row that it looks at.
        kind = Text if isinstance(column.type, String) else column.type
        found: ColumnElement[bool] = column == any_(cast(values, ARRAY(kind)))
        return found
    within: ColumnElement[bool] = column.in_(select(func.json_each(values).table_valued("value").c.value))
    return within


def bound(session: Session, values: Sequence[str] | Sequence[UUID]) -> str:
    """Any number of values as one, as the store reads them fastest."""
    if session.get_bind().dialect.name == "postgresql":
        return array(values)
    return json.dumps(list(map(_text, values)))


def is_chosen(column: Any, ids: Select[UUID], *, postgres: bool) -> ColumnElement[bool]:
    """Whether a column has one of the selected ids, whose rows the selection locks."""
    if postgres:
        # As an array, it is read once, and the rows are found by their key.
        among: ColumnElement[bool] = column == any_(func.array(ids.scalar_subquery()))
        return among
    within: ColumnElement[bool] = column.in_(ids)
    return within


#: That a delivery is pending, of one that is looked up by its id. Said plainly, PostgreSQL might read the whole backlog
#: instead, by the index of what is due: its statistics may be of a moment when little was.
IS_PENDING = func.coalesce(Delivery.status, "") == "pending"

#: Notifications that no inbox shows, ever: they expire as they begin, and count as seen, so that the purge takes them.
HIDDEN = func.coalesce(Notification.expire_at == Notification.created_at, false())


def hide(row: Row) -> Row:
    """The same notification, but one that only keeps the record of its email."""
    return {**row, "expire_at": row["created_at"], "seen_at": row["created_at"]}


def is_hidden(row: Mapping[str, Any]) -> bool:
    """As `HIDDEN`, of a row that is to be written."""
    return bool(row["expire_at"] == row["created_at"])


def locked(*conditions: ColumnElement[bool], model: type[Notification] | type[Delivery] = Notification) -> Select[UUID]:
    """The ids of the rows, which are locked one after the other by id, to be changed or removed by.

    Whatever changes many notifications, or many deliveries, locks them by this, by the same order, or passes over those
    that others have locked; whatever changes both locks the notifications first. Else two who do so at once could wait
    for each other for ever, and the database would end one of them with an error.
    """
    # Of deliveries the lock that an update takes, which is a little cheaper than a removal's.
    return select(model.id).where(*conditions).order_by(model.id).with_for_update(key_share=model is Delivery)


def lock_deliveries(session: Session, ids: Sequence[UUID]) -> None:
    """Lock these, for a transaction that changes them in more than one statement."""
    if len(ids) > 1 and session.get_bind().dialect.name == "postgresql":
        session.execute(locked(is_in(session, Delivery.id, ids), model=Delivery)).all()


def lock_whole(session: Session, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Lock notifications and their deliveries, which are to go with them; gives the condition that finds the former."""
    ids = session.scalars(locked(*conditions)).all()
    if session.get_bind().dialect.name == "postgresql":
        session.execute(locked(is_in(session, Delivery.notification_id, ids), model=Delivery)).all()
    return is_in(session, Notification.id, ids)


def insert_new(session: Session, model: type[Base]) -> Insert:
    """An insert that passes over rows that are there: whatever is made twice has the same ids."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement: Insert = dialect.insert(model).on_conflict_do_nothing()
    # Without it, rows with nulls in different columns each take a statement of their own.
    return statement.execution_options(render_nulls=True)


def upsert_rows(
    session: Session,
    model: type[Base],
    rows: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    kept: Sequence[str] = (),
) -> None:
    """Insert many rows in one statement; where a row with the same keys is there, replace its values but those kept."""
    if not rows:
        return
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(model)
    others = {name: statement.excluded[name] for name in rows[0] if name not in (*keys, *kept)}
    if others:
        statement = statement.on_conflict_do_update(index_elements=keys, set_=others)
    else:
        statement = statement.on_conflict_do_nothing()
    session.execute(statement.execution_options(render_nulls=True), [dict(row) for row in rows])


def chunks(values: list[T]) -> Iterator[list[T]]:
    """The values in lists short enough for an IN."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]

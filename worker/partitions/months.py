"""Months as ranges of ids, which begin with their time, and the tables of each month."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from worker.tables import Base

#: The tables that are partitioned; what refers to one comes after it.
TABLES = ("notifications", "deliveries")

#: Months made ahead of the present one.
AHEAD = 2

#: What refers to them, as table, column and what it refers to: by id, always.
REFERENCES = [
    (table.name, key.parent.name, key.column.table.name, str(key.constraint and key.constraint.name))
    for table in Base.metadata.sorted_tables
    for key in table.foreign_keys
    if key.column.table.name in TABLES
]


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A month in UTC."""

    year: int
    number: int

    @classmethod
    def of(cls, moment: datetime) -> "Month":
        """The month that a moment lies in."""
        utc = moment.astimezone(UTC)
        return cls(utc.year, utc.month)

    def later(self, months: int) -> "Month":
        """The month so many later, or earlier."""
        years, number = divmod(self.number - 1 + months, 12)
        return Month(self.year + years, number + 1)

    @property
    def start(self) -> datetime:
        """Its first moment."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def low(self) -> UUID:
        """The lowest id that can have been made in it."""
        return UUID(int=int(self.start.timestamp() * 1000) << 80)

    @property
    def high(self) -> UUID:
        """The lowest id after it."""
        return self.later(1).low

    def table(self, name: str) -> str:
        """Where the rows of a partitioned table lie that were made in this month."""
        return f"{name}_{self.year}_{self.number:02}"


#: Ids without a time, of events that are told only once, lie below it.
FIRST = UUID(int=1 << 80)


def month_of_id(id: UUID) -> Month:
    """The month that an id was made in. Only of ids whose time is one that `datetime` has."""
    return Month.of(datetime.fromtimestamp((id.int >> 80) / 1000, UTC))


def run(session: Session, statement: str, **values: object) -> int:
    """Execute SQL of our own making; gives how many rows it concerned."""
    return int(session.execute(text(statement), values).rowcount)  # type: ignore[attr-defined]


def is_partitioned(session: Session, name: str) -> bool:
    """Whether a table is partitioned; never on SQLite."""
    if session.get_bind().dialect.name != "postgresql":
        return False
    return bool(
        session.scalar(text("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(:name)"), {"name": name})
    )


def months(session: Session, *, attached: bool = True) -> list[Month]:
    """The months that have tables, in their order; or those whose table was detached, and not yet dropped."""
    found = session.scalars(
        text(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relispartition = :attached AND relnamespace = "
            "(SELECT relnamespace FROM pg_class WHERE oid = to_regclass('notifications'))"
        ),
        {"attached": attached},
    )
    matches = (re.fullmatch(rf"{TABLES[0]}_(\d{{4}})_(\d\d)", name) for name in found)
    return sorted(Month(int(match[1]), int(match[2])) for match in matches if match)


def add_month(session: Session, month: Month) -> None:
    """Make the tables of a month; nothing of it may lie in the tables of the rest."""
    for name in TABLES:
        bounds = f"FROM ('{month.low}') TO ('{month.high}')"
        run(session, f"CREATE TABLE {month.table(name)} PARTITION OF {name} FOR VALUES {bounds}")


def lock(session: Session, wait_seconds: float) -> None:
    """Keep everybody else from both tables until the transaction ends; whoever has them is waited for only so long."""
    run(session, f"SET LOCAL lock_timeout = {int(wait_seconds * 1000)}")
    run(session, f"LOCK TABLE {', '.join(f'ONLY {name}' for name in TABLES)} IN ACCESS EXCLUSIVE MODE")

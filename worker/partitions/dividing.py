"""Turn the two tables into partitioned ones, with all that is in them, in one transaction."""

from dataclasses import dataclass
from datetime import datetime

from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from worker.database import Transaction
from worker.errors import InvalidSettings, TablesInUse
from worker.partitions.months import (
    AHEAD,
    FIRST,
    REFERENCES,
    TABLES,
    Month,
    add_month,
    is_partitioned,
    lock,
    month_of_id,
    months,
    run,
)

#: Seconds that others may keep the tables to themselves.
LOCK_SECONDS = 10.0

#: Months before the present one that get tables of their own; what is older lies with the rest.
MOST_PAST = 36


@dataclass(frozen=True, slots=True)
class Converted:
    """What the tables are like now."""

    months: int
    changed: bool
    """False where they were partitioned before."""


def convert(begin: Transaction, *, now: datetime) -> Converted:
    """Partition the tables by month; harmless where they are.

    All rows are copied while nobody else can use the tables, and need room twice meanwhile.
    Raises InvalidSettings on SQLite, and TablesInUse where somebody does not let go of them, or of what refers to them;
    nothing has changed then.
    """
    try:
        result = _converted(begin, now)
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable | DeadlockDetected):
            raise TablesInUse from None
        raise
    if result.changed:
        analyze(begin)
    return result


def _converted(begin: Transaction, now: datetime) -> Converted:
    with begin() as session:
        if session.get_bind().dialect.name != "postgresql":
            raise InvalidSettings("DATABASE_URL: only PostgreSQL has partitions; SQLite keeps its tables as they are")
        lock(session, LOCK_SECONDS)
        changed = not is_partitioned(session, TABLES[0])
        _replace_references(session)
        if changed:
            first = _first_month(session, now)
            for name in TABLES:
                _set_aside(session, name)
            _make_months(session, first, Month.of(now).later(AHEAD))
            for name in TABLES:
                _move_back(session, name)
        _follow(session)
        return Converted(len(months(session)), changed)


def analyze(begin: Transaction) -> None:
    """Have the planner know the tables as a whole, of which autovacuum looks at the parts alone."""
    with begin() as session:
        run(session, f"ANALYZE {', '.join(TABLES)}")


def _first_month(session: Session, now: datetime) -> Month:
    earliest, latest = Month.of(now).later(-MOST_PAST), Month.of(now)
    oldest = session.scalar(
        text("SELECT id FROM notifications WHERE id >= :low AND id < :high ORDER BY id LIMIT 1"),
        {"low": earliest.low, "high": latest.low},
    )
    return month_of_id(oldest) if oldest else latest


def _set_aside(session: Session, name: str) -> None:
    """Make the partitioned table beside the old one, without rows and indexes, for the same users."""
    run(session, f"ALTER TABLE {name} RENAME TO {name}_whole")
    run(session, f"ALTER TABLE {name}_whole RENAME CONSTRAINT pk_{name} TO pk_{name}_whole")
    like = f"LIKE {name}_whole INCLUDING ALL EXCLUDING INDEXES, CONSTRAINT pk_{name} PRIMARY KEY (id)"
    run(session, f"CREATE TABLE {name} ({like}) PARTITION BY RANGE (id)")
    granted = session.execute(
        text(
            "SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END "
            f"FROM pg_class, aclexplode(relacl) WHERE oid = '{name}_whole'::regclass AND grantee <> relowner"
        )
    ).all()
    for privilege, grantee in granted:
        run(session, f"GRANT {privilege} ON {name} TO {grantee}")


def _make_months(session: Session, first: Month, last: Month) -> None:
    for name in TABLES:
        run(session, f"CREATE TABLE {name}_rest PARTITION OF {name} DEFAULT")
        # On their own, as whoever makes a month looks through the rest.
        run(session, f"CREATE TABLE {name}_timeless PARTITION OF {name} FOR VALUES FROM (MINVALUE) TO ('{FIRST}')")
    month = first
    while month <= last:
        add_month(session, month)
        month = month.later(1)


def _move_back(session: Session, name: str) -> None:
    """Copy the rows, then make the indexes as they were: in this order that takes the least time."""
    indexes = session.scalars(
        text(f"SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = '{name}_whole'::regclass")
    ).all()
    run(session, f"INSERT INTO {name} SELECT * FROM {name}_whole")
    run(session, f"DROP TABLE {name}_whole")
    for definition in indexes:
        if f"pk_{name}_whole" not in definition:
            run(session, definition.replace(f"{name}_whole", name).replace(":", r"\:"))


def _replace_references(session: Session) -> None:
    """Drop the foreign keys: for them, PostgreSQL would look through all that refers to a month before it lets go."""
    for table, _column, _parent, constraint in REFERENCES:
        run(session, f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint}")


def _follow(session: Session) -> None:
    """Have triggers keep what the foreign keys did, for all rows of a statement at once.

    The rows are looked for as one array, so that PostgreSQL never plans to read a whole table for them.
    """
    for table, column, parent, _constraint in REFERENCES:
        _on(
            session,
            f"{table}_go_with_{parent}",
            f"AFTER DELETE ON {parent} REFERENCING OLD TABLE AS concerned",
            f"BEGIN DELETE FROM {table} WHERE {column} = ANY (ARRAY(SELECT id FROM concerned)); RETURN NULL; END",
        )
        _on(
            session,
            f"{table}_need_{parent}",
            f"AFTER INSERT ON {table} REFERENCING NEW TABLE AS concerned",
            f"""
            DECLARE
              wanted uuid[] := ARRAY(SELECT DISTINCT {column} FROM concerned ORDER BY 1);
              found bigint;
            BEGIN
              PERFORM FROM {parent} WHERE id = ANY (wanted)
                AND id BETWEEN wanted[1] AND wanted[cardinality(wanted)] ORDER BY id FOR KEY SHARE;
              GET DIAGNOSTICS found = ROW_COUNT;
              IF found < cardinality(wanted) THEN
                RAISE foreign_key_violation USING MESSAGE = '{table}.{column} is none of {parent}';
              END IF;
              RETURN NULL;
            END
            """,
        )


def _on(session: Session, name: str, event: str, body: str) -> None:
    run(
        session,
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $${body}$$".replace(":", r"\:"),
    )
    trigger = f"CREATE OR REPLACE TRIGGER {name} {event} FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
    run(session, trigger)

"""What the tables are made of: their base class, and the columns' types."""

from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import JSON, ColumnElement, DateTime, Dialect, Index, MetaData, Uuid, bindparam
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """An aware moment in UTC. SQLite has no time zones: there it is kept as naive UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database; a naive time is a programming error."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive time: times are aware everywhere")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Present(ColumnElement[datetime]):
    """The moment at which a statement begins, by the database's clock, whatever that of our own host says.

    PostgreSQL looks things up by it in an index. SQLite's host is ours.
    """

    type = UtcDateTime()
    inherit_cache = True


_HOST = bindparam("present", callable_=lambda: datetime.now(UTC), type_=UtcDateTime())


@compiles(Present)
def _host_time(_element: Present, compiler: SQLCompiler, **more: Any) -> str:
    return compiler.process(_HOST, **more)


@compiles(Present, "postgresql")
def _database_time(_element: Present, _compiler: SQLCompiler, **_more: Any) -> str:
    # As a query of its own: a value that the planner does not know, as a bound one would be. Knowing that it is later
    # than nearly all rows, it would read and sort a whole inbox for its first page.
    return "(SELECT statement_timestamp())"


Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class Base(DeclarativeBase):
    """What the tables share: names of constraints, and columns by Python type."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {datetime: UtcDateTime, UUID: Uuid, dict[str, Any]: Json}


def partial_index(name: str, *columns: str, where: str, unique: bool = False, **options: Any) -> Index:
    """An index of the rows for which `where` is true."""
    return Index(name, *columns, unique=unique, postgresql_where=sql(where), sqlite_where=sql(where), **options)

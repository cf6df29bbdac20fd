"""A small query past SQLAlchemy's execution, which takes as long as the query itself."""

from collections.abc import Mapping, Sequence
from datetime import UTC
from functools import lru_cache
from typing import Any

from sqlalchemy import Dialect, Select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from worker.models import Notification
from worker.tables import UtcDateTime


def rows(session: Session, statement: Select[Any], values: Mapping[str, Any]) -> Sequence[Any]:
    """The rows; in the session's transaction, after what the session has not yet written.

    With psycopg the statement is compiled once and goes straight to the driver, which prepares it: SQLAlchemy's
    events do not see it. Errors are SQLAlchemy's. The statement must be one that its caller keeps, as it is held on to,
    and `values` hold each of its parameters.
    """
    if session.autoflush:
        session.flush()
    connection = session.connection({"mapper": Notification})
    dialect = connection.dialect
    # An IN gets its list on execution only, and a translated schema its name.
    simple = not any(isinstance(value, list) for value in values.values())
    if dialect.driver != "psycopg" or not simple or "schema_translate_map" in connection.get_execution_options():
        return connection.execute(statement, values).all()
    text, moments = _compiled(statement, dialect)
    errors = dialect.loaded_dbapi.Error
    driver: Any = connection.connection.dbapi_connection
    cursor = driver.cursor()
    try:
        cursor.execute(text, values)
        found = cursor.fetchall()
    except errors as error:
        lost = dialect.is_disconnect(error, driver, cursor)
        if lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            text, None, error, errors, hide_parameters=True, connection_invalidated=lost, dialect=dialect
        ) from error
    finally:
        cursor.close()
    return [_in_utc(row, moments) for row in found] if moments else found


@lru_cache(maxsize=256)
def _compiled(statement: Select[Any], dialect: Dialect) -> tuple[str, Sequence[int]]:
    """The statement's text, and which of its columns are moments."""
    types = [column.type for column in statement.selected_columns]
    return str(statement.compile(dialect=dialect)), [n for n, type in enumerate(types) if isinstance(type, UtcDateTime)]


def _in_utc(row: Sequence[Any], moments: Sequence[int]) -> Sequence[Any]:
    """The driver gives moments in the time zone of its connection."""
    values = list(row)
    for at in moments:
        if values[at] is not None:
            values[at] = values[at].astimezone(UTC)
    return values

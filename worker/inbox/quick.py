"""A small query past SQLAlchemy's execution, which takes as long as the query itself."""

from functools import lru_cache
from typing import Any

from sqlalchemy import Dialect, Select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session


def first(session: Session, statement: Select[Any], values: dict[str, Any]) -> Any:
    """The first row, or None; in the session's transaction, after what the session has not yet written.

    With psycopg the statement is compiled once and goes straight to the driver, which prepares it: SQLAlchemy's
    events do not see it. Errors are SQLAlchemy's. The statement must be one that its caller keeps, as it is held on to,
    and name every value.
    """
    if session.autoflush:
        session.flush()
    connection = session.connection()
    dialect = connection.dialect
    # An IN gets its list on execution only, and a translated schema its name.
    simple = not any(isinstance(value, list) for value in values.values())
    if dialect.driver != "psycopg" or not simple or "schema_translate_map" in connection.get_execution_options():
        return connection.execute(statement, values).first()
    text = _compiled(statement, dialect)
    errors = dialect.loaded_dbapi.Error
    driver: Any = connection.connection.dbapi_connection
    cursor = driver.cursor()
    try:
        cursor.execute(text, values)
        return cursor.fetchone()
    except errors as error:
        lost = dialect.is_disconnect(error, driver, cursor)
        if lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            text, None, error, errors, hide_parameters=True, connection_invalidated=lost, dialect=dialect
        ) from error
    finally:
        cursor.close()


@lru_cache(maxsize=256)
def _compiled(statement: Select[Any], dialect: Dialect) -> str:
    return str(statement.compile(dialect=dialect))

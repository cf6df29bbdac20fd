"""Migrated PostgreSQL databases that one test after another uses: emptying one is quicker than copying one."""

import psycopg

from tests.servers import PostgresServer

#: Whoever the last test left connected must not hold its locks.
_ALONE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""

#: What a test may have changed for good: tables, views, columns, indexes, triggers, functions, the schema's version.
_SHAPE = """
SELECT (SELECT string_agg(
          concat_ws(' ', c.oid, c.relname, c.relkind, c.reloptions, a.attname, a.atttypid, a.attnotnull),
          ',' ORDER BY c.oid, a.attnum)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relnamespace = 'public'::regnamespace),
       (SELECT string_agg(tgname, ',' ORDER BY oid) FROM pg_trigger),
       (SELECT string_agg(proname, ',' ORDER BY oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace),
       (SELECT string_agg(version_num, ',') FROM bellhop_version)
"""

_EMPTY = """
DO $$
DECLARE name text; filled boolean; names text[] := '{}';
BEGIN
  FOR name IN SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
              AND relname <> 'bellhop_version' LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO filled;
    IF filled THEN names := names || quote_ident(name); END IF;
  END LOOP;
  IF names <> '{}' THEN EXECUTE 'TRUNCATE ' || array_to_string(names, ', ') || ' CASCADE'; END IF;
END $$
"""


class Databases:
    """Databases copied from one; what a test changed in one beyond its rows makes it unfit for the next."""

    def __init__(self, server: PostgresServer, template: str = "migrated") -> None:
        self._server = server
        self._template = template
        self._free: list[str] = []
        self._made = 0
        self._shape = self._shape_of(template)

    def take(self) -> str:
        """Give the name of an empty one."""
        if self._free:
            return self._free.pop()
        self._made += 1
        self._server.create_database(name := f"{self._template}_{self._made}", template=self._template)
        return name

    def give_back(self, name: str) -> None:
        """Empty it for the next test, or drop it."""
        if self._emptied(name):
            self._free.append(name)
        else:
            self._server.drop_database(name)

    def _emptied(self, name: str) -> bool:
        try:
            with psycopg.connect(self._server.url_of(name).replace("+psycopg", ""), autocommit=True) as connection:
                connection.execute(_ALONE)
                if connection.execute(_SHAPE).fetchone() != self._shape:
                    return False
                connection.execute(_EMPTY)
        except psycopg.Error:
            return False
        return True

    def _shape_of(self, name: str) -> object:
        with psycopg.connect(self._server.url_of(name).replace("+psycopg", "")) as connection:
            return connection.execute(_SHAPE).fetchone()

"""Millions of notifications for `bench.inbox`, made by PostgreSQL itself: a year of them, a few inboxes heavy."""

from concurrent.futures import ThreadPoolExecutor

import psycopg

#: Heavy inboxes hold 8 % of all rows: of 5 million 20,000 each.
HEAVY = 20
RECIPIENTS = 50_000

# Which recipient, event, word and so on comes from a hash of the row's number, so that every run has the same rows.
FILL = f"""
INSERT INTO notifications (id, request_id, recipient_id, sender_id, event_config_name, lang, lang_asked, title, text,
    object_type, object_id, scope, parent_id, thread_id, context, created_at, updated_at, expire_at, seen_at)
SELECT id, id,
    CASE WHEN h %% 100 < 8 THEN 'heavy-' || h / 100 %% {HEAVY} ELSE 'reader-' || h / 100 %% {RECIPIENTS - HEAVY} END,
    'sender-' || h / 3 %% 1000,
    CASE WHEN g %% 500 = 0 THEN 'rare'
        ELSE (ARRAY['book_available', 'mention', 'report', 'follow', 'digest'])[g %% 5 + 1] END,
    'en', 'en',
    (ARRAY['Dune', 'Emma', 'Ulysses', 'Walden'])[g %% 4 + 1] || ' is here',
    CASE WHEN g %% 1000 = 7 THEN 'A hagfish waits for you. ' ELSE '' END
        || repeat('It waits for you at the front desk. ', 4),
    CASE WHEN g %% 3 = 0 THEN 'book' END, CASE WHEN g %% 3 = 0 THEN (g %% 5000)::text END,
    CASE WHEN g %% 2 = 0 THEN 'scope-' || g %% 10 END,
    thread, thread,
    jsonb_build_object('title', 'Dune', 'number', i),
    CASE WHEN g %% 2000 = 1 THEN moment + interval '100 years' ELSE moment END, moment,
    CASE g %% 25 WHEN 0 THEN moment + interval '1 day' WHEN 1 THEN moment + interval '10 years' END,
    CASE WHEN g %% 10 > 0 AND g %% 2000 <> 1 THEN moment + interval '1 hour' END
FROM (
    SELECT i, abs(hashint4(i)::bigint) AS h, abs(hashint4(i + 1000000000)::bigint) AS g,
        to_timestamp(1704067200 + trunc(i * 31536000.0 / %(rows)s)) AS moment,
        (lpad(to_hex(1704067200000 + trunc(i * 31536000000.0 / %(rows)s)::bigint), 12, '0') || '7'
            || substr(md5(i::text), 1, 3) || '8' || substr(md5(i::text), 4, 15))::uuid AS id
    FROM generate_series(%(first)s::int, %(last)s::int) AS i
) AS numbered
CROSS JOIN LATERAL (
    SELECT CASE WHEN g %% 20 = 0 THEN ('00000000-0000-7000-8000-' || lpad((g / 20 %% 500)::text, 12, '0'))::uuid END
) AS threaded (thread)
"""


def fill(url: str, rows: int, processes: int = 4) -> None:
    """Fill the empty, migrated table, its indexes made afterwards."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'notifications' AND indexname NOT LIKE 'pk_%'"
        ).fetchall()
        for name, _ in found:
            connection.execute(f'DROP INDEX "{name}"'.encode())
        share = -(-rows // processes)
        with ThreadPoolExecutor(processes) as pool:
            starts = range(1, rows + 1, share)
            [*pool.map(lambda first: _insert(url, rows, first, min(first + share - 1, rows)), starts)]
        connection.execute("SET maintenance_work_mem = '1GB'")
        for _, definition in found:
            connection.execute(definition.encode())
        connection.execute("VACUUM (ANALYZE) notifications")
        connection.execute("CHECKPOINT")


def _insert(url: str, rows: int, first: int, last: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(FILL.encode(), {"rows": rows, "first": first, "last": last})

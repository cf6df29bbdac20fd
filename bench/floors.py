"""The floors: the same rows by PostgreSQL alone, the same mails by a client in C."""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg

from bench import counting
from bench.servers import Stand
from bench.sinks import find

#: The rows that a fan-out of `book_available` leaves, made by the server itself.
ROWS = """
INSERT INTO notifications (id, request_id, recipient_id, event_config_name, lang, lang_asked, title, text, context,
    email_reason, created_at, updated_at)
SELECT (lpad(to_hex(%(now)s + i / 1000), 12, '0') || '7' || substr(md5(i::text), 1, 3) || '8'
        || substr(md5(i::text), 4, 15))::uuid,
    '00000000-0000-7000-8000-000000000000', 'r-' || lpad(i::text, 8, '0'), 'book_available', 'en', 'en',
    'Your book is available: Dune, copy 0',
    'The book “Dune, copy 0” is now available for you. Pick it up at Front desk.',
    '{"title": "Dune, copy 0", "pickup_location": "Front desk"}', 'asked_not', now(), now()
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS i
"""


def insert(stand: Stand, count: int, sessions: int) -> float:
    """Rows by INSERT ... SELECT in so many sessions; gives seconds."""
    stand.reset()
    share = -(-count // sessions)

    def one(first: int) -> None:
        with psycopg.connect(stand.url.replace("+psycopg", "")) as connection:
            last = min(first + share, count) - 1
            connection.execute(ROWS.encode(), {"now": int(time.time() * 1000), "first": first, "last": last})

    began = time.time()
    with ThreadPoolExecutor(sessions) as pool:
        [*pool.map(one, range(0, count, share))]
    return counting.rows(stand.db, count) - began


def can_mail() -> bool:
    """Whether Postfix's smtp-source is installed."""
    return find("smtp-source") is not None


def mail(stand: Stand, count: int, sessions: int, *, reuse: bool = True, length: int = 1000) -> float:
    """Mails by smtp-source over so many sessions, each its own recipient; gives seconds."""
    stand.sink.reset()
    began = time.time()
    options = ["-s", str(min(sessions, count)), "-m", str(count), "-l", str(length), *(["-d"] if reuse else []), "-N"]
    to = ["-f", "library@example.org", "-t", "reader@example.org", f"127.0.0.1:{stand.sink.port}"]
    subprocess.run([str(find("smtp-source")), *options, *to], check=True, timeout=600)
    return counting.mails(stand.sink, count) - began

"""What goes on beside a purge, in a process of its own: `python -m bench.beside URL BEFORE`, until standard input ends.

One connection inserts a notification every few milliseconds, another one updates random rows that are older than
`BEFORE` and seen. Prints how long each took as JSON, in milliseconds.
"""

import json
import sys
import threading
import time

import psycopg

#: Seconds between two statements of a connection.
PAUSE = 0.002
INSERT = """
INSERT INTO notifications (id, request_id, recipient_id, event_config_name, lang, lang_asked, title, text, context,
    created_at, updated_at)
VALUES (gen_random_uuid(), gen_random_uuid(), 'r-' || %(number)s, 'book_available', 'en', 'en', 'A title', 'A text',
    '{"title": "Dune"}', now(), now())
"""
SAMPLE = """
SELECT id FROM notifications WHERE seen_at IS NOT NULL AND updated_at < %s ORDER BY md5(id::text) LIMIT 5000
"""
UPDATE = "UPDATE notifications SET link = '/' WHERE id = %(id)s"


def main(url: str, before: str) -> None:
    """Go on until told to end."""
    ended = threading.Event()
    took: dict[str, list[float]] = {"insert": [], "update": []}
    with psycopg.connect(url, autocommit=True) as one, psycopg.connect(url, autocommit=True) as other:
        ids = [row[0] for row in other.execute(SAMPLE, (before,))]

        def repeat(connection: psycopg.Connection, kind: str, statement: str) -> None:
            for turn in range(10**9):
                if ended.is_set():
                    return
                began = time.perf_counter()
                connection.execute(statement.encode(), {"number": turn, "id": ids[turn % len(ids)]}, prepare=True)
                took[kind].append(1e3 * (time.perf_counter() - began))
                time.sleep(PAUSE)

        threads = [
            threading.Thread(target=repeat, args=(one, "insert", INSERT)),
            threading.Thread(target=repeat, args=(other, "update", UPDATE)),
        ]
        for thread in threads:
            thread.start()
        print("ready", flush=True)
        sys.stdin.read()
        ended.set()
        for thread in threads:
            thread.join()
    print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

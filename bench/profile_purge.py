"""What inserts and updates wait for beside a purge, and without one: samples of `pg_stat_activity`."""

from bench import cases_purge
from bench.inbox_rows import fill
from bench.measure import percentile
from bench.sampling import shares_of, waits
from bench.servers import Stand

#: Rows of the table, of which a fifth is purged, and rounds.
ROWS, ROUNDS = 2_000_000, 3

ACTIVE = f"""
SELECT CASE WHEN query LIKE '%INSERT INTO notifications%' THEN 'inserts' WHEN query LIKE 'UPDATE%' THEN 'updates'
        WHEN query LIKE '%DELETE FROM notifications%' THEN 'the purge' ELSE 'others' END,
    coalesce(wait_event_type || ': ' || wait_event, 'running')
FROM pg_stat_activity WHERE state = 'active' AND datname = '{cases_purge.COPY}' AND pid <> pg_backend_pid()
"""


def measure(stand: Stand, _spy: str) -> list[str]:
    """A chapter for each round."""
    fill(stand.migrated(cases_purge.FILLED).replace("+psycopg", ""), ROWS)
    before, chapters = cases_purge.cutoff(stand, ROWS // 5), []
    for _ in range(ROUNDS):
        for name, way in (("With", cases_purge.ours), ("Without", cases_purge.nothing)):
            url = cases_purge.copy(stand)
            with cases_purge.beside(url, before) as took, waits(stand.connect(stand.naive_url), ACTIVE) as found:
                way(url, before)
            stand.postgres.drop_database(cases_purge.COPY)
            inserts, updates = took["insert"], took["update"]
            lines = [*shares_of("inserts", found), *shares_of("updates", found), *shares_of("the purge", found)]
            chapters.append(
                f"## {name} a purge of {ROWS // 5:,} of {ROWS:,} rows\n\n"
                f"Inserts: p99 {percentile(inserts, 0.99):.2f} ms, longest {max(inserts):.1f}. "
                f"Updates: p99 {percentile(updates, 0.99):.2f} ms, longest {max(updates):.1f}.\n\n"
                "| who, and what they wait for | share of their samples |\n| --- | ---: |\n" + "\n".join(lines) + "\n"
            )
            print(chapters[-1], flush=True)
    return chapters

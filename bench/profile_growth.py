"""Why one more costs more on a large table.

The growth case of `bench`, with what PostgreSQL counts and what its sessions wait for meanwhile, for each recipient of
a fan-out: pages read from outside of its buffers, log written, whole pages in it, CPU time by kind of process.
"""

import statistics
import time
from collections import Counter

from bench.cases_growth import FAN_OUT, FIRST, fan_out, filled
from bench.cases_single import Single
from bench.cpu_time import cpu
from bench.publishers import Publishers
from bench.sampling import shares_of, waits
from bench.servers import Stand, Workers

#: Sizes of the table, and fan-outs on each.
ROWS, ROUNDS = (100_000, 1_000_000, 10_000_000), 3

COUNTERS = """
SELECT wal_bytes, wal_fpi, wal_records, wal_buffers_full,
    (SELECT sum(heap_blks_read + idx_blks_read) FROM pg_statio_user_tables),
    (SELECT sum(idx_blks_read) FROM pg_statio_user_indexes WHERE indexrelname LIKE 'pk_notifications%'),
    (SELECT buffers_backend + buffers_clean FROM pg_stat_bgwriter)
FROM pg_stat_wal
"""
NAMES = (
    "bytes of log", "whole pages in the log", "records in the log", "times the log's buffers were full",
    "pages read into the buffers", "of these of the primary key", "pages written to make room",
)  # fmt: skip

ACTIVE = """
SELECT 'sessions', coalesce(wait_event_type || ': ' || wait_event, 'running') FROM pg_stat_activity
WHERE state = 'active' AND datname LIKE 'growth%' AND pid <> pg_backend_pid()
"""


def counters(stand: Stand) -> list[float]:
    """What PostgreSQL has counted so far; its sessions tell when they come to rest."""
    time.sleep(1.5)
    row = stand.db.execute(COUNTERS.encode()).fetchone()
    assert row
    return [float(value or 0) for value in row]


def measure(stand: Stand, _spy: str) -> list[str]:
    """A chapter for each size of the table."""
    chapters = []
    for number, rows in enumerate(ROWS, FIRST):
        with stand.at(filled(stand, rows, number, FAN_OUT)):
            chapters.append(_measure(stand, rows))
        print(chapters[-1], flush=True)
    return chapters


def _measure(stand: Stand, rows: int) -> str:
    found, spent, rates, grown = Counter[tuple[str, str]](), Counter[str](), list[float](), list[list[float]]()
    with Publishers(stand) as publishers, Workers(stand, "worker", beat=True) as workers:
        single = Single(stand, publishers)
        fan_out(single, FAN_OUT)
        for _ in range(ROUNDS):
            stand.reset()
            before, used = counters(stand), cpu()
            with waits(stand.connect(stand.naive_url), ACTIVE) as sampled:
                rates.append(FAN_OUT / fan_out(single, FAN_OUT))
            spent += cpu() - used
            grown.append([after - was for after, was in zip(counters(stand), before, strict=True)])
            found += sampled
        assert workers
    done = FAN_OUT * ROUNDS
    costs = ", ".join(f"{kind} {1e6 * used / done:,.1f}" for kind, used in spent.most_common() if used * 1e6 > done)
    medians = [statistics.median(column) / FAN_OUT for column in zip(*grown, strict=True)]
    lines = [f"| {name} | {value:,.3g} |" for name, value in zip(NAMES, medians, strict=True)]
    lines += shares_of("sessions", found)
    return (
        f"## Fan-out to {FAN_OUT:,} on a table of {rows:,} rows\n\n"
        f"{', '.join(f'{rate:,.0f}' for rate in rates)} per second. CPU, in µs per recipient: {costs}.\n\n"
        "| for each recipient; of the sessions' time |  |\n| --- | ---: |\n" + "\n".join(lines) + "\n"
    )

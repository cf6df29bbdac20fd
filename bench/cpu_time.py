"""CPU time by kind of process."""

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path


def kind_of(pid: int) -> str:
    """What sort of process it is, by its command."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    for sign, kind in (
        ("py-spy", "py-spy"), ("postgres", "PostgreSQL"), ("redis-server", "Redis"), ("smtp-sink", "mail sink"),
        (" beat", "beat"), ("bench.publisher", "publishers"), (" worker ", "workers"),
    ):  # fmt: skip
        if sign in command:
            return kind
    return "others"


def cpu() -> Counter[str]:
    """Seconds of CPU time of our descendants, by kind of process; of the workers, the pool's apart."""
    parents, used = dict[int, int](), dict[int, float]()
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            pid = int(entry.name)
            parents[pid], used[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    found: Counter[str] = Counter()
    for pid in used:
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid() != pid:
            with suppress(OSError):
                kind = kind_of(pid)
                found[f"{kind}' pool" if kind == "workers" and parents[pid] != os.getpid() else kind] += used[pid]
    return found

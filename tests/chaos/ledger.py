"""What became of every request: one row of the table."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from tests.chaos.hurts import Hurt
from tests.chaos.load import CANARY, address_of
from tests.chaos.stage import NotPermitted, Stage
from tests.flow.pages import all_pages
from tests.servers import MissingServer

#: Accepted requests of each producer before the hurt, and after it.
BEFORE, AFTER = 30, 25

STORED = {
    "bellhop": "SELECT request_id FROM notifications",
    "handwritten": "SELECT id FROM notices",
}
#: Deliveries that tell why no mail went out, and whatever free text is kept about what went wrong.
EXPLAINED = """SELECT request_id FROM deliveries JOIN notifications ON notifications.id = notification_id
               WHERE status IN ('failed', 'skipped', 'unknown') AND reason IS NOT NULL"""
WORDS = "SELECT last_error FROM deliveries UNION ALL SELECT error FROM requests"


@dataclass
class Row:
    """Counts of requests by their way in, of mails, and of places that show what they must not."""

    system: str
    hurt: Hurt
    accepted: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    twice: int = 0
    """Requests with more than one notification."""
    mails: int = 0
    explained: int = 0
    """Stored and not mailed, and the row says why."""
    unmailed: int = 0
    """Stored and not mailed, and nobody knows why."""
    doubles: int = 0
    """Mails beyond the first for a request, with its Message-ID."""
    strangers: int = 0
    """Mails beyond the first for a request, with another Message-ID."""
    restarts: int = 0
    rest_seconds: float | None = None
    seen_in: list[str] = field(default_factory=list)
    """Logs, pages and columns that show an address or a context value."""
    note: str = ""

    def broken(self) -> list[str]:
        """Name each promise that Bellhop did not keep."""
        if self.note:
            return [] if self.note.startswith("not done") else [self.note]
        bad = {
            "a durable request was lost": self.lost["durable"],
            "a request was lost that the broker kept": self.lost["broker"] and not self.hurt.broker_forgets,
            "a request was stored twice": self.twice,
            "a mail is missing, and nothing says why": self.unmailed,
            "a second mail has another Message-ID": self.strangers,
            "it never came to rest": self.rest_seconds is None,
            "personal data is seen": self.seen_in,
        }
        return [name for name, found in bad.items() if found]


def run(folder: Path, system: str, hurt: Hurt, *, before: int = BEFORE, after: int = AFTER) -> Row:
    """Start a system, put load on it, hurt it, let it come to rest, and count."""
    row = Row(system, hurt)
    try:
        with Stage(folder, system, hurt.broker, small_disk=hurt.small_disk, proxied=hurt.proxied) as stage:
            stage.produce()
            stage.wait_accepted(before)
            hurt.act(stage)
            stage.wait_accepted(after)
            stage.stop_producers()
            row.rest_seconds = stage.settle()
            count(row, stage)
            row.seen_in = places_that_show(stage)
            row.restarts = stage.restarts
    except (NotPermitted, MissingServer) as error:
        row.note = f"not done: {error}"
    return row


def count(row: Row, stage: Stage) -> None:
    """Fill in the numbers."""
    stored: dict[UUID, int] = defaultdict(int)
    for (id,) in stage.rows(STORED[row.system]):
        stored[id] += 1
    ids_by_address: dict[str, list[str]] = defaultdict(list)
    for mail in stage.mails():
        ids_by_address[mail.address].append(mail.message_id)
    explained = {id for (id,) in stage.rows(EXPLAINED)} if row.system == "bellhop" else set()
    row.mails = len(stage.mails())
    row.twice = sum(copies > 1 for copies in stored.values())
    for copies in ids_by_address.values():
        row.strangers += len(set(copies)) - 1
        row.doubles += len(copies) - len(set(copies))
    for way in ("broker", "durable"):
        asked = stage.asked(way)
        row.accepted[way] = len(asked.accepted)
        row.refused += len(asked.refused)
        row.lost[way] = sum(id not in stored for id in asked.accepted)
        for id in asked.accepted:
            unmailed = id in stored and address_of(id) not in ids_by_address
            row.explained += unmailed and id in explained
            row.unmailed += unmailed and id not in explained


def places_that_show(stage: Stage) -> list[str]:
    """Every place that shows the canary: logs, Flower, its metrics, results, and words kept about failures."""
    seen = [path.name for path in sorted(stage.folder.rglob("*.log")) if CANARY in path.read_text(errors="replace")]
    task_ids = [str(id) for id in stage.asked("broker").accepted[-2:]]
    seen += [path for path, page in all_pages(stage.flower_port, task_ids).items() if CANARY in page]
    seen += ["results"] if CANARY in stage.broker.results() else []
    words = stage.rows(WORDS) if stage.system == "bellhop" else []
    return seen + (["last_error"] if any(CANARY in str(word) for (word,) in words) else [])

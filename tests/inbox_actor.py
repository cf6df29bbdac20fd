"""One of several processes that do things to the same inbox at once: `python -m tests.inbox_actor NUMBER`."""

import random
import sys

from tests.store import put
from worker import inbox
from worker.database import transaction, utcnow

STEPS = 60


def act(number: int) -> None:
    """Create, mark, unmark and delete, by chance but the same each time; prints how much it marked and removed."""
    chance = random.Random(number)
    done = {"created": 0, "marked": 0, "removed": 0}
    for _ in range(STEPS):
        put("paul", utcnow(), event_config_name=chance.choice(["mention", "quiet"]))
        done["created"] += 1
        with transaction() as session:
            items = inbox.list(session, "paul", per_page=20).items
        if not items:
            continue  # the other one has removed them all
        found = chance.choice(items)
        match chance.randrange(6):
            case 0:
                with transaction() as session:
                    done["marked"] += inbox.mark_all_seen(session, "paul", event_config_name="mention")
            case 1:
                with transaction() as session:
                    done["removed"] += inbox.delete_seen(session, "paul")
            case 2:
                with transaction() as session:
                    done["removed"] += inbox.delete(session, "paul", found.id)
            case kind:
                with transaction() as session:
                    inbox.mark_seen(session, "paul", found.id, kind < 5)
    print(done["created"], done["marked"], done["removed"])


if __name__ == "__main__":
    act(int(sys.argv[1]))

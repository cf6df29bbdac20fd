"""Recording what became of deliveries, and when those that failed are due again."""

import random
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import Update, bindparam, update
from sqlalchemy.orm import Session

from worker import attempts
from worker.channels import Outcome, Verdict
from worker.claims import Claimed
from worker.directory import keep_suppression
from worker.models import Delivery
from worker.rows import bound, is_chosen, is_in_bound, lock_deliveries, locked
from worker.settings import Settings, get_settings

#: The table itself: updates by way of the class cost several times as much, and there is one per few mails.
_rows = Delivery.metadata.tables[Delivery.__tablename__]


def record(session: Session, told: Sequence[tuple[Claimed, Outcome]], now: datetime) -> Counter[str]:
    """Write down what became of claimed deliveries; a later claim of the same row is left alone.

    Gives how many have which status now.
    """
    settings, counts = get_settings(), Counter[str]()
    sent = [one.id for one, outcome in told if outcome.verdict is Verdict.SENT]
    if len(sent) < len(told):
        lock_deliveries(session, [one.id for one, _outcome in told])
    if sent:
        # Sent is sent, whoever holds the row by now.
        postgres = session.get_bind().dialect.name == "postgresql"
        session.connection().execute(_sent(postgres), {"ids": bound(session, sent), "now": now})
        counts["sent"] = len(sent)
    for one, outcome in told:
        if outcome.verdict is not Verdict.SENT:
            values = _consequence(one, outcome, now, settings)
            ours = (_rows.c.id == one.id, _rows.c.status == "sending", _rows.c.attempts == one.attempts)
            if session.execute(update(_rows).where(*ours).values(**values).returning(_rows.c.id)).first():
                attempts.note(session, one.id, one.attempts, outcome.verdict, outcome.detail, now)
            counts[values["status"]] += 1
        if outcome.no_such_address and settings.suppress_on_refusal:
            keep_suppression(session, one.parcel.address, "no_such_address", now, one.channel)
    return counts


@lru_cache
def _sent(postgres: bool) -> Update:
    """Built once: that takes longer than to run it for a few rows."""
    these = is_in_bound(Delivery.id, "ids", postgres=postgres)
    unsent = locked(these, Delivery.status != "sent", model=Delivery)
    rows = update(_rows).where(is_chosen(_rows.c.id, unsent, postgres=postgres))
    return rows.values(status="sent", sent_at=bindparam("now"), parts=None, reason=None, last_error=None)


def _consequence(one: Claimed, outcome: Outcome, now: datetime, settings: Settings) -> dict[str, Any]:
    verdict = outcome.verdict
    values = {"reason": verdict.value, "last_error": outcome.detail}
    if verdict is Verdict.PERMANENT:
        return {**values, "status": "failed"}
    if verdict is Verdict.UNKNOWN and settings.unknown_policy == "hold":
        return {**values, "status": "unknown"}
    return values | _later(one, outcome, now, settings)


def _later(one: Claimed, outcome: Outcome, now: datetime, settings: Settings) -> dict[str, Any]:
    verdict, tried = outcome.verdict, one.attempts
    if not outcome.reached:
        # The server said nothing about this delivery: the attempt does not count. The breaker sees to the waiting.
        verdict, tried = Verdict.TRANSIENT, tried - 1
    if tried >= settings.max_attempts:
        return {"status": "failed"}
    due = now + timedelta(seconds=backoff(verdict, tried, settings))
    if due >= one.give_up_at:
        return {"status": "failed", "reason": "too_late"}
    return {"status": "pending", "attempts": tried, "due_at": due, "lease_until": due}


def backoff(verdict: Verdict, tried: int, settings: Settings) -> float:
    """Seconds until the next attempt: doubled each time up to the maximum, half of it drawn by lot.

    What our own side must mend first waits for the maximum at once.
    """
    longest = settings.retry_max_seconds
    exponent = min(max(tried - 1, 0), 30)
    delay = longest if verdict is Verdict.MISCONFIGURED else min(longest, settings.retry_base_seconds * 2**exponent)
    return delay * random.uniform(0.5, 1.0)

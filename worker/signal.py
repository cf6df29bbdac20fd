"""The live signal: after the commit, whoever listens to an inbox on Redis learns its counts; never any text.

`{"id", "recipient_id", "total", "unseen"}` on the channel `bellhop:inbox:<recipient>`; `id` is the notification that
changed last, null where many did. Redis is asked first who listens: an inbox nobody looks at costs no query.
That holds for SUBSCRIBE; a pattern subscription is not seen.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Engine, event, func, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from worker.models import Notification
from worker.rows import as_uuid, chunks
from worker.settings import Settings, get_settings
from worker.tables import Present

log = logging.getLogger(__name__)

#: Seconds that Redis has for its answer, and that it is left alone after a failure.
ANSWER, PAUSE = 1.0, 30.0

#: By recipient, the notification that changed last, perhaps as hexadecimal digits; None where many did.
Changed = Mapping[str, UUID | str | None]

#: Where a session's `info` keeps what changed until its transaction has committed.
_CHANGED = "bellhop_changed"

#: Which of these channels somebody listens to. ARGV: their names, one to a line: no name has a line break, and one
#: value is bound, and answered, far faster than hundreds.
LISTENED = r"""
local names, listened = {}, {}
for name in string.gmatch(ARGV[1], '[^\n]+') do names[#names + 1] = name end
for first = 1, #names, 1000 do
  local asked = redis.call('PUBSUB', 'NUMSUB', unpack(names, first, math.min(first + 999, #names)))
  for place = 1, #asked, 2 do
    if asked[place + 1] > 0 then listened[#listened + 1] = asked[place] end
  end
end
return listened
"""

_quiet_until = 0.0


def channel(recipient_id: str) -> str:
    """The channel of one inbox."""
    return f"bellhop:inbox:{recipient_id}"


def note(session: Session, changed: Changed) -> None:
    """Remember the inboxes, and what changed in them, to publish once the session's transaction has committed."""
    if changed and get_settings().signal != "off":
        session.info.setdefault(_CHANGED, {}).update(changed)


@event.listens_for(Session, "after_commit")
def _publish(session: Session) -> None:
    """SQLAlchemy calls this for the end of a savepoint too."""
    if session.in_nested_transaction() or _CHANGED not in session.info:
        return
    changed = session.info.pop(_CHANGED)
    try:
        publish(session.get_bind().engine, changed)
    except Exception as error:  # whatever it is: the caller's work is committed
        log.warning("inboxes that changed could not be signalled (%s)", type(error).__name__)


def publish(engine: Engine, changed: Changed) -> int:
    """Tell those who listen; gives how many inboxes were told. A failure is logged, and harms nothing."""
    global _quiet_until
    url = signal_url(get_settings())
    if url is None or time.monotonic() < _quiet_until:
        return 0
    try:
        client = _client(os.getpid(), url)
        listened = _listened(client, changed)
        if listened:
            _tell(client, _counts(engine, listened), changed)
        return len(listened)
    except (redis.RedisError, ValueError, OSError) as error:
        _quiet_until = time.monotonic() + PAUSE
        log.warning("inboxes that changed could not be signalled (%s)", type(error).__name__)
    except SQLAlchemyError as error:
        log.warning("inboxes that changed could not be counted (%s)", type(error).__name__)
    return 0


def signal_url(settings: Settings) -> str | None:
    """Where to publish, as redis-py names it; None where nothing is to be published."""
    if settings.signal_url is None and "broker_url" not in settings.model_fields_set:
        return None  # an application that reads its inboxes need not have a broker where the default one would be
    url = (settings.signal_url or settings.broker_url).get_secret_value()
    if settings.signal == "off" or not url.startswith(("redis", "unix:")):
        return None
    if url.startswith("redis+socket:"):
        return url.replace("redis+socket:", "unix:", 1).replace("virtual_host=", "db=")
    return url


@lru_cache(maxsize=1)
def _client(_pid: int, url: str) -> Any:
    """A forked child has one of its own."""
    answer = {"socket_timeout": ANSWER, "socket_connect_timeout": ANSWER}
    return redis.Redis.from_url(url, **answer, retry=Retry(NoBackoff(), 1))


def _listened(client: Any, recipients: Iterable[str]) -> list[str]:
    found = client.eval(LISTENED, 0, "\n".join(map(channel, recipients)))
    return sorted(name.decode().removeprefix(channel("")) for name in found)


def _counts(engine: Engine, recipients: list[str]) -> dict[str, tuple[int, int]]:
    """As `worker.inbox.counts`, of many."""
    found = dict.fromkeys(recipients, (0, 0))
    alive = or_(Notification.expire_at.is_(None), Notification.expire_at > Present())
    statement = (
        select(Notification.recipient_id, func.count(), func.count().filter(Notification.seen_at.is_(None)))
        .where(Notification.created_at <= Present(), alive)
        .group_by(Notification.recipient_id)
    )
    with Session(engine) as session:
        for some in chunks(recipients):
            for recipient, total, unseen in session.execute(statement.where(Notification.recipient_id.in_(some))):
                found[recipient] = (total, unseen)
    return found


def _tell(client: Any, counts: Mapping[str, tuple[int, int]], changed: Changed) -> None:
    pipeline = client.pipeline(transaction=False)
    for recipient, (total, unseen) in counts.items():
        id = changed[recipient]
        about = {"id": id and str(as_uuid(id)), "recipient_id": recipient, "total": total, "unseen": unseen}
        pipeline.publish(channel(recipient), json.dumps(about))
    pipeline.execute()

"""Looks over everything that Bellhop needs, changes nothing, and says what to do about what it finds."""

import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from worker import control
from worker.channels import CHANNELS
from worker.channels.email import EmailChannel
from worker.channels.smtp import Failure
from worker.client import PublishError
from worker.control import Hold
from worker.database import UNAVAILABLE, check_schema, get_engine, head, transaction, utcnow
from worker.errors import BellhopError, InvalidSettings
from worker.events import get_events
from worker.folders import templates_dir, texts
from worker.lang import fallback_chain
from worker.models import Delivery, Heartbeat, Request
from worker.render import langs
from worker.settings import get_settings

#: A delivery that has been due for longer is late.
LATE = timedelta(minutes=10)
#: Beat is missed after so many of its ticks, and at least after so long.
TICKS, AT_LEAST = 5, timedelta(minutes=1)
#: Seconds by which the database's clock may differ from ours.
CLOCK = 2.0
#: Seconds that workers have to answer.
ANSWER = 2.0
#: What to do about a setting.
CORRECT = "correct the environment; config/worker.env.example lists every setting"
#: How long what failed is a finding; the numbers are shown for ever.
LATELY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at. Without advice it is as it should be."""

    subject: str
    words: str
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "ok": not self.advice}


def examine() -> Iterator[Check]:
    """Look at one thing after the other; no secret and no address is in what it says."""
    try:
        get_settings()
    except BellhopError as error:
        yield Check("settings", str(error), CORRECT)
        return
    yield Check("settings", "readable")
    yield from _events()
    try:
        yield from _database()
    except UNAVAILABLE as error:
        yield Check("database", _first_line(error), "start the database, or correct DATABASE_URL")
    except InvalidSettings as error:
        yield Check("database", str(error), "correct DATABASE_URL")
    except BellhopError as error:
        yield Check("database", str(error), "run `bellhop init-db`")
    yield from _broker()
    yield _smtp()


def _first_line(error: Exception) -> str:
    words = str(getattr(error, "orig", None) or error).strip()
    return words.splitlines()[0] if words else type(error).__name__


def _events() -> Iterator[Check]:
    try:
        events = get_events()
        texts()
    except InvalidSettings as error:
        yield Check("events", str(error), CORRECT)
        return
    except BellhopError as error:
        yield Check("events", str(error), "correct config/events.toml")
        return
    default = get_settings().default_lang
    there = {name: langs(name) for name, event in events.items() if event.active}
    bare = sorted(name for name in there if not there[name])
    foreign = sorted(name for name in there if there[name] and not {*fallback_chain(default, default)} & {*there[name]})
    if bare:
        words = f"no templates in {templates_dir()} for {', '.join(bare)}"
        yield Check("events", words, "add them, see `bellhop lint`; or active = false")
    if foreign:
        words = f"no templates in {default}, the default language, for {', '.join(foreign)}"
        yield Check("events", words, "add them, see `bellhop lint`; or correct DEFAULT_LANG")
    if not bare and not foreign:
        yield Check("events", f"{len(events)} events with templates")


def _database() -> Iterator[Check]:
    engine = get_engine()
    check_schema(engine)
    with transaction() as session:
        version = ".".join(str(part) for part in session.connection().dialect.server_version_info or ())
        yield Check("database", f"{engine.dialect.name} {version}, schema {head()}")
        if engine.dialect.name == "postgresql":
            yield _clock(session)
        now = utcnow()
        yield _beat(session, now)
        holds = control.holds(session, now)
        yield from (_channel(name, holds.get(name)) for name in sorted(CHANNELS))
        yield _deliveries(session, holds, now)
        yield _failed(session, now)
        yield _requests(session, now)


def _clock(session: Session) -> Check:
    before = time.time()
    theirs: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    off = theirs.timestamp() - (before + time.time()) / 2
    words = f"the database's differs from this machine's by {abs(off):.1f} s"
    return Check("clock", words, "set both by NTP: leases and due times compare them" if abs(off) > CLOCK else "")


def _beat(session: Session, now: datetime) -> Check:
    last = session.get(Heartbeat, "dispatch_due")
    advice = "start `celery -A worker beat`, and a worker of the queue `maintenance`"
    if last is None:
        return Check("beat", "it has never had anything dispatched", advice)
    patience = max(AT_LEAST, TICKS * timedelta(seconds=get_settings().dispatch_every_seconds))
    age = now - last.at
    return Check("beat", f"last dispatched {_ago(age)} ago", advice if age > patience else "")


def _ago(age: timedelta) -> str:
    seconds = max(0, int(age.total_seconds()))
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _channel(name: str, hold: Hold | None) -> Check:
    if hold is None:
        return Check("channel", f"{name} may send")
    if hold.state == "paused":
        return Check("channel", hold.words, f"`bellhop status` says why; `bellhop resume {name}` lets it go on")
    # What tries its server with the next delivery may be well again: nothing was sent since.
    advice = f"`bellhop status` says why; mend it, then `bellhop resume {name}` tries at once"
    return Check("channel", hold.words, advice if hold.state == "cut off" else "")


def _deliveries(session: Session, holds: Mapping[str, Hold], now: datetime) -> Check:
    due = Delivery.status == "pending", Delivery.due_at <= now
    oldest = select(Delivery.channel, func.min(Delivery.due_at)).where(*due).group_by(Delivery.channel)
    ages = {channel: now - due_at for channel, due_at in session.execute(oldest)}
    waiting = _count(session, Delivery, Delivery.status == "pending")
    words = f"{waiting} wait" + (f", the oldest due for {_ago(max(ages.values()))}" if ages else ", none is due")
    late = {channel for channel, age in ages.items() if age > LATE}
    held = {channel for channel, hold in holds.items() if hold.state != "probing"}
    if late - held:
        advice = "start more workers of the queues email_high and email; `bellhop deliveries --status pending` says why"
    else:
        advice = f"they wait until {' and '.join(sorted(late))} may send, see above" if late else ""
    return Check("deliveries", words, advice)


def _requests(session: Session, now: datetime) -> Check:
    asked = _count(session, Request, Request.status == "failed")
    lately = _count(session, Request, Request.status == "failed", Request.created_at > now - LATELY)
    mend = "`bellhop requests --status failed` says why; mend it, then `bellhop replay --requests`"
    words = f"{_count(session, Request, Request.status == 'pending')} wait, {asked} failed, {lately} of them lately"
    return Check("requests", words, mend if lately else "")


def _failed(session: Session, now: datetime) -> Check:
    numbers = {status: _count(session, Delivery, Delivery.status == status) for status in ("failed", "unknown")}
    gone_wrong = Delivery.status.in_(("failed", "unknown")), Delivery.reason.is_distinct_from("permanent")
    lately = _count(session, Delivery, *gone_wrong, Delivery.due_at > now - LATELY)
    words = f"{numbers['failed']} failed, {numbers['unknown']} unknown, {lately} of them lately and not for good"
    mend = "`bellhop deliveries --status failed --status unknown` says why; mend it, then `bellhop replay`"
    return Check("failures", words, mend if lately else "")


def _count(session: Session, model: type[Delivery] | type[Request], *conditions: Any) -> int:
    return session.scalar(select(func.count()).select_from(model).where(*conditions)) or 0


def _broker() -> Iterator[Check]:
    try:
        from worker.celery import QUEUES, app
    except InvalidSettings as error:
        yield Check("settings", str(error), CORRECT)
        return
    connection = app.connection_for_read()
    try:
        with connection:
            connection.ensure_connection(max_retries=1, timeout=ANSWER)
            if connection.transport.driver_type == "redis":
                yield from _redis(connection.default_channel.client.info())
            else:
                told = connection.connection.server_properties
                yield Check("broker", f"{told.get('product')} {told.get('version')}")
        inspect = app.control.inspect(timeout=ANSWER)
        consumed = inspect.active_queues() or {}
    except (PublishError, OSError, *connection.connection_errors) as error:
        yield Check("broker", _first_line(error), "start the broker, or correct BROKER_URL")
        return
    advice = "start `celery -A worker worker`"
    yield Check("workers", f"{len(consumed)} of them answer", "" if consumed else advice)
    orphans = sorted(set(QUEUES) - {queue["name"] for queues in consumed.values() for queue in queues})
    if consumed and orphans:
        yield Check("queues", f"nobody takes from {', '.join(orphans)}", f"{advice} -Q {','.join(orphans)}")
    elif consumed:
        yield Check("queues", "every queue has a worker")


def _redis(info: Any) -> Iterator[Check]:
    yield Check("broker", f"Redis {info.get('redis_version')}")
    if not info.get("aof_enabled"):
        words = "appendonly is no: a restart of Redis loses what waits in it"
        yield Check("broker", words, "set `appendonly yes` in redis.conf")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        words = f"maxmemory-policy is {policy}: a full Redis throws messages away"
        yield Check("broker", words, "set `maxmemory-policy noeviction` in redis.conf")


def _smtp() -> Check:
    try:
        connection = EmailChannel.from_settings(get_settings()).connect().session
    except BellhopError as error:
        return Check("mail", str(error), "correct SMTP_URL or EMAIL_FROM")
    except Failure as failure:
        code = "" if failure.code is None else f"{failure.code} "
        return Check("mail", f"{failure.phase}: {code}{failure.words}", "see SMTP_URL, and the mail server's log")
    secure = "with TLS" if isinstance(connection.sock, ssl.SSLSocket) else "without TLS"
    connection.leave()
    return Check("mail", f"the server answers, {secure}")

"""What the tests of a channel's control share: its row, what beat would hand over, sending by a script."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from tests.smtp_servers import Script, ScriptedSmtp
from tests.store import rows
from worker import deliver as delivering
from worker import dispatch
from worker.database import transaction, utcnow
from worker.deliver import Delivered
from worker.models import ChannelState

Configure = Callable[..., None]


def take(limit: int = 100, now: datetime | None = None) -> list[UUID]:
    """What beat would hand over."""
    with transaction() as session:
        return [id for ids in dispatch.take_due(session, now or utcnow(), limit).values() for id in ids]


def state() -> ChannelState:
    """The row of the email channel."""
    [found] = rows(ChannelState)
    return found


def hold(**values: object) -> None:
    """Put the email channel into a state."""
    with transaction() as session:
        row = session.get(ChannelState, "email") or ChannelState(name="email", failures=0, opened=0)
        for name, value in values.items():
            setattr(row, name, value)
        session.add(row)


def send(ids: list[UUID], script: Script, configure: Configure, **settings: object) -> tuple[Delivered, int]:
    """Deliver to a server of this script; gives what was done, and how many connections the server saw."""
    with ScriptedSmtp(script) as server:
        configure(SMTP_URL=server.url + "?tls=none", **settings)
        return delivering.deliver(transaction, ids), server.connections

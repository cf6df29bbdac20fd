"""Channels carry a rendered notification out of the house; the in-app inbox needs none, its row is the delivery.

A channel is any object with the shape of `Channel`. To send emails otherwise than by SMTP, name its factory in
`CHANNELS` as `email`, in a module that the worker is started with: `examples/email_by_http.py` is one. Under any other
name it would get no deliveries: they are made for email alone (README.md says what a further channel needs besides).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from worker.attachments import File


class Verdict(StrEnum):
    """What became of one delivery attempt. Only the first three leave the delivery open."""

    TRANSIENT = "transient"
    """Try again later: nothing was accepted (SMTP 4yz, connection refused, time-out before the end of DATA)."""
    THROTTLED = "throttled"
    """Try again later, the server asks for less (SMTP 421, 450 4.7.x, 451 4.7.x, 452)."""
    MISCONFIGURED = "misconfigured"
    """Our side must change first (bad login, TLS refused, sender refused): waits, at the longest delay."""
    SENT = "sent"
    """The other side has taken responsibility (SMTP 250 to the end of DATA)."""
    PERMANENT = "permanent"
    """It will never work for this address or content (SMTP 5yz to RCPT or DATA)."""
    UNKNOWN = "unknown"
    """The connection broke after the content was sent and before the answer: it may have been taken."""


class Parcel(NamedTuple):
    """One delivery, rendered and ready to be carried."""

    delivery_id: UUID
    address: str
    lang: str
    parts: Mapping[str, Any]
    """Rendered parts by name; email uses `subject`, `text` and `html`."""
    created_at: datetime
    """When the notification came into being (aware UTC); the mail's Date."""
    files: tuple[File, ...] = ()
    """Attachments, and inline images, which have a Content-ID."""
    references: tuple[UUID, ...] = ()
    """The deliveries of the notifications that this one answers, the thread's first one first, the parent's last."""
    content_key: UUID | None = None
    """Parcels with an equal key have equal parts, files and lang."""


class Outcome(NamedTuple):
    """What became of one parcel."""

    delivery_id: UUID
    verdict: Verdict
    detail: str = ""
    """The other side's words or the error's class, without the address and without any content."""
    reached: bool = True
    """False: the server could not be used at all (connecting, greeting, encryption, login), so that nothing was said
    about this delivery, nor would be about the next."""
    no_such_address: bool = False
    """The other side says that there is no such address, whatever is sent to it."""


class Channel(Protocol):
    """Carries parcels, several at the same time if it can. Holds connections, never a database session."""

    def send(self, parcels: Iterable[Parcel | None]) -> Iterator[Sequence[Outcome]]:
        """Yield one outcome per parcel, in any order, each as soon as it is known, those known together in one group.

        None in place of a parcel means that there is none to carry at the moment: it is asked for again soon.
        The caller records a group before it asks for the next one. A channel takes a parcel when it is about to carry
        it, and has at most RECORD_WINDOW parcels out that the other side may have taken and the caller has not
        recorded. The caller may stop early (closing the generator): what was taken then has no outcome.
        Never raises for what the other side does; programming errors pass through.
        """
        ...


def _email() -> Channel:
    from worker.channels.email import EmailChannel
    from worker.settings import get_settings

    return EmailChannel.from_settings(get_settings())


CHANNELS: dict[str, Callable[[], Channel]] = {"email": _email}
"""Name -> factory. Called once per process, on first use."""

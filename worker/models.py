"""The tables. The notification row is the in-app delivery; the delivery row is the outbox."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from worker.tables import Base, Json, partial_index
from worker.tables import UtcDateTime as UtcDateTime  # migrations name it by this module

#: An event's priority as the column that deliveries are taken in order of: the lower goes first.
URGENCY = {"high": 0, "normal": 1}


#: The order of an inbox.
_PLACE = ("recipient_id", "created_at", "id")
_THREAD = ("recipient_id", "parent_id", "thread_id")
#: What PostgreSQL's indexes of an inbox also hold, so that counts and deep pages need not look at the rows.
_CARRIED = ("expire_at", "event_config_name", "scope")


class Notification(Base):
    """One notification in one recipient's inbox. Unseen: `seen_at` is null."""

    __tablename__ = "notifications"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    request_id: Mapped[UUID]
    recipient_id: Mapped[str] = mapped_column(String(255))
    sender_id: Mapped[str | None] = mapped_column(String(255))
    event_config_name: Mapped[str | None] = mapped_column(String(100))
    lang: Mapped[str] = mapped_column(String(35))
    """The language of the text."""
    lang_asked: Mapped[str] = mapped_column(String(35))
    """The language that was asked for; another one than `lang` where the event has no templates in it."""
    title: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    link: Mapped[str | None] = mapped_column(Text)
    context: Mapped[dict[str, Any] | None]
    object_type: Mapped[str | None] = mapped_column(String(100))
    object_id: Mapped[str | None] = mapped_column(String(255))
    scope: Mapped[str | None] = mapped_column(String(255))
    parent_id: Mapped[UUID | None]
    """The recipient's notification that this one answers."""
    thread_id: Mapped[UUID | None]
    """The one their thread began with; null where this one begins it."""
    email_reason: Mapped[str | None] = mapped_column(String(40))
    """Why no email was asked for: `asked_not`, `event_default`, `no_event`. Null: the delivery row tells."""
    created_at: Mapped[datetime]
    """When it comes into being for the recipient: the moment of creation, or `send_at`. Not shown before."""
    expire_at: Mapped[datetime | None]
    """Not shown from then on. Equal to `created_at` where no inbox is to show it: the record of its email alone."""
    updated_at: Mapped[datetime]
    seen_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_notifications_inbox", *_PLACE, postgresql_include=_CARRIED),
        partial_index("ix_notifications_unseen", *_PLACE, where="seen_at IS NULL", postgresql_include=_CARRIED),
        partial_index("ix_notifications_thread", *_THREAD, where="parent_id IS NOT NULL"),
        partial_index("ix_notifications_purge", "updated_at", where="seen_at IS NOT NULL"),
        partial_index(
            "ix_notifications_object", "object_type", "object_id", "recipient_id", where="object_id IS NOT NULL"
        ),
        Index("ix_notifications_request", "request_id", "recipient_id"),
    )


class Delivery(Base):
    """One notification on its way through one channel. Every row that was not sent says why."""

    __tablename__ = "deliveries"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    notification_id: Mapped[UUID] = mapped_column(ForeignKey("notifications.id", ondelete="CASCADE"), index=True)
    channel: Mapped[str] = mapped_column(String(20))
    address: Mapped[str | None] = mapped_column(String(320))
    parts: Mapped[dict[str, Any] | None]
    """The rendered parts; emptied once sent. Null where `content_id` says where they are."""
    content_id: Mapped[UUID | None]
    """The content that this mail has in common with others of its request."""
    status: Mapped[str] = mapped_column(String(10))
    """pending, sending, sent, failed, unknown or skipped."""
    reason: Mapped[str | None] = mapped_column(String(40))
    """Why it was skipped, failed or waits."""
    urgency: Mapped[int] = mapped_column(default=1)
    """0 for events of high priority, 1 for the others: the lower goes first."""
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime]
    """Not sent before."""
    lease_until: Mapped[datetime]
    """Until then the row is in somebody's hands: handed over (pending), or claimed (sending)."""
    expire_at: Mapped[datetime | None]
    """Not sent after."""
    give_up_at: Mapped[datetime | None]
    """Tried no more from then on; null: so long after the notification as the settings say."""
    last_error: Mapped[str | None] = mapped_column(Text)
    sent_at: Mapped[datetime | None]

    __table_args__ = (
        partial_index("ix_deliveries_due", "channel", "urgency", "due_at", where="status = 'pending'"),
        partial_index("ix_deliveries_claimed", "lease_until", where="status = 'sending'"),
        partial_index("ix_deliveries_failed", "due_at", where="status IN ('failed', 'unknown')"),
    )


class ChannelState(Base):
    """What holds a channel back or slows it down; a channel without a row may send."""

    __tablename__ = "channels"

    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    paused_at: Mapped[datetime | None]
    """Since when an operator lets nothing of it be claimed."""
    pause_reason: Mapped[str | None] = mapped_column(String(200))
    failures: Mapped[int] = mapped_column(default=0)
    """How often in a row its server could not be used."""
    opened: Mapped[int] = mapped_column(default=0)
    """How often in a row the circuit breaker opened, each time for longer."""
    open_until: Mapped[datetime | None]
    """Nothing is claimed before, then one delivery as a probe; null: the breaker is closed."""
    last_error: Mapped[str | None] = mapped_column(Text)
    """What the last of the failures said."""
    next_free_at: Mapped[datetime | None]
    """The first moment of the send rate that nobody has reserved."""


class Content(Base):
    """The rendered parts that many mails of one request have in common, kept once for all of them."""

    __tablename__ = "contents"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    parts: Mapped[dict[str, Any]]
    keep_until: Mapped[datetime]
    """Some time after the last email that may need it is due."""


class AttachmentContent(Base):
    """The bytes of a file that emails carry, kept once for all of them."""

    __tablename__ = "attachments"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    content: Mapped[bytes]
    keep_until: Mapped[datetime]
    """Some time after the last email that may need it is due."""


class Request(Base):
    """What was asked: the record that makes a repeated request harmless, and the durable queue."""

    __tablename__ = "requests"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    request_id: Mapped[UUID | None]
    """The id that it was asked under, where a message that failed has a row of its own."""
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    fingerprint: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(10))
    """pending, created, failed or cancelled."""
    payload: Mapped[dict[str, Any] | None]
    """The request of a durable enqueue, of a page of a fan-out, or what failed; emptied once created."""
    bulk: Mapped[bool] = mapped_column(default=False)
    """A fan-out, or a page of one: created after the small requests, by workers of the bulk queue."""
    cursor: Mapped[str | None] = mapped_column(String(255))
    """How far a fan-out is cut into pages: the last member that has one. Null: not a fan-out."""
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]

    __table_args__ = (
        partial_index("uq_requests_key", "idempotency_key", where="idempotency_key IS NOT NULL", unique=True),
        partial_index("ix_requests_pending", "bulk", "created_at", where="status = 'pending'"),
        partial_index("ix_requests_failed", "created_at", where="status = 'failed'"),
        partial_index("ix_requests_asked", "request_id", where="request_id IS NOT NULL"),
        Index("ix_requests_created_at", "created_at"),
    )


class UnderWay(Base):
    """Requests that a worker is just creating: a row that outlives its worker tells that it died of one of them."""

    __tablename__ = "under_way"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    request_ids: Mapped[list[str]] = mapped_column(Json)
    created_at: Mapped[datetime]


class Attempt(Base):
    """An attempt at a delivery that did not succeed; the one that did is told by the delivery's own row."""

    __tablename__ = "attempts"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    delivery_id: Mapped[UUID] = mapped_column(ForeignKey("deliveries.id", ondelete="CASCADE"), index=True)
    number: Mapped[int]
    at: Mapped[datetime]
    verdict: Mapped[str] = mapped_column(String(40))
    """Its class: one of `worker.channels.Verdict`, or `abandoned` where the worker fell silent."""
    detail: Mapped[str | None] = mapped_column(Text)
    """The other side's words, without the address."""


class Heartbeat(Base):
    """When something that must happen again and again last did."""

    __tablename__ = "heartbeats"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    at: Mapped[datetime]


class Recipient(Base):
    """The directory: whom an id means. An application may put a view of its own users in its place."""

    __tablename__ = "recipients"

    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    username: Mapped[str | None] = mapped_column(String(255), unique=True)
    email: Mapped[str | None] = mapped_column(String(320))
    lang: Mapped[str | None] = mapped_column(String(35))
    timezone: Mapped[str | None] = mapped_column(String(64))


class GroupMember(Base):
    """One recipient's membership in one group."""

    __tablename__ = "recipient_groups"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    recipient_id: Mapped[str] = mapped_column(String(255), primary_key=True, index=True)


class Preference(Base):
    """Whether a recipient wants an event on a channel; no row means yes."""

    __tablename__ = "preferences"

    recipient_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    event_config_name: Mapped[str] = mapped_column(String(100), primary_key=True)
    channel: Mapped[str] = mapped_column(String(20), primary_key=True)
    enabled: Mapped[bool]


class Suppression(Base):
    """An address that nothing is sent to, whatever is asked."""

    __tablename__ = "suppressions"

    channel: Mapped[str] = mapped_column(String(20), primary_key=True)
    address: Mapped[str] = mapped_column(String(320), primary_key=True)
    """In lower case."""
    reason: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime]


class Erasure(Base):
    """The ledger of erasures: how much each removed, and of nobody that could be named."""

    __tablename__ = "erasures"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    erased_at: Mapped[datetime]
    counts: Mapped[dict[str, Any]]


class PurgeRun(Base):
    """The ledger: what each purge removed."""

    __tablename__ = "purge_runs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    cutoff: Mapped[datetime]
    """Seen and unmodified since before this moment; events with a retention of their own have their own."""
    removed: Mapped[int]
    took_seconds: Mapped[float]
    finished: Mapped[bool]
    """False where the time budget ended first; the next run goes on."""

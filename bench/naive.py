"""The worker that an engineer writes by hand in an afternoon, to be compared with: `celery -A bench.naive worker`.

Written as one would for production with what Celery, SQLAlchemy and Jinja offer out of the box: an ORM row and a commit
per notification, templates compiled once per process, one SMTP connection per mail, Celery's default acknowledgement.
For large audiences `fan_out` takes 500 recipients per task; `fan_out_decent` is what a good reviewer makes of that.
It keeps no promise that Bellhop keeps: no retries, no record of what was sent, doubles when a task runs twice.
"""

import os
import smtplib
import time
import uuid
from datetime import UTC, datetime
from email.message import EmailMessage
from functools import cache

from celery import Celery
from jinja2 import DictLoader, Environment
from sqlalchemy import JSON, DateTime, Engine, Index, String, Text, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

app = Celery("naive", broker=os.environ.get("NAIVE_BROKER_URL"), set_as_current=False)
app.conf.task_ignore_result = True

#: Recipients in one task of a fan-out.
CHUNK = 500

environment = Environment(
    loader=DictLoader(
        {
            "title": "Your book is available: {{ title }}",
            "text": "The book “{{ title }}” is now available for you."
            "{% if pickup_location %} Pick it up at {{ pickup_location }}.{% endif %}\n",
            "html": "<!doctype html><html><body><h1>Your book is available: {{ title|e }}</h1>"
            "<p>The book <strong>“{{ title|e }}”</strong> is now available for you.</p>"
            "{% if pickup_location %}<p>Pick it up at {{ pickup_location|e }}.</p>{% endif %}</body></html>",
        }
    ),
    auto_reload=False,
)


class Base(DeclarativeBase):
    """The one table there is."""


class Notification(Base):
    """A row of somebody's inbox."""

    __tablename__ = "notifications"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    recipient_id: Mapped[str] = mapped_column(String(255))
    event: Mapped[str] = mapped_column(String(100))
    title: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    context: Mapped[dict] = mapped_column(JSON)  # type: ignore[type-arg]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=lambda: datetime.now(UTC))
    seen_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    __table_args__ = (
        Index("ix_recipient_created", "recipient_id", "created_at"),
        Index("ix_recipient_seen", "recipient_id", "seen_at"),
    )


@cache
def engine() -> Engine:
    """One pool per process."""
    return create_engine(os.environ["NAIVE_DATABASE_URL"])


def render(context: dict) -> dict[str, str]:  # type: ignore[type-arg]
    return {name: environment.get_template(name).render(context) for name in ("title", "text", "html")}


def mail(smtp: smtplib.SMTP, email: str, parts: dict[str, str]) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "library@example.org", email, parts["title"]
    message.set_content(parts["text"])
    message.add_alternative(parts["html"], subtype="html")
    smtp.send_message(message)


def connect() -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", int(os.environ["NAIVE_SMTP_PORT"]))


def row(recipient_id: str, parts: dict[str, str], context: dict) -> Notification:  # type: ignore[type-arg]
    return Notification(
        recipient_id=recipient_id, event="book_available", title=parts["title"], text=parts["text"], context=context
    )


@app.task
def notify(recipient_id: str, email: str | None, context: dict) -> None:  # type: ignore[type-arg]
    """One recipient; `email` where one is to be sent."""
    parts = render(context)
    with Session(engine()) as session:
        session.add(row(recipient_id, parts, context))
        session.commit()
    if email:
        with connect() as smtp:
            mail(smtp, email, parts)


@app.task
def fan_out(people: list, context: dict) -> None:  # type: ignore[type-arg]
    """`people`: up to 500 of (recipient id, email or none, own context or none)."""
    for recipient_id, email, own in people:
        notify.run(recipient_id, email, own or context)


@app.task
def fan_out_decent(people: list, context: dict) -> None:  # type: ignore[type-arg]
    """The same; one commit, one SMTP connection, and rendered once where the context is shared."""
    shared = render(context) if context else None
    rendered = [(recipient_id, email, shared or render(own), own or context) for recipient_id, email, own in people]
    with Session(engine()) as session:
        session.add_all(row(recipient_id, parts, context) for recipient_id, _, parts, context in rendered)
        session.commit()
    if any(email for _, email, _, _ in rendered):
        with connect() as smtp:
            for _, email, parts, _ in rendered:
                if email:
                    mail(smtp, email, parts)


@app.task
def empty() -> None:
    """Nothing: what Celery itself costs."""


@app.task
def stamp(name: str, path: str) -> None:
    """Write down when it ran: how late an empty task is."""
    line = f"{name} {time.time()}\n".encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line)
    os.close(descriptor)

"""What an engineer writes in an afternoon, and writes well: late acks, retries with back-off, a row and a mail a task.

It is measured beside Bellhop by the same harness. `celery -A tests.chaos.handwritten worker` runs it.
"""

import os
import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import make_msgid
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from celery import Celery
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

#: The only queue; a quorum queue on RabbitMQ.
QUEUE = "handwritten"


class Base(DeclarativeBase):
    """The tables."""


class Order(Base):
    """What the application itself stores before it tells anybody."""

    __tablename__ = "orders"
    id: Mapped[UUID] = mapped_column(primary_key=True)


class Notice(Base):
    """The in-app notification; its key comes with the task, so that a task that runs twice stores it once."""

    __tablename__ = "notices"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str]
    title: Mapped[str]
    sent: Mapped[bool] = mapped_column(default=False)


def client_settings(broker_url: str) -> dict[str, Any]:
    """Settings that producers and workers share; the same times as Bellhop's."""
    if broker_url.startswith("amqp"):
        return {"broker_transport_options": {"confirm_publish": True}, "task_create_missing_queue_type": "quorum"}
    redis = {"visibility_timeout": int(os.environ["VISIBILITY_TIMEOUT_SECONDS"]), "socket_timeout": 5}
    return {"broker_transport_options": {**redis, "socket_connect_timeout": 2, "unacked_restore_throttle": 1}}


app = Celery("handwritten", broker=os.environ.get("BROKER_URL"), set_as_current=False)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_default_queue=QUEUE,
    task_default_queue_type="quorum",
    worker_prefetch_multiplier=1,
    worker_send_task_events=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
)
if app.conf.broker_url:
    app.conf.update(client_settings(app.conf.broker_url))


@cache
def engine() -> Engine:
    """The process's engine, made at the first task."""
    return create_engine(os.environ["DATABASE_URL"], pool_pre_ping=True)


@contextmanager
def mail_server() -> Iterator[smtplib.SMTP]:
    """One connection for one mail."""
    url = urlsplit(os.environ["SMTP_URL"])
    with smtplib.SMTP(url.hostname or "", url.port or 25, timeout=float(os.environ["SMTP_TIMEOUT_SECONDS"])) as server:
        yield server


RETRIES = {"autoretry_for": (Exception,), "max_retries": 8, "retry_backoff": 1, "retry_backoff_max": 8}


@app.task(name="handwritten.notify", shared=False, **RETRIES)
def notify(id: str, email: str, title: str) -> None:
    """Store it and commit, then mail it and note that."""
    with Session(engine()) as session:
        notice = session.get(Notice, UUID(id))
        if notice is None:
            notice = Notice(id=UUID(id), email=email, title=title)
            session.add(notice)
            session.commit()
        if not notice.sent:
            send(email, title)
            notice.sent = True
            session.commit()


def send(address: str, title: str) -> None:
    """Send one mail."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "library@example.org", address, f"{title} is here"
    mail["Message-ID"] = make_msgid(domain="example.org")
    mail.set_content(f"Pick up {title}.")
    with mail_server() as server:
        server.send_message(mail)

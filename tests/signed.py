"""Signed messages for tests: keys, what would be published, and ways to publish something else."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from celery import Celery
from celery.signals import before_task_publish
from kombu import Connection

from worker import signing
from worker.client import make_queue


def key(number: int) -> str:
    """A key as it stands in the setting; the number is its id's."""
    return f"k{number}:{base64.b64encode(bytes(range(number, number + 32))).decode()}"


@contextmanager
def signed(keys: str) -> Iterator[None]:
    """Sign what this process publishes."""
    before = signing._state
    signing._state = signing._State()
    signing.start(keys)
    try:
        yield
    finally:
        signing._state = before


@dataclass
class Published:
    """A message as it was published, to be published again with something changed."""

    headers: dict[str, Any]
    body: Any

    @property
    def kwargs(self) -> dict[str, Any]:
        """The task's arguments."""
        kwargs: dict[str, Any] = self.body[1]
        return kwargs

    def again(self, url: str, *, kwargs: Any = None, embedded: Any = None, **headers: Any) -> str:
        """Publish it, perhaps with other arguments, other things to call next or other headers; gives its task id."""
        body = [self.body[0], kwargs or self.body[1], {**self.body[2], **(embedded or {})}]
        changed = {**self.headers, **headers}
        options = {"confirm_publish": True} if url.startswith("amqp") else {}
        with Connection(url, transport_options=options) as connection:
            queue = make_queue("notifications")
            connection.Producer().publish(
                body,
                headers=changed,
                serializer="json",
                routing_key="notifications",
                exchange="",
                declare=[queue],
                correlation_id=changed["id"],
                reply_to=str(uuid4()),
            )
        return str(changed["id"])


def publish(app: Celery, name: str, keys: str, **kwargs: Any) -> Published:
    """Publish a signed message; gives it as it was."""
    caught: list[Published] = []

    def catch(headers: dict[str, Any], body: Any, **_: Any) -> None:
        caught.append(Published(dict(headers), body))

    with signed(keys):
        before_task_publish.connect(catch)
        try:
            app.send_task(name, kwargs=kwargs, queue=make_queue("notifications"))
        finally:
            before_task_publish.disconnect(catch)
    return caught[0]

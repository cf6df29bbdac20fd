"""Raw messages to a real worker: mutated in their body, headers and properties. It is alive at the end, and works."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import redis
from celery import Celery

from tests.fuzz.hostile import CANARY, HOSTILE, MANY, MESSAGES, mutate
from tests.servers import RedisTestServer, wait_until
from tests.workers import foreign_app, running_worker

QUEUES = ("notifications", "bulk", "email", "maintenance", "inbox")
#: Headers that make Celery wait, or that the log shows: ids and names of tasks.
SLOW = {"eta", "expires", "timelimit", "id", "task"}


def envelope(random: Random) -> dict[str, Any]:
    """Any task's message, with one of its headers, properties or its body made hostile."""
    name = random.choice([*MESSAGES, "notifications.create"])
    kwargs = mutate(random, MESSAGES[name], 0)
    headers: dict[str, Any] = {
        "id": str(uuid4()),
        "task": name,
        "lang": "py",
        "retries": 0,
        "group": None,
        "root_id": None,
    }
    headers |= {"eta": None, "expires": None, "timelimit": [None, None], "argsrepr": "()", "kwargsrepr": "{}"}
    message: dict[str, Any] = {"body": [[], kwargs, {}], "headers": headers, "content_type": "application/json"}
    act = random.randrange(8)
    if act == 0:
        headers[random.choice(sorted(set(headers) - SLOW))] = random.choice(HOSTILE)
    elif act == 1:
        headers.pop(random.choice(sorted(headers)))
    elif act == 2:
        message["body"] = random.choice(HOSTILE)
    elif act == 3:
        # Celery takes what the body's third part names for headers, of which the log shows ids.
        hostile = [value for value in HOSTILE if not isinstance(value, dict) or SLOW.isdisjoint(value)]
        message["body"][random.randrange(3)] = random.choice(hostile)
    elif act == 4:
        message["content_type"] = random.choice(
            ["application/x-python-serialize", "text/plain", "application/x-yaml", "\n", ""]
        )
    return message


def publish(app: Celery, message: dict[str, Any], random: Random) -> None:
    """Straight to the queue, past every check of Celery's."""
    body = json.dumps(message["body"])
    if random.random() < 0.05:
        body = body[: random.randrange(len(body))] + random.choice(["", "\x00", "{" * 50_000, "9" * 5_000])
    with app.producer_or_acquire() as producer:
        producer.publish(
            body.encode(), routing_key=random.choice(QUEUES), exchange="", headers=message["headers"],
            content_type=message["content_type"], content_encoding="utf-8", serializer=None,
        )  # fmt: skip


def test_a_worker_outlives_whatever_is_in_its_queues(tmp_path: Path, new_postgres_url: Callable[[], str]) -> None:
    """A valid request is created after thousands of hostile messages; nobody's data is in the log."""
    random, many = Random(uuid4().int), min(MANY // 4, 5_000) or 150
    settings = {"DATABASE_URL": new_postgres_url(), "SIGNAL": "off", "SMTP_URL": "smtp://127.0.0.1:1"}
    with RedisTestServer(tmp_path / "redis", appendonly=False) as broker, foreign_app(broker.url, results=True) as app:
        queues = ("-Q", ",".join(QUEUES))
        with running_worker(tmp_path, {**settings, "BROKER_URL": broker.url}, *queues) as worker:
            for _ in range(many):
                publish(app, envelope(random), random)
            with redis.Redis.from_url(broker.url) as client:
                idle = lambda: not any(map(client.llen, QUEUES)) and not client.hlen("unacked")  # noqa: E731
                wait_until(idle, 30 + many / 20, f"all is taken: {worker.log_text()[-2000:]}")
            request = {"to": "survivor", "title": "Still here", "text": ""}
            app.send_task("notifications.create", kwargs={"request": request}, queue="notifications")
            asked = {"kwargs": {"recipient_id": "survivor"}, "queue": "inbox"}
            wait_until(lambda: 1 == app.send_task("inbox.unseen_count", **asked).get(10), 10, "the request is created")
            assert worker.returncode() is None
            log = worker.log_text()
            assert CANARY not in log
            assert "UnexpectedError" not in log
            assert "exited with" not in log

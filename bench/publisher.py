"""A process that enqueues, as an application does: jobs as lines of JSON on standard input, answers on standard output.

Recipients are numbered, so that each row and mail is known by its number.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

#: Requests in one transaction of `durable_many`.
TOGETHER = 100


def person(number: int) -> tuple[str, str]:
    """A recipient's id and address."""
    return f"r-{number:08d}", f"r-{number:08d}@example.org"


def own(number: int) -> dict[str, str]:
    """A context like no one else's."""
    return {"title": f"Dune, copy {number}", "pickup_location": "Front desk"}


def request(number: int, email: bool) -> dict[str, Any]:
    """What Bellhop is asked for."""
    id, address = person(number)
    return {
        "event_config_name": "book_available",
        "to": {"id": id, "email": address, "lang": "en"},
        "context": own(number),
        "should_email": email,
    }


class Publisher:
    """Every way to enqueue; each takes a range of numbers and whether a mail is wanted."""

    def __init__(self) -> None:
        from bench import naive
        from worker.client import connect, notify, notify_many

        self.app, self.notify, self.notify_many = connect(os.environ["BROKER_URL"]), notify, notify_many
        self.naive = naive
        self.engine = create_engine(os.environ["DATABASE_URL"])

    @cached_property
    def redis(self) -> redis.Redis:
        """The hand-written worker's broker, without Celery."""
        return redis.Redis.from_url(os.environ["NAIVE_BROKER_URL"])

    def one(self, number: int, email: bool, session: Session | None = None) -> None:
        """As the README shows it."""
        id, address = person(number)
        self.notify(
            "book_available", to={"id": id, "email": address, "lang": "en"}, context=own(number),
            should_email=email, app=self.app, session=session,
        )  # fmt: skip

    def durable(self, numbers: range, email: bool) -> None:
        """One request in each transaction."""
        for number in numbers:
            with Session(self.engine) as session, session.begin():
                self.one(number, email, session)

    def durable_many(self, numbers: range, email: bool) -> None:
        """A hundred requests in each transaction."""
        for start in range(numbers.start, numbers.stop, TOGETHER):
            with Session(self.engine) as session, session.begin():
                for number in range(start, min(start + TOGETHER, numbers.stop)):
                    self.one(number, email, session)

    def many(self, numbers: range, email: bool) -> None:
        """Distinct requests by `notify_many`."""
        self.notify_many([request(number, email) for number in numbers], app=self.app)

    def group(self, numbers: range, email: bool) -> None:
        """One request to everybody, with one context."""
        to = {"group": f"everyone-{len(numbers)}"}
        self.notify("book_available", to=to, context=own(0), should_email=email, app=self.app)

    def each(self, numbers: range, email: bool) -> None:
        """Requests to as many recipients as the hand-written fan-out has in a task, with a context for each."""
        for start in range(numbers.start, numbers.stop, self.naive.CHUNK):
            some = range(start, min(start + self.naive.CHUNK, numbers.stop))
            people = [(person(number), own(number)) for number in some]
            to = [{"id": id, "email": address, "lang": "en", "context": own} for (id, address), own in people]
            self.notify("book_available", to=to, should_email=email, app=self.app)

    def fan_out(self, numbers: range, email: bool, task: str = "fan_out", shared: bool = True) -> None:
        """The hand-written worker's fan-out, 500 recipients per task."""
        for start in range(numbers.start, numbers.stop, self.naive.CHUNK):
            people = [
                (id, address if email else None, None if shared else own(number))
                for number in range(start, min(start + self.naive.CHUNK, numbers.stop))
                for id, address in [person(number)]
            ]
            getattr(self.naive, task).delay(people, own(0) if shared else None)

    def fan_out_own(self, numbers: range, email: bool) -> None:
        """The same with a context for each."""
        self.fan_out(numbers, email, "fan_out", False)

    def decent(self, numbers: range, email: bool) -> None:
        """The better one."""
        self.fan_out(numbers, email, "fan_out_decent")

    def decent_own(self, numbers: range, email: bool) -> None:
        """The same with a context for each."""
        self.fan_out(numbers, email, "fan_out_decent", False)

    def delay(self, number: int, email: bool) -> None:
        """The hand-written worker's."""
        id, address = person(number)
        self.naive.notify.delay(id, address if email else None, own(number))

    def empty(self, number: int, email: bool) -> None:
        """An empty task."""
        self.naive.empty.delay()

    def queue(self, numbers: range, email: bool) -> None:
        """The messages of `notify`, pipelined: to fill a queue before anything is measured."""
        from worker.request import NotificationRequest

        with self.app.producer_pool.acquire(block=True) as producer, producer.batch(max_size=500):
            for number in numbers:
                asked = NotificationRequest.parse(request(number, email))
                self.app.send_task(
                    "notifications.create", kwargs={"request": asked.to_wire()}, task_id=str(asked.id),
                    queue="notifications", serializer="json", ignore_result=True, producer=producer,
                )  # fmt: skip

    def queue_delay(self, numbers: range, email: bool) -> None:
        """The hand-written worker's messages, pipelined."""
        with self.naive.app.producer_pool.acquire(block=True) as producer, producer.batch(max_size=500):
            for number in numbers:
                id, address = person(number)
                self.naive.notify.apply_async((id, address if email else None, own(number)), producer=producer)

    def queue_empty(self, numbers: range, email: bool) -> None:
        """Empty tasks, pipelined."""
        with self.naive.app.producer_pool.acquire(block=True) as producer, producer.batch(max_size=500):
            for _ in numbers:
                self.naive.empty.apply_async((), producer=producer)

    def push(self, numbers: range, email: bool) -> None:
        """The floor: the same bytes to Redis, one command for each."""
        self.one(0, email)
        connection = redis.Redis.from_url(os.environ["BROKER_URL"])
        body = connection.lpop("notifications")
        for _ in numbers:
            self.redis.lpush("celery", body)

    def push_many(self, numbers: range, email: bool) -> None:
        """The floor of many: the same bytes, a hundred commands to a round trip."""
        self.one(0, email)
        body = redis.Redis.from_url(os.environ["BROKER_URL"]).lpop("notifications")
        for start in range(numbers.start, numbers.stop, 100):
            with self.redis.pipeline(transaction=False) as pipe:
                for _ in range(min(100, numbers.stop - start)):
                    pipe.lpush("celery", body)
                pipe.execute()


#: What takes one number at a time, and so can be paced.
SINGLE = ("one", "delay", "empty")


def paced(call: Callable[[int, bool], None], job: dict[str, Any]) -> None:
    """One after the other, at `rate` per second where that is given; when each began goes to the file `stamps`."""
    began, rate = time.time(), job.get("rate")
    with Path(job["stamps"]).open("w") if job.get("stamps") else nullcontext() as stamps:
        for turn, number in enumerate(range(job["first"], job["first"] + job["count"])):
            if rate and (ahead := began + turn / rate - time.time()) > 0:
                time.sleep(ahead)
            if stamps:
                print(person(number)[0], time.time(), file=stamps)
            call(number, job["email"])


def main() -> None:
    """Answer each job with the moments of its begin and end."""
    publisher = Publisher()
    for line in sys.stdin:
        job = json.loads(line)
        call = getattr(publisher, job["kind"])
        began = time.time()
        if job["kind"] in SINGLE:
            paced(call, job)
        else:
            call(range(job["first"], job["first"] + job["count"]), job["email"])
        print(json.dumps({"began": began, "ended": time.time()}), flush=True)


if __name__ == "__main__":
    main()

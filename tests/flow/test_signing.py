"""A worker and a beat that obey signed messages alone, on either broker."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from sqlalchemy.orm import Session

from tests.conftest import ROOT
from tests.flow.system import System
from tests.rabbit import RabbitServer
from tests.servers import MissingServer, PostgresServer, RedisTestServer, wait_until
from tests.signed import Published, key, publish, signed
from worker.client import connect, notify
from worker.embedded.smtp import MailCatcher

OLD, NEW, FOREIGN = key(1), key(2), key(3)
CANARY = "canary"
#: Signed requests that wait before the worker starts, so that it gathers them.
WAITING = 40
SERVERS: dict[str, type[RedisTestServer] | type[RabbitServer]] = {"redis": RedisTestServer, "rabbit": RabbitServer}


def wire(to: str, **fields: Any) -> dict[str, Any]:
    return {"id": str(uuid4()), "to": to, "event_config_name": "quiet", "context": {"title": "Dune"}, **fields}


def forge(system: System, good: Published) -> dict[str, str]:
    """Publish, of a good message, whatever must not run; gives the task ids by what was done."""
    url = system.broker.url
    other = publish(system.application, "notifications.create", FOREIGN, request=wire(CANARY))
    errback = {"errbacks": [{"task": "notifications.create", "kwargs": {"request": wire(CANARY)}, "options": {}}]}
    return {
        "unsigned": good.again(url, id=str(uuid4()), kwargs={"request": wire(CANARY)}, **{"bellhop-signature": None}),
        "other arguments": good.again(url, id=good.headers["id"], kwargs={"request": wire(CANARY)}),
        "another id": good.again(url, id=str(uuid4())),
        "another task": good.again(url, task="notifications.fan_out"),
        "another key": str(other.headers["id"]),
        "something to call next": good.again(url, id=str(uuid4()), embedded=errback),
        "a task of Celery's": good.again(url, id=str(uuid4()), task="celery.group"),
    }


@pytest.fixture(scope="module", params=SERVERS)
def system(
    request: pytest.FixtureRequest, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """Worker and beat with two keys; messages wait, good ones and forged ones, before they start."""
    folder = tmp_path_factory.mktemp("signing")
    name = f"signing_{request.param}"
    url = postgres.create_database(name, template="migrated")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        try:
            server = SERVERS[request.param](folder / "broker")
            stack.enter_context(server)
        except MissingServer as error:
            pytest.skip(str(error))
        catcher = stack.enter_context(MailCatcher(folder / "mail"))
        patch.chdir(ROOT)
        whole = System(folder, url, server, catcher, SIGNING_KEYS=f"{NEW},{OLD}", SIGNAL="off")
        stack.callback(whole.stop)
        for number in range(WAITING):
            publish(whole.application, "notifications.create", OLD, request=wire(f"waited-{number}"))
            if number == WAITING // 2:
                whole.send("notifications.create", request=wire(CANARY))
        whole.start("worker", "beat")
        whole.wait_worker()
        yield whole
    postgres.drop_database(name)


def told(system: System) -> set[str]:
    return {name for (name,) in system.rows("SELECT recipient_id FROM notifications")}


def refusals(system: System) -> int:
    return system.processes["worker"].log_text().count("raised expected: Unsigned(")


def test_what_is_not_signed_is_refused_and_the_worker_goes_on(system: System) -> None:
    """Whatever was changed, also what waited among gathered messages; nothing of it is kept anywhere."""
    wait_until(lambda: len(told(system)) == WAITING, 30, "all that waited signed is created")
    good = publish(system.application, "notifications.create", OLD, request=wire("good"))
    forged = forge(system, good)
    publish(system.application, "notifications.create", NEW, request=wire("last"))
    wait_until(lambda: {"good", "last"} <= told(system), 20, "what is signed with either key is created")
    wait_until(lambda: refusals(system) == len(forged) + 1, 20, "each of the others is refused by name")
    assert CANARY not in told(system)
    assert 0 == system.count("SELECT count(*) FROM requests WHERE status <> 'created'")
    log = system.processes["worker"].log_text()
    assert CANARY not in log
    assert OLD not in log
    assert system.processes["worker"].returncode() is None


def test_who_asks_unsigned_is_told_so(system: System) -> None:
    """The caller of a task with a result has an error, not silence."""
    with pytest.raises(Exception, match="not signed"):
        system.send("inbox.list", recipient_id="good").get(timeout=20)
    with signed(NEW):
        assert {"total": 0, "unseen": 0} == system.send("inbox.counts", recipient_id=CANARY).get(timeout=20)


def test_the_whole_way(system: System) -> None:
    """Messages of the client, of the worker itself (also when it tries again) and of beat: row, mail."""
    who = {"id": "reader", "email": "reader@example.org"}
    email: dict[str, Any] = {"to": who, "should_email": True, "context": {"title": "Dune"}}
    client: Celery = connect(system.broker.url)
    with signed(NEW):
        notify("book_available", **email, app=client)
        with Session(system.engine) as session, session.begin():
            notify("book_available", **email, session=session, app=client)
    with Session(system.engine) as session, session.begin():
        notify("book_available", **email, session=session, app=client)  # its wake-up is refused: beat's is not
    client.close()
    wait_until(lambda: len(system.catcher.messages()) == 3, 30, "all three mails arrive")

    with system.engine.begin() as connection:  # until it ends, the next message is tried again by the worker
        connection.exec_driver_sql("LOCK TABLE notifications IN ACCESS EXCLUSIVE MODE")
        system.rows("ALTER DATABASE " + str(system.engine.url.database) + " SET lock_timeout = '200ms'")
        system.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '' "
                    "AND pid <> pg_backend_pid() AND datname = current_database() AND state = 'idle'")  # fmt: skip
        publish(system.application, "notifications.create", NEW, request=wire("tried again"))
        log = system.processes["worker"].log_text
        wait_until(lambda: "StoreUnavailable" in log(), 20, "the worker tries again")
    wait_until(lambda: "tried again" in told(system), 30, "the second try is signed too")

"""RabbitMQ as the broker: the whole way on quorum queues, results, Flower, and what must not go away."""

from collections.abc import Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
from amqp.exceptions import PreconditionFailed
from celery import Celery
from kombu import Connection, Message

from tests.conftest import ROOT
from tests.flow.system import System
from tests.rabbit import RabbitServer
from tests.servers import MissingServer, PostgresServer, wait_until
from worker.celery import QUEUES
from worker.client import connect, make_queue, notify
from worker.embedded.smtp import MailCatcher

CANARY = "canary-"
pytestmark = pytest.mark.timeout(240)  # rabbitmqctl alone may take long
POLICY = '{"delivery-limit":2,"dead-letter-exchange":"","dead-letter-routing-key":"bellhop.dead"}'


@pytest.fixture(scope="module")
def system(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Worker and Flower on PostgreSQL, RabbitMQ and an SMTP server."""
    folder = tmp_path_factory.mktemp("rabbit")
    url = postgres.create_database("rabbit", template="migrated")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        try:
            broker = stack.enter_context(RabbitServer(folder / "broker"))
        except MissingServer as error:
            pytest.skip(str(error))
        catcher = stack.enter_context(MailCatcher(folder / "mail"))
        patch.chdir(ROOT)
        whole = System(folder, url, broker, catcher)
        stack.callback(whole.stop)
        whole.start("flower", "worker")
        whole.wait_worker()
        yield whole
    postgres.drop_database("rabbit")


def rabbit(system: System) -> RabbitServer:
    assert isinstance(system.broker, RabbitServer)
    return system.broker


def request(**fields: object) -> dict[str, object]:
    """A request for one emailed notification, with canaries in its address and its context."""
    name = f"{CANARY}{uuid4().hex[:8]}"
    return {
        "id": str(uuid4()),
        "to": {"id": f"reader-{uuid4().hex[:8]}", "email": f"{name}@example.org"},
        "event_config_name": "book_available",
        "context": {"title": f"{CANARY}title"},
    } | fields


def mailed(system: System, count: int) -> bool:
    return len(system.catcher.messages()) >= count


def test_the_whole_way_with_results_and_flower(system: System) -> None:
    """From a plain Celery app and from our client; `inbox.*` answers by rpc; Flower shows tasks, and no argument."""
    asked = request()
    who = asked["to"]
    assert isinstance(who, dict)
    task_id = system.send("notifications.create", request=asked).id
    client = connect(rabbit(system).url)
    notify("book_available", to="somebody", context={"title": "Dune"}, should_email=False, app=client)
    client.close()
    wait_until(lambda: mailed(system, 1), 20, "the mail arrives")
    wait_until(lambda: system.count("SELECT count(*) FROM notifications") == 2, 20, "both are there")

    page = system.send("inbox.list", recipient_id=who["id"]).get(timeout=20)
    assert [f"{CANARY}title is here"] == [item["title"] for item in page["items"]]
    wait_until(lambda: system.flower_tasks().get(task_id, {}).get("state") == "SUCCESS", 20, "Flower knows of it")
    for path in (
        "/api/workers?refresh=1",
        "/api/tasks?limit=10000",
        "/workers",
        "/tasks",
        f"/task/{task_id}",
        "/metrics",
    ):
        status, body = system.flower(path)
        assert (path, 200, False) == (path, status, CANARY in body)
    for name, process in system.processes.items():
        assert CANARY not in process.log_text(), name


def test_every_queue_is_a_quorum_queue_and_no_others_are_made(system: System) -> None:
    """Also not the 28 of Celery's delayed delivery."""
    listed = [
        line.split() for line in rabbit(system).ctl("list_queues", "name", "type", "auto_delete").splitlines()[1:]
    ]
    assert sorted(QUEUES) == sorted(name for name, kind, _passing in listed if kind == "quorum")
    lasting = [name for name, _kind, passing in listed if passing == "false"]
    assert sorted(QUEUES) == sorted(lasting)


def test_a_client_that_declares_classic_queues_is_told(system: System) -> None:
    """An error at the caller, not a message that goes nowhere; with the queue as we make it, it passes."""
    # Another URL: else it would share the connection on which this process has already declared the queue.
    app = Celery("stock", broker=rabbit(system).url.replace("127.0.0.1", "localhost"), set_as_current=False)
    kwargs = {"request": request(should_email=False)}
    with pytest.raises(PreconditionFailed, match="x-queue-type"):
        app.send_task("notifications.create", kwargs=kwargs, queue="notifications")
    app.send_task("notifications.create", kwargs=kwargs, queue=make_queue("notifications"))
    app.close()


def test_the_documented_policy_keeps_a_poison_message(system: System) -> None:
    """A message whose takers die again and again leaves for the queue of the dead, whole."""
    server = rabbit(system)
    poison, dead = make_queue("poison"), make_queue("bellhop.dead")
    server.ctl("set_policy", "bellhop", "^poison$", POLICY, "--apply-to", "queues")
    with Connection(server.url) as connection:
        dead(connection).declare()
        connection.Producer().publish({"poison": 1}, exchange="", routing_key="poison", declare=[poison])
    for _ in range(5):
        take_and_die(server)
    with server.channel() as channel:
        message = wait_until(lambda: dead(channel).get(), 10, "it is with the dead")
    assert isinstance(message, Message)
    assert {"poison": 1} == message.decode()


def take_and_die(server: RabbitServer) -> None:
    with Connection(server.url) as connection:
        make_queue("poison")(connection.channel()).get()

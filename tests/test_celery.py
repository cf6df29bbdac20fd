"""The composition root: the app's settings, queues, routes and schedule, its task class, and when a worker refuses."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, _state
from celery.exceptions import Retry
from celery.schedules import crontab
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tests.servers import free_port
from tests.workers import worker_process
from worker import celery as root
from worker.celery import QUEUES, STORE_RETRY_MAX, make_app
from worker.errors import InvalidRequest, InvalidSettings, StoreUnavailable, UnexpectedError
from worker.settings import Settings
from worker.transport import Private

Configure = Callable[..., None]

CANARY = "Quetzalcoatl"

#: The public contract.
CONTRACT = {
    "notifications": ("create", "create_many", "create_pending", "retract", "cancel"),
    "bulk": ("fan_out",),
    "email": ("deliver",),
    "maintenance": ("dispatch_due", "purge_seen", "purge_requests"),
}
INBOX = (
    "list",
    "get",
    "counts",
    "mark_seen",
    "mark_all_seen",
    "delete",
    "delete_seen",
    "event_types",
    "unseen_count",
    "has_unseen",
)
RECIPIENTS = (
    *("upsert", "get", "delete", "set_group", "add_members", "remove_members", "members", "groups"),
    *("set_preference", "preferences", "suppress", "unsuppress", "is_suppressed", "export", "erase"),
)
EXPECTED = {
    **{f"notifications.{name}": queue for queue, names in CONTRACT.items() for name in names},
    **{f"inbox.{name}": "inbox" for name in INBOX},
    **{f"recipients.{name}": "inbox" for name in RECIPIENTS},
}


@pytest.fixture
def app() -> Celery:
    """The app with all its tasks, as a worker loads it."""
    root.app.loader.import_default_modules()
    return root.app


ORIGINAL = root.app


def make(**settings: Any) -> Celery:
    """An app of other settings, which does not stay the process's current one."""
    try:
        return make_app(Settings(**settings))
    finally:
        ORIGINAL.set_current()


def schedule(**settings: Any) -> dict[str, Any]:
    entries: dict[str, Any] = make(**settings).conf.beat_schedule
    return entries


def test_every_task_of_the_contract_is_there(app: Celery) -> None:
    """The names are public: none is missing, none was added unnoticed."""
    assert set(EXPECTED) == {name for name in app.tasks if not name.startswith("celery.")}


@pytest.mark.parametrize(("name", "queue"), EXPECTED.items())
def test_every_task_goes_to_its_queue(app: Celery, name: str, queue: str) -> None:
    """Published by name alone, a task lands in its queue."""
    assert queue == app.amqp.router.route({}, name)["queue"].name


def test_every_queue_is_read_and_no_other_is_made(app: Celery) -> None:
    """A worker without -Q reads every queue that anything goes to; a misspelt queue is an error, not a new queue."""
    assert set(EXPECTED.values()) | {"email_high"} == set(QUEUES) == set(app.amqp.queues)
    assert app.conf.task_create_missing_queues is False
    with pytest.raises(KeyError):
        app.amqp.router.route({"queue": "emial"}, "notifications.deliver")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("task_acks_late", True),
        ("task_retry_on_worker_lost", True),
        ("task_reject_on_worker_lost", None),
        ("worker_prefetch_multiplier", 1),
        ("worker_cancel_long_running_tasks_on_connection_loss", True),
        ("task_ignore_result", True),
        ("broker_connection_retry_on_startup", True),
        ("broker_connection_max_retries", None),
        ("broker_pool_acquire_timeout", 5),
        ("accept_content", ["json"]),
        ("task_serializer", "json"),
        ("result_serializer", "json"),
        ("event_serializer", "json"),
        ("worker_send_task_events", True),
        ("task_send_sent_event", False),
        ("worker_max_tasks_per_child", 10_000),
        ("timezone", "UTC"),
        ("enable_utc", True),
    ],
)
def test_settings_that_were_measured(app: Celery, setting: str, value: object) -> None:
    """What keeps messages through crashes and outages is switched on, or at Celery's default where that is right."""
    assert value == app.conf[setting]


def test_redis_options() -> None:
    """Lost messages come back soon, publishers never hang, and batch publishing is not switched off."""
    options = make(visibility_timeout_seconds=500).conf.broker_transport_options
    expected = {
        "visibility_timeout": 500,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 30,
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "max_connections": 50,
    }
    assert expected == options
    assert {"confirm_publish": True} == make(broker_url="amqp://broker").conf.broker_transport_options
    by_socket = make(broker_url="redis+socket:///tmp/redis.sock").conf.broker_transport_options
    assert not {"socket_connect_timeout", "socket_keepalive"} & set(by_socket)


def test_a_task_ends_before_its_message_is_given_to_another() -> None:
    """Even a task that must be killed is gone before the broker hands its message out again."""
    conf = make().conf
    limits = [STORE_RETRY_MAX, conf.task_soft_time_limit, conf.task_time_limit]
    assert sorted(limits) == limits
    assert limits[-1] < conf.broker_transport_options["visibility_timeout"]


def test_a_task_whose_process_died_is_tried_again_soon() -> None:
    """Celery would hold it in memory for three minutes: longer than most leases."""
    assert root.BellhopTask.default_retry_delay < Settings().handover_seconds


def test_results_go_where_the_broker_is_unless_told_otherwise() -> None:
    """Redis keeps results too; RabbitMQ sends them to their callers, unless RESULT_BACKEND says where."""
    assert "redis://one:6379/0" == make(broker_url="redis://one:6379/0").conf.result_backend
    assert "redis://two" == make(broker_url="amqp://one", result_backend="redis://two").conf.result_backend
    assert "rpc://" == make(broker_url="amqp://one").conf.result_backend
    assert make().conf.result_expires <= 3600


def test_only_the_inbox_and_the_directory_keep_results(app: Celery) -> None:
    """Nobody reads the others' results, so nobody stores them."""
    kept = {name for name in EXPECTED if not app.tasks[name].ignore_result}
    assert {name for name, queue in EXPECTED.items() if queue == "inbox"} == kept


def test_beat_names_tasks_that_exist(app: Celery) -> None:
    """Every entry's task is registered, takes no argument it needs, and has a queue."""
    assert {entry["task"] for entry in schedule().values()} <= set(EXPECTED)
    assert not [entry for entry in schedule().values() if "args" in entry or "kwargs" in entry]


def test_a_tick_expires_before_the_next() -> None:
    """Ticks that no worker took do not pile up."""
    for every in (1, 5, 60):
        assert schedule(dispatch_every_seconds=every)["dispatch-due"]["options"]["expires"] <= every
    assert schedule(dispatch_every_seconds=0.2)["dispatch-due"]["options"]["expires"] <= 1
    day = timedelta(days=1).total_seconds()
    assert all(schedule()[name]["options"]["expires"] < day for name in ("purge-seen", "purge-requests"))


def test_beat_follows_the_settings() -> None:
    """How often to dispatch and when to purge are the operator's, the latter a crontab line in UTC."""
    entries = schedule(dispatch_every_seconds=7, purge_cron="30  4 15 6 1-5")
    assert 7 == entries["dispatch-due"]["schedule"]
    expected = crontab(minute="30", hour="4", day_of_month="15", month_of_year="6", day_of_week="1-5")
    assert [expected] * 2 == [entries[name]["schedule"] for name in ("purge-seen", "purge-requests")]


@pytest.mark.parametrize("line", ["99 3 * * *", "0 3 31 2 *", "0 3 * * 7", "5- 3 * * *", "*/0 * * * *", ", 3 * * *"])
def test_a_purge_that_could_never_run_is_refused(line: str) -> None:
    """By Celery's own rules, in our words."""
    with pytest.raises(InvalidSettings, match=r"^PURGE_CRON: .* minute 0-59, hour 0-23"):
        make(purge_cron=line)


@pytest.mark.parametrize("backend", [f"foo://{CANARY}@host", CANARY.lower(), "os", "os:nothing"])
def test_a_result_backend_that_celery_has_not_is_refused(backend: str) -> None:
    """By the setting's name alone: the value may hold a password."""
    with pytest.raises(InvalidSettings, match=r"^RESULT_BACKEND: ") as caught:
        make(result_backend=backend)
    assert CANARY.lower() not in str(caught.value).lower()


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A task of ours that raises what it is told to, on an app whose broker lives in this process."""

    def fail(*, number: int, error: Any = None) -> None:
        if error:
            raise error

    # Celery gives every app that is made later what is registered once; not beyond this test.
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))
    monkeypatch.setattr(root, "app", make(broker_url="memory://"))
    return root.task("notifications.failing")(fail)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"number": CANARY}, "number: "),
        ({"number": [CANARY]}, "number: "),
        ({}, "number: "),
        ({"number": 1, f"{CANARY} {CANARY}": 2}, "unknown field"),
    ],
)
def test_wrong_arguments_are_named_not_shown(failing: Any, arguments: dict[str, Any], named: str) -> None:
    """The argument and the rule, as one line, without the value."""
    with pytest.raises(InvalidRequest, match=named) as caught:
        failing(**arguments)
    assert CANARY not in str(caught.value)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None


def test_positional_arguments_are_refused(failing: Any) -> None:
    """The contract has names only, so that arguments can be added without breaking anybody."""
    with pytest.raises(InvalidRequest, match="keyword arguments only"):
        failing(1)


@pytest.mark.parametrize(
    "error", [ValueError(CANARY), KeyError(CANARY), IntegrityError(CANARY, {}, ValueError(CANARY))]
)
def test_a_programming_error_shows_its_type_and_place(failing: Any, error: Exception) -> None:
    """Not its values: those may be somebody's."""
    with pytest.raises(UnexpectedError, match=r"(Value|Key)Error at test_celery\.py:\d+$") as caught:
        failing(number=1, error=error)
    assert CANARY not in str(caught.value)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None


def test_our_own_errors_pass_as_they_are(failing: Any) -> None:
    """What Bellhop raises on purpose keeps its name and words."""
    with pytest.raises(InvalidRequest, match=r"^as it is$"):
        failing(number=1, error=InvalidRequest("as it is"))


@pytest.mark.parametrize("kind", [OperationalError, InterfaceError, PoolTimeout])
@pytest.mark.parametrize("retries", [0, 3, 12, 100_000])
def test_an_unreachable_database_is_waited_for(kind: Any, retries: int, failing: Any) -> None:
    """However often it was in vain: the task goes back to the broker, to be tried again within half a minute."""
    error = PoolTimeout(CANARY) if kind is PoolTimeout else kind(CANARY, {}, ConnectionError(CANARY))
    failing.push_request(id="1", retries=retries, called_directly=False, args=(), kwargs={"number": 1})
    with pytest.raises(Retry) as caught:
        failing(number=1, error=error)
    failing.pop_request()
    assert isinstance(caught.value.exc, StoreUnavailable)
    assert min(2**retries, STORE_RETRY_MAX) == caught.value.when
    assert CANARY not in str(caught.value)
    with failing.app.connection_for_read() as connection:
        again = connection.default_channel.basic_get("notifications", no_ack=True)
        assert retries + 1 == again.headers["retries"]


def test_a_kept_result_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its JSON goes to the caller; its text, which logs and events print, tells nothing."""
    monkeypatch.setattr(root, "app", make(broker_url="memory://"))

    def keep(*, id: str) -> dict[str, str]:
        return {"id": id}

    result = root.task("inbox.kept", keep_result=True)(keep)(id=CANARY)
    assert isinstance(result, Private)
    assert CANARY not in f"{result} {result!r}"
    assert CANARY == result.__json__()["id"]


def refusal(folder: Path, **settings: str) -> str:
    """Start a worker that must not come up; gives its log. No broker is there: it must end before it asks for one."""
    broker = f"redis://127.0.0.1:{free_port()}/0"
    with worker_process(folder, {"BROKER_URL": broker, **settings}) as worker:
        assert worker.wait(60) not in (0, None)
        return worker.log_text()


def test_a_worker_refuses_an_older_schema(tmp_path: Path) -> None:
    """On a database without our tables it ends at once, and says what to do."""
    log = refusal(tmp_path, DATABASE_URL=f"sqlite:///{tmp_path / 'new.db'}")
    assert "run `bellhop init-db`" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"DATABASE_URL": "mysql://somewhere"}, "DATABASE_URL: postgresql:// or sqlite:/// only"),
        ({"DATABASE_URL": f"postgresql://name:{CANARY}@127.0.0.1:1/x"}, "the database could not be reached"),
        ({"CONFIG_DIR": "/nowhere"}, "set CONFIG_DIR to the folder that holds events.toml"),
        ({"TEMPLATES_DIR": "/nowhere"}, "TEMPLATES_DIR: no such folder"),
    ],
)
def test_a_worker_refuses_what_cannot_work(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    """A wrong setting, a missing file, an unreachable database: named in one line, and no secret shown."""
    log = refusal(tmp_path, **settings)
    assert words in log
    assert "Traceback" not in log
    assert CANARY not in log

"""worker.signing: keys, signatures, and what is refused before it is read."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from tests.servers import RedisTestServer
from tests.signed import key, publish, signed
from tests.test_gather import forget, lengths, make_app, send, take
from worker import signing
from worker.client import connect, notify, notify_many
from worker.errors import InvalidSettings
from worker.settings import Settings, get_settings
from worker.signing import HEADER, UNKNOWN_KEY, UNSIGNED, WRONG, Keys

ONE, TWO = key(1), key(2)
CREATE = "notifications.create"


@pytest.fixture
def app(redis_server: RedisTestServer, redis: Any) -> Iterator[Celery]:
    """An app on the empty Redis."""
    with make_app(redis_server.url) as app:
        yield app
        forget()


@pytest.fixture(autouse=True)
def unsigned() -> Iterator[None]:
    with signed(""):
        yield


WRONG_KEYS = {
    "no id": (key(1).partition(":")[2], "id:base64"),
    "a bad id": ("k 1:AAAA", "id:base64"),
    "no base64": ("k1:hunter2", "not base64"),
    "short": ("k1:" + base64.b64encode(bytes(range(31))).decode(), "weak"),
    "all alike": ("k1:" + base64.b64encode(b"hunter2" * 6).decode(), "weak"),
    "twice": (f"{ONE},{ONE}", "twice"),
    "an empty one": (f"{ONE},", "id:base64"),
}


@pytest.mark.parametrize(("text", "rule"), WRONG_KEYS.values(), ids=WRONG_KEYS)
def test_a_wrong_or_weak_key_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, text: str, rule: str) -> None:
    """By the worker's settings and by an application; no key is in the error."""
    monkeypatch.setenv("SIGNING_KEYS", text)
    get_settings.cache_clear()
    for read in (get_settings, signing.start):
        with pytest.raises(InvalidSettings, match=rule) as caught:
            read()
        assert str(caught.value).startswith("SIGNING_KEYS: ")
        assert not any(part and part in str(caught.value) for part in text.replace(",", ":").split(":")[1::2])
    get_settings.cache_clear()


def test_keys_are_masked_and_an_empty_setting_is_none() -> None:
    """Also where it is the environment's."""
    assert Settings(signing_keys="").signing_keys.get_secret_value() == ""
    signing.start(" ")
    assert signing.refusal(CREATE, "id", "body", {}) is None
    assert ONE.partition(":")[2] not in repr(Settings(signing_keys=ONE))


def test_a_signature_is_of_task_id_and_body() -> None:
    """Nothing of it may change; the first key signs, every one verifies."""
    old, both, new = Keys.parse(ONE), Keys.parse(f"{TWO}, {ONE}"), Keys.parse(TWO)
    by_old = old.sign(CREATE, "id", b"body")
    assert by_old.startswith("k1:")
    assert both.sign(CREATE, "id", b"body").startswith("k2:")
    assert [None, None] == [keys.fault(CREATE, "id", b"body", by_old) for keys in (old, both)]
    assert new.fault(CREATE, "id", b"body", by_old) == UNKNOWN_KEY
    changed: list[tuple[Any, Any, bytes]] = [
        ("inbox.list", "id", b"body"),
        (CREATE, "di", b"body"),
        (CREATE, "id", b"bodY"),
        (f"{CREATE}\0id", "", b"body"),
        (CREATE, "id\0body", b""),
        (None, "id", b"body"),
        (CREATE, 1, b"body"),
    ]
    assert {WRONG} == {old.fault(*parts, by_old) for parts in changed}
    for made_up in (None, 1, "", "k1", "k1:", "k1:\udcff", by_old[:-1], by_old.replace("k1", "k3")):
        assert old.fault(CREATE, "id", b"body", made_up) in (UNSIGNED, UNKNOWN_KEY, WRONG)


def messages(app: Celery) -> list[Any]:
    """What waits in the queue."""
    with app.connection_for_read() as connection:
        channel = connection.channel()
        return list(iter(lambda: channel.basic_get("notifications", no_ack=True), None))


def test_what_is_signed(app: Celery, redis: Any) -> None:
    """All that the client and plain `send_task` publish of our tasks, none of others; the very bytes of the body."""
    with signed(TWO):
        notify("x", to="umlaut-ü", context={"number": 1.0, "text": "\u2028"}, app=app)
        notify_many([{"to": "a", "event_config_name": "x"}], app=app)
        app.send_task("inbox.list", kwargs={"recipient_id": "a"}, queue="notifications")
        app.send_task("other", queue="notifications")
        found = messages(app)
        keys = Keys.parse(TWO)
        faults = [
            keys.fault(one.headers["task"], one.headers["id"], one.body, one.headers.get(HEADER)) for one in found
        ]
        assert [None, None, None, UNSIGNED] == faults
    notify("x", to="a", app=app)
    assert HEADER not in messages(app)[0].headers


def test_keys_of_an_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its environment, read once, or given to `connect`; the latter win."""
    monkeypatch.setenv("SIGNING_KEYS", ONE)
    signing._state = signing._State()
    connect("memory://").close()
    assert signing._state.keys
    assert signing._state.keys.sign("", "", b"").startswith("k1:")
    connect("memory://", signing_keys=TWO).close()
    connect("memory://").close()
    assert signing._state.keys.sign("", "", b"").startswith("k2:")


def test_what_is_not_signed_is_not_gathered(app: Celery, redis: Any) -> None:
    """It goes back, to run alone, where it is refused; the others are taken."""
    good = publish(app, CREATE, ONE, request=1)
    send(app, 2)
    good.again(app.conf.broker_url, kwargs={"request": 3})
    publish(app, CREATE, TWO, request=4)
    with signed(f"{ONE},{TWO}"):
        gathered = take(app)
        assert [1, 4] == [message.kwargs["request"] for message in gathered.messages]
    assert (2, 2, 2) == lengths(redis)


def test_while_changing_over_all_run_and_a_warning_tells(caplog: pytest.LogCaptureFixture) -> None:
    """Not for each message, and without anything of it."""
    signing.start(ONE, required=False)
    for _ in range(5):
        assert signing.refusal(CREATE, "CANARY", b"CANARY", {HEADER: "CANARY"}) is None
    assert 1 == len(caplog.records)
    assert "CANARY" not in caplog.text
    signing.start(ONE)
    assert signing.refusal(CREATE, "id", "body", {}) == UNSIGNED


def documented() -> str:
    """The program of SECURITY.md for applications without Bellhop."""
    with open("SECURITY.md", encoding="utf-8") as page:
        return page.read().partition("```python\n")[2].partition("```")[0]


def test_the_documented_way_without_bellhop(app: Celery, redis: Any) -> None:
    """A plain Celery application that imports nothing of ours."""
    program = (
        "import os\nfrom celery import Celery\n" + documented() + "import sys, json\n"
        "app = Celery('plain', broker=sys.argv[1])\n"
        "app.send_task('notifications.create', kwargs={'request': {'to': 'ü'}}, queue='notifications')\n"
        "print(json.dumps([name for name in sys.modules if name.startswith('worker')]))\n"
    )
    command = [sys.executable, "-c", program, app.conf.broker_url]
    run = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60, env={"SIGNING_KEYS": f"{ONE},{TWO}"}
    )
    assert [] == json.loads(run.stdout)
    with signed(ONE):
        assert 1 == len(take(app).messages)

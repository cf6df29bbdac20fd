"""Worker, beat and Flower as children: real processes of a small Celery app."""

import base64
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.servers import Process, group_is_alive, wait_until
from worker.embedded.child import Child
from worker.embedded.processes import Embedded, Stack, embedded_stack
from worker.embedded.redis import RedisServer
from worker.errors import BellhopError

APP = """
import os
from celery import Celery

app = Celery("tiny", broker=os.environ["BROKER_URL"], backend=os.environ.get("RESULT_BACKEND"))
app.conf.update(worker_send_task_events=True, broker_connection_retry_on_startup=True)

@app.task(name="tiny.add")
def add(x, y):
    return x + y
"""
NOTHING = ("-c", "pass")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")


@pytest.fixture(scope="module", autouse=True)
def tiny_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put a small Celery app named `tiny` where child processes find it."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "tiny.py").write_text(APP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.getcwd()]), prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Run the whole stack once for the tests that only look at it."""
    prepare = ("-c", "import os, pathlib; pathlib.Path(os.environ['DATABASE_URL'][10:]).touch()")
    with embedded_stack(tmp_path_factory.mktemp("stack"), app="tiny", prepare=prepare) as embedded:
        yield embedded


def status(url: str, login: str = "") -> tuple[int, str]:
    """Ask for a page and give the HTTP status and the body."""
    headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()} if login else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def test_the_stack_runs_tasks(running: Embedded) -> None:
    """A client with the stack's settings gets its task run, after the database was prepared."""
    client = Celery(broker=running.settings["BROKER_URL"], backend=running.settings["RESULT_BACKEND"])
    with client.connection_for_write():
        assert 5 == client.send_task("tiny.add", (2, 3)).get(timeout=10)
    assert (running.folder / "bellhop.db").exists()
    running.check()


def test_flower_asks_for_its_password(running: Embedded) -> None:
    """Flower answers 401 without and 200 with the password, and then shows the worker."""
    login = f"{running.flower_user}:{running.flower_password}"
    assert 401 == status(running.flower_url)[0]
    assert 401 == status(running.flower_url, "bellhop:guess")[0]
    assert 200 == status(running.flower_url, login)[0]
    workers = f"{running.flower_url}/api/workers?refresh=1"
    # Flower gives a worker a second to answer.
    wait_until(lambda: "bellhop@localhost" in status(workers, login)[1], 20, "Flower shows the worker")


def test_flower_counts_the_queue_over_the_socket(running: Embedded) -> None:
    """The queue length Flower shows is that of the unix socket's Redis."""
    login = f"{running.flower_user}:{running.flower_password}"
    client = Celery(broker=running.settings["BROKER_URL"], backend=running.settings["RESULT_BACKEND"])
    told: dict[str, Any] = {"destination": ["bellhop@localhost"], "reply": True, "timeout": 20}
    assert client.control.cancel_consumer("celery", **told), "the worker has stopped to take"
    results = [client.send_task("tiny.add", (2, 3)) for _ in range(3)]
    code, lengths = status(f"{running.flower_url}/api/queues/length", login)
    assert client.control.add_consumer("celery", **told), "the worker takes again"
    assert (200, [{"name": "celery", "messages": 3}]) == (code, json.loads(lengths)["active_queues"])
    assert [5] * 3 == [result.get(timeout=10) for result in results]


@linux_only
def test_flower_password_is_on_no_command_line(running: Embedded) -> None:
    """Nobody on the machine reads the password with ps."""
    command = Path(f"/proc/{running.stack.pids['flower']}/cmdline").read_text()
    assert "flower" in command
    assert running.flower_password not in command
    assert running.flower_password not in repr(running)


@pytest.mark.parametrize("password", ["", "a,b"])
def test_unusable_flower_password_is_refused(tmp_path: Path, password: str) -> None:
    """Flower would read an empty password as no login and a comma as two accounts."""
    with pytest.raises(BellhopError, match="password"):
        Stack(tmp_path, {}, flower_password=password)


def test_failed_preparation_is_reported(tmp_path: Path) -> None:
    """When the database cannot be prepared nothing is started and the command's words are shown."""
    prepare = ("-c", "raise SystemExit('no such table')")
    with pytest.raises(BellhopError, match="no such table"), embedded_stack(tmp_path, app="tiny", prepare=prepare):
        pass
    assert not (tmp_path / "worker.log").exists()


def test_child_that_dies_early_is_reported_with_its_log(tmp_path: Path) -> None:
    """An app that cannot be imported ends the wait at once, with the reason, and leaves nothing behind."""
    with RedisServer(tmp_path / "redis") as redis:
        with Stack(tmp_path, {"BROKER_URL": redis.url}, app="no_such_app") as stack:
            groups = stack.pids.values()
            with pytest.raises(BellhopError, match=r"(worker|beat|flower) ended with code(.|\n)*no_such_app"):
                stack.wait_ready(20)
        assert not any(group_is_alive(group) for group in groups)


@linux_only
def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    """SIGKILL of the command takes Redis, worker, beat and Flower with it; the folder can be used again at once."""
    script = (
        "import signal; from pathlib import Path; from worker.embedded.processes import embedded_stack\n"
        f"with embedded_stack(Path({str(tmp_path)!r}), app='tiny', prepare={NOTHING!r}) as running:\n"
        "    print('ready', running.redis.pid, *running.stack.pids.values(), flush=True); signal.pause()"
    )
    with Process([sys.executable, "-c", script], tmp_path / "parent.log") as parent:
        wait_until(lambda: parent.returncode() is not None or "ready" in parent.log_text(), 60, "the stack is up")
        groups = [int(pid) for pid in parent.log_text().split("ready")[1].split()]
        assert [True] * 4 == [group_is_alive(group) for group in groups]
        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: not any(group_is_alive(group) for group in groups), 15, "all are gone")
    with RedisServer(tmp_path / "redis"):
        pass


@linux_only
def test_stop_leaves_no_process(tmp_path: Path) -> None:
    """After the block every group is gone, pool processes included."""
    with embedded_stack(tmp_path, app="tiny", prepare=NOTHING) as running:
        groups = [running.redis.pid, *running.stack.pids.values()]
        assert [True] * 4 == [group_is_alive(group) for group in groups]
    assert [False] * 4 == [group_is_alive(group) for group in groups]


def test_stop_kills_what_does_not_end(tmp_path: Path) -> None:
    """A child that ignores SIGTERM, and its own children, are gone after the deadline."""
    deaf = "import signal, subprocess, time; signal.signal(15, signal.SIG_IGN); "
    script = deaf + "subprocess.Popen(['sleep', '600']); print('ready', flush=True); time.sleep(600)"
    child = Child([sys.executable, "-c", script], tmp_path / "log")
    wait_until(lambda: "ready" in child.log_text(), 10, "the child runs")
    child.stop(0.1)
    assert -signal.SIGKILL == child.ended()
    wait_until(lambda: not group_is_alive(child.pid), 5, "the group is gone")

"""Templates in a real worker: one that will not end, and texts that change while it runs."""

import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import ROOT
from tests.flow.system import System
from tests.servers import PostgresServer, RedisTestServer, wait_until
from worker.embedded.smtp import MailCatcher

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
def system(postgres: PostgresServer, tmp_path: Path) -> Iterator[System]:
    """A worker and Flower, with an event whose text never ends."""
    url = postgres.create_database("texts", template="migrated")
    with (
        pytest.MonkeyPatch.context() as patch,
        RedisTestServer(tmp_path / "redis") as broker,
        MailCatcher(tmp_path / "mail") as catcher,
    ):
        patch.chdir(ROOT)
        whole = System(tmp_path, url, broker, catcher, TASK_TIME_LIMIT_SECONDS=2)
        (tmp_path / "catalogue/templates/quiet/en/text.txt").write_text(ENDLESS)
        try:
            whole.start("worker", "flower")
            whole.wait_worker()
            wait_until(lambda: whole.flower("/healthcheck")[0], 60, "Flower answers")
            yield whole
        finally:
            whole.stop()
    postgres.drop_database("texts")


def ask(system: System, event: str, recipient: str) -> str:
    """Ask for one notification; gives the task's id."""
    request = {"id": str(uuid4()), "to": recipient, "event_config_name": event, "context": {"title": "Dune"}}
    return str(system.send("notifications.create", request=request).id)


def texts(system: System, recipient: str) -> list[str]:
    """Give the recipient's texts."""
    return [row[0] for row in system.rows("SELECT text FROM notifications WHERE recipient_id = :who", who=recipient)]


def test_an_endless_template_ends_in_an_error_and_the_worker_goes_on(system: System) -> None:
    """The task fails as TemplateFailed at its time limit, by the same process that then does other work."""
    pid = system.processes["worker"].pid
    failing = ask(system, "quiet", "reader-1")
    task = wait_until(
        lambda: (found := system.flower_tasks().get(failing, {})).get("state") == "FAILURE" and found, 30, "it fails"
    )
    assert isinstance(task, dict)
    assert "TemplateFailed" in task["exception"]
    ask(system, "book_available", "reader-2")
    assert ["Pick up Dune."] == wait_until(lambda: texts(system, "reader-2"), 20, "the next one is created")
    assert [] == texts(system, "reader-1")
    assert pid == system.processes["worker"].pid
    assert system.processes["worker"].returncode() is None


def test_changed_texts_are_read_at_a_signal(system: System) -> None:
    """Every process of the worker keeps the old text until SIGHUP, and has the new one after it."""
    file = system.folder / "catalogue/templates/book_available/en/text.txt"
    ask(system, "book_available", "reader-1")
    assert ["Pick up Dune."] == wait_until(lambda: texts(system, "reader-1"), 20, "the first is created")
    file.write_text("Fetch {{ title }}.")
    for _ in range(10):
        ask(system, "book_available", "reader-2")
    wait_until(lambda: len(texts(system, "reader-2")) == 10, 20, "the others are created")
    assert ["Pick up Dune."] * 10 == texts(system, "reader-2")
    worker = system.processes["worker"]
    worker.tell(signal.SIGHUP)
    wait_until(lambda: worker.log_text().count(" ready.") == 2, 30, "the worker has started anew")
    ask(system, "book_available", "reader-3")
    assert ["Fetch Dune."] == wait_until(lambda: texts(system, "reader-3"), 20, "the new text")

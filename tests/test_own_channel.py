"""A channel of somebody's own in place of `email`: the example that sends by a provider's HTTP API."""

import json
import runpy
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.catalogue import write_catalogue
from tests.conftest import ROOT
from tests.rows import get_delivery, put_deliveries
from tests.servers import Process, RedisTestServer, free_port, wait_until
from tests.smtp_servers import HOST
from tests.store import ask, create, rows
from tests.workers import foreign_app
from worker import deliver as delivering
from worker.channels import CHANNELS
from worker.database import transaction, utcnow
from worker.models import Delivery
from worker.settings import get_settings

FILE = {"name": "plan.txt", "content_type": "text/plain", "content": "Q0FOQVJZ"}


class Provider(ThreadingHTTPServer):
    """An HTTP API that answers with a status, and keeps what it was asked; without one it only hangs up."""

    def __init__(self, status: int | None = 202) -> None:
        super().__init__((HOST, 0), _Handler)
        self.status = status
        self.asked: list[tuple[dict[str, Any], dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/emails"


class _Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((dict(self.headers), json.loads(body)))
        if self.server.status is not None:
            self.send_response(self.server.status)
            self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """The example's channel in place of `email`, and the provider that it sends to."""
    with Provider() as server:
        monkeypatch.setenv("PROVIDER_URL", server.url)
        monkeypatch.setenv("PROVIDER_KEY", "secret-word")
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's own, until the end of the test."""
    monkeypatch.setitem(CHANNELS, "email", CHANNELS["email"])
    runpy.run_path(str(ROOT / "examples" / "email_by_http.py"))


@pytest.mark.usefixtures("catalogue", "engine", "installed")
def test_an_email_goes_by_http(provider: Provider) -> None:
    """With all its parts and files, under an id that is the same at each try."""
    create(ask({"id": "paul", "email": "paul@example.org"}, attachments=[FILE]), now=utcnow())
    [row] = rows(Delivery)
    assert 1 == delivering.deliver(transaction, [row.id]).sent
    [(headers, email)] = provider.asked
    assert (str(row.id), "Bearer secret-word") == (headers["Idempotency-Key"], headers["Authorization"])
    assert ("paul@example.org", "Q0FOQVJZ") == (email["to"], email["attachments"][0]["content"])
    assert all(email[part] for part in ("from", "subject", "text"))
    assert "sent" == get_delivery(row.id).status


@pytest.mark.usefixtures("catalogue", "engine", "installed")
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (422, ("failed", "permanent", 1, "HTTP 422")),
        (429, ("pending", "throttled", 1, "HTTP 429")),
        (503, ("pending", "transient", 1, "HTTP 503")),
        (401, ("pending", "misconfigured", 1, "HTTP 401")),
        (302, ("pending", "misconfigured", 1, "HTTP 302")),
        (None, ("pending", "unknown", 1, "RemoteDisconnected")),
    ],
)
def test_what_the_provider_answers(provider: Provider, status: int | None, expected: tuple[object, ...]) -> None:
    """Decides what becomes of the email, as an SMTP server's answer does."""
    provider.status = status
    [id] = put_deliveries()
    delivering.deliver(transaction, [id])
    row = get_delivery(id)
    assert expected == (row.status, row.reason, row.attempts, row.last_error)


@pytest.mark.usefixtures("catalogue", "engine", "installed", "provider")
def test_a_provider_that_is_away_costs_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a mail server that is down."""
    monkeypatch.setenv("PROVIDER_URL", f"http://{HOST}:{free_port()}/emails")
    ids = put_deliveries(2)
    delivering.deliver(transaction, ids)
    assert [("pending", 0)] * 2 == [(row.status, row.attempts) for row in map(get_delivery, ids)]


@pytest.mark.usefixtures("catalogue", "engine")
@pytest.mark.parametrize(("accepted", "status"), [(True, "sent"), (False, "pending")])
def test_the_readme_has_the_shape_of_it(monkeypatch: pytest.MonkeyPatch, accepted: bool, status: str) -> None:
    """It runs as it stands, with the one function that is the reader's own; the send rate's nothing included."""
    monkeypatch.setitem(CHANNELS, "email", CHANNELS["email"])
    posted = list[tuple[str, str]]()

    def post(address: str, parts: Any, key: str) -> bool:
        posted.append((address, key))
        return accepted

    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")
    [shape] = [block.partition("```")[0] for block in blocks if 'CHANNELS["email"] = ' in block]
    exec(shape, {"post": post})
    monkeypatch.setenv("EMAIL_RATE_PER_SECOND", "20")
    get_settings.cache_clear()
    ids = put_deliveries(2)
    delivering.deliver(transaction, ids)
    assert sorted(posted) == sorted(("reader@example.com", str(id)) for id in ids)
    assert [status] * 2 == [get_delivery(id).status for id in ids]


def test_a_worker_is_started_with_it(
    postgres_engine: Engine, provider: Provider, redis_server: RedisTestServer, tmp_path: Path
) -> None:
    """By the command at the head of the example, in its folder; all processes of the worker have it."""
    settings = {
        "DATABASE_URL": postgres_engine.url.render_as_string(hide_password=False),
        "BROKER_URL": redis_server.url,
        "PROVIDER_URL": provider.url,
        "PROVIDER_KEY": "secret-word",
        "PYTHONPATH": str(ROOT),
        **write_catalogue(tmp_path / "catalogue"),
    }
    command = [sys.executable, "-m", "celery", "-A", "email_by_http", "worker", "-c", "2", "-n", "worker@tests"]
    with (
        Process(command, tmp_path / "worker.log", env=settings, cwd=ROOT / "examples") as worker,
        foreign_app(redis_server.url) as application,
    ):
        for name in ("paul", "chani"):
            request = ask({"id": name, "email": f"{name}@example.org"}, should_email=True).to_wire()
            application.send_task("notifications.create", queue="notifications", kwargs={"request": request})
        wait_until(lambda: [row.status for row in rows(Delivery)] == ["sent"] * 2, 30, f"all sent; see {worker}")
    assert {"paul@example.org", "chani@example.org"} == {email["to"] for _headers, email in provider.asked}

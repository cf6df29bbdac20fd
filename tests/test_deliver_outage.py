"""What became of mails is recorded though the database goes away between the server's acceptance and the record."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from tests.rows import put_deliveries
from tests.servers import PostgresServer
from tests.smtp_servers import PIPELINING, ScriptedSmtp
from tests.store import rows
from worker import deliver as delivering
from worker.database import get_engine, transaction, upgrade
from worker.deliver import Delivered
from worker.models import Delivery

Configure = Callable[..., None]


class Outage(ScriptedSmtp):
    """Kills the database when it has the third content, accepts that one, and has the database started again."""

    def __init__(self, postgres: PostgresServer) -> None:
        super().__init__({"ehlo": PIPELINING})
        self.postgres = postgres
        self.restart = threading.Thread(target=self._restart, daemon=True)
        self.over = threading.Event()

    def _restart(self) -> None:
        time.sleep(1)
        self.postgres.start()
        self.over.wait(60)  # the server ends with the thread that started it

    def _answer(self, connection: socket.socket, step: str) -> str:
        if step == "content" and len(self.contents) == 3:
            self.postgres.kill()
            self.restart.start()
        return super()._answer(connection, step)


@pytest.mark.usefixtures("catalogue")
def test_the_database_away_after_an_acceptance(tmp_path: Path, configure: Configure) -> None:
    """The task waits with what it knows, records it once the database is back, and nothing is sent again."""
    with PostgresServer(tmp_path, durable=True) as postgres, Outage(postgres) as server:
        configure(DATABASE_URL=postgres.url, SIGNAL="off", SMTP_URL=server.url + "?tls=none", SMTP_CONNECTIONS=2)
        upgrade(get_engine())
        ids = put_deliveries(12)
        assert Delivered(sent=12) == delivering.deliver(transaction, ids)

        assert {("sent", 1)} == {(row.status, row.attempts) for row in rows(Delivery)}
        assert 12 == len(server.contents) == len(set(server.contents))
        server.over.set()
        server.restart.join(5)


@pytest.mark.usefixtures("catalogue", "engine")
def test_an_outage_longer_than_the_lease(configure: Configure) -> None:
    """The task gives up when the lease ends, not before; the deliveries stay claimed, to be taken up as abandoned."""
    answers = iter([False])

    @contextmanager
    def away_after_the_claim() -> Iterator[Session]:
        if next(answers, True):
            raise OperationalError("", None, ConnectionError())
        with transaction() as session:
            yield session

    with ScriptedSmtp() as server:
        configure(SMTP_URL=server.url + "?tls=none", LEASE_SECONDS=1)
        started, ids = time.monotonic(), put_deliveries(2)
        with pytest.raises(OperationalError):
            delivering.deliver(away_after_the_claim, ids)
    assert time.monotonic() - started >= 1
    assert {("sending", 1)} == {(row.status, row.attempts) for row in rows(Delivery)}

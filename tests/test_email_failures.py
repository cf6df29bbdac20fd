"""Each thing that a mail server can do at each point: what the row says then, and when it is due again."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
import trustme

from tests.channel import hold, state
from tests.conftest import ROOT
from tests.email_failures import BACK_OFF, CASES, LONGEST, NEVER, SOON, Case, table
from tests.rows import get_delivery, put_deliveries
from tests.smtp_servers import HOST, ScriptedSmtp, patience, server_context
from worker import deliver as delivering
from worker.database import transaction, utcnow

Configure = Callable[..., None]

#: So that each wait is told from the others; the breaker only counts.
SETTINGS = {
    "RETRY_BASE_SECONDS": 1000,
    "RETRY_MAX_SECONDS": 100_000,
    "BREAKER_FAILURES": 1000,
}


def time_outs(case: Case) -> dict[str, float]:
    """No silence is waited for long, and where there is none the machine may be slow."""
    seconds = 0.3 if case.server == "full" else patience(*case.script.values(), case.during)
    return {"SMTP_TIMEOUT_SECONDS": seconds, "SMTP_DATA_TIMEOUT_SECONDS": seconds}


@contextlib.contextmanager
def listening(case: Case) -> Iterator[int]:
    """The server of the case; gives its port."""
    if case.server == "none":
        with socket.socket() as closed:
            closed.bind((HOST, 0))
            yield closed.getsockname()[1]
    elif case.server == "full":
        with socket.create_server((HOST, 0), backlog=0) as full, contextlib.ExitStack() as waiting:
            port = full.getsockname()[1]
            with contextlib.suppress(TimeoutError):
                while True:
                    waiting.enter_context(socket.create_connection((HOST, port), timeout=0.1))
            yield port
    else:
        tls = server_context(trustme.CA()) if case.server == "tls" else None
        script = {"ehlo": "250-x\r\n250 STARTTLS"} if tls else {}
        with ScriptedSmtp({**script, **case.script}, during=case.during, tls=tls) as server:
            yield server.port


def seen(case: Case, configure: Configure) -> tuple[object, ...]:
    """Try one email once, and give what became of it, in the words of the table."""
    body = "long " * 1_000_000 if case.during else "Pick up Dune.\n"
    [id] = put_deliveries(address=case.address, parts={"subject": "Dune is here", "text": body, "html": None})
    hold(failures=0)
    with listening(case) as port:
        configure(SMTP_URL=case.url.format(at=f"{HOST}:{port}", port=port), **SETTINGS, **time_outs(case))
        before = utcnow()
        delivering.deliver(transaction, [id])
    row = get_delivery(id)
    base, longest = (timedelta(seconds=float(SETTINGS[f"RETRY_{name}_SECONDS"])) for name in ("BASE", "MAX"))
    if row.status != "pending":
        due = NEVER
    elif before + base / 2 <= row.due_at <= utcnow() + base:
        due = BACK_OFF if row.attempts else SOON
    else:
        due = LONGEST if before + longest / 2 <= row.due_at <= utcnow() + longest else f"at {row.due_at}"
    return row.status, row.reason, row.last_error, due, row.attempts == 1, state().failures == 1


@pytest.mark.parametrize("point", sorted({case.point for case in CASES}))
@pytest.mark.usefixtures("catalogue", "postgres_engine")
def test_each_answer_is_recorded_with_its_consequence(point: str, configure: Configure) -> None:
    """Status, reason, the server's words, the next attempt, whether it counts, and what the breaker makes of it."""
    cases = [case for case in CASES if case.point == point]
    expected = [(c.does, c.status, c.reason, c.last_error, c.due, c.counted, c.noticed) for c in cases]
    assert expected == [(case.does, *seen(case, configure)) for case in cases]


def test_the_document_shows_the_same() -> None:
    """docs/email-failures.md has the table that the test above holds true."""
    assert table() in (ROOT / "docs" / "email-failures.md").read_text(encoding="utf-8"), table()

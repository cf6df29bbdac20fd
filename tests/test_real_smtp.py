"""The whole way of an email to real server programs, and what is recorded of their refusals."""

from collections.abc import Callable

import pytest

from tests.channel import hold
from tests.real_smtp import SIZE, aiosmtpd, exim, programs
from tests.rows import get_delivery, put_deliveries
from tests.servers import wait_until
from worker import deliver as delivering
from worker.channels.mime import message_id
from worker.database import transaction
from worker.models import Delivery

SENDER = "Library <library@example.org>"
START = {"exim4": exim, "aiosmtpd": aiosmtpd}

EXPECTED = {
    "reader-0": ("sent", None, None),
    "reader-1": ("sent", None, None),
    "busy": ("pending", "transient", "RCPT: 450 4.2.1 not now"),
    "nobody": ("failed", "permanent", "RCPT: 550 5.1.1 no such mailbox"),
    "reader-refused": ("failed", "permanent", "end of DATA: 554 5.7.1 content refused"),
    "reader-large": ("failed", "permanent", "MAIL: the message is larger than the server's SIZE"),
    "reader-2": ("sent", None, None),
}
TEXTS = {"reader-refused": "refuse-me", "reader-large": "x" * SIZE, "reader-1": ".a line with a dot\n.\nüber\n"}


@pytest.mark.parametrize("program", programs())
@pytest.mark.usefixtures("catalogue", "postgres_engine")
def test_a_real_server_takes_and_refuses(program: str, configure: Callable[..., None]) -> None:
    """Over one connection, refusals in between; what was taken arrives once, under its own Message-ID."""
    ids = {}
    for name in EXPECTED:
        parts = {"subject": "Dune is here", "text": TEXTS.get(name, "Pick up Dune.\n"), "html": None}
        [ids[name]] = put_deliveries(address=f"{name}@example.com", parts=parts)
    with START[program]() as (port, mails):
        configure(SMTP_URL=f"smtp://127.0.0.1:{port}", EMAIL_FROM=SENDER)
        delivering.deliver(transaction, list(ids.values()))
        rows = {name: get_delivery(id) for name, id in ids.items()}
        assert {name: as_told(row) for name, row in rows.items()} == EXPECTED

        sent = {message_id(ids[name], SENDER) for name, (status, *_) in EXPECTED.items() if status == "sent"}
        wait_until(lambda: len(mails()) >= len(sent), 20, "all are in the mailbox")
        assert sorted(sent) == sorted(str(mail["Message-ID"]) for mail in mails())
        [dots] = [mail for mail in mails() if mail["Message-ID"] == message_id(ids["reader-1"], SENDER)]
        text = dots.get_body(("plain",))
        assert text
        assert ".a line with a dot\n.\nüber" in text.get_content().replace("\r\n", "\n")

        hold(failures=0)
        [refused] = put_deliveries()
        configure(SMTP_URL=f"smtp://127.0.0.1:{port}", EMAIL_FROM="x@forbidden.example")
        delivering.deliver(transaction, [refused])
    assert ("pending", "misconfigured") == as_told(get_delivery(refused))[:2]
    assert "5.7.1 not from there" in (get_delivery(refused).last_error or "")


def as_told(row: Delivery) -> tuple[str, str | None, str | None]:
    return row.status, row.reason, row.last_error

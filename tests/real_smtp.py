"""Real SMTP server programs with the same rules: Debian's Exim where it is installed, aiosmtpd always.

Both take mails for local parts that begin with `reader`; defer `busy` (450 4.2.1); know nobody else (550 5.1.1); refuse
the sender domain forbidden.example (550 5.7.1), the text `refuse-me` (554 5.7.1), and what is larger than 200 kB.
"""

import email
import os
import pwd
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller

from tests.servers import Process, free_port, wait_until
from tests.smtp_servers import HOST

SIZE = 200_000

#: What a running server is to a test: its port, and the mails that it took.
Running = tuple[int, Callable[[], list[EmailMessage]]]

EXIM = """
exim_path = {program}
primary_hostname = exim.test
spool_directory = {home}/spool
log_file_path = {home}/%slog
pid_file_path = {home}/exim.pid
local_interfaces = {host}
daemon_smtp_ports = {port}
exim_user = {user}
exim_group = {group}
never_users =
keep_environment =
tls_advertise_hosts =
message_size_limit = {size}
acl_smtp_mail = mail
acl_smtp_rcpt = rcpt
acl_smtp_data = data
begin acl
mail:
  deny sender_domains = forbidden.example
       message = 550 5.7.1 not from there
  accept
rcpt:
  defer local_parts = busy
        message = 450 4.2.1 not now
  deny !local_parts = ^reader
       message = 550 5.1.1 no such mailbox
  accept
data:
  deny condition = ${{if match{{$message_body}}{{refuse-me}}}}
       message = 554 5.7.1 content refused
  accept
begin routers
all:
  driver = accept
  transport = file
begin transports
file:
  driver = appendfile
  directory = {home}/mail
  maildir_format
  user = {user}
"""


def find_exim() -> str | None:
    """The program, where Debian puts it or on PATH."""
    return shutil.which("exim4", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def programs() -> list[str]:
    """The servers that can be started here."""
    return ["aiosmtpd", *(["exim4"] if find_exim() else [])]


def report() -> str:
    """What the tests say of them before they begin."""
    missing = "" if find_exim() else "; no exim4 (Debian: apt install exim4-daemon-light), so aiosmtpd alone"
    return f"real SMTP servers: {', '.join(programs())}{missing}"


def _read(content: bytes) -> EmailMessage:
    return email.message_from_bytes(content, _class=EmailMessage, policy=SMTP)


@contextmanager
def exim() -> Iterator[Running]:
    """Exim in the foreground, on a free port, with a configuration and a spool of its own."""
    program = find_exim()
    assert program
    # It never delivers as root; another account does then.
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    home, port = Path(tempfile.mkdtemp(prefix="bellhop-exim-", dir="/tmp")), free_port()
    names = {"program": program, "home": home, "host": HOST, "port": port, "size": SIZE}
    config = home / "exim.conf"
    config.write_text(EXIM.format(**names, user=account.pw_name, group=account.pw_gid))
    if os.geteuid() == 0:
        os.chown(home, account.pw_uid, account.pw_gid)

    def mails() -> list[EmailMessage]:
        return [_read(path.read_bytes()) for path in (home / "mail" / "new").glob("*")]

    try:
        with Process([program, "-C", str(config), "-bdf"], home / "out.log") as server:
            log = home / "mainlog"
            wait_until(lambda: "listening" in (log.read_text() if log.exists() else ""), 60, "Exim listens")
            assert server.returncode() is None, server.log_text()
            yield port, mails
    finally:
        shutil.rmtree(home, ignore_errors=True)


class _Rules:
    """The rules, for aiosmtpd."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def handle_MAIL(self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if address.endswith("@forbidden.example"):
            return "550 5.7.1 not from there"
        envelope.mail_from, envelope.mail_options = address, options
        return "250 ok"

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:
        if not re.match("reader", address):
            return "450 4.2.1 not now" if address.startswith("busy@") else "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if b"refuse-me" in envelope.content:
            return "554 5.7.1 content refused"
        self.mails.append(_read(envelope.content))
        return "250 taken"


@contextmanager
def aiosmtpd() -> Iterator[Running]:
    """The library, with the same rules."""
    rules, port = _Rules(), free_port()
    controller = Controller(rules, hostname=HOST, port=port, data_size_limit=SIZE, ready_timeout=60)
    controller.start()
    try:
        yield port, lambda: rules.mails
    finally:
        controller.stop()

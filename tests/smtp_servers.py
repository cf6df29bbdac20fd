"""SMTP servers for the tests: a real one (aiosmtpd), and one that misbehaves by a script; both on free ports."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum, auto
from io import BufferedReader
from typing import Any, NamedTuple, Self
from uuid import uuid4

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword
from pydantic import SecretStr

from tests.servers import free_port
from worker.channels import Outcome, Parcel, Verdict
from worker.channels.email import EmailChannel
from worker.settings import Settings

HOST = "127.0.0.1"
PASSWORD = "right pässword"


def parcel(address: str = "jane.doe@example.com", **parts: str) -> Parcel:
    """Make a parcel with a delivery id of its own."""
    content = {"subject": "A subject", "text": "A text.", **parts}
    return Parcel(uuid4(), address, "en", content, datetime(2024, 2, 29, tzinfo=UTC))


@contextlib.contextmanager
def channel_to(url: str, timeout: float = 5, *, connections: int = 1, window: int = 20) -> Iterator[EmailChannel]:
    """Make a channel by its settings; it is closed at the end."""
    settings = Settings(
        smtp_url=SecretStr(url),
        smtp_timeout_seconds=timeout,
        smtp_data_timeout_seconds=timeout,
        smtp_connections=connections,
        record_window=window,
        email_from="B <bellhop@example.org>",
    )
    channel = EmailChannel.from_settings(settings)
    try:
        yield channel
    finally:
        channel.close()


def sent(channel: EmailChannel, parcels: Sequence[Parcel]) -> list[Outcome]:
    """Send these, and return their outcomes in the order of the parcels."""
    found = {outcome.delivery_id: outcome for group in channel.send(parcels) for outcome in group}
    return [found.pop(each.delivery_id) for each in parcels] + list(found.values())


def verdicts(channel: EmailChannel, parcels: Sequence[Parcel]) -> list[Verdict]:
    """Send these, and return the verdicts alone, in the order of the parcels."""
    return [outcome.verdict for outcome in sent(channel, parcels)]


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """Make a server's TLS context, with a certificate for these names (127.0.0.1 if none)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or (HOST,))).configure_cert(context)
    return context


class Taken(NamedTuple):
    """A mail that the real server accepted."""

    sender: str
    recipient: str
    content: bytes
    options: list[str]
    encrypted: bool


class Mailbox:
    """The real server and its memory; accepts the login of anybody with `PASSWORD`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.taken: list[Taken] = []
        self.logins: list[str] = []
        self._connections: set[SMTP] = set()

    @property
    def url(self) -> str:
        return f"smtp://{HOST}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections got as far as EHLO."""
        return len(self._connections)

    async def handle_EHLO(self, server: SMTP, session: Any, _envelope: Any, name: str, words: list[str]) -> list[str]:
        session.host_name = name
        self._connections.add(server)
        return words

    async def handle_DATA(self, server: SMTP, _session: Any, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        assert server.transport is not None
        encrypted = server.transport.get_extra_info("sslcontext") is not None
        sender, recipient = str(envelope.mail_from), envelope.rcpt_tos[0]
        self.taken.append(Taken(sender, recipient, envelope.content, list(envelope.mail_options), encrypted))
        return "250 2.0.0 taken"

    def authenticate(self, _server: Any, _session: Any, _envelope: Any, mechanism: str, login: Any) -> AuthResult:
        assert isinstance(login, LoginPassword)
        self.logins.append(mechanism)
        return AuthResult(success=login.password.decode() == PASSWORD, handled=False)


@contextlib.contextmanager
def real_server(*, tls: ssl.SSLContext | None = None, login: bool = False, **options: Any) -> Iterator[Mailbox]:
    """Run aiosmtpd with these options of its SMTP class; `tls` is TLS from the start, `login` lets clients log in."""
    mailbox = Mailbox()
    if login:
        options["authenticator"] = mailbox.authenticate
    controller = Controller(mailbox, hostname=HOST, port=mailbox.port, ssl_context=tls, ready_timeout=60, **options)
    controller.start()
    try:
        yield mailbox
    finally:
        controller.stop()


class Act(Enum):
    """What the scripted server does instead of answering."""

    CUT = auto()
    """Closes the connection; the other side sees its end."""
    RESET = auto()
    """Closes it with a TCP reset."""
    STALL = auto()
    """Says nothing until the other side or the test ends."""
    DRIP = auto()
    """Sends a line every 50 ms of an answer that never ends."""
    FLOOD = auto()
    """Sends a line that never ends, as fast as it is read."""


Answer = str | Act
Script = Mapping[str, Answer | Sequence[Answer]]


def patience(*answers: Answer | Sequence[Answer] | None, least: float = 0.3) -> float:
    """A time-out for a server that answers so: short where it keeps the client waiting, else nobody waits for it."""
    silent = any({Act.STALL, Act.DRIP, Act.FLOOD} & set(_listed(answer)) for answer in answers if answer)
    return least if silent else 5


EHLO = "250-scripted\r\n250-SIZE 100000000\r\n250 SMTPUTF8"
PIPELINING = EHLO.replace("250 ", "250-") + "\r\n250 PIPELINING"
_USUAL = {
    "greeting": "220 scripted",
    "ehlo": EHLO,
    "helo": "250 scripted",
    "auth": "235 welcome",
    "starttls": "454 no TLS today",
    "data": "354 go on",
    "content": "250 2.0.0 taken",
    "quit": "221 bye",
}


class _HungUp(Exception):
    """The script ends this connection."""


def _listed(said: Answer | Sequence[Answer]) -> list[Answer]:
    return [said] if isinstance(said, str | Act) else list(said)


class ScriptedSmtp:
    """A server that answers each step by a script: `greeting`, the commands in lower case, and `content` (after the
    final dot). A list answers one occurrence after another, over all connections; its last answer is repeated.
    `during` is done instead of reading the content to its end. What is not scripted is answered well; STARTTLS needs
    a script and `tls`.
    """

    def __init__(
        self, script: Script | None = None, *, during: Act | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._during = during
        self._tls = tls
        self._script = {step: _listed(said) for step, said in (script or {}).items()}
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.commands: list[str] = []
        self.contents: list[bytes] = []
        self.connections = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"smtp://{HOST}:{self.port}"
        self._start(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        for thread in self._threads:
            thread.join(5)

    def cut_all(self) -> None:
        """End every connection, as a server that restarts does."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while not self._stopped.is_set():
                connection, _ = self._listener.accept()
                self.connections += 1
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.append(connection)
        with contextlib.suppress(OSError, _HungUp), connection:
            self._answer(connection, "greeting")
            self._converse(connection)
        with self._lock:
            self._open.remove(connection)

    def _converse(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as reader:
            while command := reader.readline().decode(errors="replace").strip():
                self.commands.append(command)
                self._obey(connection, reader, command.partition(" ")[0].lower())

    def _obey(self, connection: socket.socket, reader: BufferedReader, verb: str) -> None:
        said = self._answer(connection, verb)
        if verb == "data" and said.startswith("354"):
            if self._during:
                self._do(connection, self._during)
            content = b""
            while (line := reader.readline()) != b".\r\n":
                if not line:
                    raise _HungUp
                content += line
            self.contents.append(content)
            self._answer(connection, "content")
        if verb == "starttls" and said.startswith("220") and self._tls:
            with self._tls.wrap_socket(connection, server_side=True) as encrypted:
                self._converse(encrypted)
            raise _HungUp
        if verb == "quit" or said.startswith("421"):
            raise _HungUp

    def _answer(self, connection: socket.socket, step: str) -> str:
        said = self._script.get(step, [_USUAL.get(step, "250 ok")])
        answer = said.pop(0) if len(said) > 1 else said[0]
        if isinstance(answer, Act):
            return self._do(connection, answer)
        connection.sendall(f"{answer}\r\n".encode())
        return answer

    def _do(self, connection: socket.socket, act: Act) -> str:
        if act is Act.RESET:
            # A client that speaks first, as TLS does, must be past connecting: else the reset is one of connecting.
            connection.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                connection.recv(1, socket.MSG_PEEK)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if act is Act.CUT:
            # A close with unread octets would be a reset.
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(1)
            connection.recv(65536)
        while act is Act.FLOOD:
            connection.sendall(b"250-" * 10_000)
        while act is Act.DRIP and not self._stopped.wait(0.05):
            connection.sendall(b"250-more\r\n")
        if act is Act.STALL:
            self._stopped.wait(30)
        raise _HungUp

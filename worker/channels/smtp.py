"""Opening and leaving an SMTP connection (RFC 5321); failures say in which phase they came, and what they mean.

What is between, the letters, is the dialogue's.

Built on smtplib's low-level verbs. Connecting, reading replies and the login are our own: with smtplib a server that
drips its reply byte by byte, or never ends it, outlasts every time-out; a wrong password is tried once per mechanism;
and one that is not ASCII cannot be sent.
"""

import os
import smtplib
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from time import monotonic

from worker.channels import Verdict
from worker.channels.replies import NotSmtp, Replies
from worker.channels.smtp_url import SmtpServer

END_OF_DATA = "end of DATA"
_OPENING = ("connect", "TLS", "greeting", "EHLO", "STARTTLS", "AUTH")
_NO_SUCH_ADDRESS = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"})
"""No such mailbox, no such domain, no valid address, moved away, domain without mail (RFC 3463, RFC 7505)."""
_LOGIN_CODES = frozenset({530, 534, 535, 538})
"""Authentication or encryption required, login refused (RFC 4954, RFC 3207): never the address's fault."""


class Failure(Exception):
    """A phase of the dialogue failed. `code` is None if the server gave no answer; then `words` are ours."""

    def __init__(self, phase: str, code: int | None, words: str, verdict: Verdict | None = None) -> None:
        super().__init__(phase, code, words, verdict)
        self.phase, self.code, self.words = phase, code, words
        self.verdict = verdict or _verdict(phase, code, words)

    @property
    def reached(self) -> bool:
        """False where no dialogue about the letter came about, so that the next one would fare no better."""
        about_letter = self.phase == "MAIL" and (self.code is not None or self.verdict is Verdict.PERMANENT)
        return about_letter or self.phase not in (*_OPENING, "MAIL")

    @property
    def no_such_address(self) -> bool:
        """The server says that the mailbox or its domain does not exist; a policy (5.7.z) or a full one is another."""
        status = self.words.partition(" ")[0]
        return self.phase == "RCPT" and self.verdict is Verdict.PERMANENT and status in _NO_SUCH_ADDRESS


def _verdict(phase: str, code: int | None, words: str) -> Verdict:
    """Judge a phase by the server's answer (RFC 5321 4.2, RFC 3463); an answer that makes no sense is no answer."""
    if code is None or code < 400:
        return Verdict.UNKNOWN if phase == END_OF_DATA else Verdict.TRANSIENT
    if code in (421, 452) or (code in (450, 451) and words.startswith("4.7.")):
        return Verdict.THROTTLED
    if code < 500:
        return Verdict.TRANSIENT
    too_large = code == 552 or words.startswith("5.3.4")
    judges_address = phase in ("RCPT", "DATA", END_OF_DATA) or (phase == "MAIL" and too_large)
    return Verdict.PERMANENT if judges_address and code not in _LOGIN_CODES else Verdict.MISCONFIGURED


class Session(smtplib.SMTP):
    """A connection that greeted, is encrypted and logged in as SMTP_URL says.

    It is closed as soon as it is of no more use: after a silence, a broken connection or a 421.
    """

    def __init__(self, server: SmtpServer, context: ssl.SSLContext | None, timeout: float, data_timeout: float) -> None:
        """Connect; `timeout` is in seconds, for each answer but the one to a content. Raises Failure."""
        super().__init__(local_hostname=_own_name(), timeout=timeout)
        self.data_timeout = data_timeout
        self._server, self._context = server, context
        self._replies = Replies()
        self._pid = os.getpid()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """False once closed, and in a child that was forked after connecting."""
        return self.sock is not None and self._pid == os.getpid()

    def leave(self) -> None:
        """Say QUIT and close; a server that does not answer is left without it."""
        if self.alive and self.sock:
            self.sock.settimeout(self.timeout)
            with suppress(Failure):
                self._ask("QUIT", "QUIT")
        self.close()

    def _open(self) -> None:
        try:
            self.sock = _connect(self._server.host, self._server.port, self.timeout)
        except OSError as error:
            raise Failure("connect", None, reason(error)) from None
        if self._server.tls == "implicit":
            self._encrypt()
        self._expect("greeting", 2)
        self._greet()
        if self._server.tls == "required" or (self._server.tls == "optional" and self.has_extn("starttls")):
            self._start_tls()
        if self._server.user is not None:
            self._log_in(self._server.user, self._server.password)

    def _greet(self) -> None:
        with _during("EHLO"):
            code, words = self.ehlo()
            if code >= 500:
                code, words = self.helo()
        self._judge("EHLO", 2, code, words)

    def _start_tls(self) -> None:
        if not self.has_extn("starttls"):
            raise Failure("STARTTLS", None, "the server does not offer it", Verdict.MISCONFIGURED)
        self._ask("STARTTLS", "STARTTLS")
        self._encrypt()
        self._greet()

    def _encrypt(self) -> None:
        assert self._context is not None
        assert self.sock is not None
        # What came before the handshake was not said by the server we are about to verify (RFC 3207 4.2).
        self._replies.forget()
        try:
            # Python leaks the socket that it wraps when the connection is already gone.
            self.sock.getpeername()
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self._server.host)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            raise Failure("TLS", None, "connection closed") from None
        except ssl.SSLCertVerificationError as error:
            raise Failure("TLS", None, error.verify_message, Verdict.MISCONFIGURED) from None
        except ssl.SSLError as error:
            raise Failure("TLS", None, error.reason or "handshake failed", Verdict.MISCONFIGURED) from None
        except OSError as error:
            raise Failure("TLS", None, reason(error)) from None

    def _log_in(self, user: str, password: str) -> None:
        offered = self.esmtp_features.get("auth", "").upper().split()
        plain, login, key = (b64encode(text.encode()).decode() for text in (f"\0{user}\0{password}", user, password))
        try:
            if "PLAIN" in offered:
                self._ask("AUTH", f"AUTH PLAIN {plain}")
            elif "LOGIN" in offered:
                self._ask("AUTH", "AUTH LOGIN", expected=3)
                self._ask("AUTH", login, expected=3)
                self._ask("AUTH", key)
            else:
                raise Failure("AUTH", None, "the server offers neither PLAIN nor LOGIN", Verdict.MISCONFIGURED)
        except Failure as failure:
            if any(secret in failure.words for secret in (plain, login, key, user, password)):
                raise Failure(failure.phase, failure.code, "(its words repeat the login)", failure.verdict) from None
            raise

    def _ask(self, phase: str, command: str, *, expected: int = 2) -> str:
        self._write(phase, f"{command}\r\n".encode())
        return self._expect(phase, expected)

    def _write(self, phase: str, data: bytes) -> None:
        with _during(phase):
            self.send(data)

    def _expect(self, phase: str, expected: int) -> str:
        with _during(phase):
            code, words = self.getreply()
        return self._judge(phase, expected, code, words)

    def _judge(self, phase: str, expected: int, code: int, words: bytes) -> str:
        text = words.decode(errors="replace")
        if code // 100 != expected:
            if code == 421 or code < 400:
                self.close()
            raise Failure(phase, code, text)
        return f"{code} {text}"

    def getreply(self) -> tuple[int, bytes]:
        """Read one reply, all of it within the time-out. Raises SMTPServerDisconnected, and closes."""
        deadline = monotonic() + self.timeout
        try:
            while (reply := self._replies.take()) is None:
                self._replies.hear(self._receive(deadline))
        except OSError as error:
            self.close()
            raise smtplib.SMTPServerDisconnected from error
        return reply

    def _receive(self, deadline: float) -> bytes:
        if self.sock is None:
            raise ConnectionError
        self.sock.settimeout(max(deadline - monotonic(), 0.001))
        octets = self.sock.recv(4096)
        self.sock.settimeout(self.timeout)
        if not octets:
            raise ConnectionError
        return octets


@contextmanager
def _during(phase: str) -> Iterator[None]:
    try:
        yield
    except smtplib.SMTPServerDisconnected as error:
        # smtplib raises it while handling the socket's own error, which says more.
        raise Failure(phase, None, reason(error.__context__)) from None


def reason(error: BaseException | None) -> str:
    """Say why there was no answer, in words of our own: the error's may name addresses."""
    match error:
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "connection refused"
        case socket.gaierror():
            return "host name not found"
        case NotSmtp():
            return "not an SMTP reply"
        case OSError(errno=int(number)) if not isinstance(error, ConnectionError):
            return os.strerror(number)
    return "connection closed"


@cache
def _own_name() -> str:
    """Return our name for EHLO; finding it may cost DNS queries."""
    return smtplib.SMTP().local_hostname


def _connect(host: str, port: int, seconds: float) -> socket.socket:
    """Connect to the first address of the host that answers; all of them share the time-out."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    refusal = OSError()
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(seconds / len(found))
            sock.connect(address)
        except OSError as error:
            sock.close()
            refusal = error
            continue
        sock.settimeout(seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    raise refusal

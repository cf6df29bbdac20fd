"""The email channel: carries deliveries to one SMTP server, many over one connection.

At-least-once: between the server's acceptance and our record of it a crash leaves the mail sent and unrecorded; the
Message-ID is the same at every attempt.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from worker.channels import Outcome, Parcel, Verdict
from worker.channels.mime import Letter, Sender, compose, message_id, parse_sender
from worker.channels.smtp import Failure, Session
from worker.channels.smtp_url import SmtpServer, parse_smtp_url
from worker.settings import Settings

__all__ = ["EmailChannel", "message_id", "parse_smtp_url"]

_DETAIL = 300
"""Characters kept of what the server said."""
_ADDRESS = re.compile(r"""[^\s<>()\[\],;:"']*@[^\s<>(),;:"']+""")


class EmailChannel:
    """Sends parcels by SMTP, and keeps its connections for the next call. May be shared by threads, not across a fork:
    a child opens connections of its own.
    """

    def __init__(self, server: SmtpServer, sender: Sender, timeout: float, data_timeout: float) -> None:
        """`timeout` is in seconds, for each phase of the dialogue but the answer to the content, which has its own."""
        self._server = server
        self._sender = sender
        self._timeout, self._data_timeout = timeout, data_timeout
        self._context = server.ssl_context()
        self._idle: list[Session] = []

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Make the channel of `smtp_url`, `smtp_timeout_seconds` and `email_from`; connects to nothing yet.

        Raises InvalidSettings.
        """
        server = parse_smtp_url(settings.smtp_url.get_secret_value())
        sender, limits = parse_sender(settings.email_from), settings
        return cls(server, sender, limits.smtp_timeout_seconds, limits.smtp_data_timeout_seconds)

    def send(self, parcels: Iterable[Parcel]) -> Iterator[Sequence[Outcome]]:
        """Yield the outcome of each parcel, in order, as soon as it is known; may be closed early.

        Connects when the first parcel needs it. When no connection can be made, the rest of the call fails alike.
        """
        call = _Call(self)
        try:
            for parcel in parcels:
                verdict, words = call.carry(compose(parcel, self._sender))
                yield [Outcome(parcel.delivery_id, verdict, _without_address(words, parcel.address))]
        finally:
            call.end()

    def close(self) -> None:
        """Say goodbye on the idle connections; the channel stays usable."""
        while session := self.take_idle():
            session.leave()

    def take_idle(self) -> Session | None:
        """Return a connection kept from an earlier call, if any; the server may have left it since."""
        while True:
            try:
                session = self._idle.pop()
            except IndexError:
                return None
            if session.alive:
                return session
            session.close()

    def keep(self, session: Session) -> None:
        """Keep a connection for a later call."""
        self._idle.append(session)

    def connect(self) -> Session:
        """Open a connection. Raises Failure."""
        return Session(self._server, self._context, self._timeout, self._data_timeout)


class _Call:
    """What one call of `send` holds: its connection, and why none can be made."""

    def __init__(self, channel: EmailChannel) -> None:
        self._channel = channel
        self._session: Session | None = None
        self._refusal: tuple[str, int | None, str, Verdict] | None = None

    def carry(self, letter: Letter | None) -> tuple[Verdict, str]:
        """Carry one letter and return the verdict and the server's words."""
        if letter is None:
            return Verdict.PERMANENT, "malformed address"
        try:
            return Verdict.SENT, self._begin(letter).finish(letter)
        except Failure as failure:
            code = "" if failure.code is None else f"{failure.code} "
            return failure.verdict, f"{failure.phase}: {code}{failure.words}"
        except BaseException:
            # A time limit may strike anywhere; a dialogue left in the middle cannot be taken up again.
            if self._session:
                self._session.close()
            raise

    def end(self) -> None:
        """Give the connection back to the channel."""
        if session := self._kept():
            self._channel.keep(session)

    def _begin(self, letter: Letter) -> Session:
        """Have MAIL FROM accepted. A kept connection that proves dead until then is replaced, once."""
        kept = self._kept() or self._channel.take_idle()
        if kept:
            self._session = kept
            try:
                return kept.begin(letter)
            except Failure:
                if kept.alive:
                    raise
        fresh = self._session = self._connect()
        try:
            return fresh.begin(letter)
        except Failure as failure:
            if failure.code is None and not fresh.alive:
                self._remember(failure)
            raise

    def _kept(self) -> Session | None:
        if self._session and not self._session.alive:
            self._session.close()
            self._session = None
        return self._session

    def _connect(self) -> Session:
        """Open a connection, unless that has failed in this call: nobody waits for the same time-out twice."""
        if self._refusal:
            raise Failure(*self._refusal)
        try:
            return self._channel.connect()
        except Failure as failure:
            self._remember(failure)
            raise

    def _remember(self, failure: Failure) -> None:
        self._refusal = (failure.phase, failure.code, failure.words, failure.verdict)


def _without_address(words: str, address: str) -> str:
    """Return the server's words on one line, with everything that looks like an address replaced."""
    line = "".join(char if char.isprintable() else " " for char in words)
    local = address.rpartition("@")[0]
    for name in filter(None, (address, local, local.strip('"'), local.partition("+")[0])):
        line = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<address>", line, flags=re.IGNORECASE)
    line = re.sub("(<address>)+", "<address>", _ADDRESS.sub("<address>", line))
    return " ".join(line.split())[:_DETAIL]

"""The email channel: carries deliveries to one SMTP server, many over one connection, over several at a time.

At-least-once: between the server's acceptance and our record of it a crash leaves the mail sent and unrecorded; the
Message-ID is the same at every attempt.
"""

from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import Self

from worker.channels import Outcome, Parcel
from worker.channels.dialogue import Dialogue
from worker.channels.mime import Sender, message_id, parse_sender
from worker.channels.smtp import Session
from worker.channels.smtp_url import SmtpServer, parse_smtp_url
from worker.channels.traffic import Traffic
from worker.settings import Settings

__all__ = ["EmailChannel", "message_id", "parse_smtp_url"]


class EmailChannel:
    """Sends parcels by SMTP, and keeps its connections for the next call. May be shared by threads, not across a fork:
    a child opens connections of its own.
    """

    def __init__(self, server: SmtpServer, sender: Sender, limits: Settings) -> None:
        """`limits` are the time-outs, the number of connections and the window of a call."""
        self.sender, self.limits = sender, limits
        self._server = server
        self._context = server.ssl_context()
        self._idle: list[Dialogue] = []
        self._lock, self._closings = Lock(), 0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Make the channel of SMTP_URL and EMAIL_FROM; connects to nothing yet. Raises InvalidSettings."""
        server = parse_smtp_url(settings.smtp_url.get_secret_value())
        return cls(server, parse_sender(settings.email_from), settings)

    def send(self, parcels: Iterable[Parcel | None]) -> Iterator[Sequence[Outcome]]:
        """Yield the outcomes of the parcels in groups, as soon as they are known; may be closed early.

        Connects when the first parcel needs it. When no connection can be made, the rest of the call fails alike.
        What `parcels` raises passes through, once the outcomes of what is under way are known.
        """
        return Traffic(self, parcels).outcomes()

    def close(self) -> None:
        """Say goodbye on the idle connections, and on those in use or opening when they are done; the channel stays
        usable.
        """
        with self._lock:
            self._closings += 1
        while dialogue := self.take_idle():
            dialogue.session.leave()

    def take_idle(self) -> Dialogue | None:
        """Return a connection kept from an earlier call, if any; the server may have left it since."""
        while True:
            try:
                dialogue = self._idle.pop()
            except IndexError:
                return None
            if dialogue.alive and dialogue.act():
                return dialogue
            dialogue.session.close()

    def keep(self, dialogue: Dialogue) -> None:
        """Keep a connection at rest for a later call, if it was opened after the last `close`."""
        dialogue.proven = True
        with self._lock:
            if dialogue.era == self._closings:
                self._idle.append(dialogue)
                return
        dialogue.session.leave()

    def connect(self) -> Dialogue:
        """Open a connection. Raises Failure."""
        timeout, data_timeout = self.limits.smtp_timeout_seconds, self.limits.smtp_data_timeout_seconds
        era = self._closings
        return Dialogue(Session(self._server, self._context, timeout, data_timeout), era)

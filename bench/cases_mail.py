"""The mail channel alone, in one process: by how connections are used, on loopback and at 10 ms round trip."""

import smtplib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from uuid import uuid4

from bench import counting, floors, naive
from bench.measure import FLOOR, NAIVE, OURS, Book, Contender, Size, turns
from bench.publisher import own, person
from bench.servers import Stand
from bench.sinks import OwnSink, SmtpSink
from worker.channels import Parcel, Verdict
from worker.channels.email import EmailChannel
from worker.settings import Settings

KEPT = "hand-written, connection kept"
#: Seconds of a far server's round trip.
FAR = 0.01


def measure(stand: Stand, size: Size, book: Book) -> None:
    """Near and far."""
    near = _Mail(stand.sink)
    contenders = near.contenders(most=50_000)
    if floors.can_mail():
        sessions = near.settings.smtp_connections
        contenders.append(Contender(FLOOR, lambda count: floors.mail(stand, count, sessions), 500, 50_000))
    result = turns("mail/near", "mails of one process, loopback", size, *contenders)
    result.notes.append(f"ours and the floor, smtp-source, over {near.settings.smtp_connections} connections")
    book.add(result)
    with stand.own_sink(FAR) as far:
        title = f"mails of one process, {FAR * 1e3:.0f} ms round trip"
        book.add(turns("mail/far", title, size, *_Mail(far).contenders(20)))


class _Mail:
    def __init__(self, sink: SmtpSink | OwnSink) -> None:
        self.sink = sink
        self.settings = Settings(smtp_url=sink.url, email_from="Library <library@example.org>")  # type: ignore[arg-type]
        self.channel = EmailChannel.from_settings(self.settings)

    def contenders(self, start: int = 200, most: int = 20_000) -> list[Contender]:
        """Ours; a connection per mail; one connection for all."""
        ways = {OURS: self.ours, NAIVE: self.anew, KEPT: self.kept}
        return [Contender(name, self.checked(way), start, most) for name, way in ways.items()]

    def checked(self, way: Callable[[int], None]) -> Callable[[int], float]:
        """Run on an empty sink and count."""

        def run(count: int) -> float:
            self.sink.reset()
            began = time.time()
            way(count)
            took = time.time() - began
            counting.mails(self.sink, count)
            return took

        return run

    def ours(self, count: int) -> None:
        """As a delivery does: parts that were rendered before."""
        outcomes = [one.verdict for told in self.channel.send(self.parcels(count)) for one in told]
        if outcomes != [Verdict.SENT] * count:
            raise counting.Wrong(f"mails: {outcomes.count(Verdict.SENT):,} of {count:,} sent")

    def parcels(self, count: int) -> Iterator[Parcel]:
        """One for each recipient."""
        parts, now = naive.render(own(0)), datetime.now(UTC)
        parts = {"subject": parts["title"], "text": parts["text"], "html": parts["html"]}
        return (Parcel(uuid4(), person(number)[1], "en", parts, now) for number in range(count))

    def anew(self, count: int) -> None:
        """A connection for each mail."""
        parts = naive.render(own(0))
        for number in range(count):
            with smtplib.SMTP("127.0.0.1", self.sink.port) as smtp:
                naive.mail(smtp, person(number)[1], parts)

    def kept(self, count: int) -> None:
        """One connection."""
        parts = naive.render(own(0))
        with smtplib.SMTP("127.0.0.1", self.sink.port) as smtp:
            for number in range(count):
                naive.mail(smtp, person(number)[1], parts)

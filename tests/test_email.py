import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import SMTP
from uuid import uuid4

import pytest

from tests.servers import wait_until
from tests.smtp_servers import (
    EHLO,
    PIPELINING,
    Act,
    Answer,
    Mailbox,
    Script,
    ScriptedSmtp,
    channel_to,
    parcel,
    real_server,
    sent,
    verdicts,
)
from worker.channels import Outcome, Parcel, Verdict


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with real_server() as mailbox:
        yield mailbox


def test_many_parcels_go_over_one_connection(mailbox: Mailbox) -> None:
    """Outcomes come in order, each mail has its own envelope, and the connection serves later calls too."""
    parcels = [parcel(f"reader{number}@example.com") for number in range(20)]
    with channel_to(mailbox.url) as channel:
        outcomes = [*sent(channel, parcels[:15]), *sent(channel, []), *sent(channel, parcels[15:])]

    assert [Outcome(each.delivery_id, Verdict.SENT, "250 2.0.0 taken") for each in parcels] == outcomes
    assert [each.address for each in parcels] == [taken.recipient for taken in mailbox.taken]
    assert {"bellhop@example.org"} == {taken.sender for taken in mailbox.taken}
    assert 1 == mailbox.connections


def test_nothing_is_connected_before_the_first_parcel() -> None:
    """A channel that sends nothing costs the server nothing; neither does a malformed address."""
    with ScriptedSmtp() as server, channel_to(server.url) as channel:
        assert [] == sent(channel, [])
        [outcome] = sent(channel, [parcel("jane.doe@example.com\r\nRCPT TO:<victim@example.com>")])

        assert (Verdict.PERMANENT, "address: malformed") == (outcome.verdict, outcome.detail)
        assert 0 == server.connections


def test_dots_and_line_breaks_arrive(mailbox: Mailbox) -> None:
    """Lines of dots neither end the mail nor lose one, and all line breaks are CRLF."""
    text = ".\n..\n.hidden\nx" + ".x" * 3000 + "\r\n.\rend"
    with channel_to(mailbox.url) as channel:
        assert [Verdict.SENT] == verdicts(channel, [parcel(text=text, html=f"<p>{text}</p>")])

    content = mailbox.taken[0].content
    message = message_from_bytes(content, policy=SMTP)
    plain, html = (part.get_payload(decode=True) for part in message.iter_parts())
    expected = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n").encode()
    assert expected + b"\r\n" == plain
    assert b"<p>" + expected + b"</p>\r\n" == html
    assert content.count(b"\n") == content.count(b"\r\n")


def test_an_early_end_leaves_a_usable_channel(mailbox: Mailbox) -> None:
    """The caller may stop after any outcome; the next call goes on."""
    with channel_to(mailbox.url) as channel:
        call = iter(channel.send([parcel() for _ in range(5)]))
        next(call)
        call.close()  # type: ignore[attr-defined]

        assert [Verdict.SENT] * 2 == verdicts(channel, [parcel(), parcel()])
    assert 3 == len(mailbox.taken)


def test_threads_do_not_share_a_connection(mailbox: Mailbox) -> None:
    """Calls at the same time have a connection each, and every mail arrives whole."""
    with channel_to(mailbox.url) as channel:
        done: list[Verdict] = []
        threads = [
            threading.Thread(target=lambda: done.extend(verdicts(channel, [parcel() for _ in range(25)])))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert [Verdict.SENT] * 100 == done
    assert 100 == len(mailbox.taken)
    assert mailbox.connections <= 4


FORKED = """
import os, sys, uuid, datetime
from worker.channels import Parcel
from worker.channels.email import EmailChannel
from worker.settings import Settings
channel = EmailChannel.from_settings(Settings(smtp_url=sys.argv[1]))
def send(name):
    now = datetime.datetime.now(datetime.UTC)
    [[outcome]] = channel.send([Parcel(uuid.uuid4(), name + "@example.com", "en", {"subject": "s", "text": "t"}, now)])
    assert outcome.verdict == "sent", outcome
send("parent")
child = os.fork()
send("child" if child == 0 else "parent")
channel.close()
if child:
    assert os.waitpid(child, 0)[1] == 0
    send("parent")
    channel.close()
"""


def test_a_forked_child_opens_its_own_connection(mailbox: Mailbox) -> None:
    """The child neither uses nor closes the parent's connection."""
    subprocess.run([sys.executable, "-W", "error", "-c", FORKED, mailbox.url], check=True, timeout=30)

    assert ["child", "parent", "parent", "parent"] == sorted(each.recipient.split("@")[0] for each in mailbox.taken)
    assert 3 == mailbox.connections


@pytest.mark.parametrize(
    "script", [{"greeting": Act.STALL}, {"mail": Act.STALL}, {"ehlo": PIPELINING, "mail": Act.STALL}]
)
def test_a_dead_server_is_waited_for_once(script: Script) -> None:
    """When no connection comes about, the rest of the call fails alike at once; the next call tries again."""
    with ScriptedSmtp(script) as server, channel_to(server.url, timeout=0.3, connections=4) as channel:
        started = time.monotonic()
        outcomes = sent(channel, [parcel() for _ in range(10)])

        assert time.monotonic() - started < 1
        assert [Verdict.TRANSIENT] * 10 == [outcome.verdict for outcome in outcomes]
        assert 1 == len({outcome.detail for outcome in outcomes})
        assert 1 == server.connections
        sent(channel, [parcel()])
        assert 2 == server.connections


@pytest.mark.parametrize("offer", [EHLO, PIPELINING])
@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "content"])
def test_a_refusal_costs_nobody_else(step: str, offer: str) -> None:
    """After a refused parcel the same connection serves the next one."""
    good = "354 go on" if step == "data" else "250 ok"
    script: Script = {"ehlo": offer, step: ["550 5.1.1 no", "550 5.1.1 no", good]}
    with ScriptedSmtp(script) as server, channel_to(server.url) as channel:
        outcomes = verdicts(channel, [parcel(), parcel(), parcel()])

        assert [Verdict.SENT] == outcomes[2:]
        assert Verdict.SENT not in outcomes[:2]
        # The next letter begins before the content of the one before it is judged; that ends the transaction, too.
        assert (0 if step == "content" and offer == PIPELINING else 2) == server.commands.count("RSET")
        assert 1 == server.connections


@pytest.mark.parametrize("offer", [EHLO, PIPELINING])
@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "content"])
@pytest.mark.parametrize("answer", ["421 4.7.0 enough", "out of turn", "nonsense", Act.CUT])
def test_a_broken_connection_is_replaced_for_the_next_parcel(step: str, answer: Answer, offer: str) -> None:
    """After a 421, an answer that makes no sense or a break, the call goes on over a new connection."""
    good, out_of_turn = ("354 go on", "250 ok") if step == "data" else ("250 ok", "354 go on")
    answer = out_of_turn if answer == "out of turn" else answer
    script: Script = {"ehlo": offer, step: [good, answer, good]}
    with ScriptedSmtp(script) as server, channel_to(server.url) as channel:
        outcomes = verdicts(channel, [parcel(), parcel(), parcel()])

        assert (Verdict.SENT, Verdict.SENT) == (outcomes[0], outcomes[2])
        assert (outcomes[1] is Verdict.SENT) == (step == "mail")
        assert (outcomes[1] is Verdict.UNKNOWN) == (step == "content" and answer != "421 4.7.0 enough")
        assert 2 == server.connections
        ids = [line for content in server.contents for line in content.splitlines() if line.startswith(b"Message-ID")]
        assert (3 if step in ("mail", "content") else 2) == len(ids) == len(set(ids))


@pytest.mark.parametrize("offer", [EHLO, PIPELINING])
@pytest.mark.parametrize("mail", [["250 ok", "250 ok"], ["250 ok", "421 4.4.2 idle too long", "250 ok"]])
def test_a_stale_connection_costs_no_attempt(mail: list[Answer], offer: str) -> None:
    """A kept connection that the server has left is replaced, and the parcel is sent."""
    with ScriptedSmtp({"ehlo": offer, "mail": mail}) as server, channel_to(server.url) as channel:
        assert [Verdict.SENT] == verdicts(channel, [parcel()])
        if len(mail) == 2:
            server.cut_all()

        assert [Verdict.SENT] == verdicts(channel, [parcel()])
        assert 2 == server.connections


def test_a_stale_connection_is_replaced_once() -> None:
    """If the new connection dies as well, that is the parcel's outcome."""
    with ScriptedSmtp({"mail": ["250 ok", Act.CUT]}) as server, channel_to(server.url) as channel:
        assert [Verdict.SENT, Verdict.TRANSIENT] == verdicts(channel, [parcel(), parcel()])
        assert 2 == server.connections


def test_a_refused_reset_ends_the_connection() -> None:
    """A server that cannot forget a refused parcel gets the next one over a new connection."""
    script: Script = {"rcpt": ["550 no", "250 ok"], "rset": "502 what?"}
    with ScriptedSmtp(script) as server, channel_to(server.url) as channel:
        assert [Verdict.PERMANENT, Verdict.SENT] == verdicts(channel, [parcel(), parcel()])
        assert 2 == server.connections


class TimeLimit(Exception):
    """Stands for Celery's soft time limit."""


def test_an_interrupted_dialogue_is_not_taken_up_again() -> None:
    """A time limit that strikes while the server is silent passes through, and closes the half-done connection."""

    def strike(*_: object) -> None:
        raise TimeLimit

    def strike_once_sent() -> None:
        wait_until(lambda: server.contents, 5, "the content arrives")
        os.kill(os.getpid(), signal.SIGUSR1)

    usual = signal.signal(signal.SIGUSR1, strike)
    try:
        with ScriptedSmtp({"content": [Act.STALL, "250 ok"]}) as server, channel_to(server.url) as channel:
            striker = threading.Thread(target=strike_once_sent)
            striker.start()
            with pytest.raises(TimeLimit):
                sent(channel, [parcel()])
            striker.join()

            started = time.monotonic()
            assert [Verdict.SENT] == verdicts(channel, [parcel()])
            assert time.monotonic() - started < 2
            assert 2 == server.connections
    finally:
        signal.signal(signal.SIGUSR1, usual)


def test_errors_of_the_caller_pass_through() -> None:
    """A parcel without its parts is a programming error, and costs the next call nothing."""
    with ScriptedSmtp() as server, channel_to(server.url) as channel:
        call = channel.send([parcel(), Parcel(uuid4(), "a@example.com", "en", {}, datetime.now(UTC))])
        assert [Verdict.SENT] == [outcome.verdict for outcome in next(call)]
        with pytest.raises(KeyError):
            next(call)

        assert [Verdict.SENT] == verdicts(channel, [parcel()])
        assert 1 == server.connections


def test_closing_says_goodbye() -> None:
    """`close` ends the kept connection with QUIT, may be repeated, and the channel can be used again."""
    with ScriptedSmtp() as server, channel_to(server.url) as channel:
        sent(channel, [parcel()])
        channel.close()
        channel.close()
        assert 1 == server.commands.count("QUIT")

        assert [Verdict.SENT] == verdicts(channel, [parcel()])


@pytest.mark.parametrize("answer", [Act.CUT, Act.STALL, "500 what?"])
def test_closing_does_not_depend_on_the_server(answer: Answer) -> None:
    """Whatever the server does at QUIT, `close` ends within the time-out."""
    with ScriptedSmtp({"quit": answer}) as server, channel_to(server.url, timeout=0.3) as channel:
        sent(channel, [parcel()])
        started = time.monotonic()
        channel.close()
        assert time.monotonic() - started < 1


class Late(ScriptedSmtp):
    """Greets the first connection at once, the others when told to."""

    def __init__(self) -> None:
        super().__init__({"ehlo": PIPELINING})
        self.greets = threading.Event()

    def _answer(self, connection: socket.socket, step: str) -> str:
        if step == "greeting" and self.connections > 1:
            self.greets.wait(10)
        return super()._answer(connection, step)


def test_closing_ends_connections_that_are_still_opening() -> None:
    """One that opens after `close`, for a call that is over, is not kept by a channel that nobody uses any more."""
    with Late() as server, channel_to(server.url, connections=2) as channel:
        sent(channel, [parcel() for _ in range(10)])
        wait_until(lambda: server.connections == 2, 5, "the second connection waits for its greeting")
        channel.close()
        server.greets.set()
        wait_until(lambda: server.commands.count("QUIT") == 2, 5, "both have said goodbye")

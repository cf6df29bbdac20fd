"""Many letters at once: pipelined, over several connections, and never more unrecorded than the window allows."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from email import message_from_bytes
from pathlib import Path
from uuid import uuid4

import pytest
import trustme

from tests.servers import wait_until
from tests.smtp_servers import (
    HOST,
    PIPELINING,
    Act,
    Script,
    ScriptedSmtp,
    channel_to,
    parcel,
    sent,
    server_context,
    verdicts,
)
from worker.channels import Outcome, Parcel, Verdict, traffic


class Patient:
    """A server that answers nothing before it has the whole group that a client may send without an answer."""

    def __init__(self, letters: int) -> None:
        self.letters = letters
        self.groups: list[bytes] = []

    def __enter__(self) -> str:
        self._listener = socket.create_server((HOST, 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return f"smtp://{HOST}:{self._listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, suppress(OSError):
            connection.settimeout(5)
            connection.sendall(b"220 patient\r\n")
            self._hear(connection, b"\r\n", f"{PIPELINING}\r\n".encode())
            self._hear(connection, b"DATA\r\n", b"250 ok\r\n250 ok\r\n354 go on\r\n")
            for _ in range(self.letters - 1):
                self._hear(connection, b"DATA\r\n", b"250 taken\r\n250 ok\r\n250 ok\r\n354 go on\r\n")
            self._hear(connection, b"\r\n.\r\n", b"250 taken\r\n")
            self._hear(connection, b"QUIT\r\n", b"221 bye\r\n")

    def _hear(self, connection: socket.socket, end: bytes, answer: bytes) -> None:
        group = b""
        while not group.endswith(end):
            octets = connection.recv(65536)
            if not octets:
                raise ConnectionError
            group += octets
        self.groups.append(group)
        # Each octet a packet of its own: replies need not come in one piece.
        for octet in answer:
            connection.sendall(bytes([octet]))


def test_one_round_trip_carries_a_letter_and_begins_the_next() -> None:
    """MAIL, RCPT and DATA come in one write, and with them the content of the letter before (RFC 2920)."""
    patient = Patient(3)
    with patient as url, channel_to(url) as channel:
        assert [Verdict.SENT] * 3 == verdicts(channel, [parcel(f"reader{number}@example.com") for number in range(3)])

    first, second, third, last = patient.groups[1:5]
    assert [b"MAIL", b"RCPT", b"DATA"] == [line[:4] for line in first.splitlines()]
    for content, number in ((second, 0), (third, 1), (last, 2)):
        assert f"To: reader{number}@example.com\r\n".encode() in content
    assert b"\r\n.\r\nMAIL FROM:<bellhop@example.org> SIZE=" in second


def test_a_refused_letter_is_not_sent_to_nobody() -> None:
    """A server that wants a content although it refused the recipient gets an empty one (RFC 2920, 3.1)."""
    script = {"ehlo": PIPELINING, "rcpt": ["550 5.1.1 no", "250 ok"]}
    with ScriptedSmtp(script) as server, channel_to(server.url) as channel:
        assert [Verdict.PERMANENT, Verdict.SENT] == verdicts(channel, [parcel(), parcel()])
        assert (1, b"") == (server.connections, server.contents[0])


@pytest.mark.parametrize("offer", ["250 x", PIPELINING])
def test_no_letter_is_risked_with_the_one_before(offer: str) -> None:
    """Where each content ends the connection, each letter is unknown by its own content alone, and sent once."""
    with ScriptedSmtp({"ehlo": offer, "content": Act.CUT}) as server, channel_to(server.url) as channel:
        assert [Verdict.UNKNOWN] * 6 == verdicts(channel, [parcel() for _ in range(6)])
        assert 6 == len(server.contents) == len(set(server.contents))


@pytest.mark.parametrize("offer", ["250 x", PIPELINING])
def test_a_server_that_takes_one_letter_per_connection(offer: str) -> None:
    """A 421 to the next MAIL costs no letter its attempt."""
    script = {"ehlo": offer, "mail": ["250 ok", "421 4.7.0 one at a time"] * 20}
    with ScriptedSmtp(script) as server, channel_to(server.url) as channel:
        assert [Verdict.SENT] * 6 == verdicts(channel, [parcel() for _ in range(6)])
        assert 6 == len(server.contents) == len(set(server.contents))


class Meeting(ScriptedSmtp):
    """Answers contents, once there were some, only when so many connections have one out."""

    def __init__(self, connections: int) -> None:
        super().__init__({"ehlo": PIPELINING})
        self.barrier, self.met = threading.Barrier(connections), False

    def _answer(self, connection: socket.socket, step: str) -> str:
        if step == "content" and len(self.contents) > 16 and not self.met:
            with suppress(threading.BrokenBarrierError):
                self.barrier.wait(5)
                self.met = True
        return super()._answer(connection, step)


def test_connections_are_used_at_the_same_time() -> None:
    """As many as set, and no more; they serve the next call, too."""
    with Meeting(3) as server, channel_to(server.url, connections=3) as channel:
        assert [Verdict.SENT] * 60 == verdicts(channel, [parcel() for _ in range(60)])
        assert server.met
        sent(channel, [parcel() for _ in range(20)])
        assert 3 == server.connections
        assert 80 == len(server.contents) == len(set(server.contents))


@pytest.mark.parametrize("greeting", [Act.STALL, "421 4.7.0 too many connections"])
def test_a_connection_that_does_not_open_holds_up_nobody(greeting: Act | str) -> None:
    """The letters go over those that there are."""
    script = {"ehlo": PIPELINING, "greeting": ["220 hello", "220 hello", greeting]}
    with ScriptedSmtp(script) as server, channel_to(server.url, connections=4) as channel:
        started = time.monotonic()
        assert [Verdict.SENT] * 40 == verdicts(channel, [parcel() for _ in range(40)])
        assert time.monotonic() - started < 4
        # Those that were begun may still be opening when the last letter is sent.
        wait_until(lambda: server.connections >= 3, 5, "the third connection is accepted")
        assert server.connections in (3, 4)


@pytest.mark.parametrize(("window", "connections"), [(1, 3), (5, 3), (2, 4)])
def test_no_more_are_unrecorded_than_the_window_allows(window: int, connections: int) -> None:
    """What the server may have taken and the caller has not recorded is bounded, over all connections."""
    server = ScriptedSmtp({"ehlo": PIPELINING})
    recorded, most = 0, 0
    with server, channel_to(server.url, connections=connections, window=window) as channel:
        for group in channel.send([parcel() for _ in range(60)]):
            time.sleep(0.005)  # what was written goes on to arrive
            most = max(most, len(server.contents) - recorded)
            recorded += len(group)
        assert 60 == recorded == len(server.contents)
    assert most <= window


def test_no_outcome_waits_for_long_while_others_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many the window allows, and though the server never pauses: 20 ms, then known outcomes are told."""
    now = time.monotonic()
    monkeypatch.setattr(traffic, "monotonic", lambda: now)
    monkeypatch.setattr(traffic.Traffic, "_listen", lambda _self, _seconds: True)
    monkeypatch.setattr(traffic.Traffic, "_risked", lambda _self: 1)
    with channel_to("smtp://127.0.0.1:25", window=1000) as channel:
        calls = traffic.Traffic(channel, [])
        calls._add(Outcome(uuid4(), Verdict.SENT))
        assert not calls._is_group()
        now += 0.019
        calls._add(Outcome(uuid4(), Verdict.SENT))
        assert not calls._is_group()
        now += 0.002
        assert calls._is_group()


class Thinking(ScriptedSmtp):
    """Answers the second content once the first outcome was told, or after some seconds."""

    def __init__(self, offer: str) -> None:
        super().__init__({"ehlo": offer})
        self.told = threading.Event()

    def _answer(self, connection: socket.socket, step: str) -> str:
        if step == "content" and len(self.contents) == 2:
            self.told.wait(3)
        return super()._answer(connection, step)


@pytest.mark.parametrize("offer", ["250 x", PIPELINING])
def test_an_outcome_does_not_wait_for_the_next(offer: str) -> None:
    """It is told while the server still thinks about the next letter."""
    with Thinking(offer) as server, channel_to(server.url) as channel:
        groups = []
        for group in channel.send([parcel(), parcel()]):
            groups.append([outcome.verdict for outcome in group])
            server.told.set()
    assert [[Verdict.SENT], [Verdict.SENT]] == groups


@pytest.mark.timeout(20)
def test_a_pause_that_ends_before_the_wait_does_not_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine holds the process up just before it waits for the next parcel: it is asked for all the same."""
    listen = traffic.Traffic._listen

    def late(self: traffic.Traffic, seconds: float | None) -> bool:
        time.sleep(1.5 * traffic._PAUSE)
        return listen(self, seconds)

    monkeypatch.setattr(traffic.Traffic, "_listen", late)
    with ScriptedSmtp() as server, channel_to(server.url) as channel:
        groups = channel.send(iter([parcel(), None, None, parcel()]))
        assert [Verdict.SENT] * 2 == [outcome.verdict for group in groups for outcome in group]


def test_large_letters_go_encrypted_over_several_connections(tmp_path: Path) -> None:
    """Each arrives whole, though neither TLS nor the socket takes them in one piece."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    script: Script = {"ehlo": f"{PIPELINING}\r\n250 STARTTLS".replace("250 PIPE", "250-PIPE"), "starttls": "220 go"}
    texts = [f"{number} " * (600_000 if number == 12 else 1000) for number in range(10, 16)]
    with ScriptedSmtp(script, tls=server_context(authority)) as server:
        url = f"{server.url}?tls=required&ca={tmp_path / 'ca.pem'}"
        with channel_to(url, 30, connections=2) as channel:
            assert [Verdict.SENT] * 6 == verdicts(channel, [parcel(text=text) for text in texts])
        found = [message_from_bytes(content).get_payload(decode=True) for content in server.contents]
    assert sorted(f"{text}\r\n".encode() for text in texts) == sorted(map(bytes, found))


def test_an_error_of_the_caller_waits_for_what_is_under_way() -> None:
    """Those that were begun come to their outcome before it passes through."""

    def breaking() -> Iterator[Parcel]:
        yield from (parcel() for _ in range(7))
        raise ZeroDivisionError

    told: list[Outcome] = []
    with ScriptedSmtp({"ehlo": PIPELINING}) as server, channel_to(server.url, connections=3) as channel:
        with pytest.raises(ZeroDivisionError):
            told.extend(outcome for group in channel.send(breaking()) for outcome in group)
        assert 7 == len(told) == len(server.contents)


def test_what_is_known_when_something_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a time limit cuts off may have been sent; what the server has answered is recorded."""

    def until_three(self: traffic.Traffic) -> bool:
        if len(self._outcomes) == 3:
            raise TimeoutError
        if self._outcomes:
            self._listen(5)
        return False

    monkeypatch.setattr(traffic.Traffic, "_is_group", until_three)
    told: list[Outcome] = []
    with ScriptedSmtp({"ehlo": PIPELINING}) as server, channel_to(server.url) as channel:
        with pytest.raises(TimeoutError):
            told.extend(outcome for group in channel.send([parcel() for _ in range(9)]) for outcome in group)
        assert 3 == len(told)


def test_what_a_content_shares_is_shared_and_nothing_else() -> None:
    """Letters of one content differ in To, Message-ID, Date and References alone."""
    key = uuid4()
    same = [
        Parcel(uuid4(), f"reader{number}@example.com", "en", {"subject": "s", "text": ".t"}, parcel().created_at,
               references=(uuid4(),) * number, content_key=key)
        for number in range(3)
    ]  # fmt: skip
    other = Parcel(uuid4(), "x@example.com", "en", {"subject": "s2", "text": "t2"}, parcel().created_at)
    with ScriptedSmtp() as server, channel_to(server.url) as channel:
        sent(channel, [*same, other])
        wait_until(lambda: len(server.contents) == 4, 5, "all arrive")
    heads = [content.partition(b"Subject: ") for content in server.contents]
    assert 1 == len({rest for _, _, rest in heads[:3]})
    assert heads[3][2].startswith(b"s2\r\n")
    for one, (head, _, _) in zip(same, heads, strict=False):
        assert f"To: {one.address}\r\n".encode() in head
        assert f"Message-ID: <{one.delivery_id}@".encode() in head
        assert len(one.references) == head.count(b"@") - 3 - bool(one.references)

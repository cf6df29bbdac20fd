import contextlib
import socket
import time

import pytest

from tests.smtp_servers import (
    EHLO,
    HOST,
    PIPELINING,
    Act,
    Answer,
    Script,
    ScriptedSmtp,
    channel_to,
    parcel,
    patience,
    real_server,
    sent,
    verdicts,
)
from worker.channels import Verdict

CASES: list[tuple[str, Answer, Verdict]] = [
    ("greeting", "421 4.3.2 closing", Verdict.THROTTLED),
    ("greeting", "450 not now", Verdict.TRANSIENT),
    ("greeting", "554 no SMTP for you", Verdict.MISCONFIGURED),
    ("greeting", "HTTP/1.1 400 Bad Request", Verdict.TRANSIENT),
    ("greeting", Act.CUT, Verdict.TRANSIENT),
    ("greeting", Act.RESET, Verdict.TRANSIENT),
    ("greeting", Act.STALL, Verdict.TRANSIENT),
    ("greeting", Act.DRIP, Verdict.TRANSIENT),
    ("ehlo", "421 closing", Verdict.THROTTLED),
    ("ehlo", "451 not now", Verdict.TRANSIENT),
    ("ehlo", "550 bad name", Verdict.SENT),
    ("ehlo", Act.CUT, Verdict.TRANSIENT),
    ("ehlo", Act.STALL, Verdict.TRANSIENT),
    ("ehlo", Act.DRIP, Verdict.TRANSIENT),
    ("mail", "421 closing", Verdict.THROTTLED),
    ("mail", "450 4.7.1 slower", Verdict.THROTTLED),
    ("mail", "451 4.3.0 later", Verdict.TRANSIENT),
    ("mail", "452 no space", Verdict.THROTTLED),
    ("mail", "530 5.7.0 log in first", Verdict.MISCONFIGURED),
    ("mail", "550 5.7.1 not your sender", Verdict.MISCONFIGURED),
    ("mail", "552 5.3.4 too large", Verdict.PERMANENT),
    ("mail", "554 5.3.4 too large", Verdict.PERMANENT),
    ("mail", "354 what?", Verdict.TRANSIENT),
    ("mail", "nonsense", Verdict.TRANSIENT),
    ("mail", Act.CUT, Verdict.TRANSIENT),
    ("mail", Act.STALL, Verdict.TRANSIENT),
    ("rcpt", "251 will forward", Verdict.SENT),
    ("rcpt", "421 closing", Verdict.THROTTLED),
    ("rcpt", "450 4.2.1 busy", Verdict.TRANSIENT),
    ("rcpt", "450 4.7.1 greylisted", Verdict.THROTTLED),
    ("rcpt", "451 4.7.1 greylisted", Verdict.THROTTLED),
    ("rcpt", "451 4.3.0 later", Verdict.TRANSIENT),
    ("rcpt", "452 4.2.2 full", Verdict.THROTTLED),
    ("rcpt", "530 5.7.0 log in first", Verdict.MISCONFIGURED),
    ("rcpt", "550-5.1.1 no such\r\n550 5.1.1 mailbox", Verdict.PERMANENT),
    ("rcpt", "553 odd address", Verdict.PERMANENT),
    ("rcpt", Act.CUT, Verdict.TRANSIENT),
    ("rcpt", Act.RESET, Verdict.TRANSIENT),
    ("rcpt", Act.STALL, Verdict.TRANSIENT),
    ("rcpt", Act.DRIP, Verdict.TRANSIENT),
    ("data", "421 closing", Verdict.THROTTLED),
    ("data", "451 later", Verdict.TRANSIENT),
    ("data", "554 no valid recipients", Verdict.PERMANENT),
    ("data", "250 what?", Verdict.TRANSIENT),
    ("data", Act.CUT, Verdict.TRANSIENT),
    ("data", Act.STALL, Verdict.TRANSIENT),
    ("content", "250 taken", Verdict.SENT),
    ("content", "421 closing", Verdict.THROTTLED),
    ("content", "451 4.7.0 slower", Verdict.THROTTLED),
    ("content", "451 4.3.0 later", Verdict.TRANSIENT),
    ("content", "452 no space", Verdict.THROTTLED),
    ("content", "552 too large", Verdict.PERMANENT),
    ("content", "554 5.7.1 spam", Verdict.PERMANENT),
    ("content", "354 what?", Verdict.UNKNOWN),
    ("content", "nonsense", Verdict.UNKNOWN),
    ("content", Act.CUT, Verdict.UNKNOWN),
    ("content", Act.RESET, Verdict.UNKNOWN),
    ("content", Act.STALL, Verdict.UNKNOWN),
    ("content", Act.DRIP, Verdict.UNKNOWN),
]
CASES_OF_LETTERS = [case for case in CASES if case[0] not in ("greeting", "ehlo")]


@pytest.mark.parametrize(
    ("step", "answer", "expected", "offer"),
    [(*case, EHLO) for case in CASES] + [(*case, PIPELINING) for case in CASES_OF_LETTERS],
)
def test_every_answer_has_its_verdict(step: str, answer: Answer, expected: Verdict, offer: str) -> None:
    """Each way to refuse, break or stall has its verdict, in time; the next call finds a usable channel."""
    good = {"greeting": "220 hello", "ehlo": EHLO, "data": "354 go on"}.get(step, "250 ok")
    script: Script = {"ehlo": offer, step: [answer, good]}
    with ScriptedSmtp(script) as server, channel_to(server.url, timeout=patience(answer)) as channel:
        started = time.monotonic()
        assert [expected] == verdicts(channel, [parcel()])
        assert time.monotonic() - started < 2

        assert [Verdict.SENT] == verdicts(channel, [parcel()])


@pytest.mark.parametrize("act", [Act.CUT, Act.RESET, Act.STALL, Act.FLOOD])
def test_a_break_before_the_final_dot_is_no_risk(act: Act) -> None:
    """When the content could not be written to its end, the server cannot have taken it: try again.

    Nor do both sides wait for each other for ever, where the server floods and does not read.
    """
    with ScriptedSmtp({"ehlo": PIPELINING}, during=act) as server, channel_to(server.url, patience(act)) as channel:
        [outcome] = sent(channel, [parcel(text="long " * 1_500_000)])

    assert (Verdict.TRANSIENT, "DATA") == (outcome.verdict, outcome.detail.partition(":")[0])


@pytest.mark.parametrize(
    "url", ["smtp://127.0.0.1:{port}", "smtps://127.0.0.1:{port}", "smtp://nowhere.invalid:{port}"]
)
def test_no_server_is_transient(url: str) -> None:
    """A refused connection and an unknown host may pass."""
    with socket.socket() as closed:
        closed.bind((HOST, 0))
        with channel_to(url.format(port=closed.getsockname()[1])) as channel:
            [outcome] = sent(channel, [parcel()])

    assert Verdict.TRANSIENT == outcome.verdict
    assert outcome.detail in ("connect: connection refused", "connect: host name not found")


def test_a_host_that_does_not_answer_is_given_up_in_time() -> None:
    """Connecting has the time-out, too: here the queue of a server that accepts nobody is full."""
    with socket.create_server((HOST, 0), backlog=0) as full, contextlib.ExitStack() as waiting:
        port = full.getsockname()[1]
        with contextlib.suppress(TimeoutError):
            while True:
                waiting.enter_context(socket.create_connection((HOST, port), timeout=0.2))
        with channel_to(f"smtp://{HOST}:{port}", timeout=0.3) as channel:
            [outcome] = sent(channel, [parcel()])

    assert (Verdict.TRANSIENT, "connect: no answer in time") == (outcome.verdict, outcome.detail)


def test_a_message_above_the_servers_size_is_not_sent() -> None:
    """A declared SIZE decides before MAIL FROM; the connection serves the next parcel."""
    with ScriptedSmtp({"ehlo": "250-x\r\n250 SIZE 2000"}) as server, channel_to(server.url) as channel:
        large, small = sent(channel, [parcel(text="x" * 2000), parcel()])

        assert (Verdict.PERMANENT, Verdict.SENT) == (large.verdict, small.verdict)
        assert "SIZE" in large.detail
        assert ["MAIL"] == [command.split()[0] for command in server.commands if command.startswith("MAIL")]


@pytest.mark.parametrize("ehlo", ["250 x", "250-x\r\n250 SIZE", "250-x\r\n250 SIZE 0"])
def test_a_server_without_a_size_takes_any(ehlo: str) -> None:
    """No SIZE, SIZE without a number and SIZE 0 all mean that no limit is declared (RFC 1870)."""
    with ScriptedSmtp({"ehlo": ehlo}) as server, channel_to(server.url) as channel:
        assert [Verdict.SENT] == verdicts(channel, [parcel()])


def test_international_addresses_need_smtputf8() -> None:
    """An international local part is sent where SMTPUTF8 is offered; elsewhere it can never be; domains always can."""
    with real_server(enable_SMTPUTF8=True) as mailbox, channel_to(mailbox.url) as channel:
        assert [Verdict.SENT] * 2 == verdicts(channel, [parcel("jürgen@bücher.example"), parcel()])
        assert "jürgen@xn--bcher-kva.example" == mailbox.taken[0].recipient
        assert "SMTPUTF8" in mailbox.taken[0].options
        assert "SMTPUTF8" not in mailbox.taken[1].options

    with ScriptedSmtp({"ehlo": "250 x"}) as server, channel_to(server.url) as channel:
        local, domain = sent(channel, [parcel("jürgen@example.com"), parcel("jane@bücher.example")])
        assert (Verdict.PERMANENT, Verdict.SENT) == (local.verdict, domain.verdict)
        assert "SMTPUTF8" in local.detail
        assert "RCPT TO:<jane@xn--bcher-kva.example>" in server.commands


@pytest.mark.parametrize("step", ["mail", "rcpt", "content"])
@pytest.mark.parametrize("code", [250, 450, 550])
@pytest.mark.parametrize(
    ("address", "words", "secrets"),
    [
        ("jane.doe@example.com", "<jane.doe@example.com>: user jane.doe unknown", ["jane", "doe"]),
        ("jane.doe@example.com", "JANE.DOE at example.com; jane.doe@mail.example.net", ["jane", "doe"]),
        ("o'hara@example.com", "no o'hara here, o'hara@example.com.", ["hara"]),
        ("jane+news@example.com", "mailbox jane is full (jane+news@example.com)", ["jane", "news"]),
        ('"jane doe"@example.com', 'no "jane doe"@example.com: jane doe is away', ["jane", "doe"]),
        ("jane@bücher.example", "no <jane@xn--bcher-kva.example>", ["jane"]),
        ("jane@example.com", "<jane> unknown, nor <jane@example.com>jane", ["jane"]),
        ("jane@example.com", "try someone.else@example.net, or sales@[192.0.2.1]", ["someone", "else@", "sales"]),
    ],
)
def test_no_detail_holds_an_address(step: str, code: int, address: str, words: str, secrets: list[str]) -> None:
    """Whatever the server repeats, the outcome says phase, code and words without the address."""
    with ScriptedSmtp({step: f"{code} 5.1.1 {words}"}) as server, channel_to(server.url) as channel:
        [outcome] = sent(channel, [parcel(address)])

    assert not [secret for secret in secrets if secret in outcome.detail.lower()]
    if code > 250 or step == "content":
        assert "5.1.1" in outcome.detail
        assert "<address>" in outcome.detail
        assert not [brackets for brackets in ("<<", ">>") if brackets in outcome.detail]


def test_a_detail_is_short_and_printable() -> None:
    """Long, many-lined and undecodable words are cut to 300 characters on one line, without control characters."""
    lines = "".join(f"550-5.1.1 line \x1b[31m \u202e\x07 {number} {'x' * 40}\r\n" for number in range(50))
    with ScriptedSmtp({"rcpt": f"{lines}550 5.1.1 end"}) as server, channel_to(server.url) as channel:
        [outcome] = sent(channel, [parcel()])

    assert Verdict.PERMANENT == outcome.verdict
    assert outcome.detail.startswith("RCPT: 550 5.1.1 line [31m 0 x")
    assert 300 == len(outcome.detail)
    assert outcome.detail.isprintable()


@pytest.mark.parametrize("flood", [Act.FLOOD, "250-" + "x" * 100_000, "250-x\r\n" * 20_000 + "250 x"])
def test_a_reply_that_does_not_end_is_not_read_to_the_end(flood: Answer) -> None:
    """A server that floods instead of answering is left, with one long line or many short ones."""
    with ScriptedSmtp({"rcpt": [flood, "250 ok"]}) as server, channel_to(server.url) as channel:
        flooded, next_one = sent(channel, [parcel(), parcel()])

    assert (Verdict.TRANSIENT, "RCPT: not an SMTP reply") == (flooded.verdict, flooded.detail)
    assert Verdict.SENT == next_one.verdict

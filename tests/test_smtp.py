from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme

from tests.smtp_servers import (
    HOST,
    PASSWORD,
    Act,
    Answer,
    Script,
    ScriptedSmtp,
    channel_to,
    parcel,
    patience,
    real_server,
    sent,
    server_context,
)
from worker.channels import Outcome, Verdict

GOOD, BAD = f"me%40example.org:{quote(PASSWORD)}@", "me%40example.org:wrong@"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> str:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return str(file)


def sent_to(url: str, timeout: float = 5) -> Outcome:
    with channel_to(url, timeout) as channel:
        [outcome] = sent(channel, [parcel()])
    return outcome


@pytest.mark.parametrize("tls", ["", "&tls=optional", "&tls=required"])
def test_starttls_is_used_where_offered(authority: trustme.CA, ca: str, tls: str) -> None:
    """An offered STARTTLS is taken, and the mail goes encrypted."""
    with real_server(tls_context=server_context(authority)) as mailbox:
        assert Verdict.SENT == sent_to(f"{mailbox.url}?ca={ca}{tls}").verdict

    assert [True] == [taken.encrypted for taken in mailbox.taken]


def test_tls_may_be_declined(authority: trustme.CA) -> None:
    """`tls=none` goes without, even where STARTTLS is offered."""
    with real_server(tls_context=server_context(authority)) as mailbox:
        assert Verdict.SENT == sent_to(f"{mailbox.url}?tls=none").verdict

    assert [False] == [taken.encrypted for taken in mailbox.taken]


def test_tls_from_the_start(authority: trustme.CA, ca: str) -> None:
    """smtps:// encrypts before the greeting."""
    with real_server(tls=server_context(authority)) as mailbox:
        assert Verdict.SENT == sent_to(f"smtps://{HOST}:{mailbox.port}?ca={ca}").verdict

    assert [True] == [taken.encrypted for taken in mailbox.taken]


@pytest.mark.parametrize("login", ["", GOOD])
def test_required_tls_that_is_not_offered_waits_for_us(login: str) -> None:
    """No mail and no password goes out unencrypted when TLS is required, as it is with every login."""
    with ScriptedSmtp({"ehlo": "250-x\r\n250 AUTH PLAIN"}) as server:
        outcome = sent_to(f"smtp://{login}{HOST}:{server.port}" + ("" if login else "?tls=required"))

        assert (Verdict.MISCONFIGURED, "STARTTLS: the server does not offer it") == (outcome.verdict, outcome.detail)
        assert not [command for command in server.commands if not command.lower().startswith("ehlo")]


@pytest.mark.parametrize(("names", "trusted"), [([HOST], False), (["other.example"], True)])
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_server_that_cannot_prove_its_name_gets_nothing(
    authority: trustme.CA, ca: str, names: list[str], trusted: bool, scheme: str
) -> None:
    """An unknown authority and a certificate for another name are refused, with STARTTLS and from the start."""
    context = server_context(authority, *names)
    options: dict[str, Any] = {"tls": context} if scheme == "smtps" else {"tls_context": context}
    with real_server(**options) as mailbox:
        outcome = sent_to(f"{scheme}://{HOST}:{mailbox.port}" + (f"?ca={ca}" if trusted else ""))

    assert Verdict.MISCONFIGURED == outcome.verdict
    assert outcome.detail.startswith("TLS: ")
    assert [] == mailbox.taken


def test_tls_with_a_server_that_speaks_none_waits_for_us() -> None:
    """smtps:// to a port without TLS is our mistake."""
    with ScriptedSmtp() as server:
        outcome = sent_to(f"smtps://{HOST}:{server.port}")

    assert (Verdict.MISCONFIGURED, "TLS: WRONG_VERSION_NUMBER") == (outcome.verdict, outcome.detail)


@pytest.mark.parametrize("greeting", [Act.CUT, Act.RESET, Act.STALL])
def test_a_handshake_that_breaks_is_transient(greeting: Act) -> None:
    """A connection that is lost or stalls in the handshake says nothing about our settings."""
    with ScriptedSmtp({"greeting": greeting}) as server:
        outcome = sent_to(f"smtps://{HOST}:{server.port}", timeout=0.3)

    assert (Verdict.TRANSIENT, "TLS") == (outcome.verdict, outcome.detail.partition(":")[0])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("454 4.7.0 later", Verdict.TRANSIENT), ("502 no", Verdict.MISCONFIGURED), (Act.CUT, Verdict.TRANSIENT)],
)
def test_a_refused_starttls_has_its_verdict(answer: Answer, expected: Verdict) -> None:
    """A server that offers STARTTLS and then does not do it is not spoken to in clear."""
    with ScriptedSmtp({"ehlo": "250-x\r\n250 STARTTLS", "starttls": answer}) as server:
        assert expected == sent_to(server.url).verdict
        assert not [command for command in server.commands if command.startswith("MAIL")]


def test_what_came_before_the_handshake_is_forgotten(authority: trustme.CA, ca: str) -> None:
    """Words slipped in behind the answer to STARTTLS are not taken for the encrypted server's (RFC 3207 4.2)."""
    script: Script = {
        "ehlo": ["250-x\r\n250 STARTTLS", "250 x"],
        "starttls": "220 go\r\n250-injected\r\n250 SIZE 1",
    }
    with ScriptedSmtp(script, tls=server_context(authority)) as server:
        assert Verdict.SENT == sent_to(f"{server.url}?ca={ca}").verdict


@pytest.mark.parametrize("excluded", [[], ["PLAIN"]])
def test_a_login_over_tls(authority: trustme.CA, ca: str, excluded: list[str]) -> None:
    """User and password, UTF-8 included, are sent once, by PLAIN or by LOGIN."""
    options: dict[str, Any] = {
        "tls_context": server_context(authority),
        "auth_required": True,
        "auth_exclude_mechanism": excluded,
    }
    with real_server(login=True, **options) as mailbox:
        outcome = sent_to(f"smtp://{GOOD}{HOST}:{mailbox.port}?ca={ca}")

    assert Verdict.SENT == outcome.verdict
    assert ["LOGIN" if excluded else "PLAIN"] == mailbox.logins


def test_a_login_in_clear_only_when_told() -> None:
    """`tls=none` sends the password unencrypted."""
    with real_server(login=True, auth_require_tls=False) as mailbox:
        assert Verdict.SENT == sent_to(f"smtp://{GOOD}{HOST}:{mailbox.port}?tls=none").verdict

    assert ["PLAIN"] == mailbox.logins


@pytest.mark.parametrize("excluded", [[], ["PLAIN"]])
def test_a_wrong_password_waits_for_us(authority: trustme.CA, ca: str, excluded: list[str]) -> None:
    """It is tried once, by one mechanism, so that nobody is locked out."""
    options: dict[str, Any] = {"tls_context": server_context(authority), "auth_exclude_mechanism": excluded}
    with real_server(login=True, **options) as mailbox:
        outcome = sent_to(f"smtp://{BAD}{HOST}:{mailbox.port}?ca={ca}")

    assert Verdict.MISCONFIGURED == outcome.verdict
    assert outcome.detail.startswith("AUTH: 535 ")
    assert 1 == len(mailbox.logins)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("421 closing", Verdict.THROTTLED),
        ("454 4.7.0 later", Verdict.TRANSIENT),
        ("534 5.7.9 too weak", Verdict.MISCONFIGURED),
        ("535 5.7.8 no", Verdict.MISCONFIGURED),
        (Act.CUT, Verdict.TRANSIENT),
        (Act.STALL, Verdict.TRANSIENT),
    ],
)
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_refused_login_has_its_verdict(mechanism: str, answer: Answer, expected: Verdict) -> None:
    """A server that cannot check the login now is another matter than one that refuses it."""
    with ScriptedSmtp({"ehlo": f"250-x\r\n250 AUTH {mechanism}", "auth": answer}) as server:
        outcome = sent_to(f"smtp://{GOOD}{HOST}:{server.port}?tls=none", patience(answer))

    assert (expected, "AUTH") == (outcome.verdict, outcome.detail.partition(":")[0])


@pytest.mark.parametrize("ehlo", ["250 x", "250-x\r\n250 AUTH GSSAPI"])
def test_a_server_without_our_logins_waits_for_us(ehlo: str) -> None:
    """A login that the server cannot take is our setting's fault."""
    with ScriptedSmtp({"ehlo": ehlo}) as server:
        outcome = sent_to(f"smtp://{GOOD}{HOST}:{server.port}?tls=none")

    assert Verdict.MISCONFIGURED == outcome.verdict


@pytest.mark.parametrize("words", ["AUTH PLAIN AG1lQGV4YW1wbGUub3JnAHdyb25n", "wrong", "me@example.org is unknown"])
def test_no_detail_holds_the_login(words: str) -> None:
    """A server that repeats the command, the password or the user is not quoted."""
    with ScriptedSmtp({"ehlo": "250-x\r\n250 AUTH PLAIN", "auth": f"535 5.7.8 {words}"}) as server:
        outcome = sent_to(f"smtp://{BAD}{HOST}:{server.port}?tls=none")

    assert (Verdict.MISCONFIGURED, "AUTH: 535 (its words repeat the login)") == (outcome.verdict, outcome.detail)

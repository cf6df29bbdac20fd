import ssl
from pathlib import Path

import pytest

from worker.channels.smtp_url import SmtpServer, parse_smtp_url
from worker.errors import InvalidSettings


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example.com", SmtpServer("mail.example.com", 25, "optional")),
        ("smtp://mail.example.com:587/", SmtpServer("mail.example.com", 587, "optional")),
        ("smtps://mail.example.com", SmtpServer("mail.example.com", 465, "implicit")),
        ("smtps://mail.example.com?tls=required", SmtpServer("mail.example.com", 465, "implicit")),
        ("smtp://mail.example.com?tls=none", SmtpServer("mail.example.com", 25, "none")),
        ("smtp://mail.example.com?tls=required", SmtpServer("mail.example.com", 25, "required")),
        ("smtp://[2001:db8::1]:2525", SmtpServer("2001:db8::1", 2525, "optional")),
        ("smtp://bücher.example", SmtpServer("xn--bcher-kva.example", 25, "optional")),
        ("smtp://a:b@h", SmtpServer("h", 25, "required", "a", "b")),
        ("smtp://a:b@h?tls=optional", SmtpServer("h", 25, "required", "a", "b")),
        ("smtp://a:b@h?tls=none", SmtpServer("h", 25, "none", "a", "b")),
        (
            "smtp://me%40example.com:p%3Aa%2Fs%25%23+%C3%A4@h:587",
            SmtpServer("h", 587, "required", "me@example.com", "p:a/s%#+ä"),
        ),
        ("smtps://h?ca=/etc/c++%20ca.pem", SmtpServer("h", 465, "implicit", ca="/etc/c++ ca.pem")),
    ],
)
def test_an_url_names_the_server(url: str, expected: SmtpServer) -> None:
    """Host, port, encryption, login and CA are read from the URL; a login makes encryption required."""
    assert expected == parse_smtp_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "secret",
        "secret.example.com:25",
        "http://secret.example.com",
        "smtp://",
        "smtp://:25",
        "smtp://secret:0",
        "smtp://secret:70000",
        "smtp://secret:port",
        "smtp://[::secret",
        "smtp://secret.example.com/path",
        "smtp://secret@h",
        "smtp://secret:@h",
        "smtp://:secret@h",
        "smtp://user:sec#ret@h",
        "smtp://user:sec ret@h",
        "smtp://user:secret%0Ax@h",
        "smtp://user:secret%00x@h",
        "smtp://user:secret@h\n",
        "smtp://sec_/ret",
        "smtp://-secret",
        f"smtp://{'secret' * 11}",
        "smtp://h?tls=secret",
        "smtp://h?tls=none&tls=required",
        "smtp://h?secret=1",
        "smtp://h?ca=",
        "smtps://secret?tls=none",
        "smtps://secret?tls=optional",
    ],
)
def test_a_wrong_url_is_refused_without_being_repeated(url: str) -> None:
    """The error names SMTP_URL and the rule; no part of the value, which may hold a password."""
    with pytest.raises(InvalidSettings, match=r"^SMTP_URL: ") as refusal:
        parse_smtp_url(url)

    assert "secret" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_the_password_is_not_shown() -> None:
    """Printing a server does not print its password."""
    assert "hunter2" not in repr(parse_smtp_url("smtp://a:hunter2@h"))


def test_the_tls_context_checks_certificate_and_name() -> None:
    """Wherever TLS may be spoken, the server has to prove who it is."""
    context = parse_smtp_url("smtp://h").ssl_context()

    assert context is not None
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert parse_smtp_url("smtp://h?tls=none").ssl_context() is None


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_unreadable_ca_is_refused(tmp_path: Path, content: str | None) -> None:
    """A CA file that is missing, or holds no certificate, is a wrong setting."""
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)

    with pytest.raises(InvalidSettings, match=r"^SMTP_URL: .*`ca`"):
        parse_smtp_url(f"smtps://h?ca={file}").ssl_context()

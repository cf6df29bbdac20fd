import re
from base64 import b64decode
from binascii import b2a_qp
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTPUTF8
from typing import cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.channels import Parcel
from worker.channels.mime import Letter, compose, envelope_address, message_id, parse_sender
from worker.errors import InvalidSettings

ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
SENDER = parse_sender("Bellhop <bellhop@example.org>")


def parcel(address: str = "reader@example.com", lang: str = "en", **parts: str) -> Parcel:
    content = {"subject": "A subject", "text": "A text.", **parts}
    return Parcel(ID, address, lang, content, datetime(2024, 2, 29, 12, 30, 1, tzinfo=UTC))


def written(given: Parcel) -> bytes:
    letter = compose(given, SENDER, {})
    assert letter is not None
    return content(letter)


def content(letter: Letter) -> bytes:
    """What the server makes of it."""
    return (letter.head + letter.rest).replace(b"\r\n..", b"\r\n.")


def parsed(given: Parcel) -> EmailMessage:
    return message_from_bytes(written(given), policy=SMTPUTF8)


def test_the_headers_say_what_the_mail_is() -> None:
    """Sender, recipient, subject, date, a stable Message-ID, the language, and that no machine should answer."""
    message = parsed(parcel(lang="pt-BR"))

    assert {
        "From": "Bellhop <bellhop@example.org>",
        "To": "reader@example.com",
        "Subject": "A subject",
        "Date": "Thu, 29 Feb 2024 12:30:01 +0000",
        "Message-ID": f"<{ID}@example.org>",
        "Auto-Submitted": "auto-generated",
        "X-Auto-Response-Suppress": "All",
        "MIME-Version": "1.0",
        "Content-Language": "pt-BR",
        "Content-Type": 'text/plain; charset="utf-8"',
        "Content-Transfer-Encoding": "quoted-printable",
    } == dict(message.items())
    assert message_id(ID, "Bellhop <bellhop@example.org>") == message["Message-ID"]
    assert not message.defects


def test_a_reply_names_its_thread() -> None:
    """In-Reply-To is the parent, References go from the thread's first mail to it, on lines of their own."""
    above = [UUID(int=n) for n in (1, 2, 3)]
    reply = parcel()._replace(references=tuple(above))
    ids = [f"<{id}@example.org>" for id in above]
    message = parsed(reply)

    assert (ids[-1], ids) == (message["In-Reply-To"], message["References"].split())
    assert not message.defects
    assert max(map(len, written(reply).split(b"\r\n"))) <= 78
    assert ids[-1] == message_id(above[-1], "Bellhop <bellhop@example.org>")


def test_text_and_html_are_alternatives() -> None:
    """The plain text comes first, each part says its language, and the parser finds nothing to complain about."""
    message = parsed(parcel(lang="fr", text="Réservé", html="<p>Réservé</p>"))

    parts = [cast(EmailMessage, part) for part in message.iter_parts()]
    assert message.get_content_type() == "multipart/alternative"
    assert ["text/plain", "text/html"] == [part.get_content_type() for part in parts]
    assert ["Réservé\r\n", "<p>Réservé</p>\r\n"] == [part.get_content() for part in parts]
    assert ["fr", "fr", "fr"] == [part["Content-Language"] for part in message.walk()]
    assert [[], [], []] == [part.defects for part in message.walk()]


def test_an_empty_html_part_leaves_a_plain_mail() -> None:
    """Without html there is no multipart around the text."""
    assert parsed(parcel(html="")).get_content_type() == "text/plain"


SUBJECTS = [
    "Short",
    "A long subject of plain words that does not fit into one line of seventy-eight characters, nor into two of them",
    "x" * 3000,
    "Ihr Buch „Die Verwandlung“ ist da",
    "الكتاب الذي حجزته متاح الآن للاستلام من المكتبة المركزية حتى نهاية الأسبوع المقبل " * 4,
    "👩‍👩‍👧‍👦 📚🇵🇹 " * 30,
    "=?utf-8?q?not_an_encoded_word?=",
    "trailing = and _ and ? " * 3,
    "",
]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_subjects_survive(subject: str) -> None:
    """Whatever its script and length, the parser reads the subject that was written."""
    assert " ".join(subject.split(" ")).strip() == parsed(parcel(subject=subject))["Subject"]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_encoded_words_keep_their_limits(subject: str) -> None:
    """No encoded word is longer than 75, no line with one longer than 76 (RFC 2047 2), each is UTF-8 by itself."""
    head = written(parcel(subject=subject)).partition(b"\r\n\r\n")[0]
    for line in head.split(b"\r\n"):
        assert b"=?" not in line or len(line) <= 76
        assert len(line) <= 998
    for word in re.findall(rb"=\?utf-8\?b\?(.*?)\?=", head):
        b64decode(word, validate=True).decode()


@pytest.mark.parametrize(
    "ending", ["\r\n", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\r\n\r\n", "\x00"]
)
@pytest.mark.parametrize("script", ["", "ü"])
def test_a_subject_cannot_add_headers(ending: str, script: str) -> None:
    """Line breaks and control characters in a subject become one space."""
    message = parsed(parcel(subject=f"Hello{script}{ending}Bcc: victim@example.com"))

    assert f"Hello{script} Bcc: victim@example.com" == message["Subject"]
    assert message["Bcc"] is None


def test_a_language_that_is_none_is_left_out() -> None:
    """A value that is no language tag never becomes a header."""
    message = parsed(parcel(lang="en\r\nBcc: victim@example.com"))

    assert message["Content-Language"] is None
    assert message["Bcc"] is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("reader@example.com", "reader@example.com"),
        ("o'reader+tag/x=y@mail.example.com", "o'reader+tag/x=y@mail.example.com"),
        ('"a b"@example.com', '"a b"@example.com'),
        ('"a@b\\"c"@example.com', '"a@b\\"c"@example.com'),
        ("reader..x.@example.com", "reader..x.@example.com"),
        ("reader@localhost", "reader@localhost"),
        ("reader@[192.0.2.1]", "reader@[192.0.2.1]"),
        ("reader@bücher.example", "reader@xn--bcher-kva.example"),
        ("reader@BÜCHER.example", "reader@xn--bcher-kva.example"),
        ("reader@faß.example", "reader@xn--fa-hia.example"),
        ("reader@例え.jp", "reader@xn--r8jz45g.jp"),
        ("读者@例え.jp", "读者@xn--r8jz45g.jp"),
        (f"{'x' * 242}@example.com", f"{'x' * 242}@example.com"),
    ],
)
def test_an_address_goes_on_the_envelope(address: str, expected: str) -> None:
    """The domain is written in ASCII by IDNA 2008; the local part is nobody's business but the server's."""
    assert expected == envelope_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "reader",
        "@example.com",
        "reader@",
        "a@b@example.com",
        "reader@example.com\r\nBcc: victim@example.com",
        "reader\n@example.com",
        "reader@example.com\n",
        "reader\x00@example.com",
        "rea\u2028der@example.com",
        "rea\u202eder@example.com",
        "rea\ud800der@example.com",
        "reader@example.com> SIZE=1",
        "<reader@example.com>",
        "reader,other@example.com",
        "reader other@example.com",
        '"reader@example.com',
        '"a"b"@example.com',
        "reader@example..com",
        "reader@-example.com",
        "reader@exam ple.com",
        "reader@[192.0.2.1",
        "reader@😀.example",
        f"reader@{'x' * 64}.example",
        f"{'x' * 243}@example.com",
        f"{'é' * 122}@example.com",
    ],
)
def test_a_malformed_address_gets_no_mail(address: str) -> None:
    """What could break out of the envelope or a header, or no server could take, is refused."""
    assert envelope_address(address) is None
    assert compose(parcel(address), SENDER, {}) is None


def test_only_an_international_local_part_needs_smtputf8() -> None:
    """The domain alone is ASCII on the wire."""
    plain, international = compose(parcel("r@bücher.example"), SENDER, {}), compose(parcel("ü@example.com"), SENDER, {})

    assert plain is not None
    assert not plain.smtputf8
    assert content(plain).isascii()
    assert international is not None
    assert international.smtputf8
    assert "To: ü@example.com\r\n".encode() in content(international)


@pytest.mark.parametrize(
    ("email_from", "header", "address"),
    [
        ("Bellhop <b@example.org>", '"Bellhop" <b@example.org>', "b@example.org"),
        ("b@example.org", "b@example.org", "b@example.org"),
        ('"Smith, \\"Jo\\"" <b@example.org>', '"Smith, \\"Jo\\"" <b@example.org>', "b@example.org"),
        (
            "Bücherei <b@bücher.example>",
            "=?utf-8?b?QsO8Y2hlcmVp?= <b@xn--bcher-kva.example>",
            "b@xn--bcher-kva.example",
        ),
    ],
)
def test_the_sender_is_taken_apart(email_from: str, header: str, address: str) -> None:
    """EMAIL_FROM gives the From header and the envelope's sender."""
    sender = parse_sender(email_from)

    assert (header, address) == (sender.header, sender.address)


@pytest.mark.parametrize(
    "email_from",
    ["", "Bellhop", "a@b.example, c@d.example", "Bellhop, Inc <a@b.example>", "a@b.example\r\nX: y", "ü@b.example"],
)
def test_a_wrong_sender_is_refused(email_from: str) -> None:
    """The error names the setting, not its value."""
    with pytest.raises(InvalidSettings, match=r"^EMAIL_FROM: ") as refusal:
        parse_sender(email_from)

    assert "b.example" not in str(refusal.value)


def unbroken(text: str) -> str:
    return re.sub("\r\n|\r", "\n", text).removesuffix("\n") + "\n"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_every_text_survives(text: str, html: str) -> None:
    """Any content comes back from the parser, except that line breaks are the mail's and there is one at the end."""
    raw = written(parcel(text=text, html=html))
    bodies = (part.get_payload(decode=True) for part in message_from_bytes(raw, policy=SMTPUTF8).iter_parts())
    read = [body.decode().replace("\r\n", "\n") for body in bodies if isinstance(body, bytes)]

    assert [unbroken(text), unbroken(html)] == read
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert raw.isascii()
    assert raw.count(b"\n") == raw.count(b"\r\n") == raw.count(b"\r")


PIECES = ["\n<style>\n", "\n</style>\n", "\n", "\r\n", "\n.", "b {}", " ", "\t", "=", "é", "x" * 80]


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_style_sheets_survive(html: str) -> None:
    """However many there are, and whatever is around or in them; encoded as it would be in one piece."""
    html += "."
    raw = written(parcel(html=html))
    _, part = message_from_bytes(raw, policy=SMTPUTF8).iter_parts()
    body = part.get_payload(decode=True)

    assert isinstance(body, bytes)
    assert unbroken(html) == body.decode().replace("\r\n", "\n")
    if part["Content-Transfer-Encoding"] == "quoted-printable":
        assert b2a_qp(body, istext=True) in raw


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_subject_survives(subject: str) -> None:
    """Any subject comes back with its blanks and control characters as single spaces."""
    expected = re.sub("[\x00-\x20\x7f-\x9f\u2028\u2029]+", " ", subject).strip()

    assert expected == parsed(parcel(subject=subject))["Subject"]


def test_half_a_character_does_not_stop_a_mail() -> None:
    """A lone surrogate, which has no UTF-8, is written as a question mark."""
    message = parsed(parcel(subject="a\ud800b", text="a\ud800b"))

    assert ("a?b", "a?b\r\n") == (message["Subject"], message.get_content())

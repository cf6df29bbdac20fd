"""The MIME message of one delivery (RFC 5322, RFC 2045 to 2047), with the standard library's encoders.

Every line is ASCII, ends in CRLF and is far shorter than the 998 octets of RFC 5322; only the address of a recipient
with an internationalised local part stays UTF-8 (RFC 6532). `EmailMessage` is not used: serialising it costs more
than the whole SMTP dialogue with a near server.
"""

import re
import textwrap
from base64 import b64encode, encodebytes
from binascii import b2a_qp
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime, getaddresses
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote
from uuid import UUID

import idna

from worker.attachments import File
from worker.channels import Parcel
from worker.errors import InvalidSettings

_MAX_ADDRESS = 254
"""Octets (RFC 5321 4.5.3.1.3: a path has 256, of which two are the angle brackets)."""
_ENCODED_WORD = 39
"""Octets of text in one encoded word, so that `Subject: =?utf-8?b?...?=` fits the 76 of RFC 2047."""
_SUBJECT = 66
"""Characters of a subject on one line."""
_BOUNDARY, _RELATED, _MIXED = "=_bellhop_part", "=_bellhop_related", "=_bellhop_mixed"
"""`=_` occurs neither in quoted-printable nor in base64 (RFC 2045 6.7), and no part is sent in another encoding."""

_STYLES = "\r\n<style>\r\n", "\r\n</style>\r\n"
"""What begins and ends the style sheet in the frame's head."""

_LOCAL = re.compile(r'[^\s"(),:;<>@\[\\\]]+|"(?:[^"\\]|\\.)+"')
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.IGNORECASE)
_ADDRESS_LITERAL = re.compile(r"\[[0-9a-fipv.:]+\]", re.IGNORECASE)
_LANG = re.compile(r"[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8})*")
_BLANKS = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True, slots=True)
class Sender:
    """EMAIL_FROM, taken apart."""

    address: str
    """For MAIL FROM: ASCII."""
    header: str
    """For `From:`: encoded, with the display name."""
    domain: str


class Letter(NamedTuple):
    """One message in its envelope."""

    sender: str
    recipient: str
    head: bytes
    """The headers of this letter alone."""
    rest: bytes
    """The other headers and the body, as one object for all letters of a content; dot-stuffed (RFC 5321, 4.5.2)."""
    smtputf8: bool
    """The server must offer SMTPUTF8 (RFC 6531): the recipient's local part is not ASCII."""

    @property
    def size(self) -> int:
        """Octets, as SIZE counts them (RFC 1870), or a few more."""
        return len(self.head) + len(self.rest)


def parse_sender(email_from: str) -> Sender:
    """Take `Name <address>` apart.

    Raises InvalidSettings naming EMAIL_FROM if it is not exactly one address with an ASCII local part.
    """
    found = getaddresses([email_from]) if email_from.isprintable() else []
    address = envelope_address(found[0][1]) if len(found) == 1 else None
    if address is None or not address.isascii():
        raise InvalidSettings("EMAIL_FROM: one address with an ASCII local part, as in `Name <local@domain>`")
    name = found[0][0]
    return Sender(address, f"{_phrase(name)} <{address}>" if name else address, address.rpartition("@")[2])


def message_id(delivery_id: UUID, email_from: str) -> str:
    """Return the Message-ID of a delivery: the same at every attempt, so that a mail taken twice can be recognised."""
    return f"<{delivery_id}@{parse_sender(email_from).domain}>"


def envelope_address(address: str) -> str | None:
    """Return the address for the envelope, its domain in ASCII; None if it is malformed."""
    local, _, domain = address.rpartition("@")
    if not address.isprintable() or not _LOCAL.fullmatch(local):
        return None
    ascii_name = domain if _ADDRESS_LITERAL.fullmatch(domain) else ascii_domain(domain)
    if ascii_name is None or len(local.encode()) + 1 + len(ascii_name) > _MAX_ADDRESS:
        return None
    return f"{local}@{ascii_name}"


@lru_cache(maxsize=1024)
def ascii_domain(domain: str) -> str | None:
    """Return the domain in ASCII (IDNA 2008, RFC 5891); None if it is no domain name.

    Not Python's own `idna` codec: that is IDNA 2003, which makes `fass.de` of `faß.de`, another owner's domain.
    """
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True).decode()
        except idna.IDNAError:
            return None
    return domain if _DOMAIN.fullmatch(domain) else None


def compose(parcel: Parcel, sender: Sender, written: dict[UUID, bytes]) -> Letter | None:
    """Write the message of a parcel; None if its address is malformed.

    `written` keeps what parcels of an equal `content_key` share, for the next one of them.
    """
    recipient = envelope_address(parcel.address)
    if recipient is None:
        return None
    head = (
        f"From: {sender.header}\r\n"
        f"To: {recipient}\r\n"
        f"Date: {_date(parcel.created_at)}\r\n"
        f"Message-ID: <{parcel.delivery_id}@{sender.domain}>\r\n"
        f"{_thread(parcel, sender)}"
    )
    rest = written.get(parcel.content_key) if parcel.content_key else None
    if rest is None:
        rest = _rest(parcel)
        if parcel.content_key:
            written[parcel.content_key] = rest
    return Letter(sender.address, recipient, head.encode(), rest, smtputf8=not recipient.isascii())


@lru_cache(maxsize=16)
def _date(created_at: datetime) -> str:
    return format_datetime(created_at)


def _rest(parcel: Parcel) -> bytes:
    text = (
        f"Subject: {_unstructured(parcel.parts['subject'])}\r\n"
        # RFC 3834: no vacation notes in answer; the second line tells the servers that do not know the first.
        "Auto-Submitted: auto-generated\r\n"
        "X-Auto-Response-Suppress: All\r\n"
        "MIME-Version: 1.0\r\n"
        f"{_body(parcel)}"
    )
    return text.encode().replace(b"\r\n.", b"\r\n..")


def _thread(parcel: Parcel, sender: Sender) -> str:
    """What mail programs keep a thread together by (RFC 5322, 3.6.4)."""
    ids = [f"<{id}@{sender.domain}>" for id in parcel.references]
    folded = "\r\n ".join(ids)
    return f"In-Reply-To: {ids[-1]}\r\nReferences: {folded}\r\n" if ids else ""


def _body(parcel: Parcel) -> str:
    language = f"Content-Language: {parcel.lang}\r\n" if _LANG.fullmatch(parcel.lang) else ""
    body = f"{language}{_part('plain', parcel.parts['text'])}"
    if parcel.parts.get("html"):
        html = f"{language}{_part('html', parcel.parts['html'])}"
        images = [_file(file) for file in parcel.files if file.cid]
        if images:
            html = language + _multipart('related; type="text/html"', _RELATED, [html, *images])
        body = language + _multipart("alternative", _BOUNDARY, [body, html])
    attached = [_file(file) for file in parcel.files if not file.cid]
    return language + _multipart("mixed", _MIXED, [body, *attached]) if attached else body


def _multipart(kind: str, boundary: str, parts: Sequence[str]) -> str:
    inside = "".join(f"--{boundary}\r\n{part}\r\n" for part in parts)
    return f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\n{inside}--{boundary}--\r\n'


def _file(file: File) -> str:
    """An attachment, or an inline image (RFC 2183, RFC 2392); the name is encoded by RFC 2231."""
    about = f"Content-ID: <{file.cid}>\r\n" if file.cid else ""
    content = encodebytes(file.content).replace(b"\n", b"\r\n").decode()
    kind, name = ("inline" if file.cid else "attachment"), quote(file.name, safe="")
    return (
        f"Content-Type: {file.content_type}\r\n"
        f"Content-Disposition: {kind};\r\n filename*=utf-8''{name}\r\n"
        f"{about}Content-Transfer-Encoding: base64\r\n\r\n"
        f"{content}"
    )


def _part(subtype: str, text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.removesuffix("\n").replace("\n", "\r\n") + "\r\n"
    # A lone surrogate has no UTF-8; it becomes a question mark.
    data = lines.encode(errors="replace")
    name, encoded = "quoted-printable", _quoted(lines)
    if _base64_octets(len(data)) < len(encoded):
        name, encoded = "base64", encodebytes(data).replace(b"\n", b"\r\n")
    return (
        f"Content-Type: text/{subtype}; charset=utf-8\r\n"
        f"Content-Transfer-Encoding: {name}\r\n\r\n"
        f"{encoded.decode('ascii')}"
    )


def _base64_octets(octets: int) -> int:
    """How many octets so many become: four for three, in lines of 76."""
    digits = -(-octets // 3) * 4
    return digits + 2 * -(-digits // 76)


def _quoted(lines: str) -> bytes:
    """In quoted-printable. Each line is encoded by itself, so the style sheet, alike in all mails, is kept."""
    before, start, rest = lines.partition(_STYLES[0])
    styles, end, after = rest.partition(_STYLES[1])
    if not end:
        return _quoted_anew(lines)
    return _quoted_anew(before + "\r\n") + _quoted_kept(f"{start[2:]}{styles}{end}") + _quoted_anew(after)


def _quoted_anew(lines: str) -> bytes:
    return b2a_qp(lines.encode(errors="replace"), istext=True)


_quoted_kept = lru_cache(maxsize=16)(_quoted_anew)


def _unstructured(text: str) -> str:
    """Encode a subject; line breaks, control characters and runs of blanks become one space."""
    line = _BLANKS.sub(" ", text).strip()
    if not line.isascii() or "=?" in line:
        return _encoded_words(line)
    if len(line) <= _SUBJECT:
        return line
    folded = textwrap.wrap(line, _SUBJECT, break_long_words=False, break_on_hyphens=False)
    return "\r\n ".join(folded) if all(len(part) < 900 for part in folded) else _encoded_words(line)


def _phrase(name: str) -> str:
    """Encode a display name: as a quoted string if it can be one, else in encoded words."""
    if not name.isascii() or "=?" in name or len(name) > 60:
        return _encoded_words(name)
    return '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'


def _encoded_words(text: str) -> str:
    """Encode text by RFC 2047, never cutting inside a character."""
    data, words = text.encode(errors="replace"), []
    while data:
        cut = min(_ENCODED_WORD, len(data))
        while cut < len(data) and data[cut] & 0xC0 == 0x80:
            cut -= 1
        words.append(f"=?utf-8?b?{b64encode(data[:cut]).decode()}?=")
        data = data[cut:]
    return "\r\n ".join(words)

"""SMTP_URL: the server that takes our mails, and how we speak to it."""

import ssl
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from worker.channels.mime import ascii_domain
from worker.errors import InvalidSettings

Tls = Literal["none", "optional", "required", "implicit"]


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """SMTP_URL, taken apart."""

    host: str
    port: int
    tls: Tls
    user: str | None = None
    password: str = field(default="", repr=False)
    ca: str | None = None
    """A PEM file with the private CA to trust instead of the system's."""

    def ssl_context(self) -> ssl.SSLContext | None:
        """Make the TLS context, which checks certificate and host name (22 ms: once per channel); None without TLS.

        Raises InvalidSettings if the CA file cannot be read.
        """
        if self.tls == "none":
            return None
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError:
            raise _invalid("`ca` must name a readable file of PEM certificates") from None


def parse_smtp_url(url: str) -> SmtpServer:
    """Parse `smtp[s]://[user:password@]host[:port][?tls=none|optional|required][&ca=FILE]`.

    User and password are percent-decoded. `smtps` means TLS from the start. `tls` defaults to `optional`: STARTTLS
    when offered; but a login is never sent unencrypted unless `tls=none` says so.
    Raises InvalidSettings naming SMTP_URL and the rule, never the value.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _invalid("must be smtp://host:port or smtps://host:port, the port from 1 to 65535") from None
    if not url.isprintable() or " " in url or parts.fragment or parts.path.strip("/"):
        raise _invalid("no path, blank or `#`; percent-encode special characters in user and password")
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname or port == 0:
        raise _invalid("must be smtp://host:port or smtps://host:port, the port from 1 to 65535")
    host = parts.hostname if ":" in parts.hostname else ascii_domain(parts.hostname)
    if host is None:
        raise _invalid("the host is neither a domain name nor an IP address")
    implicit = parts.scheme == "smtps"
    user, password = _credentials(parts)
    options = _options(parts.query)
    tls = _tls(options.get("tls"), implicit=implicit, login=user is not None)
    return SmtpServer(host, port or (465 if implicit else 25), tls, user, password, options.get("ca"))


def _credentials(parts: SplitResult) -> tuple[str | None, str]:
    if parts.username is None:
        return None, ""
    user, password = unquote(parts.username), unquote(parts.password or "")
    if not user or not password or not (user + password).isprintable():
        raise _invalid("a login needs both, user:password, without control characters")
    return user, password


def _options(query: str) -> dict[str, str]:
    pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)
    options = dict(pairs)
    if len(options) != len(pairs) or not options.keys() <= {"tls", "ca"} or options.get("ca") == "":
        raise _invalid("the only options are `tls` and `ca=FILE`, each once")
    return options


def _tls(asked: str | None, *, implicit: bool, login: bool) -> Tls:
    if implicit:
        if asked not in (None, "required"):
            raise _invalid("smtps:// is always TLS; `tls` goes with smtp://")
        return "implicit"
    if asked == "none":
        return "none"
    if asked not in (None, "optional", "required"):
        raise _invalid("`tls` must be none, optional or required")
    return "required" if login or asked == "required" else "optional"


def _invalid(rule: str) -> InvalidSettings:
    return InvalidSettings(f"SMTP_URL: {rule}")

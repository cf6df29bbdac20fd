"""What an SMTP server says, cut into replies (RFC 5321, 4.2)."""

import re

_MAX_REPLY = 65536
"""Octets of one reply; a server that says more is not understood."""
_LINE = re.compile(rb"[2-5]\d\d[ \r\n-]")


class NotSmtp(OSError):
    """The server's words are no SMTP reply."""


class Replies:
    """The octets that came, and the replies that they make up."""

    def __init__(self) -> None:
        self._heard = bytearray()
        self._lines: list[bytes] = []
        self._length = 0

    def hear(self, octets: bytes) -> None:
        """Add what came."""
        self._heard += octets

    def forget(self) -> None:
        """Drop what came and is not part of a reply taken."""
        self._heard.clear()
        self._lines.clear()
        self._length = 0

    def take(self) -> tuple[int, bytes] | None:
        """Return the next reply that is complete: its code and its words. Raises NotSmtp."""
        while end := self._heard.find(b"\n") + 1:
            line = bytes(self._heard[:end])
            del self._heard[:end]
            self._length += end
            if self._length > _MAX_REPLY or not _LINE.match(line):
                raise NotSmtp
            self._lines.append(line[4:].strip())
            if line[3:4] != b"-":
                words = b"\n".join(self._lines)
                self._lines.clear()
                self._length = 0
                return int(line[:3]), words
        if self._length + len(self._heard) > _MAX_REPLY:
            raise NotSmtp
        return None

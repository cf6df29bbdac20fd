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
        self._heard = b""
        self._at = 0
        self._lines: list[bytes] = []
        self._length = 0

    def hear(self, octets: bytes) -> None:
        """Add what came."""
        self._heard = self._heard[self._at :] + octets
        self._at = 0

    def forget(self) -> None:
        """Drop what came and is not part of a reply taken."""
        self._heard, self._at = b"", 0
        self._lines.clear()
        self._length = 0

    def take(self) -> tuple[int, bytes] | None:
        """Return the next reply that is complete: its code and its words. Raises NotSmtp."""
        while end := self._heard.find(b"\n", self._at) + 1:
            line = self._heard[self._at : end]
            self._at = end
            self._length += len(line)
            if self._length > _MAX_REPLY or not _LINE.match(line):
                raise NotSmtp
            self._lines.append(line[4:].strip())
            if line[3:4] != b"-":
                words = b"\n".join(self._lines)
                self._lines.clear()
                self._length = 0
                return int(line[:3]), words
        if self._length + len(self._heard) - self._at > _MAX_REPLY:
            raise NotSmtp
        return None

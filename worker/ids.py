"""Time-ordered ids (RFC 9562), so that new rows land at the end of every index."""

import hashlib
import os
import time
from collections.abc import Iterable
from uuid import UUID

#: A hexadecimal digit with its upper two bits replaced by the variant's.
_VARIANT_2 = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def uuid7() -> UUID:
    """A new id: 48 bits of Unix time in milliseconds, then 74 random bits (RFC 9562, section 5.7)."""
    value = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    return UUID(int=value & ~((0xF << 76) | (0b11 << 62)) | (7 << 76) | (0b10 << 62))


def derive(parent: UUID, *names: str) -> UUID:
    """The id that always belongs to `parent` and `names`: the parent's time, then 74 bits of a hash.

    A custom UUID of version 8 (RFC 9562, section 5.8). Whatever is made twice from one request gets the same ids,
    so that the database can tell.
    """
    return UUID(derive_all(parent.hex, ["\0".join(names)])[0])


def derive_all(parent: str, names: Iterable[str]) -> list[str]:
    """`derive` of one parent and each name. All as 32 hexadecimal digits: UUID objects take longer to make."""
    prefix, base = parent[:12] + "8", hashlib.sha256(bytes.fromhex(parent))
    found = []
    for name in names:
        hash = base.copy()
        hash.update(name.encode())
        digits = hash.hexdigest()
        found.append(prefix + digits[13:16] + _VARIANT_2[digits[16]] + digits[17:32])
    return found

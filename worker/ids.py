"""Time-ordered ids (RFC 9562), so that new rows land at the end of every index."""

import hashlib
import os
import time
from uuid import UUID

_TIME_MASK = ((1 << 48) - 1) << 80
_VERSION_8_VARIANT_2 = (8 << 76) | (0b10 << 62)
_HASH_MASK = ~((0xF << 76) | (0b11 << 62) | _TIME_MASK) & ((1 << 128) - 1)


def uuid7() -> UUID:
    """A new id: 48 bits of Unix time in milliseconds, then 74 random bits (RFC 9562, section 5.7)."""
    value = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    return UUID(int=value & ~((0xF << 76) | (0b11 << 62)) | (7 << 76) | (0b10 << 62))


def derive(parent: UUID, *names: str) -> UUID:
    """The id that always belongs to `parent` and `names`: the parent's time, then 74 bits of a hash.

    A custom UUID of version 8 (RFC 9562, section 5.8). Whatever is made twice from one request gets the same ids,
    so that the database can tell.
    """
    digest = hashlib.sha256(parent.bytes + "\0".join(names).encode()).digest()
    return UUID(int=parent.int & _TIME_MASK | int.from_bytes(digest[:16], "big") & _HASH_MASK | _VERSION_8_VARIANT_2)

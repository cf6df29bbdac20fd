"""Dates and times as text: ISO 8601, in the extended format alone."""

import re
from datetime import date, datetime

_ISO_8601 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?"
)
"""fromisoformat alone takes more, and not the same in every Python version."""


def parse_moment(text: str) -> date | datetime:
    """A date, or a datetime with the offset that the text has, if any. Raises ValueError."""
    if not _ISO_8601.fullmatch(text):
        raise ValueError
    return date.fromisoformat(text) if len(text) == len("2026-03-29") else datetime.fromisoformat(text)

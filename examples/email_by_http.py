"""Emails by a provider's HTTP API in place of SMTP: `celery -A email_by_http worker`, started where this file lies.

PROVIDER_URL is where the API takes an email, PROVIDER_KEY its password. What to change for yours is `_email`.
"""

import json
import os
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from worker.celery import app as app  # what `celery -A` looks for
from worker.channels import CHANNELS, Outcome, Parcel, Verdict
from worker.settings import get_settings


class Provider:
    """Sends one email after the other, so that no more than one is ever accepted and not yet recorded."""

    def __init__(self) -> None:
        self._url, self._key = urlsplit(os.environ["PROVIDER_URL"]), os.environ["PROVIDER_KEY"]

    def send(self, parcels: Iterable[Parcel | None]) -> Iterator[Sequence[Outcome]]:
        """Yield what became of each email; its worker records that before it asks for the next."""
        for parcel in parcels:
            if parcel is None:  # the send rate has none at the moment
                time.sleep(0.02)
            else:
                yield [self._carry(parcel)]

    def _carry(self, parcel: Parcel) -> Outcome:
        id, kind = parcel.delivery_id, HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        with closing(kind(self._url.netloc, timeout=30)) as connection:
            try:
                connection.connect()
            except OSError as error:  # nothing was said about this email: the circuit breaker counts it, no attempt is
                return Outcome(id, Verdict.TRANSIENT, f"connect: {type(error).__name__}", reached=False)
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            # The same each time: a provider that heeds it sends no email twice.
            headers["Idempotency-Key"] = str(id)
            try:
                connection.request("POST", self._url.path or "/", json.dumps(_email(parcel)), headers)
                status = connection.getresponse().status
            except (OSError, HTTPException) as error:
                return Outcome(id, Verdict.UNKNOWN, type(error).__name__)
        return Outcome(id, _verdict(status), f"HTTP {status}")  # not the provider's words: they may hold the address


def _email(parcel: Parcel) -> dict[str, Any]:
    parts = parcel.parts
    return {
        "from": get_settings().email_from,
        "to": parcel.address,
        "subject": parts["subject"],
        "text": parts["text"],
        "html": parts["html"],
        "attachments": [
            {"name": one.name, "type": one.content_type, "cid": one.cid, "content": b64encode(one.content).decode()}
            for one in parcel.files
        ],
    }


def _verdict(status: int) -> Verdict:
    if 200 <= status < 300:
        return Verdict.SENT
    if status == 429:
        return Verdict.THROTTLED
    if status >= 500:
        return Verdict.TRANSIENT
    # Whatever is not about this email, such as a wrong key or address of the API, is for somebody to mend.
    return Verdict.PERMANENT if status in (400, 413, 422) else Verdict.MISCONFIGURED


CHANNELS["email"] = Provider

"""Signed messages, where `SIGNING_KEYS` are set: what nobody with a key published is not obeyed.

The signature is HMAC-SHA256 over the task's name, its id and the body exactly as it is serialised: arguments, and what
Celery is to call next. Keys hold for the process, whichever Celery app publishes. Light enough for every application.
"""

import base64
import binascii
import hmac
import logging
import os
import re
import time
from collections.abc import Mapping
from typing import Any, Self

from worker.errors import InvalidSettings

log = logging.getLogger(__name__)

#: The message header: `<key id>:<hexadecimal digits>`.
HEADER = "bellhop-signature"
#: What the names of the tasks that are signed begin with.
OURS = ("notifications.", "inbox.", "recipients.")
#: Bytes of a key, and how many of them differ, at least.
LEAST, LEAST_DIFFERENT = 32, 12
#: Celery's name for the receiver that signs.
RECEIVER = "bellhop-signing"
#: Seconds between two warnings of unsigned messages that run all the same.
WARN_EVERY = 60.0

_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")

UNSIGNED = "the message is not signed"
UNKNOWN_KEY = "the message is signed with a key that is not among SIGNING_KEYS"
WRONG = "the message's signature is not that of its task, id and body"


class Keys:
    """Secret keys by id: the first one signs, all verify, so that they can be exchanged one after the other."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = keys
        self._first = next(iter(keys))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Keys as the setting has them: `id:base64`, with commas between. Raises ValueError, which shows no key."""
        keys = dict[str, bytes]()
        for entry in text.split(","):
            id, colon, secret = entry.strip().partition(":")
            if not colon or not _KEY_ID.fullmatch(id):
                raise ValueError("`id:base64` with commas between; an id is up to 32 letters, digits, `_` and `-`")
            if id in keys:
                raise ValueError("the same id twice")
            keys[id] = _strong(secret)
        return cls(keys)

    def sign(self, task: str, id: str, body: bytes) -> str:
        """What `HEADER` holds for a message: the id of the first key, and the signature by it."""
        return f"{self._first}:{_signature(self._keys[self._first], task, id, body)}"

    def fault(self, task: Any, id: Any, body: bytes, signed: Any) -> str | None:
        """What is wrong with a message that came under this header, in words without any of its values."""
        if not isinstance(signed, str):
            return UNSIGNED
        key_id, _colon, signature = signed.partition(":")
        if key_id not in self._keys:
            return UNKNOWN_KEY
        if not isinstance(task, str) or not isinstance(id, str) or "\0" in task + id:
            return WRONG
        expected = _signature(self._keys[key_id], task, id, body)
        return None if hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")) else WRONG


def _strong(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a key is not base64") from None
    if len(key) < LEAST or len(set(key)) < LEAST_DIFFERENT:
        raise ValueError(f"a key is weak: at least {LEAST} random bytes, as `openssl rand -base64 {LEAST}` gives")
    return key


def _signature(key: bytes, task: str, id: str, body: bytes) -> str:
    signed = b"\0".join((task.encode("utf-8", "replace"), id.encode("utf-8", "replace"), body))
    return hmac.digest(key, signed, "sha256").hex()


class _State:
    """This process's keys."""

    known = False
    keys: Keys | None = None
    required = True
    unsigned, warned = 0, float("-inf")


_state = _State()


def start(keys: str | None = None, *, required: bool = True) -> None:
    """Sign, from now on, each message of Bellhop's tasks that this process publishes, by whichever Celery app.

    Without `keys`: those of the environment's `SIGNING_KEYS`, if any. `required` is for workers: whether what is not
    signed is refused. Raises InvalidSettings, which shows no key.
    """
    text = os.environ.get("SIGNING_KEYS", "") if keys is None else keys
    try:
        _state.keys = Keys.parse(text) if text.strip() else None
    except ValueError as error:
        raise InvalidSettings(f"SIGNING_KEYS: {error}") from None
    _state.known, _state.required = True, required
    if _state.keys:
        from celery.signals import before_task_publish  # not for who only reads the settings

        before_task_publish.connect(_sign, dispatch_uid=RECEIVER)


def start_once() -> None:
    """As `start`, but for a process that has its keys already."""
    if not _state.known:
        start()


def is_on() -> bool:
    """Whether this process signs what it publishes."""
    return _state.keys is not None


def signature(task: str, id: str, body: bytes) -> str | None:
    """What `HEADER` of a message of ours is to hold; None where this process does not sign."""
    return _state.keys.sign(task, id, body) if _state.keys else None


def _sign(sender: str, body: Any, headers: dict[str, Any], **_: Any) -> None:
    """Celery calls this for every message; the body is still to be serialised, which gives the same bytes each time."""
    if _state.keys and sender.startswith(OURS) and "id" in headers:
        from kombu.serialization import dumps

        _type, encoding, text = dumps(body, serializer="json")
        headers[HEADER] = _state.keys.sign(sender, headers["id"], text.encode(encoding))


def refusal(task: Any, id: Any, body: Any, headers: Mapping[str, Any]) -> str | None:
    """Why a message that came must not run; None where it may."""
    if _state.keys is None:
        return None
    content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
    fault = _state.keys.fault(task, id, content, headers.get(HEADER))
    if fault and not _state.required:
        _warn(fault)
        return None
    return fault


def _warn(fault: str) -> None:
    _state.unsigned += 1
    if time.monotonic() - _state.warned >= WARN_EVERY:
        log.warning("%d messages would be refused if SIGNING_REQUIRED were true; the last: %s", _state.unsigned, fault)
        _state.unsigned, _state.warned = 0, time.monotonic()

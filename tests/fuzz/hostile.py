"""Valid messages and what an attacker makes of them, as hypothesis strategies."""

import json
import os
from collections.abc import Iterator, Sequence
from copy import deepcopy
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from worker.errors import BellhopError, StoreUnavailable, UnexpectedError

#: So many inputs of the cheap kinds; without FUZZ as few as a test suite can bear.
MANY = int(os.environ.get("FUZZ", "0"))
#: Somebody's data: no error may show it.
CANARY = "Quetz4lcoatl"

MESSAGES: dict[str, list[dict[str, Any]]] = {
    name: kwargs
    for part in json.loads((ROOT / "tests" / "messages.json").read_text()).values()
    for name, kwargs in part.items()
}
REQUESTS: list[dict[str, Any]] = [
    *(message["request"] for message in MESSAGES["notifications.create"]),
    {"to": [{"username": CANARY}, {"group": "admins"}], "title": CANARY, "text": f"{CANARY}\n", "inbox": False},
    {"to": {"id": CANARY, "email": f"{CANARY}@example.com"}, "event_config_name": "password_reset",
     "context": {"link": f"https://example.org/{CANARY}"}, "should_email": True},
    {"to": [{"id": CANARY, "lang": "de", "context": {"title": CANARY}}, {"username": CANARY, "context": {}}, "u"],
     "event_config_name": "book_available", "context": {"title": CANARY}},
]  # fmt: skip


def _deep(levels: int) -> Any:
    value: Any = CANARY
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


#: What breaks programs: injections, strange letters, wrong types, sizes, depths, numbers, paths.
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.1, -0.0, 1e308, float("nan"), float("inf"),
    "", " ", "\t", "\n", "0", "null", "[]", "{}",
    f"{CANARY}\r\nBcc: {CANARY}@example.com", f"{CANARY}\nX-Evil: 1\n\n<script>", f"{CANARY}\u2028Bcc: a@b", "\x85a",
    f"{CANARY}@example.com\r\nRCPT TO:<a@b>", f'"{CANARY}" <a@example.com>', "a@b,c@d", "a@[127.0.0.1]", "ä@ex.com",
    f"{CANARY}@еxаmple.com", "pаypal", "ﬁ", "\u202egnp.exe", "\u200b", "\ufeff", "e\u0301" * 200, "K", "İ",
    "ς", "\U0010ffff",
    f"{CANARY}\x00", "\x00", "\x1b[2J", "\x7f", "\ud800", f"{CANARY}\udfff", "\ud83d\ude00", "\ufffe", "💥" * 255,
    "../../etc/passwd", "..", "/etc/passwd", "en/../../..", "..\\..\\x", "%2e%2e%2f", "C:\\x", "_layout",
    "en\x00.txt", "de-",
    "javascript:alert(1)", "data:text/html,x", "JaVaScRiPt:x", "https://a b", "//evil", "http://[::1",
    "file:///etc/passwd",
    "{{ 7*7 }}", "{% for a in range(9999999) %}x{% endfor %}", "{{ ''.__class__.__mro__ }}", "%s%n%x",
    "${x}", "<b>&amp;",
    "' OR 1=1 --", "\\", '"', "'); DROP TABLE notifications;--", "{a,b}", "NULL", ":x", "%(x)s",
    CANARY * 30, "x" * 255, "x" * 256, "é" * 255, "x" * 501, "x" * 70_000, "\n" * 9_000, "9" * 5_000, "((((" * 500,
    "2026-01-31", "2026-01-31T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00",
    "2026-13-45T99:99:99Z",
    "Europe/Berlin", "../UTC", "Etc/GMT+99", "localtime", "posixrules", "zz", "x-klingon", "en-" + "a" * 40,
    "i-default",
    "01980000-0000-7000-8000-000000000001", "{01980000000070008000000000000002}", "urn:uuid:" + "0" * 32, "0" * 32,
    [], {}, [[]], [None], [CANARY], ["a"] * 1_200, [CANARY + "\x00"], {"": ""}, {f"{CANARY}@a.b": CANARY},
    {"a\x00": 1}, {"\ud800": 1},
    {"id": CANARY}, {"group": "admins"}, {"username": "\x00"}, {"id": "a", "email": "a@b\n"},
    {"__proto__": {}, "id": "a"},
    {"id": ["a"]}, {"id": {"id": "a"}}, {"title": [["x" * 99] * 99] * 9}, {str(n): n for n in range(2_000)},
    _deep(15), _deep(17), _deep(200), ["x" * 1_000] * 60,
    {"name": "../../x", "content_type": "text/html\r\nX: 1", "content": "%%%"}, {"name": "a.txt\n", "content": "QQ=="},
    {"name": "a.png", "content_type": "image/png", "content": "QQ==", "inline": True},
]  # fmt: skip

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
NAMES = [
    "id",
    "to",
    "title",
    "context",
    "request",
    "requests",
    "lang",
    "event_config_name",
    "__class__",
    "self",
    "äö",
    "a b",
    f"{CANARY}@example.com",
]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in the value with each of its keys, from the outside inwards."""
    waiting = [value]
    while waiting:
        container = waiting.pop(0)
        for key in list(container) if isinstance(container, dict) else range(len(container)):
            yield container, key
            if isinstance(container[key], dict | list) and len(container[key]) < 50:
                waiting.append(container[key])


def mutated(valid: Sequence[dict[str, Any]], fewest: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """A valid object with up to four of its values, at any depth, replaced, left out, wrapped or added to.

    Made from a number: drawing each choice from hypothesis would take longer than what is tested.
    """
    return st.integers(0, 2**64).map(lambda seed: mutate(Random(seed), valid, fewest))


def mutate(random: Random, valid: Sequence[dict[str, Any]], fewest: int) -> dict[str, Any]:
    value: dict[str, Any] = deepcopy(random.choice(valid))
    for _ in range(random.randint(fewest, 4)):
        container, key = random.choice(list(_places(value)) or [(value, "id")])
        act = random.choice(["replace", "replace", "replace", "wrap", "remove", "add"])
        evil = deepcopy(random.choice(HOSTILE))
        if act == "replace":
            container[key] = evil
        elif act == "wrap":
            container[key] = [container.get(key) if isinstance(container, dict) else container[key]] * 2
        elif act == "remove" and isinstance(container, dict):
            container.pop(key, None)
        elif isinstance(container, dict):
            container[random.choice(NAMES)] = evil
        else:
            container.append(evil)
    return value


def examples(few: int, many: int | None = None) -> settings:
    """`few` in the suite; in the long form `many`, or as many as FUZZ says. No seed is kept."""
    wanted = (MANY if many is None else min(many, MANY)) if MANY else few
    return settings(
        max_examples=wanted,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def check_named(error: BellhopError) -> None:
    """An error that names a fault of the input: not of ours, nor of the database, and nobody's data in it."""
    assert not isinstance(error, UnexpectedError | StoreUnavailable), error
    assert CANARY.lower() not in str(error).lower()
    assert len(str(error)) < 20_000

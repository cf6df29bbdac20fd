"""What creation costs: statements and renderings do not grow with the recipients."""

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.store import ask, counted, create, rows
from worker import prepare as preparing
from worker.models import Delivery
from worker.render import Rendered, render

pytestmark = pytest.mark.usefixtures("catalogue")


def test_statements_do_not_grow_with_the_recipients(engine: Engine) -> None:
    """A thousand recipients, every other one without an address, are written with as many statements as ten."""
    counts = []
    for size in (10, 1000):
        to = [{"id": f"r{n}", "email": f"r{n}@example.org"} if n % 2 else f"r{n}" for n in range(size)]
        with counted() as statements:
            done = create(ask(to))
        assert (size, size) == (done.notifications, done.deliveries)
        counts.append(len(statements))
    assert counts[0] == counts[1]
    assert {"pending": 505, "skipped": 505} == {
        status: sum(row.status == status for row in rows(Delivery)) for status in ("pending", "skipped")
    }


def test_statements_do_not_grow_with_the_requests(engine: Engine) -> None:
    """Two hundred different requests in one call are as many statements as four."""
    counts = []
    for size in (4, 200):
        asked = [
            ask(f"r{n}", **({"link": "/x", "idempotency_key": f"{size}-{n}"} if n % 2 else {})) for n in range(size)
        ]
        with counted() as statements:
            assert size == create(*asked).notifications
        counts.append(len(statements))
    assert counts[0] == counts[1]


def test_a_shared_text_is_rendered_once_per_language(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hundred readers of two languages in one zone: two renderings; another zone is another one."""
    langs = []

    def counting(name: str, lang: str, context: Mapping[str, Any], *, timezone: str, **more: Any) -> Rendered:
        langs.append((lang, timezone))
        return render(name, lang, context, timezone=timezone, **more)

    monkeypatch.setattr(preparing, "render", counting)
    create(ask([{"id": f"r{n}", "lang": "de" if n % 2 else "en"} for n in range(300)]))
    assert [("de", "UTC"), ("en", "UTC")] == sorted(langs)
    create(ask([{"id": f"r{n}", "lang": "de", "timezone": "Asia/Tokyo"} for n in range(3)]))
    assert ("de", "Asia/Tokyo") == langs[-1]
    assert 3 == len(langs)

"""Messages of one version at the workers of another, as during a rolling update.

tests/messages.json holds messages as version 0.1 publishes them. It is added to, never changed: what it holds may wait
in a broker, or be published by an application, while newer workers run.
"""

import json
from typing import Any

import pytest

from tests.conftest import ROOT
from worker import handover
from worker.celery import app
from worker.database import transaction
from worker.errors import InvalidRequest
from worker.models import GroupMember

MESSAGES: dict[str, dict[str, list[dict[str, Any]]]] = json.loads((ROOT / "tests" / "messages.json").read_text())

pytestmark = pytest.mark.usefixtures("catalogue", "postgres_engine")


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tasks would publish stays unpublished."""
    app.loader.import_default_modules()
    monkeypatch.setattr(handover, "publish", lambda *_, **__: True)


def test_every_message_of_this_version_is_understood() -> None:
    """Each runs to its end; there is one for every task there is."""
    with transaction() as session:
        session.add(GroupMember(name="admins", recipient_id="user-5"))
    known = MESSAGES["internal"] | MESSAGES["public"]
    assert {name for name in app.tasks if not name.startswith("celery.")} == set(known)
    for name, messages in known.items():
        for kwargs in messages:
            app.tasks[name](**kwargs)


def test_what_a_newer_version_adds_is_passed_over_between_workers_and_refused_from_applications() -> None:
    """Workers tell each other only what may be left out; an application that misspells a name must hear of it."""
    for name, messages in MESSAGES["internal"].items():
        app.tasks[name](**messages[-1], of_a_newer_version=1)
    for name, messages in MESSAGES["public"].items():
        with pytest.raises(InvalidRequest, match="of_a_newer_version"):
            app.tasks[name](**messages[-1], of_a_newer_version=1)

"""docs/coming-from.md: what its tables name is there."""

import re

import pytest

from tests.parity.document import PAGE
from worker import inbox, recipients
from worker.events import EventConfig, load_events
from worker.request import NotificationRequest
from worker.settings import Settings

TEXT = PAGE.read_text(encoding="utf-8")
EVENTS = load_events(PAGE.parent.parent / "config" / "events.toml")


@pytest.mark.parametrize("module", [inbox, recipients])
def test_functions(module: object) -> None:
    """Every function that the page names is the module's."""
    module_name = getattr(module, "__name__").rpartition(".")[2]  # noqa: B009 - mypy knows no name of an object
    named = set(re.findall(rf"\b{module_name}\.([a-z_]+)", TEXT))
    assert len(named) >= 4
    assert {name for name in named if not hasattr(module, name)} == set()


def test_fields_of_a_request() -> None:
    """Every argument that the page gives to `notify` is a field of a request."""
    calls = re.findall(r"notify\(([^`]*)\)`", TEXT)
    given = {name for call in calls for name in re.findall(r"(\w+)=", call)} - {"session"}
    assert len(calls) >= 8
    assert given - NotificationRequest.model_fields.keys() == set()


def test_events() -> None:
    """Every event that the page asks for is shipped."""
    named = set(re.findall(r'notify\("(\w+)"', TEXT)) | set(re.findall(r"the event `(\w+)`", TEXT))
    assert len(named) >= 8
    assert named - EVENTS.keys() == set()


def test_settings() -> None:
    """Every setting and every field of an event that the page names is one."""
    named = {"SMTP_URL", "EMAIL_FROM", "SEEN_RETENTION_DAYS", "retention_days", "dedupe", "supersedes", "to_self"}
    assert {name for name in named if name not in TEXT} == set()
    assert {name.lower() for name in named} <= Settings.model_fields.keys() | EventConfig.model_fields.keys()

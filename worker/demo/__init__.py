"""`bellhop demo`: the example notifications of five real systems, sent through the real thing, and checked."""

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.orm import Session

from worker import inbox, recipients
from worker.client import connect, notify
from worker.database import make_engine
from worker.demo.checks import check_flower, check_mails
from worker.embedded.processes import Embedded, embedded_stack
from worker.errors import BellhopError
from worker.models import Delivery, Notification, PurgeRun
from worker.settings import shipped

HERE = Path(__file__).parent
#: Seconds that everything may take to arrive.
DEADLINE = 45


@dataclass(slots=True)
class Story:
    """One example: what is asked, and what every recipient must get."""

    source: str
    request: dict[str, Any]
    expect: dict[str, dict[str, str]]
    request_id: UUID | None = None
    arrived: dict[str, dict[str, str]] = field(default_factory=dict)
    asked_lang: dict[str, str] = field(default_factory=dict)


def run_demo(console: Console, *, folder: Path | None, keep: bool) -> int:
    """Run the demo; gives the exit code: 0 only if every expectation held."""
    started = time.monotonic()
    folder = folder or Path(tempfile.mkdtemp(prefix="bellhop-demo-"))
    console.print(f"Starting Redis, a mail catcher, the worker, beat and Flower in {folder} ...")
    # The examples' texts are those of the templates that come with Bellhop.
    with embedded_stack(folder, extra=_shipped_settings()) as stack:
        problems = _play(console, stack)
        problems += check_flower(stack)
        _say_where(console, stack)
        for problem in problems:
            console.print(f"[red]not as expected:[/red] {problem}")
        if not keep:
            console.print(
                "Flower ends now; `bellhop demo --keep` leaves it running. The folder stays.", highlight=False
            )
        outcome = "Something was not as expected." if problems else "Everything arrived as expected"
        console.print(f"{outcome} ({time.monotonic() - started:.0f} s)")
        if keep:
            _wait_for_ctrl_c(console, stack)
    return 1 if problems else 0


def run_up(console: Console, *, folder: Path, flower_port: int) -> None:
    """Run the no-server stack until Ctrl-C."""
    with embedded_stack(folder, flower_port=flower_port, extra={"TEMPLATES_RELOAD": "true"}) as stack:
        _say_where(console, stack)
        console.print("To send to it from another shell:")
        for name, value in stack.settings.items():
            console.print(f"  export {name}='{value}'", soft_wrap=True, highlight=False)
        console.print(f"  export PATH='{Path(sys.executable).parent}':$PATH", soft_wrap=True, highlight=False)
        console.print(
            '  bellhop send book_available --to user-42 --address user-42@example.org --context \'{"title": "Dune"}\'',
            soft_wrap=True,
            highlight=False,
        )
        _wait_for_ctrl_c(console, stack)


def _shipped_settings() -> dict[str, str]:
    return {"CONFIG_DIR": str(shipped("config")), "TEMPLATES_DIR": str(shipped("templates")), "DEFAULT_LANG": "en"}


def _play(console: Console, stack: Embedded) -> list[str]:
    stories = [
        Story(one["source"], one["request"], one["expect"])
        for one in json.loads((HERE / "requests.json").read_text(encoding="utf-8"))
    ]
    engine = make_engine(stack.settings["DATABASE_URL"])
    with Session(engine) as session, session.begin():
        _fill_directory(session)
    app = connect(stack.settings["BROKER_URL"])
    for story in stories:
        story.request_id = notify(app=app, **story.request)
        notify(app=app, **{**story.request, "id": story.request_id})  # a repeat, which must add nothing
    with _progress(console, stack) as wait:
        wait(lambda: _arrived(engine, stories), "the notifications and their emails")
    console.print(_table(stories))
    problems = [problem for story in stories for problem in _differences(story)]
    sent = sum(one["email"] == "sent" for story in stories for one in story.arrived.values())
    problems += check_mails(stack.mail_folder, sent)
    return problems + _purge(console, engine, app, stack)


def _fill_directory(session: Session) -> None:
    known = json.loads((HERE / "recipients.json").read_text(encoding="utf-8"))
    recipients.upsert(session, known["recipients"])
    for group, members in known["groups"].items():
        recipients.set_group(session, group, members)
    for preference in known["preferences"]:
        recipients.set_preference(session, **preference)


@contextmanager
def _progress(console: Console, stack: Embedded) -> Any:
    def wait(condition: Any, what: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            stack.check()
            if time.monotonic() > deadline:
                raise BellhopError(f"{what} did not arrive within {DEADLINE} s; see the logs in {stack.folder}")
            time.sleep(0.05)

    with console.status("Waiting for the worker ..."):
        yield wait


def _arrived(engine: Any, stories: list[Story]) -> bool:
    """Read what is there; true once every expected notification is there and no email is on its way."""
    with Session(engine) as session:
        statement = select(Notification, Delivery).outerjoin(Delivery, Delivery.notification_id == Notification.id)
        rows: list[Any] = [*session.execute(statement)]
    if any(delivery and delivery.status in ("pending", "sending") for _, delivery in rows):
        return False
    for story in stories:
        story.arrived = {
            row.recipient_id: {"lang": row.lang, "title": row.title, "text": row.text, "email": _email_status(delivery)}
            for row, delivery in rows
            if row.request_id == story.request_id
        }
        story.asked_lang = {row.recipient_id: row.lang_asked for row, _ in rows if row.request_id == story.request_id}
    return all(story.arrived.keys() >= story.expect.keys() for story in stories)


def _email_status(delivery: Delivery | None) -> str:
    if delivery is None:
        return "none"
    return f"{delivery.status}:{delivery.reason}" if delivery.reason else delivery.status


def _differences(story: Story) -> list[str]:
    problems = []
    for recipient_id in story.expect.keys() | story.arrived.keys():
        expected, got = story.expect.get(recipient_id, {}), story.arrived.get(recipient_id, {})
        for name in sorted(expected.keys() | got.keys()):
            if expected.get(name) != got.get(name):
                what = f"{story.source}, {recipient_id}: {name}"
                problems.append(f"{what} is {got.get(name)!r}, expected {expected.get(name)!r}")
    return problems


def _table(stories: list[Story]) -> Table:
    table = Table("asked", "in the inbox", "lang", "email", show_lines=True)
    table.columns[1].ratio = 1
    for story in stories:
        event = story.request.get("event_config_name", "(literal text)")
        for recipient_id, got in sorted(story.arrived.items()):
            asked = f"{story.source}\n{event}\nto {recipient_id[:13]}"
            text = f"[bold]{_plain(got['title'])}[/bold]\n{_plain(got['text'])}"
            wanted = story.asked_lang[recipient_id]
            lang = got["lang"] if wanted == got["lang"] else f"{got['lang']}\nfor {wanted}"
            table.add_row(asked, text, lang, got["email"].replace(":", ":\n"))
    return table


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def _purge(console: Console, engine: Any, app: Any, stack: Embedded) -> list[str]:
    """Mark some seen, purge past a cutoff, and see that those alone are gone."""
    with Session(engine) as session, session.begin():
        seen = inbox.mark_all_seen(session, "user-2")
        before = _totals(session)
    cutoff = datetime.now(UTC).isoformat()
    app.send_task("notifications.purge_seen", kwargs={"older_than": cutoff}, queue="maintenance")

    def purged() -> bool:
        with Session(engine) as session:
            return session.scalar(select(PurgeRun.id).limit(1)) is not None

    with _progress(console, stack) as wait:
        wait(purged, "the purge")
    with Session(engine) as session:
        after = _totals(session)
    told = ", ".join(f"{name} {before[name]} -> {after[name]}" for name in before)
    console.print(f"user-2 has seen {seen}; the purge of what was seen before {cutoff[:19]} UTC leaves: {told}")
    expected = {"total": before["total"] - seen, "unseen": before["unseen"]}
    return [] if after == expected and seen else [f"after the purge there are {after}, expected {expected}"]


def _totals(session: Session) -> dict[str, int]:
    rows = session.scalars(select(Notification.seen_at)).all()
    return {"total": len(rows), "unseen": sum(seen_at is None for seen_at in rows)}


def _say_where(console: Console, stack: Embedded) -> None:
    facts: Mapping[str, object] = {
        "Flower": f"{stack.flower_url}  (user {stack.flower_user}, password {stack.flower_password})",
        "Mails": stack.mail_folder,
        "Logs and data": stack.folder,
    }
    for name, fact in facts.items():
        console.print(f"{name + ':':<15}{fact}", soft_wrap=True, highlight=False)


def _wait_for_ctrl_c(console: Console, stack: Embedded) -> None:
    console.print("Running; Ctrl-C ends it.")
    try:
        while True:
            stack.check()
            time.sleep(1)
    except KeyboardInterrupt:
        console.print("Ending what runs ...")

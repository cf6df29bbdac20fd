"""The command that tells the whole story of one notification."""

import sys
from collections.abc import Iterator
from typing import Any

import click
from rich.text import Text

from worker.cli.shared import console, echo_json, when
from worker.control import Hold
from worker.database import check_schema, get_engine, transaction
from worker.repair import REPLAYED
from worker.story import explain as look

#: What the words in `reason` and `email_reason` mean.
REASONS = {
    "asked_not": "the request said should_email = false",
    "event_default": "the event asks for no email unless the request does",
    "no_event": "a request without an event asks for no email unless it says so",
    "preference": "the recipient has turned this event's emails off",
    "no_address": "neither the request nor the directory has an address",
    "suppressed": "nothing may be sent to the address",
    "expired": "its time was over before it could be sent",
    "event_inactive": "the event was switched off",
    "superseded": "another event took its place",
    "cancelled": "it was cancelled",
    "attachment_gone": "its attachment is not kept any more",
    "abandoned": "a worker that had it died, or fell silent",
    "transient": "the mail server could not take it then",
    "throttled": "the mail server asked for less",
    "misconfigured": "our side must be mended first: login, TLS or sender",
    "permanent": "the mail server refused it for good",
    "unknown": "the connection broke when the server may have taken it",
}


@click.command()
@click.argument("name", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def explain(name: str, as_json: bool) -> None:
    """Tell the whole story of a notification, a delivery or a request, by its id, or by an idempotency key."""
    check_schema(get_engine())
    with transaction() as session:
        story = look(session, name)
    if story is None:
        click.echo(
            "Nothing of that id or idempotency key is known: never asked, not taken up yet (see Flower), "
            "or forgotten after its retention.",
            err=True,
        )
        sys.exit(1)
    if as_json:
        echo_json(story)
        return
    for depth, line in _lines(story):
        console.print(Text("  " * depth + line), soft_wrap=True)


def _lines(story: dict[str, Any]) -> Iterator[tuple[int, str]]:
    for request in story["requests"]:
        yield from _of_request(request)
    if not story["requests"]:
        yield 0, "The record of its request is not kept any more, or it was never one of this database."
    if not story["notifications"]:
        yield 0, _why_nothing(story)
    for notification in story["notifications"]:
        yield from _of_notification(notification)
    more = story["notifications_in_all"] - len(story["notifications"])
    if more > 0:
        yield 0, f"... and {more} more notifications of this request"


def _of_request(one: dict[str, Any]) -> Iterator[tuple[int, str]]:
    yield 0, f"Request {one['id']}"
    came = f" as a {one['came_as']}" if one.get("came_as") else ""
    yield 1, f"asked    {when(one['created_at'])} UTC{came}" + _named(" under the key", one["idempotency_key"])
    kept = "; what was asked is kept: `bellhop replay --requests`" if one["kept"] and one["status"] == "failed" else ""
    yield 1, f"status   {one['status']}{kept}"
    if one["error"]:
        yield 1, f"error    {one['error']}"


def _named(words: str, value: Any) -> str:
    return f"{words} {value}" if value else ""


def _why_nothing(story: dict[str, Any]) -> str:
    statuses = {one["status"] for one in story["requests"]}
    if "created" not in statuses:
        return "It has no notification."
    purge = story["last_purge"]
    last = f" (the last purge was {when(purge['started_at'])} UTC, before {when(purge['cutoff'])})" if purge else ""
    return (
        "No notification of it is left: told before where an event tells only once, waiting as pages, "
        f"deleted by its reader, retracted, erased, or purged once seen{last}."
    )


def _of_notification(one: dict[str, Any]) -> Iterator[tuple[int, str]]:
    event = one["event_config_name"] or "a text without an event"
    yield 0, f"Notification {one['id']}: {event}, to {one['recipient_id']}" + _named(", from", one["sender_id"])
    missed = "" if one["lang"] == one["lang_asked"] else f", as there is none in {one['lang_asked']}"
    yield 1, f"language {one['lang']}{missed}"
    yield 1, f"created  {when(one['created_at'])} UTC" + _named(", expires", when(one["expire_at"]))
    yield 1, f"seen     {when(one['seen_at']) + ' UTC' if one['seen_at'] else 'no'}"
    if one["email_reason"]:
        yield 1, f"email    none asked for: {REASONS.get(one['email_reason'], one['email_reason'])}"
    for delivery in one["deliveries"]:
        yield from _of_delivery(delivery)


def _of_delivery(one: dict[str, Any]) -> Iterator[tuple[int, str]]:
    to = one["address"] or "no address"
    yield 1, f"{one['channel']:<8} delivery {one['id']} to {to}"
    reason = one["reason"] and f": {one['reason']}, {REASONS.get(one['reason'], 'see the server below')}"
    yield 2, f"status   {one['status']}{reason or ''}"
    for tried in one["history"]:
        if tried["verdict"] == REPLAYED:
            yield 2, f"put back {when(tried['at'])} UTC by an operator, as if never tried"
            continue
        yield 2, f"try {tried['number']:<4} {when(tried['at'])} UTC {tried['verdict']}" + _named(":", tried["detail"])
    if one["sent_at"]:
        yield 2, f"sent     {when(one['sent_at'])} UTC at try {one['attempts']}, Message-ID {one['message_id']}"
    elif one["status"] in ("pending", "sending"):
        yield 2, f"due      {when(one['due_at'])} UTC, {one['attempts']} tries so far"
    if one["held"]:
        yield 2, f"held     {Hold(**one['held']).words}; `bellhop resume {one['channel']}` lets it go on"
    if one["suppressed"]:
        yield 2, f"address  suppressed since {when(one['suppressed']['created_at'])}: {one['suppressed']['reason']}"

"""The shipped texts and any context: a text and a mail that can be sent, or a named error."""

from email import message_from_bytes
from email.policy import SMTPUTF8
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT, Configure
from tests.fuzz.hostile import HOSTILE, anything, check_named, examples, mutated
from tests.test_mime import SENDER, content, parcel
from worker.channels.mime import compose
from worker.errors import BellhopError
from worker.events import get_events
from worker.render import MAX_LINE, MAX_PART, Rendered, render, render_literal
from worker.request import NotificationRequest

HEADERS = {
    "From", "To", "Date", "Message-ID", "Subject", "Auto-Submitted", "X-Auto-Response-Suppress", "MIME-Version",
    "Content-Language", "Content-Type", "Content-Transfer-Encoding",
}  # fmt: skip
LANGS = [
    "en",
    "de",
    "ar",
    "pt-BR",
    "zh-Hant-TW",
    "tlh",
    "../..",
    "en/../../de",
    "_layout",
    "de\0",
    "K",
    "",
    "en-x-a" * 9,
]


def check_mail(rendered: Rendered, address: str) -> None:
    """One line for title and subject; the mail has our headers, each once, and none of the attacker's."""
    assert len(rendered.title.splitlines()) < 2
    assert max(len(rendered.title), len(rendered.subject)) <= MAX_LINE
    assert len(rendered.email_html) <= MAX_PART
    parts = {"subject": rendered.subject, "text": rendered.email_text, "html": rendered.email_html}
    letter = compose(parcel(address, rendered.lang, **parts), SENDER, {})
    if letter is None:
        return
    data = content(letter)
    assert max(map(len, data.split(b"\r\n"))) < 998
    assert b"\n" not in data.replace(b"\r\n", b"")
    names = [name for name, _value in message_from_bytes(data, policy=SMTPUTF8).items()]
    assert len(set(names)) == len(names)
    assert set(names) <= HEADERS


def test_any_context_is_rendered_or_refused(configure: Configure) -> None:
    """Every shipped event, in languages that are and are not there; file names never leave the templates."""
    configure(TEMPLATES_DIR=ROOT / "templates", CONFIG_DIR=ROOT / "config")
    valid = [
        {
            "event_config_name": event.name,
            "context": dict(event.example) or dict.fromkeys(event.required, "1"),
            "to": "a",
        }
        for event in get_events().values()
    ]

    @examples(200, 20_000)
    @given(mutated(valid, fewest=1), st.sampled_from(LANGS))
    def check(wire: dict[str, Any], lang: str) -> None:
        try:
            request = NotificationRequest.parse(wire)
            if request.event_config_name:
                check_mail(render(request.event_config_name, lang, request.context), "reader@example.com")
        except BellhopError as error:
            check_named(error)

    check()


def test_any_title_text_and_address_is_one_mail_or_none(configure: Configure) -> None:
    """Also past the request's own checks, as what is in the directory or a view of users may hold anything."""
    configure(TEMPLATES_DIR=ROOT / "templates", CONFIG_DIR=ROOT / "config")
    words = st.sampled_from([one for one in HOSTILE if isinstance(one, str)]) | anything.map(str)

    @examples(150, 20_000)
    @given(words, words, words)
    def check(title: str, text: str, address: str) -> None:
        for one in ("reader@example.com", address):
            check_mail(render_literal(title, text, "en"), one)

    check()


def test_names_of_events_never_lead_out_of_the_templates(configure: Configure) -> None:
    """Not even past the request's own checks."""
    configure(TEMPLATES_DIR=ROOT / "templates", CONFIG_DIR=ROOT / "config")
    for name in [one for one in HOSTILE if isinstance(one, str)]:
        for event, lang in ((name, "en"), ("book_available", name)):
            try:
                found = render(event, lang, {"title": "Dune", "pickup_location": "here"})
            except BellhopError:
                continue
            assert found.lang.isascii()
            assert set(found.lang) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")

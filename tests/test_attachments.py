"""Files that ride with an email: from the request to the MIME message that a server keeps."""

import base64
import io
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session

from tests.catalogue import write_catalogue
from tests.conftest import Configure
from worker import create, deliver, fan_out, purge, recipients
from worker.attachments import MAX_FILE_BYTES
from worker.barcodes import code128_png
from worker.database import transaction, utcnow
from worker.embedded.smtp import MailCatcher
from worker.errors import InvalidRequest, TemplateFailed
from worker.models import AttachmentContent, Delivery
from worker.render import render
from worker.request import NotificationRequest

PNG = code128_png("4711")
PDF = b"%PDF-1.4 canary"


def file(name: str = "ticket.pdf", content: bytes = PDF, **more: object) -> dict[str, object]:
    """An attachment as it is on the wire."""
    kind = "image/png" if more.get("inline") else "application/pdf"
    return {"name": name, "content_type": kind, "content": base64.b64encode(content).decode(), **more}


def ask(*files: dict[str, object], **more: object) -> NotificationRequest:
    """A request with files."""
    fields = {"to": {"id": "r", "email": "r@example.org"}, "event_config_name": "ticket", "context": {"number": 4711}}
    return NotificationRequest.parse({**fields, "attachments": list(files), **more})


@pytest.fixture
def ticket(configure: Configure, tmp_path: Path) -> None:
    """An event whose html shows an inline image, twice the same barcode and another."""
    settings = write_catalogue(tmp_path / "catalogue")
    folder = tmp_path / "catalogue" / "templates" / "ticket" / "en"
    folder.mkdir(parents=True)
    (folder / "title.txt").write_text("Your ticket")
    (folder / "text.txt").write_text("Number {{ number }}")
    (folder / "email.html").write_text(
        '<p>{{ number | barcode }}{{ number | barcode }}{{ "A-1" | barcode }}</p>'
        '{% if logo is defined %}<img src="{{ logo | inline }}" alt="">{% endif %}'
    )
    events = tmp_path / "catalogue" / "config" / "events.toml"
    events.write_text('[ticket]\nemail = true\nrequired = ["number"]\noptional = ["logo"]\n')
    configure(**settings)


@pytest.mark.parametrize(
    ("files", "field", "rule"),
    [
        ([file(name="../etc/passwd")], "attachments.0.name", "plain file name"),
        ([file(name="a\r\nBcc: x")], "attachments.0.name", "plain file name"),
        ([file(name="..")], "attachments.0.name", "plain file name"),
        ([file() | {"content": "not base64!"}], "attachments.0.content", "base64"),
        ([file() | {"content": ""}], "attachments.0.content", "at least 1"),
        ([file() | {"content_type": "multipart/mixed"}], "attachments.0.content_type", "pattern"),
        ([file() | {"content_type": "a/b\r\nX: y"}], "attachments.0.content_type", "pattern"),
        ([file(inline=True) | {"content_type": "text/html"}], "attachments.0", "image"),
        ([file(), file()], "attachments", "each name once"),
        ([file(f"{n}.pdf") for n in range(11)], "attachments", "at most 10"),
        ([file(content=b"x" * (MAX_FILE_BYTES + 1))], "attachments.0.content", "at most"),
        ([file("a", b"x" * MAX_FILE_BYTES), file("b")], "attachments", "in all"),
    ],
)
def test_a_wrong_file_is_refused_by_field_and_rule(files: list[dict[str, object]], field: str, rule: str) -> None:
    """The error names the field and the rule, and shows nothing of the file."""
    with pytest.raises(InvalidRequest) as refusal:
        ask(*files)
    assert str(refusal.value).startswith(field + ":")
    assert rule in str(refusal.value)
    assert "passwd" not in str(refusal.value)
    assert "canary" not in str(refusal.value)


def test_files_survive_the_wire() -> None:
    """Bytes from Python and base64 from the wire are the same request."""
    asked = ask(file(), file("logo.png", PNG, inline=True))
    again = NotificationRequest.parse(asked.to_wire())
    assert (asked, asked.fingerprint()) == (again, again.fingerprint())
    raw = NotificationRequest.parse({**asked.to_wire(), "attachments": [{**file(), "content": PDF}]})
    assert PDF == raw.attachments[0].content
    assert "attachments" not in ask().to_wire()


@pytest.mark.usefixtures("ticket")
def test_a_mail_carries_attachments_inline_images_and_barcodes(
    database_url: str, configure: Configure, tmp_path: Path
) -> None:
    """One mail for each of two recipients; equal barcodes once in it, and every file kept once."""
    with MailCatcher(tmp_path / "mail") as catcher:
        configure(SMTP_URL=catcher.url, DATABASE_URL=database_url)
        people = [{"id": name, "email": f"{name}@example.org"} for name in ("r", "s")]
        asked = ask(
            file("Beleg für März.pdf"),
            file("logo.png", PNG[:-1] + b"x", inline=True),
            to=people,
            context={"number": 4711, "logo": "logo.png"},
        )
        with transaction() as session:
            due = create.create(session, [asked], now=utcnow()).due[1]
        with transaction() as session:
            assert 4 == session.scalar(select(func.count()).select_from(AttachmentContent))
        assert 2 == deliver.deliver(transaction, due).sent
        mails = catcher.messages()
    assert 2 == len(mails)
    for mail in mails:
        _check(mail)


def _check(mail: EmailMessage) -> None:
    assert "multipart/mixed" == mail.get_content_type()
    body, attached = mail.iter_parts()
    assert ("multipart/alternative", "Beleg für März.pdf") == (body.get_content_type(), attached.get_filename())
    assert PDF == attached.get_content()
    text, related = body.iter_parts()
    assert ("text/plain", "multipart/related") == (text.get_content_type(), related.get_content_type())
    html, *images = related.iter_parts()
    assert 3 == len(images)
    shown = html.get_content()
    for image in images:
        assert f"cid:{image['Content-ID'].strip('<>')}" in shown
    assert 4 == shown.count("cid:")


@pytest.mark.usefixtures("ticket")
def test_files_go_when_no_mail_can_need_them(engine: Engine) -> None:
    """Kept while a mail may need them; then the purge removes them, and a mail that comes too late says why."""
    with transaction() as session:
        due = create.create(session, [ask(file())], now=utcnow()).due[1]
    purge.purge_requests(transaction, now=utcnow())
    with Session(engine) as session, session.begin():
        assert 3 == session.scalar(select(func.count()).select_from(AttachmentContent))
        session.execute(update(AttachmentContent).values(keep_until=datetime(2020, 1, 1, tzinfo=UTC)))
    purge.purge_requests(transaction, now=utcnow())
    assert 1 == deliver.deliver(transaction, due).skipped
    with Session(engine) as session:
        assert ("skipped", "attachment_gone") == session.execute(select(Delivery.status, Delivery.reason)).one()


@pytest.mark.usefixtures("ticket")
def test_an_image_that_is_not_there_is_a_named_error() -> None:
    """The html names an inline image that the request does not carry."""
    with pytest.raises(TemplateFailed, match=r"ticket/en/email\.html:\d+: inline: "):
        render("ticket", "en", {"number": 1, "logo": "logo.png"})


@pytest.mark.parametrize("value", ["", "ä", "x" * 49, "a\nb"])
@pytest.mark.usefixtures("ticket")
def test_what_code_128_cannot_hold_is_a_named_error(value: str) -> None:
    """The rule is named, not the value."""
    with pytest.raises(TemplateFailed, match=r"ticket/en/email\.html:\d+: barcode: 1 to 48"):
        render("ticket", "en", {"number": value})


def test_a_barcode_is_a_picture_of_bars() -> None:
    """Code 128 B of `A`: start, A, check and stop symbols are 46 modules, two pixels each, between quiet zones."""
    image = Image.open(io.BytesIO(code128_png("A")))
    assert ("PNG", 46 * 2 + 40) == (image.format, image.width)
    row = [image.getpixel((x, image.height // 2)) for x in range(20, image.width - 20, 2)]
    bars = "".join("1" if pixel == 0 else "0" for pixel in row)
    # ISO/IEC 15417: start B, A (33), check (104 + 33) mod 103 = 34, stop.
    assert "11010010000" + "10100011000" + "10001011000" + "1100011101011" == bars


def test_a_large_audience_sees_the_inline_image_of_the_request(engine: Engine, ticket: None) -> None:
    """The look at every language, before there is a page, has the files that the pages will have."""
    asked = ask(file("logo.png", PNG, inline=True), to={"group": "all"}, context={"number": 1, "logo": "logo.png"})
    with transaction() as session:
        recipients.set_group(session, "all", ["r1", "r2"])
    with transaction() as session:
        assert fan_out.begin(session, asked, now=utcnow())

"""Which events and templates are used: the working directory's, those that settings name, or Bellhop's own."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.conftest import ROOT, forget
from worker.cli import cli
from worker.errors import InvalidSettings
from worker.events import get_events
from worker.folders import templates_dir, texts
from worker.lint import lint
from worker.render import render

Configure = Callable[..., None]

SHIPPED = ROOT / "templates"
EVENT = '[room_ready]\nemail = true\nrequired = ["room"]\nexample = { room = "12" }\n'
TEXTS = {"title.txt": "Room {{ room }} is ready", "text.txt": "Your room {{ room }} is ready."}
OURS = {f"templates/room_ready/en/{name}": text for name, text in TEXTS.items()}


@pytest.fixture
def here(tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, far from where Bellhop is installed."""
    configure(DEFAULT_LANG="en", LANGS="")
    for variable in ("CONFIG_DIR", "TEMPLATES_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(here: Path, files: dict[str, str]) -> None:
    """Put files below the folder, and forget what was read before."""
    for name, text in files.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text, encoding="utf-8")
    forget()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def readme_files() -> dict[str, str]:
    """The files of README.md's "Add an event"."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Add an event")[2].partition("\n## ")[0]
    [toml] = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    return {"config/events.toml": toml, **dict(re.findall(r"^(templates/\S+) {2,}(.+)$", section, re.MULTILINE))}


def test_readme_can_be_followed_literally(here: Path) -> None:
    """Its three files in an empty folder are an event: clean, shown, and a framed email."""
    files = readme_files()
    assert 3 == len(files)
    write(here, files)
    assert [] == lint().findings
    assert (0, 0) == (run("lint").exit_code, run("preview", "room_ready", "--html", "mail.html").exit_code)
    mail = (here / "mail.html").read_text(encoding="utf-8")
    assert "Your room 12 is ready, on floor 3." in mail
    assert 'class="card"' in mail
    assert "Room 7 is ready" == render("room_ready", "de", {"room": "7"}).title


def test_an_empty_folder_has_all_of_bellhops_own(here: Path) -> None:
    """Events and texts."""
    assert SHIPPED == templates_dir()
    assert "book_available" in get_events()
    assert render("book_available", "de", {"title": "Dune"}, email=False).lang == "de"


@pytest.mark.parametrize(
    "name",
    [
        "base.html",
        "mention/index.html",  # an application's page of the name of an event
        "mention/_parts/head.html",
        "account/email/text.txt",
        "_layout/base.html",
    ],
)
def test_pages_of_an_application_are_left_alone(here: Path, name: str) -> None:
    """A folder of that name is usual: it counts only with a text of an event, or a frame for emails."""
    write(here, {f"templates/{name}": "{% block body %}"})
    assert SHIPPED == templates_dir()
    assert "class=" in render("book_available", "en", {"title": "Dune"}).email_html


@pytest.mark.parametrize("name", ["_layout/email.html", "_layout/email.txt", "mention/pt-BR/text.txt"])
def test_a_text_or_a_frame_makes_it_bellhops(here: Path, name: str) -> None:
    """With Bellhop's own events too."""
    write(here, {f"templates/{name}": "{{ body }}"})
    assert here / "templates" == templates_dir()


def test_a_frame_of_ones_own_is_used(here: Path) -> None:
    """And then nothing of Bellhop's: half a frame is a fault that is named."""
    write(here, {"config/events.toml": EVENT, **OURS, "templates/_layout/email.html": "<p>{{ body }}</p>"})
    assert "_layout/email.txt" not in texts()
    assert "missing-part" in {finding.rule for finding in lint().findings}
    write(here, {"templates/_layout/email.txt": "{{ body }}, yours"})
    assert "Your room 12 is ready., yours" == render("room_ready", "en", {"room": "12"}).email_text


def test_templates_dir_needs_no_frame(here: Path, configure: Configure) -> None:
    """Wherever the folder is."""
    write(here, {f"elsewhere/{name}": text for name, text in {"events.toml": EVENT, **OURS}.items()})
    configure(CONFIG_DIR=here / "elsewhere", TEMPLATES_DIR=here / "elsewhere" / "templates")
    assert [] == lint().findings
    assert "class=" in render("room_ready", "en", {"room": "12"}).email_html


def test_templates_dir_that_is_not_there_is_refused(here: Path, configure: Configure) -> None:
    """By whoever needs a text, and by lint."""
    configure(TEMPLATES_DIR=here / "nowhere")
    for needs in (texts, lint):
        with pytest.raises(InvalidSettings, match=r"^TEMPLATES_DIR: no such folder$"):
            needs()


def test_events_of_ones_own_may_leave_out_some_of_bellhops(here: Path) -> None:
    """Whose texts are then no finding; an event that has none is, and says where they were looked for."""
    write(here, {"config/events.toml": '[book_available]\nrequired = ["title"]\n' + EVENT})
    rules = {finding.rule: finding for finding in lint().findings}
    assert "unknown-event" not in rules
    assert f"room_ready has no folder in {SHIPPED}" == rules["missing-templates"].message

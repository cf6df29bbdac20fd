"""worker.lint: every fault that is planted in a good catalogue is found, where it is, and nothing else is."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.conftest import ROOT
from tests.lint_faults import FAULTS, FRAME, HTML, LOAN, NOTE, POLISH, TOML, Edit, Fault, write
from worker.cli import cli
from worker.errors import InvalidEventConfig, InvalidSettings
from worker.lint import RULES, Finding, lint

#: What no comment allows: there is no place for it, or what comes of the fault is found in its stead.
NOT_ALLOWED = {
    *("no TOML", "unknown field", "data that is secret", "folder of no event", "language in no known form"),
    *("no frame", "not UTF-8", "safe", "autoescape block"),
    *(name for name, fault in FAULTS.items() if fault.rule in ("allow-without-reason", "unused-allow")),
}

Catalogue = Callable[..., list[Finding]]


@pytest.fixture
def catalogue(tmp_path: Path, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    """Write the good catalogue with edits, lint it with settings, give the findings."""
    configure()
    monkeypatch.chdir(tmp_path)

    def linted(edits: dict[str, Edit] | None = None, **settings: str) -> list[Finding]:
        write(tmp_path, edits or {})
        configure(CONFIG_DIR=tmp_path / "config", TEMPLATES_DIR=tmp_path / "templates", DEFAULT_LANG="en", **settings)
        monkeypatch.chdir(tmp_path)
        return lint().findings

    return linted


def places(findings: list[Finding]) -> list[tuple[str, str, int]]:
    return [(finding.rule, finding.file, finding.line) for finding in findings]


def with_comment(fault: Fault, event: str) -> dict[str, Edit]:
    """The fault's edits, and a comment in its file, or in the event's table where there is no such file."""
    path, comment = Path(fault.file), f"lint: allow {fault.rule} because the test plants it"
    if path.suffix in (".txt", ".html") and path.is_file():
        return fault.edits | {fault.file: path.read_text(encoding="utf-8").rstrip("\n") + "{# " + comment + " #}\n"}
    return fault.edits | {TOML: Path(TOML).read_text(encoding="utf-8").replace(f"[{event}]", f"[{event}]  # {comment}")}


def test_good_catalogue_is_clean(catalogue: Catalogue) -> None:
    """Macros, includes, `set`, loop variables, attributes and switched off events are no faults."""
    assert [] == catalogue()


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_found_alone(catalogue: Catalogue, name: str) -> None:
    """Each fault gives its own finding at its file and line, and no other."""
    fault = FAULTS[name]
    findings = catalogue(fault.edits)
    assert [(fault.rule, fault.file, fault.line)] == places(findings), "\n".join(map(str, findings))


def test_every_rule_has_a_fault() -> None:
    """No rule is listed that the table above does not break."""
    assert RULES.keys() == {fault.rule for fault in FAULTS.values()}


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in NOT_ALLOWED])
def test_comment_with_reason_allows_the_rule(catalogue: Catalogue, name: str) -> None:
    """A comment in the file, or for what is not there in the event's table, silences the rule it names."""
    fault = FAULTS[name]
    (finding,) = catalogue(fault.edits)
    assert [] == places(catalogue(with_comment(fault, finding.event)))


def test_comment_without_reason_allows_nothing(catalogue: Catalogue) -> None:
    """Both the fault and the comment are found."""
    edits: dict[str, Edit] = {HTML: ("{{ title }} ", "{{ title | safe }}{# lint: allow markup-filter #} ")}
    findings = catalogue(edits)
    assert [("allow-without-reason", HTML, 4), ("markup-filter", HTML, 4)] == [
        place for place in places(findings) if place[0] != "unescaped"
    ]


def test_allowed_filter_does_not_hide_what_comes_of_it(catalogue: Catalogue) -> None:
    """Markup of the context that reaches the mail is found even where `safe` is allowed."""
    safe = "{{ title | safe }}{# lint: allow markup-filter because of history #} "
    assert [("unescaped", HTML, 3)] == places(catalogue({HTML: ("{{ title }} ", safe)}))


def test_comment_allows_its_own_rule_and_file_alone(catalogue: Catalogue) -> None:
    """The same fault in another language's file is found, and so is another fault in the same file."""
    safe = ("{{ title }} ", "{{ title | safe }} ")
    comment = "{# lint: allow markup-filter because of history #}{# lint: allow unescaped because of history #}"
    edits: dict[str, Edit] = {f"{POLISH}/email.html": safe, HTML: ("<ul>", f"{comment}<ul><a href='x'></a>")}
    assert [
        ("unsafe-link", HTML, 2),
        ("unused-allow", HTML, 2),
        ("unused-allow", HTML, 2),
        ("markup-filter", f"{POLISH}/email.html", 4),
    ] == places(catalogue(edits))


@pytest.mark.parametrize(
    "href",
    [
        "{{ link | link }}",
        "{{ link | link | e }}",
        "{{ (link or 'https://example.org') | link }}",
        "{{ link | link if link else '#top' }}",
        "{% if link %}{{ link | link }}{% else %}{{ link | link }}{% endif %}",
        "{{ link | link }}?page={{ titles | length }}",
        "https://example.org/?q={{ titles[0] | urlencode }}",
        "mailto:desk@example.org",
        "#top",
    ],
)
def test_good_links_are_no_findings(catalogue: Catalogue, href: str) -> None:
    """What ends in the filter, or begins with a scheme and a host, may be followed."""
    assert [] == catalogue({HTML: ("{{ button(", f'<a href="{href}">see</a>{{{{ button(')})


def test_langs_says_which_languages_are_wanted(catalogue: Catalogue) -> None:
    """LANGS is compared with each event; a region is served by its language; what is there besides is no fault."""
    assert [("missing-lang", TOML, 1), ("missing-lang", TOML, 15)] == places(catalogue(LANGS="pl, pt-BR,en-GB"))
    with pytest.raises(InvalidSettings, match="LANGS"):
        catalogue(LANGS="en;pl")


def test_default_language_is_always_wanted(catalogue: Catalogue) -> None:
    """A recipient without a language would else get nothing."""
    assert [] == catalogue(LANGS="pl")
    missing: dict[str, Edit] = {f"{LOAN}/{part}": None for part in ("title.txt", "text.txt", "email.html")}
    assert [("missing-lang", TOML, 1)] == places(catalogue(missing, LANGS="pl"))


def test_json_names_file_line_rule_message_event_and_lang(catalogue: Catalogue, tmp_path: Path) -> None:
    """`--json` is a list of objects; the summary goes to stderr; the exit code is 1."""
    catalogue({f"{POLISH}/text.txt": (", {{ reader }}", ", {{ reader }}{{ nobody }}")})
    result = CliRunner().invoke(cli, ["lint", "--json"])
    assert [
        {
            "file": f"{POLISH}/text.txt",
            "line": 3,
            "rule": "undeclared-name",
            "message": "nobody is not declared in loan",
            "event": "loan",
            "lang": "pl",
        }
    ] == json.loads(result.stdout)
    assert (1, True) == (result.exit_code, result.stderr.startswith("2 events, 2 languages, 13 templates, "))


def test_lines_are_sorted_and_end_in_exit_code_1(catalogue: Catalogue) -> None:
    """People get `file:line: rule: words`, by file and line."""
    catalogue({NOTE: "{{ message | safe }}", FRAME: (' dir="{{ dir }}"', "")})
    result = CliRunner().invoke(cli, ["lint"])
    assert [
        f"{FRAME}:1: frame-lang: <html> has no dir",
        f"{NOTE}:1: markup-filter: safe makes markup of what it is given; leave it out, the file's ending decides",
    ] == result.stdout.splitlines()
    assert 1 == result.exit_code


def test_rules_are_listed(configure: Callable[..., None]) -> None:
    """`--rules` gives one line each; nothing is checked; a wrong option is a usage error."""
    configure()
    listed = CliRunner().invoke(cli, ["lint", "--rules"])
    assert (0, list(RULES)) == (listed.exit_code, [line.partition(":")[0] for line in listed.stdout.splitlines()])
    assert 2 == CliRunner().invoke(cli, ["lint", "--rule"]).exit_code


def test_no_events_file_is_an_error(catalogue: Catalogue) -> None:
    """A wrong CONFIG_DIR is told as everywhere else, not as a finding."""
    with pytest.raises(InvalidEventConfig, match="no such file"):
        catalogue({TOML: None})


def test_shipped_catalogue_is_clean_and_quick(configure: Callable[..., None]) -> None:
    """The events that come with Bellhop have no findings, and looking takes seconds."""
    configure(CONFIG_DIR=ROOT / "config", TEMPLATES_DIR=ROOT / "templates", LANGS="en,de,fr,es,pl,ar")
    begin = time.process_time()
    result = CliRunner().invoke(cli, ["lint"])
    assert (0, "") == (result.exit_code, result.stdout)
    assert time.process_time() - begin < 15

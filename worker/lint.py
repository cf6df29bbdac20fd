"""Check events, languages and templates before anybody is notified: `bellhop lint`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worker.errors import InvalidEventConfig
from worker.events import events_file, load_events
from worker.folders import frame_dir, templates_dir, texts
from worker.linting.catalogue import Catalogue, EventsFile
from worker.linting.findings import RULES, Allow, Finding, template_allows, toml_allows, without_allowed
from worker.linting.parity import parity, wanted_langs
from worker.linting.single import single
from worker.linting.trials import Trials

__all__ = ["RULES", "Finding", "Report", "lint"]

_FAILS = {"syntax", "unknown-filter", "undeclared-name", "missing-plural-form", "unknown-plural-form"}
"""Rules whose breach makes a rendering fail: that is not said a second time."""
_NO_EXAMPLE = {"example-missing", "example-mismatch"}
_LETS_MARKUP_THROUGH = {"markup-filter", "autoescape"}


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and how much was looked at."""

    findings: list[Finding]
    """By file, line and rule."""
    events: int
    langs: int
    templates: int
    renderings: int

    def summary(self) -> str:
        """One line for people."""
        looked_at = f"{self.events} events, {self.langs} languages, {self.templates} templates"
        return f"{looked_at}, {self.renderings} renderings; findings: {len(self.findings) or 'none'}"


def lint() -> Report:
    """Check the catalogue that the settings name.

    Raises InvalidSettings for LANGS and TEMPLATES_DIR, and InvalidEventConfig where there is no events.toml at all.
    """
    toml = events_file().resolve()
    try:
        events = load_events(toml)
    except InvalidEventConfig as error:
        if not toml.is_file():
            raise
        return Report([_unreadable(toml, str(error))], 0, 0, 0, 0)
    texts()
    folder = templates_dir().resolve()
    lines = toml.read_text(encoding="utf-8").splitlines()
    catalogue = Catalogue(events, EventsFile(toml, lines), folder, frame_dir(folder).resolve())
    return _report(catalogue)


def _report(catalogue: Catalogue) -> Report:
    langs = wanted_langs(catalogue)
    found = [*single(catalogue), *parity(catalogue)]
    names = {source.path: source.name for source in catalogue.sources()}
    trials = Trials(catalogue, {names[finding.path] for finding in found if finding.rule in _FAILS})
    found += trials.run([finding.event for finding in found if finding.rule in _NO_EXAMPLE], langs)
    open_findings = _without_echoes(list(without_allowed(_once(found), list(_allows(catalogue)))))
    findings = sorted(open_findings, key=lambda finding: (finding.file, finding.line, finding.rule, finding.message))
    return Report(findings, len(catalogue.events), len(langs), len(catalogue.sources()), trials.count)


def _once(findings: list[Finding]) -> Iterator[Finding]:
    """One finding per place, rule and words: what templates share is met in many events and languages."""
    yield from {(each.path, each.line, each.rule, each.message): each for each in reversed(findings)}.values()


def _without_echoes(findings: list[Finding]) -> Iterator[Finding]:
    """A filter that lets markup through is reported itself; what came of it is not."""
    causes = {each.path for each in findings if each.rule in _LETS_MARKUP_THROUGH}
    return (each for each in findings if each.rule != "unescaped" or each.path not in causes)


def _allows(catalogue: Catalogue) -> Iterator[Allow]:
    for source in catalogue.sources():
        yield from template_allows(source.path, source.text)
    toml = catalogue.toml
    yield from toml_allows(toml.path, toml.lines, toml.event_at)


def _unreadable(toml: Path, words: str) -> Finding:
    """The error of `load_events`, which names the file, and then the event or TOML's line."""
    words = words.removeprefix(f"{toml}: ")
    event, line = words.partition(":")[0], re.search(r"\(at line (\d+)", words)
    if line:
        return Finding(toml, int(line[1]), "invalid-event", words)
    text = toml.read_text(encoding="utf-8", errors="replace")
    return Finding(toml, EventsFile(toml, text.splitlines()).line(event), "invalid-event", words, event)

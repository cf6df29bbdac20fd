"""Findings, the rules they break, and the comments that allow a rule to be broken."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

RULES = {
    "invalid-event": "config/events.toml cannot be read, or a table in it is wrong",
    "unknown-event": "a template folder whose event is not in config/events.toml",
    "missing-templates": "an event without a template folder",
    "invalid-lang": "a language folder whose name is not a canonical BCP 47 tag, so that it is never used",
    "missing-lang": "an event without a language of LANGS (where that is empty: of any event), or the default language",
    "missing-part": "title.txt or text.txt is missing in a language, or a file of the frame",
    "part-parity": "an optional part is there in some languages of the event, and missing in others",
    "unknown-file": "a file that is no part and that no template includes or imports",
    "syntax": "not a Jinja template in UTF-8",
    "unknown-filter": "a filter or test that does not exist",
    "undeclared-name": "a variable that is not declared in the event's required or optional",
    "unused-name": "a declared name that no template uses and that is not listed in the event's data",
    "shown-data": "a name listed in the event's data that a template uses",
    "name-parity": "a variable that this part uses in other languages, and not in this one",
    "missing-plural-form": "plural or ordinal without a form that the language needs",
    "unknown-plural-form": "plural or ordinal with a form that CLDR does not know",
    "line-break": "a title or subject over more than one line",
    "markup-filter": "safe, urlize, xmlattr, tojson, or escaping in .txt: escaping is left to the file's ending",
    "autoescape": "an autoescape block: escaping is left to the file's ending",
    "unescaped": "markup in a context value reaches the HTML part as elements or attributes",
    "unsafe-link": "an href or src that is not passed through the filter link, or not http:, https: or mailto:",
    "frame-lang": "the HTML frame's <html> without lang or dir",
    "example-missing": "the event's example lacks declared names",
    "example-mismatch": "the event's example is not of the declared kinds",
    "example-fails": "a template that cannot be rendered with the event's example",
    "optional-fails": "a template that cannot be rendered when optional names are left out",
    "null-differs": "an optional name that is null fails, or is shown otherwise than one that is left out",
    "hostile-fails": "a template that cannot be rendered with texts that are odd, but valid",
    "allow-without-reason": "a comment that allows a rule without saying why, or not in the form that is understood",
    "unused-allow": "a comment that allows what was not found, or a rule that does not exist",
}
"""Rule -> what breaks it."""

_TEMPLATE_COMMENT = re.compile(r"\{#[-+]?\s*lint:(?P<words>.*?)[-+]?#\}", re.DOTALL)
_TOML_COMMENT = re.compile(r"#\s*lint:(?P<words>.*)")
_ALLOWANCE = re.compile(r"\s*allow\s+(?P<rule>[a-z-]+)(?:\s+because\s+(?P<reason>\S.*?))?\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault, at the place where it can be mended."""

    path: Path
    line: int
    rule: str
    message: str
    event: str = ""
    lang: str = ""

    @property
    def file(self) -> str:
        """The path, relative to the working directory where it is below."""
        here = Path.cwd()
        return str(self.path.relative_to(here) if self.path.is_relative_to(here) else self.path)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.message}"

    def as_dict(self) -> dict[str, str | int]:
        """As JSON takes it."""
        words = {"rule": self.rule, "message": self.message, "event": self.event, "lang": self.lang}
        return {"file": self.file, "line": self.line, **words}


@dataclass(frozen=True, slots=True)
class Allow:
    """A comment that allows a rule to be broken: in a template for the file, in events.toml for the event's table.

    The one in events.toml also covers the event's findings about files that are not there.
    """

    path: Path
    line: int
    rule: str
    reason: str
    event: str = ""

    def covers(self, finding: Finding) -> bool:
        """Whether the finding is one that this comment allows."""
        if not self.reason or self.rule != finding.rule:
            return False
        if self.path.suffix != ".toml":
            return self.path == finding.path
        return self.event == finding.event and (self.path == finding.path or not finding.path.is_file())


def template_allows(path: Path, text: str) -> Iterator[Allow]:
    """The comments `{# lint: allow RULE because REASON #}` of a template."""
    for match in _TEMPLATE_COMMENT.finditer(text):
        yield _allow(path, text.count("\n", 0, match.start()) + 1, match["words"])


def toml_allows(path: Path, lines: Iterable[str], event_at: Iterable[str]) -> Iterator[Allow]:
    """The comments `# lint: allow RULE because REASON` of events.toml, with the event in whose table each stands."""
    for number, (line, event) in enumerate(zip(lines, event_at, strict=True), start=1):
        if match := _TOML_COMMENT.search(line):
            yield _allow(path, number, match["words"], event)


def _allow(path: Path, line: int, words: str, event: str = "") -> Allow:
    match = _ALLOWANCE.fullmatch(words)
    return Allow(path, line, match["rule"] if match else "", (match["reason"] or "") if match else "", event)


def without_allowed(findings: Iterable[Finding], allows: list[Allow]) -> Iterator[Finding]:
    """The findings that no comment allows, and the comments that are at fault themselves."""
    used: set[Allow] = set()
    for finding in findings:
        covering = [allow for allow in allows if allow.covers(finding)]
        used.update(covering)
        if not covering:
            yield finding
    for allow in allows:
        if not allow.reason:
            form = "write `lint: allow RULE because REASON`"
            yield Finding(allow.path, allow.line, "allow-without-reason", form, allow.event)
        elif allow not in used:
            words = f"{allow.rule} is not found here" if allow.rule in RULES else f"there is no rule {allow.rule}"
            yield Finding(allow.path, allow.line, "unused-allow", words, allow.event)

"""What there is to lint: the event configs with their lines, the template folders, the templates as syntax trees."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from worker.errors import InvalidLanguage
from worker.events import EventConfig
from worker.lang import normalize_lang
from worker.linting.templates import Source, read, references

NEEDED = ("title.txt", "text.txt")
OPTIONAL = ("subject.txt", "email.txt", "email.html")
PARTS = (*NEEDED, *OPTIONAL)
FRAMES = ("_layout/email.html", "_layout/email.txt")
FRAME_NAMES = {"title", "subject", "body"}
"""What the renderer gives the frame."""

_HEADER = re.compile(r"""\s*\[\s*["']?(?P<event>\w+)["']?\s*(?:\.\s*(?P<table>\w+)\s*)?\]""")
_FIELD = re.compile(r"""\s*["']?(?P<name>\w+)["']?\s*=""")


@dataclass(frozen=True)
class EventsFile:
    """The lines of events.toml; what they mean is for `worker.events` to say."""

    path: Path
    lines: list[str]

    def line(self, event: str, *fields: str) -> int:
        """The line of the first field that is there (`required`, `example.title`), else of the table, else 1."""
        return next((self._places[event, name] for name in (*fields, "") if (event, name) in self._places), 1)

    @cached_property
    def event_at(self) -> list[str]:
        """The event in whose table each line stands; empty before the first."""
        event, events = "", []
        for line in self.lines:
            header = _HEADER.match(line)
            event = header["event"] if header else event
            events.append(event)
        return events

    @cached_property
    def _places(self) -> dict[tuple[str, str], int]:
        places: dict[tuple[str, str], int] = {}
        table = ""
        for number, (line, event) in enumerate(zip(self.lines, self.event_at, strict=True), start=1):
            if header := _HEADER.match(line):
                table = header["table"] or ""
                places.setdefault((event, table), number)
                places.setdefault((event, ""), number)
            elif name := _FIELD.match(line):
                places.setdefault((event, f"{table}.{name['name']}" if table else name["name"]), number)
        return places


@dataclass(frozen=True)
class Catalogue:
    """The event configs and their templates."""

    events: dict[str, EventConfig]
    toml: EventsFile
    folder: Path
    frame_dir: Path
    """The templates folder whose frame is used: the same, or the package's."""
    _sources: dict[str, Source | None] = field(default_factory=dict)

    def source(self, name: str) -> Source | None:
        """The template by its path below the folder, None where there is none."""
        if name not in self._sources:
            path = self._path(name)
            self._sources[name] = read(path, name) if path.is_file() else None
        return self._sources[name]

    def _path(self, name: str) -> Path:
        shared = self.frame_dir / name
        return shared if name.startswith("_layout/") and shared.is_file() else self.folder / name

    def sources(self) -> list[Source]:
        """The templates read so far."""
        return [source for source in self._sources.values() if source]

    def folders(self) -> list[Path]:
        """The template folders that should be events."""
        return _subfolders(self.folder)

    def lang_folders(self, event: str) -> list[Path]:
        """The folders of an event that should be languages."""
        return _subfolders(self.folder / event)

    def langs(self, event: str) -> list[str]:
        """The languages that the event has a folder for."""
        return [path.name for path in self.lang_folders(event) if is_lang(path.name)]

    def parts(self, event: str, lang: str) -> dict[str, Source]:
        """The parts that are there, by file name."""
        found = {part: self.source(f"{event}/{lang}/{part}") for part in PARTS}
        return {part: source for part, source in found.items() if source}

    def every_part(self) -> Iterator[tuple[str, str, str, Source]]:
        """Event, language, part and template of every part of every event."""
        for event in self.events:
            for lang in self.langs(event):
                for part, source in self.parts(event, lang).items():
                    yield event, lang, part, source

    def reach(self, source: Source, *, with_context: bool = False) -> list[Source]:
        """The template and those it includes, imports or extends; `with_context`: only those that see its variables."""
        found, waiting = {source.name: source}, [source]
        while waiting:
            for name, sees_context in references(waiting.pop().tree):
                other = self.source(name) if sees_context or not with_context else None
                if other and other.name not in found:
                    found[other.name] = other
                    waiting.append(other)
        return list(found.values())


def is_lang(name: str) -> bool:
    """Whether rendering may look for a folder of this name."""
    try:
        return normalize_lang(name) == name
    except InvalidLanguage:
        return False


def _subfolders(folder: Path) -> list[Path]:
    """Those that begin with `_` hold what templates share."""
    found = folder.iterdir() if folder.is_dir() else []
    return sorted(path for path in found if path.is_dir() and not path.name.startswith(("_", ".")))

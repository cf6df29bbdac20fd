"""What languages, event configs and template folders must have in common."""

from collections.abc import Iterator
from pathlib import Path

from worker.errors import InvalidContext, InvalidLanguage, InvalidSettings
from worker.events import EventConfig
from worker.lang import fallback_chain, normalize_lang
from worker.linting.catalogue import FRAMES, NEEDED, OPTIONAL, PARTS, Catalogue, is_lang
from worker.linting.findings import Finding
from worker.linting.templates import Source
from worker.settings import get_settings, shipped


def parity(catalogue: Catalogue) -> Iterator[Finding]:
    """Every rule about what is there and what is declared."""
    yield from _folders(catalogue)
    wanted = wanted_langs(catalogue)
    for event in catalogue.events.values():
        if catalogue.lang_folders(event.name):
            yield from _langs(catalogue, event.name, wanted)
            yield from _parts(catalogue, event.name)
            yield from _unknown_files(catalogue, event.name)
            yield from _names(catalogue, event)
            yield from _names_by_lang(catalogue, event)
        else:
            line, words = catalogue.toml.line(event.name), f"{event.name} has no folder in {catalogue.folder}"
            yield Finding(catalogue.toml.path, line, "missing-templates", words, event.name)
        yield from _example(catalogue, event)


def wanted_langs(catalogue: Catalogue) -> list[str]:
    """The languages every event should have: LANGS, else those of any event; the default. Raises InvalidSettings."""
    settings = get_settings()
    try:
        declared = {normalize_lang(tag.strip()) for tag in settings.langs.split(",") if tag.strip()}
    except InvalidLanguage:
        raise InvalidSettings("LANGS: BCP 47 tags with commas between them, such as en,de,pt-BR") from None
    found = {lang for event in catalogue.events for lang in catalogue.langs(event)}
    return sorted((declared or found) | {normalize_lang(settings.default_lang)})


def _folders(catalogue: Catalogue) -> Iterator[Finding]:
    for folder in [] if _texts_alone_are_shipped(catalogue) else catalogue.folders():
        if folder.name not in catalogue.events:
            words = f"there is no event {folder.name} in {catalogue.toml.path.name}"
            yield Finding(folder, 1, "unknown-event", words, folder.name)
    for name in FRAMES:
        if not catalogue.source(name):
            yield Finding(catalogue.folder / name, 1, "missing-part", "no email can be made without the frame")


def _texts_alone_are_shipped(catalogue: Catalogue) -> bool:
    """Of the texts that come with Bellhop, an events.toml of one's own may leave some out."""
    toml, folder = catalogue.toml.path, catalogue.folder
    return folder == shipped("templates").resolve() and toml.parent != shipped("config").resolve()


def _langs(catalogue: Catalogue, event: str, wanted: list[str]) -> Iterator[Finding]:
    there = catalogue.langs(event)
    for lang in wanted:
        if not set(fallback_chain(lang, lang)) & set(there):
            line = catalogue.toml.line(event)
            yield Finding(catalogue.toml.path, line, "missing-lang", f"{event} has no texts in {lang}", event, lang)
    for folder in catalogue.lang_folders(event):
        if not is_lang(folder.name):
            yield Finding(folder, 1, "invalid-lang", "name it as in de, pt-BR or zh-Hant", event)


def _parts(catalogue: Catalogue, event: str) -> Iterator[Finding]:
    there = {lang: catalogue.parts(event, lang).keys() for lang in catalogue.langs(event)}
    for lang, parts in there.items():
        for part in PARTS:
            others = [other for other in there if part in there[other]]
            path = catalogue.folder / event / lang / part
            if part in parts:
                continue
            if part in NEEDED:
                yield Finding(path, 1, "missing-part", f"every language needs {part}", event, lang)
            elif part in OPTIONAL and others:
                yield Finding(path, 1, "part-parity", f"there is one in {', '.join(others)}", event, lang)


def _unknown_files(catalogue: Catalogue, event: str) -> Iterator[Finding]:
    sources = [source for lang in catalogue.langs(event) for source in catalogue.parts(event, lang).values()]
    known = {each.path for source in sources for each in catalogue.reach(source)}
    for path in sorted((catalogue.folder / event).rglob("*")):
        if path.is_file() and path not in known and not _is_aside(path.relative_to(catalogue.folder / event)):
            catalogue.source(path.relative_to(catalogue.folder).as_posix())  # for the comments in it
            yield Finding(path, 1, "unknown-file", f"the parts are {', '.join(PARTS)}", event)


def _is_aside(path: Path) -> bool:
    """Notes, hidden and shared files, and those in folders that are found to be no language."""
    hidden = any(name.startswith((".", "_")) for name in path.parts)
    return hidden or path.suffix == ".md" or (len(path.parts) > 1 and not is_lang(path.parts[0]))


def _names(catalogue: Catalogue, event: EventConfig) -> Iterator[Finding]:
    declared = {*event.required, *event.optional}
    used: set[str] = set()
    for lang in catalogue.langs(event.name):
        for source in catalogue.parts(event.name, lang).values():
            for each in catalogue.reach(source, with_context=True):
                used |= each.used.keys()
                for name, line in each.used.items():
                    if name not in declared | source.assigned | each.assigned:
                        words = f"{name} is not declared in {event.name}"
                        yield Finding(each.path, line, "undeclared-name", words, event.name, lang)
    if not _broken(catalogue, event.name):
        yield from _declared(catalogue, event, used)


def _declared(catalogue: Catalogue, event: EventConfig, used: set[str]) -> Iterator[Finding]:
    toml = catalogue.toml
    for name in (*event.required, *event.optional):
        if name not in used and name not in event.data:
            line = toml.line(event.name, "required" if name in event.required else "optional")
            yield Finding(toml.path, line, "unused-name", f"no template of {event.name} uses {name}", event.name)
    for name in event.data:
        if name in used:
            words = f"a template of {event.name} uses {name}"
            yield Finding(toml.path, toml.line(event.name, "data"), "shown-data", words, event.name)


def _names_by_lang(catalogue: Catalogue, event: EventConfig) -> Iterator[Finding]:
    declared, langs = {*event.required, *event.optional}, catalogue.langs(event.name)
    for part in PARTS:
        sources = {lang: catalogue.parts(event.name, lang).get(part) for lang in langs}
        found = {lang: _all_used(catalogue, source) for lang, source in sources.items()}
        uses = {lang: names & declared for lang, names in found.items() if names is not None}
        for lang, names in uses.items():
            for name in sorted(set().union(*uses.values()) - names):
                words = f"{name} is used in {', '.join(other for other in uses if name in uses[other])}, and not here"
                path = catalogue.folder / event.name / lang / part
                yield Finding(path, 1, "name-parity", words, event.name, lang)


def _all_used(catalogue: Catalogue, source: Source | None) -> set[str] | None:
    """None where there is no such part, or where it cannot be read."""
    reached = catalogue.reach(source, with_context=True) if source else []
    if not reached or any(each.error for each in reached):
        return None
    return {name for each in reached for name in each.used}


def _broken(catalogue: Catalogue, event: str) -> bool:
    parts = [source for lang in catalogue.langs(event) for source in catalogue.parts(event, lang).values()]
    return any(each.error for source in parts for each in catalogue.reach(source))


def _example(catalogue: Catalogue, event: EventConfig) -> Iterator[Finding]:
    toml = catalogue.toml
    if missing := [name for name in (*event.required, *event.optional) if name not in event.example]:
        words = f"{event.name}: {', '.join(missing)}"
        yield Finding(toml.path, toml.line(event.name, "example"), "example-missing", words, event.name)
    for name, value in event.example.items():
        try:
            event.model_copy(update={"required": (), "optional": (name,)}).check_context({name: value})
        except InvalidContext as error:
            line = toml.line(event.name, f"example.{name}", "example")
            yield Finding(toml.path, line, "example-mismatch", str(error), event.name)

"""The event configs: what config/events.toml may say, and how its faults are told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker.errors import InactiveEvent, InvalidContext, InvalidEventConfig, UnknownEvent
from worker.events import RESERVED, EventConfig, get_event, load_events

CANARY = "canary 4711"


def load(folder: Path, text: str) -> dict[str, EventConfig]:
    path = folder / "events.toml"
    path.write_text(text, encoding="utf-8")
    return load_events(path)


def test_every_field_is_read(tmp_path: Path) -> None:
    """A table of the file is the event config of its name; absent fields have their defaults."""
    events = load(
        tmp_path,
        """
        [password_reset]
        active = false
        email = true
        required = ["link"]
        optional = ["device"]
        kinds = { link = "link" }
        priority = "high"
        retention_days = 7
        preference = false
        dedupe = true
        to_self = true
        secret = ["link"]
        example = { link = "https://example.org" }

        [bare]
        """,
    )
    assert events["password_reset"] == EventConfig(
        name="password_reset",
        active=False,
        email=True,
        required=("link",),
        optional=("device",),
        kinds={"link": "link"},
        priority="high",
        retention_days=7,
        preference=False,
        dedupe=True,
        to_self=True,
        secret=("link",),
        example={"link": "https://example.org"},
    )
    assert events["bare"] == EventConfig(name="bare")


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ('active = "yes"', "active", "valid boolean"),
        ("email = 1", "email", "valid boolean"),
        ('preference = "no"', "preference", "valid boolean"),
        ("dedupe = 0", "dedupe", "valid boolean"),
        ("to_self = 0", "to_self", "valid boolean"),
        ('required = "title"', "required", "valid tuple"),
        ('required = ["Title"]', "required.0", "should match pattern"),
        ('optional = ["ok", "a-b"]', "optional.1", "should match pattern"),
        (
            'required = ["a"]\nkinds = { a = "money" }',
            "kinds.a",
            "'text', 'number', 'date', 'link', 'list' or 'object'",
        ),
        ('priority = "urgent"', "priority", "'high' or 'normal'"),
        ("retention_days = -1", "retention_days", "greater than or equal to 0"),
        ("retention_days = 1.5", "retention_days", "valid integer"),
        ('emial = "x"', "an unknown field `emial`", ""),
        ('required = ["a"]\noptional = ["a"]', "both required and optional: a", ""),
        ('kinds = { a = "text" }', "in kinds, example, secret or data, but not declared: a", ""),
        ("example = { a = 1 }", "in kinds, example, secret or data, but not declared: a", ""),
        ('secret = ["a"]', "in kinds, example, secret or data, but not declared: a", ""),
    ],
)
def test_a_wrong_field_is_named_with_file_and_event(tmp_path: Path, body: str, field: str, rule: str) -> None:
    """Who edits the file learns where to look and what the rule is."""
    with pytest.raises(InvalidEventConfig) as caught:
        load(tmp_path, f"[fine]\n[book_due]\n{body}\n")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'events.toml'}: book_due: {field}")
    assert rule in message


@pytest.mark.parametrize("name", sorted(RESERVED))
@pytest.mark.parametrize("field", ["required", "optional"])
def test_names_that_every_template_has_are_refused(tmp_path: Path, field: str, name: str) -> None:
    """A context cannot take the place of what the renderer itself gives."""
    with pytest.raises(InvalidEventConfig, match=f"book_due: names that every template has already: {name}$"):
        load(tmp_path, f'[book_due]\n{field} = ["{name}"]')


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("[a]\n=", "line 2"),
        ("[a]\n[a]", "a"),
        ("a = 1", "a: a table without a field `name`"),
        ('[a]\nname = "b"', "a: a table without a field `name`"),
        ('["../x"]', "../x: name: String should match pattern"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, rule: str) -> None:
    """Whatever is wrong with the file as a whole, it is named."""
    with pytest.raises(InvalidEventConfig) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'events.toml'}: ")
    assert rule in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file names itself and the setting that leads to it; another encoding than UTF-8 is refused."""
    with pytest.raises(InvalidEventConfig, match=r"events\.toml: no such file; set CONFIG_DIR"):
        load_events(tmp_path / "events.toml")
    (tmp_path / "events.toml").write_bytes("# é\n[a]".encode("utf-16"))
    with pytest.raises(InvalidEventConfig, match=r"events\.toml: 'utf-8' codec"):
        load_events(tmp_path / "events.toml")


def test_event_configs_are_frozen() -> None:
    """An event config is the same for the whole life of the process."""
    with pytest.raises(ValueError, match="frozen"):
        EventConfig(name="a").active = False  # type: ignore[misc]


def test_all_faults_of_a_context_are_listed() -> None:
    """One error names what is missing, what is not declared and what is of another kind, in that order; no value."""
    event = EventConfig(name="e", required=("a", "b", "c"), optional=("d",), kinds={"c": "number", "d": "date"})
    with pytest.raises(InvalidContext) as caught:
        event.check_context({"c": CANARY, "d": CANARY, "extra": CANARY, "another": CANARY})
    assert str(caught.value) == (
        "context of e: missing: a; missing: b; not declared: another, extra; c: not of kind number; d: not of kind date"
    )


@pytest.mark.parametrize("name", [CANARY, "canary@4711", "c" + "anary4711" * 5])
def test_undeclared_names_that_may_be_data_are_counted_only(name: str) -> None:
    """A key that is no plain name could be anybody's data, so it is not shown."""
    with pytest.raises(InvalidContext, match=r"^context of e: not declared: 1 names$"):
        EventConfig(name="e").check_context({name: 1})


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("text", ["", "a", 5], [True, 1.5, [], {}]),
        ("number", [0, -1, 2.5], [True, "1", []]),
        (
            "date",
            ["2026-05-01", "2026-05-01T10:00:00+02:00", "2026-05-01T10:00:00Z"],
            ["", CANARY, 20260501, "2026-13-01"],
        ),
        ("link", ["https://example.org"], [5, ["https://example.org"], True]),
        ("list", [[], [1]], ["a", {}, 1]),
        ("object", [{}, {"a": 1}], [[], "a", 1]),
    ],
)
def test_kinds(kind: Any, right: list[Any], wrong: list[Any]) -> None:
    """Each kind takes its JSON values and no others; null only where the name is optional."""
    required = EventConfig(name="e", required=("a",), kinds={"a": kind})
    optional = EventConfig(name="e", optional=("a",), kinds={"a": kind})
    for value in right:
        required.check_context({"a": value})
    optional.check_context({"a": None})
    optional.check_context({})
    for value in [*wrong, None]:
        with pytest.raises(InvalidContext, match=f"^context of e: a: not of kind {kind}$"):
            required.check_context({"a": value})


def test_names_without_a_kind_take_any_value() -> None:
    """A declared name of no kind is not looked into."""
    values: list[Any] = [None, True, "a", 1, [], {}]
    for value in values:
        EventConfig(name="e", required=("a",)).check_context({"a": value})


@pytest.mark.usefixtures("catalogue")
def test_events_are_found_by_name() -> None:
    """An event that is not configured, and one that is switched off, are told apart."""
    assert get_event("quiet").required == ("title",)
    with pytest.raises(UnknownEvent, match=r"'qiuet' is not in config/events\.toml"):
        get_event("qiuet")
    with pytest.raises(InactiveEvent, match="'off' is switched off"):
        get_event("off")


def test_the_folder_is_a_setting(tmp_path: Path, configure: Callable[..., None]) -> None:
    """CONFIG_DIR leads to the file."""
    (tmp_path / "events.toml").write_text("[only_here]\n")
    configure(CONFIG_DIR=tmp_path)
    assert get_event("only_here").name == "only_here"

"""worker.settings, and its promise to be the only reader of the environment."""

import re
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from worker.errors import InvalidSettings
from worker.settings import Settings, get_settings

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "config" / "worker.env.example"
ASSIGNMENT = re.compile(r"#?([A-Z][A-Z0-9_]*)=(.*)")

# The embedded servers and processes are children that get an environment of their own; they read no setting there.
# Applications have their signing keys there, and do not load the settings.
MAY_TOUCH_ENVIRONMENT = ("settings.py", "signing.py", "embedded.py", "embedded/")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def example_values() -> dict[str, str]:
    matches = (ASSIGNMENT.fullmatch(line) for line in EXAMPLE.read_text(encoding="utf-8").splitlines())
    return {match[1].lower(): match[2].strip('"') for match in matches if match}


def plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def test_example_lists_every_setting_and_no_other() -> None:
    """config/worker.env.example and Settings name the same variables."""
    listed, known = set(example_values()), set(Settings.model_fields)
    missing = "".join(f"\n  missing: {name.upper()}" for name in sorted(known - listed))
    unknown = "".join(f"\n  not a setting: {name.upper()}" for name in sorted(listed - known))
    assert not missing + unknown, f"{EXAMPLE.name}:{missing}{unknown}"


def test_example_shows_the_defaults() -> None:
    """A setting's value in the example is its default; nothing stands for None."""
    defaults = {name: plain(getattr(Settings(), name)) for name in Settings.model_fields}
    example = {name: value for name, value in example_values().items() if name in defaults}
    given = {name: value for name, value in example.items() if value or defaults[name] is not None}
    parsed = Settings(**given)  # type: ignore[arg-type]
    shown = {name: plain(getattr(parsed, name)) if name in given else None for name in example}
    wrong = [f"{n.upper()}: shown {shown[n]!r}, default {defaults[n]!r}" for n in example if shown[n] != defaults[n]]
    assert not wrong, "\n".join(wrong)


def test_example_explains_each_setting_once() -> None:
    """Each variable stands once, below a comment line of its own."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    named = [match[1] for line in lines if (match := ASSIGNMENT.fullmatch(line))]
    bare = [line for above, line in pairwise(lines) if ASSIGNMENT.fullmatch(line) and above[:2] != "# "]
    assert len(named) == len(set(named)), "a variable stands twice"
    assert not bare, "without a comment line above"


def test_environment_is_read_by_settings_alone() -> None:
    """No other module of the worker looks into the environment."""
    readers = []
    for path in sorted((ROOT / "worker").rglob("*.py")):
        relative = path.relative_to(ROOT / "worker").as_posix()
        if relative.startswith(MAY_TOUCH_ENVIRONMENT):
            continue
        with path.open("rb") as source:
            readers += [
                f"worker/{relative}:{token.start[0]}"
                for token in tokenize.tokenize(source.readline)
                if token.type == tokenize.NAME and token.string in {"environ", "environb", "getenv", "getenvb"}
            ]
    assert not readers, "read the setting from worker.settings instead"


def test_variable_of_the_same_name_sets_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """DELIVER_BATCH in the environment becomes deliver_batch."""
    monkeypatch.setenv("DELIVER_BATCH", "7")
    assert get_settings().deliver_batch == 7


def test_settings_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the environment after the first look does not change a running process."""
    before = get_settings()
    monkeypatch.setenv("DELIVER_BATCH", "7")
    assert get_settings() is before


@pytest.mark.parametrize(
    ("variable", "value", "rule"),
    [
        ("DELIVER_BATCH", "0", "greater than 0"),
        ("DELIVER_BATCH", "hunter2", "valid integer"),
        ("LEASE_SECONDS", "-1", "greater than 0"),
        ("SEEN_RETENTION_DAYS", "-7", "greater than or equal to 0"),
        ("UNKNOWN_POLICY", "hunter2", "'resend' or 'hold'"),
        ("PURGE_CRON", "hunter2 daily", "minute hour day-of-month month day-of-week"),
        ("DEFAULT_LANG", "hunter2!", "BCP 47"),
        ("DEFAULT_LANG", "", "BCP 47"),
        ("BRAND_LOGO_URL", "javascript:hunter2", "starts with https://"),
        ("BRAND_LOGO_URL", "/logo.png", "starts with https://"),
        ("SIGNAL_URL", "http://:hunter2@host", "redis+socket:// or unix:// only"),
    ],
)
def test_error_names_variable_and_rule(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, rule: str) -> None:
    """A wrong value is refused with the variable's name and the rule it breaks."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSettings, match=variable) as caught:
        get_settings()
    assert rule in str(caught.value)
    assert "Value error" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("variable", ["CONFIG_DIR", "TEMPLATES_DIR", "SIGNAL_URL", "BRAND_LOGO_URL"])
def test_empty_is_absent(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """As config/worker.env.example says: an empty folder is not the working directory itself."""
    monkeypatch.setenv(variable, "")
    assert not getattr(get_settings(), variable.lower())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BRAND_LOGO_URL", "https://example.org/logo.png?v=2"),
        ("BRAND_LOGO_URL", "HTTP://example.org"),
        ("SIGNAL_URL", "rediss://name:hunter2@host/1"),
        ("SIGNAL_URL", "redis+socket:///run/redis.sock?virtual_host=1"),
        ("SIGNAL_URL", "unix:///run/redis.sock"),
    ],
)
def test_addresses_that_can_work_pass(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """What is checked is the form alone."""
    monkeypatch.setenv(variable, value)
    assert value == plain(getattr(get_settings(), variable.lower()))


def test_the_default_language_is_a_canonical_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    """However it was written."""
    monkeypatch.setenv("DEFAULT_LANG", "PT_br")
    assert "pt-BR" == get_settings().default_lang


def test_error_names_every_wrong_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two mistakes are told at once."""
    monkeypatch.setenv("DELIVER_BATCH", "0")
    monkeypatch.setenv("PURGE_BATCH", "0")
    with pytest.raises(InvalidSettings, match=r"DELIVER_BATCH.*PURGE_BATCH"):
        get_settings()


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_error_never_shows_a_value(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    """Whatever variable holds a password by mistake, the error, its cause and its context do not repeat it."""
    monkeypatch.setenv(field.upper(), "-hunter2://")
    monkeypatch.setenv("MAX_ATTEMPTS", "-hunter2://")
    with pytest.raises(InvalidSettings) as caught:
        get_settings()
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_printed_settings_hide_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither repr nor a JSON dump shows the password inside a URL."""
    for variable in ("DATABASE_URL", "BROKER_URL", "RESULT_BACKEND", "SMTP_URL"):
        monkeypatch.setenv(variable, "redis://bellhop:hunter2@host/0")
    settings = get_settings()
    assert "hunter2" not in repr(settings) + settings.model_dump_json()


def test_settings_cannot_be_changed() -> None:
    """Settings are frozen: what a process runs with is what it read."""
    with pytest.raises(ValueError, match="frozen"):
        get_settings().deliver_batch = 7  # type: ignore[misc]

"""Dates and times in templates, languages and zones."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from itertools import product
from threading import Barrier
from zoneinfo import available_timezones

import pytest
from jinja2 import StrictUndefined, Undefined, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from worker.errors import InvalidLanguage, InvalidTimezone, TemplateFailed
from worker.formats import date_text, datetime_text, direction, filters, locale_for, relative_text, time_text, zone

BERLIN, NEW_YORK, TOKYO = "Europe/Berlin", "America/New_York", "Asia/Tokyo"


def environment(lang: str) -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    made.filters.update(filters(lang))
    return made


def show(expression: str, lang: str = "en", **values: object) -> str:
    template = environment(lang).from_string("{{ " + expression + " }}")
    return template.render({"timezone": "UTC", **values}).replace("\u202f", " ")


@pytest.mark.parametrize(
    ("moment", "timezone", "clock"),
    [
        ("2026-03-29T00:59:00Z", BERLIN, "29.03.26, 01:59"),
        ("2026-03-29T01:00:00Z", BERLIN, "29.03.26, 03:00"),
        ("2026-10-25T00:30:00Z", BERLIN, "25.10.26, 02:30"),
        ("2026-10-25T01:30:00Z", BERLIN, "25.10.26, 02:30"),
        ("2026-03-08T06:59:00+00:00", NEW_YORK, "08.03.26, 01:59"),
        ("2026-03-08T07:00:00+00:00", NEW_YORK, "08.03.26, 03:00"),
        ("2026-11-01T05:30:00Z", NEW_YORK, "01.11.26, 01:30"),
        ("2026-12-31T23:30:00Z", TOKYO, "01.01.27, 08:30"),
        ("2026-01-01T02:00:00+09:00", NEW_YORK, "31.12.25, 12:00"),
        ("2026-07-05T10:00:00.123456+0530", "UTC", "05.07.26, 04:30"),
        ("2026-07-05 10:00Z", "Asia/Kathmandu", "05.07.26, 15:45"),
        (datetime(2026, 7, 5, 10, tzinfo=UTC), BERLIN, "05.07.26, 12:00"),
        (datetime(2026, 7, 5, 10, tzinfo=timezone(timedelta(hours=-3))), BERLIN, "05.07.26, 15:00"),
    ],
)
def test_moments_are_shown_in_the_recipients_zone(moment: object, timezone: str, clock: str) -> None:
    """A moment with an offset is converted, on both sides of every change to and from daylight saving."""
    assert show("m|datetime('short')", "de", m=moment, timezone=timezone) == clock
    day, time = clock.split(", ")
    assert show("m|date('short')", "de", m=moment, timezone=timezone) == day
    assert show("m|time", "de", m=moment, timezone=timezone) == time


@pytest.mark.parametrize("moment", ["2026-03-29T02:30:00", "2026-03-29 02:30", datetime(2026, 3, 29, 2, 30)])
@pytest.mark.parametrize("timezone", [BERLIN, NEW_YORK, TOKYO])
def test_naive_moments_are_never_shifted(moment: object, timezone: str) -> None:
    """Without an offset the clock's own reading is shown, even one that the zone skips, and no zone is claimed."""
    assert show("m|datetime('short')", "de", m=moment, timezone=timezone) == "29.03.26, 02:30"
    assert show("m|time('full')", "de", m=moment, timezone=timezone) == "02:30:00"
    assert show("m|datetime", "de", m=moment, timezone=timezone) == "29. März 2026, 02:30:00"


def test_a_tzinfo_without_offset_is_naive() -> None:
    """Python calls a datetime naive too when its tzinfo does not know the offset."""

    class Unknown(tzinfo):
        def utcoffset(self, dt: datetime | None) -> None:
            return None

        dst = tzname = utcoffset

    assert show("m|time('long')", "de", m=datetime(2026, 3, 29, 2, 30, tzinfo=Unknown()), timezone=TOKYO) == "02:30:00"


@pytest.mark.parametrize(
    ("lang", "day"),
    [("en", "July 5, 2026"), ("de", "5. Juli 2026"), ("pt-BR", "5 de julho de 2026"), ("zh-Hant-TW", "2026年7月5日")],
)
def test_dates_alone_stand_as_they_are(lang: str, day: str) -> None:
    """A date has no time to shift, whatever the zone."""
    for value in ("2026-07-05", date(2026, 7, 5)):
        assert show("d|date", lang, d=value, timezone="Pacific/Kiritimati") == day


def test_styles() -> None:
    """The four styles of CLDR; long and full end with the zone."""
    moment = "2026-07-05T10:00:00Z"
    styles = [show(f"m|datetime('{s}')", "de", m=moment, timezone=BERLIN) for s in ("medium", "long", "full")]
    assert styles == [
        "05.07.2026, 12:00:00",
        "5. Juli 2026, 12:00:00 MESZ",
        "Sonntag, 5. Juli 2026, 12:00:00 Mitteleuropäische Sommerzeit",
    ]
    assert show("m|date('full')", m=moment) == "Sunday, July 5, 2026"
    assert show("m|time", m=moment, timezone=NEW_YORK) == "6:00 AM"


@pytest.mark.parametrize("lang", ["en", "ar", "zh-Hant-TW"])
def test_every_zone_can_be_written(lang: str) -> None:
    """No zone of the database breaks the style that spells it out."""
    for name in available_timezones() - {"localtime", "Factory"}:
        assert "2026" in datetime_text(locale_for(lang), zone(name), "2026-07-05T10:00:00Z", style="full")


MALFORMED: list[object] = [
    *("", "soon", "2026-02-30", "2026-13-01T00:00Z", "20260705", "2026-W27-7", "2026-07-05T25:00", "2026-07-05T10"),
    *("2026-07-05T10:00+25:00", " 2026-07-05", "2026-07-05\n", "٢٠٢٦-07-05", "05.07.2026", "2026-07-05x10:00"),
    *(0, 1783245600, True, None, [], timedelta(1), "0001-01-01T00:00:00+14:00", datetime.max.replace(tzinfo=UTC)),
]


@pytest.mark.parametrize("name", ["date", "time", "datetime", "relative"])
@pytest.mark.parametrize("value", MALFORMED, ids=str)
def test_what_is_no_moment_is_refused(name: str, value: object) -> None:
    """The error names the filter and the rule, never the value."""
    east_or_west = TOKYO if isinstance(value, datetime) else NEW_YORK
    with pytest.raises(TemplateFailed, match=f"^{name}: (needs|not) ") as caught:
        show(f"v|{name}", v=value, timezone=east_or_west)
    assert len(str(value)) < 3 or str(value) not in str(caught.value)


@pytest.mark.parametrize("name", ["time", "datetime"])
@pytest.mark.parametrize("value", ["2026-07-05", date(2026, 7, 5)])
def test_a_date_alone_has_no_time(name: str, value: object) -> None:
    """Showing midnight would be an invention."""
    with pytest.raises(TemplateFailed, match=f"^{name}: needs a time of day, not a date alone$"):
        show(f"v|{name}", v=value)


@pytest.mark.parametrize("name", ["date", "time", "datetime"])
def test_unknown_style_is_refused(name: str) -> None:
    """The styles are CLDR's four; patterns are not taken."""
    with pytest.raises(TemplateFailed, match=f"^{name}: the style must be one of short, medium, long, full$"):
        show(f"v|{name}('yyyy')", v=datetime(2026, 7, 5))


@pytest.mark.parametrize(
    ("lang", "shift", "text"),
    [
        ("en", timedelta(days=3), "in 3 days"),
        ("de", timedelta(hours=-2), "vor 2 Stunden"),
        ("fr", timedelta(minutes=10), "dans 10 minutes"),
        ("pl", timedelta(days=5), "za 5 dni"),
        ("en", timedelta(days=10), "in 10 days"),
        ("en", timedelta(hours=23, minutes=20), "in 23 hours"),
        ("en", timedelta(days=-45), "2 months ago"),
        ("en", timedelta(days=800), "in 2 years"),
        ("en", timedelta(seconds=1), "in 1 second"),
        ("en", timedelta(0), "in 0 seconds"),
    ],
)
def test_relative(lang: str, shift: timedelta, text: str) -> None:
    """The distance from a given now, and the same from the clock's now."""
    now = datetime(2026, 7, 5, 10, tzinfo=UTC)
    assert show("m|relative(now=n)", lang, m=now + shift, n=now.isoformat()) == text
    assert show("m|relative", lang, m=datetime.now(UTC) + timedelta(days=3, seconds=30)) == show(
        "m|relative(n)", lang, m=now + timedelta(days=3), n=now
    )


def test_relative_across_a_change_of_the_clock() -> None:
    """Between 01:30 and 03:30 of that night one hour passes, with or without offsets given."""
    for early, late in (
        ("2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"),
        ("2026-03-29T01:30", "2026-03-29T03:30"),
    ):
        assert show("m|relative(n)", m=late, n=early, timezone=BERLIN) == "in 1 hour"


def test_relative_counts_days_for_dates() -> None:
    """A date is so many days from the day that it is for the recipient."""
    late = "2026-07-05T23:30:00Z"
    assert show("d|relative(n)", d="2026-07-08", n=late) == "in 3 days"
    assert show("d|relative(n)", d="2026-07-08", n=late, timezone=TOKYO) == "in 2 days"
    assert show("d|relative(n)", d=date(2026, 5, 6), n=late) == "2 months ago"


def test_zone_names() -> None:
    """Only names of the IANA database are zones; nothing else is looked for on the disk."""
    assert str(zone("UTC")) == "UTC"
    for name in ("", "Mars/Olympus", "europe/berlin", "../etc/passwd", "/etc/localtime", "Europe", "localtime", "\x00"):
        with pytest.raises(InvalidTimezone):
            zone(name)
        with pytest.raises(InvalidTimezone):
            filters("en", name)
        with pytest.raises(InvalidTimezone):
            show("m|date", m="2026-07-05", timezone=name)


def test_a_rendering_without_zone_fails() -> None:
    """No date is shown in a zone that nobody asked for, unless the filters were made with one."""
    bare = environment("de").from_string("{{ '2026-07-05T10:00Z'|time }}")
    with pytest.raises(TemplateFailed, match=r"^time: no timezone in this rendering"):
        bare.render()
    home = ImmutableSandboxedEnvironment()
    home.filters.update(filters("de", BERLIN))
    template = home.from_string("{{ '2026-07-05T10:00Z'|time }}")
    assert [template.render(), template.render(timezone=TOKYO)] == ["12:00", "19:00"]


def test_languages_without_data_use_the_nearest() -> None:
    """An unknown region is written as its language, an unknown language as English; a malformed one is refused."""
    known = {tag: str(locale_for(tag)) for tag in ("pt-BR", "zh-TW", "zh-Hans-DE", "de-XX", "de-x-duden", "tlh")}
    assert known == {
        "pt-BR": "pt_BR",
        "zh-TW": "zh_Hant_TW",
        "zh-Hans-DE": "zh_Hans",
        "de-XX": "de",
        "de-x-duden": "de",
        "tlh": "en",
    }
    with pytest.raises(InvalidLanguage):
        filters("../en")


def test_direction() -> None:
    """Arabic, Hebrew and Persian run from right to left, also Punjabi in Arabic script."""
    assert {lang: direction(lang) for lang in ("ar", "he", "fa-IR", "pa-Arab", "pa", "en", "zh-Hant-TW", "tlh")} == {
        **dict.fromkeys(("ar", "he", "fa-IR", "pa-Arab"), "rtl"),
        **dict.fromkeys(("pa", "en", "zh-Hant-TW", "tlh"), "ltr"),
    }


@pytest.mark.parametrize(
    "call",
    [
        *("gone|date", "'2026-07-05'|date(gone)", "gone|time", "gone|datetime", "gone|relative"),
        *("'2026-07-05'|relative(now=gone)", "'2026-07-05T10:00'|time(gone)"),
    ],
)
def test_missing_variables_name_themselves(call: str) -> None:
    """A variable that is not in the context is reported by Jinja, wherever it stands."""
    with pytest.raises(UndefinedError, match=r"'gone' is undefined"):
        show(call, "de")


def test_a_lenient_undefined_is_refused_as_a_value() -> None:
    """Even where Jinja lets undefined variables pass, no filter shows one."""
    with pytest.raises(TemplateFailed, match=r"^date: needs "):
        show("v|date", v=Undefined(name="v"))


def test_threads_never_mix_languages_and_zones() -> None:
    """Sixteen threads share four environments, each thread with its own zone, and every text is its own."""
    written = ("m|datetime('full')", "m|date('short')", "m|time('full')", "m|relative(n)", "2.5|number(2)")
    source = "|".join("{{ " + expression + " }}" for expression in written)
    templates = {lang: environment(lang).from_string(source) for lang in ("en", "de", "ar", "pl")}
    pairs = list(product(templates, (BERLIN, NEW_YORK, TOKYO, "Pacific/Chatham")))
    moment, now, barrier = "2026-07-05T22:30:00Z", "2026-07-03T22:30:00Z", Barrier(len(pairs))

    def expected(lang: str, timezone: str) -> str:
        known = (locale_for(lang), zone(timezone), moment)
        day, time = date_text(*known, style="short"), time_text(*known, style="full")
        number = filters(lang)["number"](2.5, decimals=2)
        return "|".join((datetime_text(*known, style="full"), day, time, relative_text(*known, now=now), number))

    def rendered(pair: tuple[str, str]) -> set[str]:
        barrier.wait(timeout=30)
        return {templates[pair[0]].render(m=moment, n=now, timezone=pair[1]) for _ in range(100)}

    with ThreadPoolExecutor(len(pairs)) as pool:
        texts = list(pool.map(rendered, pairs))
    assert texts == [{expected(*pair)} for pair in pairs]
    assert len(set.union(*texts)) == len(pairs)

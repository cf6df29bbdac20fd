"""Jinja filters that write dates, numbers, lists and names as the reader's language and time zone have them.

The filters belong to one language, as its Jinja environment does; the time zone belongs to the recipient, so date
filters read the variable `timezone` of the rendering at hand. Nothing is shared between renderings, so threads cannot
mix them. Where the variable is missing the filter fails rather than show another zone's time: macros that write dates
must be imported `with context`. Reading the context also keeps Jinja from computing a date when it compiles.

A value that breaks a filter's rule raises TemplateFailed naming the filter and the rule, never the value.

Moments are datetimes, dates or ISO 8601 strings. With an offset they are converted to the recipient's zone. Without
one they are taken as they stand, and are written without a zone's name, since it is not known.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from functools import lru_cache, partial
from typing import Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_time, format_timedelta, get_datetime_format
from babel.lists import format_list
from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from worker.errors import InvalidLanguage, InvalidTimezone
from worker.lang import fallback_chain, normalize_lang
from worker.moments import parse_moment
from worker.plurals import currency_text, number_text, ordinal_text, percent_text, plural_text, refusal

Style = Literal["short", "medium", "long", "full"]
Unit = Literal["second", "minute", "hour", "day", "month", "year"]

_STYLES = ("short", "medium", "long", "full")
_LIST_STYLES = ("standard", "or", "unit")
_UNITS: tuple[tuple[Unit, int], ...] = (
    ("second", 60),
    ("minute", 3600),
    ("hour", 86_400),
    ("day", 30 * 86_400),
    ("month", 365 * 86_400),
)
"""A unit, and the number of seconds from which the next one is used."""

_BIDI_CONTROLS = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)))


@lru_cache(maxsize=256)
def filters(lang: str, timezone: str | None = None) -> dict[str, Callable[..., Any]]:
    """Return the filters for one language, by the names that templates use. The dict is shared: copy, do not change.

    `timezone` serves renderings without a variable `timezone`. Raises InvalidLanguage and InvalidTimezone.
    """
    locale = locale_for(lang)
    if timezone is not None:
        zone(timezone)
    timed = {"date": date_text, "time": time_text, "datetime": datetime_text, "relative": relative_text}
    plain: dict[str, Callable[..., str]] = {
        "number": number_text,
        "percent": percent_text,
        "currency": currency_text,
        "plural": plural_text,
        "ordinal": ordinal_text,
        "language_name": language_name,
        "territory_name": territory_name,
    }
    return {
        **{name: _timed(name, function, locale, timezone) for name, function in timed.items()},
        **{name: partial(function, locale) for name, function in plain.items()},
        "list": _listed(locale),
        "link": link,
        "isolate": isolate,
    }


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """Return the time zone of the IANA database; raises InvalidTimezone for any other name."""
    if name not in _zone_names():
        raise InvalidTimezone("timezone: not a name of the IANA time zone database")
    return ZoneInfo(name)


@lru_cache(maxsize=1024)
def locale_for(lang: str) -> Locale:
    """Return the language's CLDR data, or the nearest there is: `de-XX` is written as `de`, an unknown one as `en`.

    Raises InvalidLanguage.
    """
    for tag in fallback_chain(lang, "en"):
        try:
            return Locale.parse(tag, sep="-")
        except (UnknownLocaleError, ValueError):
            continue
    return Locale("en")


def direction(lang: str) -> Literal["ltr", "rtl"]:
    """Return the direction that the language is written in, for HTML's `dir`. Raises InvalidLanguage."""
    return "rtl" if locale_for(lang).text_direction == "rtl" else "ltr"


def date_text(locale: Locale, zone: ZoneInfo, value: object, /, style: Style = "long") -> str:
    """Return the day of a moment; a date without a time is taken as it stands."""
    moment = _moment("date", zone, value)
    return format_date(moment, _style("date", style), locale=locale)


def time_text(locale: Locale, zone: ZoneInfo, value: object, /, style: Style = "short") -> str:
    """Return the time of day of a moment; the styles long and full end with the zone."""
    return _clock(locale, _timed_moment("time", zone, value), _style("time", style))


def datetime_text(locale: Locale, zone: ZoneInfo, value: object, /, style: Style = "long") -> str:
    """Return day and time of a moment; the styles long and full end with the zone."""
    moment = _timed_moment("datetime", zone, value)
    pattern = get_datetime_format(_style("datetime", style), locale=locale)
    day = format_date(moment, style, locale=locale)
    return str(pattern).replace("'", "").replace("{0}", _clock(locale, moment, style)).replace("{1}", day)


def relative_text(locale: Locale, zone: ZoneInfo, value: object, /, now: object = None) -> str:
    """Return how far a moment is from now (or `now`), in one unit: "in 3 days", "vor 2 Stunden".

    A moment without offset is one in the recipient's zone. A date is counted in whole days from the day that it is
    there; CLDR's words today and tomorrow are not in Babel, so today is "in 0 days".
    """
    moment = _moment("relative", zone, value)
    present = datetime.now(zone) if now is None else _timed_moment("relative", zone, now)
    if isinstance(moment, datetime):
        # In UTC, because datetimes of one zone are subtracted by the clock, an hour wrong across a change.
        seconds = round((_in_utc(moment, zone) - _in_utc(present, zone)).total_seconds())
        unit = _unit(seconds, _UNITS)
    else:
        seconds = (moment - present.date()).days * 86_400
        unit = _unit(seconds, _UNITS[3:])
    return format_timedelta(seconds, granularity=unit, threshold=float("inf"), add_direction=True, locale=locale)


def list_text(locale: Locale, values: object, /, style: str = "standard", *, autoescape: bool = False) -> str:
    """Return the items joined in the language's way, with "and", with "or", or as measures (`unit`).

    With `autoescape` the result is markup if any item is, and the other items are escaped; else it is text.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise refusal("list", "needs a list of texts or whole numbers", values)
    if style not in _LIST_STYLES:
        raise refusal("list", f"the style must be one of {', '.join(_LIST_STYLES)}", style)
    items = [_text("list", item) for item in values]
    joined = partial(format_list, style=_complete(locale, style), locale=locale)
    if autoescape and any(isinstance(item, Markup) for item in items):
        return Markup(joined([escape(item) for item in items]))  # CLDR's own words hold no markup
    return joined([str(item) for item in items])


def language_name(locale: Locale, value: object, /) -> str:
    """Return what the reader's language calls the language of a BCP 47 tag."""
    try:
        tag = normalize_lang(value) if isinstance(value, str) else ""
        asked = Locale.parse(tag, sep="-")
    except (InvalidLanguage, UnknownLocaleError, ValueError):
        raise refusal("language_name", "needs the BCP 47 tag of a language that CLDR knows", value) from None
    own_entry = locale.languages.get(tag.replace("-", "_"))
    return str(own_entry or asked.get_display_name(locale) or tag)


def territory_name(locale: Locale, value: object, /) -> str:
    """Return what the reader's language calls the country (ISO 3166-1 alpha-2) or region (UN M.49)."""
    code = value.upper() if isinstance(value, str) else ""
    if code not in locale_for("en").territories:
        raise refusal("territory_name", "needs an ISO 3166-1 alpha-2 or UN M.49 code", value)
    return str(locale.territories.get(code, code))


def link(value: object) -> str:
    """Return the URL as it is, if a reader may follow it: http or https with a host, or mailto.

    White space, control and invisible characters are refused, and backslashes, because browsers drop or rewrite
    them and so see another scheme or host than we do (WHATWG URL standard, section 4.4). Escaping is left to Jinja.
    """
    if not isinstance(value, str) or not value.isprintable() or " " in value or "\\" in value:
        raise refusal("link", "needs a URL without white space, control characters and backslashes", value)
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise refusal("link", "not a well-formed URL") from None
    if parts.scheme not in ("http", "https", "mailto"):
        raise refusal("link", "the scheme must be http, https or mailto")
    if not (parts.path or parts.query if parts.scheme == "mailto" else host):
        raise refusal("link", "the URL needs a host, or for mailto an address")
    return value


def isolate(value: object) -> str:
    """Return a name between U+2068 and U+2069, so that its direction does not disturb the sentence around it.

    For a Latin name in Arabic or Hebrew text, and the reverse (Unicode UAX 9). Directional controls inside the name
    are dropped: they could end the isolation. In HTML the `bdi` element does the same.
    """
    text = _text("isolate", value).translate(_BIDI_CONTROLS)
    return "\u2068" + text + "\u2069"


def _timed(name: str, function: Callable[..., str], locale: Locale, home: str | None) -> Callable[..., str]:
    @pass_context
    def in_recipients_zone(context: Context, value: object, *args: Any, **kwargs: Any) -> str:
        timezone = context.get("timezone", home)
        if timezone is None:
            raise refusal(name, "no timezone in this rendering; import macros `with context`")
        return function(locale, zone(timezone), value, *args, **kwargs)

    return in_recipients_zone


def _listed(locale: Locale) -> Callable[..., str]:
    @pass_context
    def escaped_as_the_template(context: Context, values: object, style: str = "standard") -> str:
        return list_text(locale, values, style, autoescape=bool(context.eval_ctx.autoescape))

    return escaped_as_the_template


def _complete(locale: Locale, style: str) -> Any:
    """The style, or the nearest whose patterns are all there: where CLDR inherits some (German `unit`), Babel fails."""
    styles = (style, f"{style}-short", "standard")
    return next(name for name in styles if locale.list_patterns.get(name, {}).keys() >= {"2", "start", "middle", "end"})


def _moment(filter_name: str, zone: ZoneInfo, value: object) -> datetime | date:
    """The value in the recipient's zone; naive and date-only values as they stand."""
    try:
        moment = _parsed(value) if isinstance(value, str) else value
        if isinstance(moment, datetime):
            return moment.astimezone(zone) if moment.utcoffset() is not None else moment.replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise refusal(filter_name, "not a moment of the calendar, in ISO 8601") from None
    if not isinstance(moment, date):
        raise refusal(filter_name, "needs a datetime, a date or an ISO 8601 string", value)
    return moment


def _parsed(text: str) -> datetime | date:
    return parse_moment(text)


def _timed_moment(filter_name: str, zone: ZoneInfo, value: object) -> datetime:
    moment = _moment(filter_name, zone, value)
    if not isinstance(moment, datetime):
        raise refusal(filter_name, "needs a time of day, not a date alone")
    return moment


def _unit(seconds: int, units: Iterable[tuple[Unit, int]]) -> Unit:
    return next((unit for unit, limit in units if abs(seconds) < limit), "year")


def _in_utc(moment: datetime, zone: ZoneInfo) -> datetime:
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)


def _clock(locale: Locale, moment: datetime, style: Style) -> str:
    zoneless = moment.tzinfo is None and style in ("long", "full")
    return format_time(moment, "medium" if zoneless else style, locale=locale)


def _style(filter_name: str, style: Style) -> Style:
    if style not in _STYLES:
        raise refusal(filter_name, f"the style must be one of {', '.join(_STYLES)}", style)
    return style


def _text(filter_name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise refusal(filter_name, "needs texts or whole numbers", value)
    return value if isinstance(value, str) else str(value)


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones()) - {"localtime", "Factory"}  # neither is a place

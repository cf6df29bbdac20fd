"""Numbers in the reader's language, and the choice of a plural form by them (CLDR; Unicode TR35, part 3).

Every function takes the Babel locale first; `worker.formats` binds it and gives the rest to templates as filters.
Digits are 0 to 9 in every language, as in Babel's dates. Rounding is half to even.

Which plural forms a template must give: `other`, and every form that some whole number below a thousand takes. So
Polish needs one, few, many and other (the fractions); French needs one and other, because its `many` is for whole
millions; Czech needs one, few and other, because its `many` is for fractions. A form that is not needed may be given
all the same; left out, `other` stands in for it. `zero` is Arabic's or Latvian's own form there; in a language
without that form it is an optional text for exactly 0 ("no books").
"""

import re
from copy import copy
from decimal import Decimal
from functools import lru_cache

from babel import Locale
from babel.numbers import NumberPattern, format_currency, get_currency_precision, list_currencies
from markupsafe import Markup

from worker.errors import TemplateFailed

FORMS = ("zero", "one", "two", "few", "many", "other")
MAX_DIGITS = 18
"""Numbers of 10**18 and more are refused: rendering them could be made to take all memory (`1e999999999`)."""
MAX_DECIMALS = 6
USUAL_DECIMALS = 3
"""Decimals shown when nothing is asked: CLDR's own pattern, `#,##0.###`."""

_NUMERIC = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")


def refusal(filter_name: str, rule: str, *values: object) -> TemplateFailed:
    """Return the error for values that break a filter's rule; it names the two, and no value.

    A Jinja undefined value raises its own UndefinedError here, which names the missing variable.
    """
    for value in values:
        bool(value)
    return TemplateFailed(f"{filter_name}: {rule}")


def as_number(filter_name: str, value: object) -> Decimal:
    """Return an int, float, Decimal or numeric string as a Decimal; raises TemplateFailed for anything else."""
    number = Decimal("NaN")
    if isinstance(value, Decimal):
        number = value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = Decimal(value if isinstance(value, int) else repr(float(value)))
    elif isinstance(value, str) and _NUMERIC.fullmatch(value):
        number = Decimal(value)
    if not number.is_finite() or number.adjusted() >= MAX_DIGITS:
        raise refusal(filter_name, f"needs a finite number of at most {MAX_DIGITS} digits", value)
    return number


def number_text(locale: Locale, value: object, /, decimals: int | None = None) -> str:
    """Return the number with exactly `decimals` decimals, or with as many as it has, three at most."""
    places = None if decimals is None else _places("number", decimals)
    shown = _rounded(as_number("number", value), USUAL_DECIMALS if places is None else places)
    return _applied(locale.decimal_formats[None], shown, locale, places)


def percent_text(locale: Locale, value: object, /, decimals: int = 0) -> str:
    """Return a share as a percentage: 0.25 is 25%."""
    places = _places("percent", decimals)
    shown = _rounded(as_number("percent", value), places + 2)
    return _applied(locale.percent_formats[None], shown, locale, places)


def currency_text(locale: Locale, value: object, code: object, /) -> str:
    """Return an amount of the currency with that ISO 4217 code, with the decimals that the currency has."""
    if not isinstance(code, str) or code.upper() not in _currencies():
        raise refusal("currency", "needs an ISO 4217 code, such as EUR", code)
    shown = _rounded(as_number("currency", value), get_currency_precision(code.upper()))
    return format_currency(shown, code.upper(), locale=locale)


def plural_text(locale: Locale, value: object, /, **forms: object) -> str:
    """Return the form for how many there are, `#` replaced by the number and `##` by one `#`.

    The number is chosen by as it is shown, with three decimals at most: 1.0 and 1.00 are one book. Raises
    TemplateFailed if a form that the language needs is missing, even when this number does not need it.
    """
    _check(locale, "plural", forms)
    shown = _rounded(as_number("plural", value), USUAL_DECIMALS).normalize()
    amount = int(shown) if shown == shown.to_integral_value() else shown
    return _chosen(locale, locale.plural_form(amount), shown, forms)


def ordinal_text(locale: Locale, value: object, /, **forms: object) -> str:
    """Return the form for a place in an order (`#st`, `#nd`), by CLDR's ordinal rules; else as `plural_text`."""
    _check(locale, "ordinal", forms)
    shown = as_number("ordinal", value)
    if shown != shown.to_integral_value():
        raise refusal("ordinal", "needs a whole number")
    return _chosen(locale, locale.ordinal_form(int(shown)), shown, forms)


@lru_cache(maxsize=1024)
def needed_forms(locale: Locale, *, ordinal: bool = False) -> tuple[str, ...]:
    """Return the forms that a template in this language must give, by the rule in the module's docstring."""
    rule = locale.ordinal_form if ordinal else locale.plural_form
    taken = {"other", *(rule(whole) for whole in range(1000))}
    return tuple(form for form in FORMS if form in taken)


def _check(locale: Locale, filter_name: str, forms: dict[str, object]) -> None:
    if not forms.keys() <= set(FORMS):
        raise refusal(filter_name, f"unknown form; the forms are {', '.join(FORMS)}")
    needed = needed_forms(locale, ordinal=filter_name == "ordinal")
    if missing := [form for form in needed if form not in forms]:
        lang = str(locale).replace("_", "-")
        raise refusal(filter_name, f"{lang} needs the forms {', '.join(needed)}; missing: {', '.join(missing)}")
    if not all(isinstance(text, str) for text in forms.values()):
        raise refusal(filter_name, "every form must be text", *forms.values())


def _chosen(locale: Locale, form: str, shown: Decimal, forms: dict[str, object]) -> str:
    text = forms["zero"] if shown == 0 and "zero" in forms else forms.get(form, forms["other"])
    number = _applied(locale.decimal_formats[None], shown, locale)
    filled = re.sub("##?", lambda sign: number if sign[0] == "#" else "#", str(text))
    return Markup(filled) if isinstance(text, Markup) else filled


def _places(filter_name: str, decimals: object) -> int:
    if isinstance(decimals, bool) or not isinstance(decimals, int) or not 0 <= decimals <= MAX_DECIMALS:
        raise refusal(filter_name, f"decimals must be 0 to {MAX_DECIMALS}", decimals)
    return decimals


def _rounded(number: Decimal, places: int) -> Decimal:
    rounded = number.quantize(Decimal(1).scaleb(-places))
    return rounded if rounded else abs(rounded)  # what rounds to nothing has no sign


def _applied(pattern: NumberPattern, number: Decimal, locale: Locale, places: int | None = None) -> str:
    if places is not None:
        pattern = copy(pattern)  # the pattern is shared by the whole process
        pattern.frac_prec = (places, places)
    return str(pattern.apply(number, locale))


@lru_cache(maxsize=1)
def _currencies() -> frozenset[str]:
    return frozenset(list_currencies())

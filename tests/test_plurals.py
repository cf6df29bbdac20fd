"""Numbers and plural forms in templates."""

from decimal import Decimal
from typing import Any

import pytest
from babel import Locale
from jinja2 import StrictUndefined, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from worker.errors import TemplateFailed
from worker.formats import filters, locale_for
from worker.plurals import FORMS, needed_forms

NUMBERS = (0, 1, 2, 3, 5, 11, 21, 22, 100, 1.5)

# From the plural rules published with CLDR, not from Babel.
EXPECTED = {
    "en": "other one other other other other other other other other",
    "de": "other one other other other other other other other other",
    "fr": "one one other other other other other other other one",
    "es": "other one other other other other other other other other",
    "pl": "many one few few many many many few many other",
    "ar": "zero one two few few many many many other other",
}


def apply(name: str, lang: str, value: object, /, *args: object, **kwargs: object) -> str:
    result = filters(lang)[name](value, *args, **kwargs)
    assert isinstance(result, str)
    return result


@pytest.mark.parametrize("lang", EXPECTED)
def test_plural_table(lang: str) -> None:
    """Six languages choose the form that CLDR's rules name, by the table and by Babel."""
    forms = {form: form for form in FORMS if form != "zero" or lang == "ar"}
    chosen = [apply("plural", lang, number, **forms) for number in NUMBERS]
    assert chosen == EXPECTED[lang].split()
    assert chosen == [Locale(lang).plural_form(number) for number in NUMBERS]


@pytest.mark.parametrize(
    ("lang", "needed"),
    [
        ("en", "one other"),
        ("de", "one other"),
        ("fr", "one other"),
        ("es", "one other"),
        ("pt-BR", "one other"),
        ("it", "one other"),
        ("pl", "one few many other"),
        ("ru", "one few many other"),
        ("cs", "one few other"),
        ("ar", "zero one two few many other"),
        ("lv", "zero one other"),
        ("ja", "other"),
    ],
)
def test_needed_forms(lang: str, needed: str) -> None:
    """A language needs the forms of its whole numbers and `other`; forms for millions or fractions are optional."""
    assert needed_forms(locale_for(lang)) == tuple(needed.split())


@pytest.mark.parametrize("missing", ["one", "few", "many", "other"])
def test_missing_form_fails_for_every_number(missing: str) -> None:
    """A missing form fails even for a number that does not need it, and the error tells what is missing where."""
    forms = {form: "x" for form in ("one", "few", "many", "other") if form != missing}
    for number in (1, 2, 5, 1.5):
        with pytest.raises(TemplateFailed, match=rf"^plural: pl needs .* missing: {missing}$"):
            apply("plural", "pl", number, **forms)


def test_optional_form_falls_back_to_other() -> None:
    """French `many`, for whole millions, is used when given and replaced by `other` when not."""
    assert apply("plural", "fr", 1_000_000, one="un", other="des", many="de") == "de"
    assert apply("plural", "fr", 1_000_000, one="un", other="des") == "des"


def test_zero_is_exactly_none() -> None:
    """Where the language has no form zero of its own, it stands for exactly 0; in Latvian it is the language's."""
    for number, text in ((0, "no books"), (0.0, "no books"), (1, "1 book"), (10, "10 books")):
        assert apply("plural", "en", number, zero="no books", one="# book", other="# books") == text
    assert apply("plural", "lv", 10, zero="zero", one="one", other="other") == "zero"


@pytest.mark.parametrize(
    ("lang", "number", "shown"),
    [
        ("en", 1234567, "1,234,567 books"),
        ("de", 1234567, "1.234.567 books"),
        ("hi", 1234567, "12,34,567 books"),
        ("de", Decimal("2.50"), "2,5 books"),
        ("en", "3", "3 books"),
        ("en", -2, "-2 books"),
        ("en", Decimal("1.00"), "1 book"),
        ("en", 1.0, "1 book"),
        ("en", 1.0001, "1 book"),
        ("en", 10**17, "100,000,000,000,000,000 books"),
    ],
)
def test_hash_is_the_number(lang: str, number: object, shown: str) -> None:
    """`#` becomes the number as the language writes it, and the form fits the number that is shown."""
    assert apply("plural", lang, number, one="# book", other="# books") == shown


def test_trailing_zeros_do_not_count() -> None:
    """Latvian looks at the decimals that are shown: 0.1 is one, however it was given."""
    for number in (0.1, Decimal("0.1"), Decimal("0.100"), "0.10"):
        assert apply("plural", "lv", number, zero="zero", one="one", other="other") == "one"


def test_double_hash_is_a_hash() -> None:
    """`##` is one literal `#`, beside the number or alone."""
    assert apply("plural", "en", 5, one="", other="##: # ### a##b") == "#: 5 #5 a#b"


def test_forms_keep_their_markup() -> None:
    """Under autoescape a plain form is escaped once, and a form marked as safe is not."""
    html = ImmutableSandboxedEnvironment(autoescape=True)
    html.filters.update(filters("en"))
    plain = html.from_string("{{ 2|plural(one='', other='# < 3') }}").render()
    safe = html.from_string("{{ 2|plural(one='', other='<b>#</b>'|safe) }}").render()
    assert (plain, safe) == ("2 &lt; 3", "<b>2</b>")


@pytest.mark.parametrize("forms", [{"singular": "x"}, {"exact0": "x"}, {"locale": "x"}, {"value": "x"}])
def test_unknown_form_is_refused(forms: dict[str, str]) -> None:
    """A misspelt form is an error, also one that is spelt like a parameter of ours."""
    with pytest.raises(TemplateFailed, match=r"unknown form"):
        apply("plural", "en", 1, one="x", other="y", **forms)


def test_form_that_is_not_text_is_refused() -> None:
    """A number where a text belongs is an error."""
    with pytest.raises(TemplateFailed, match=r"every form must be text"):
        apply("plural", "en", 1, one="x", other=5)


def test_english_ordinals() -> None:
    """CLDR's ordinal rules: 1st, 2nd, 3rd, 4th, 11th, 22nd."""
    forms = {"one": "#st", "two": "#nd", "few": "#rd", "other": "#th"}
    places = [apply("ordinal", "en", number, **forms) for number in (1, 2, 3, 4, 11, 12, 13, 22, 101, 1003)]
    assert places == ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "22nd", "101st", "1,003rd"]


def test_ordinal_needs_its_forms_and_whole_numbers() -> None:
    """English has four ordinal forms, German one; there is no place one and a half."""
    assert apply("ordinal", "de", 3, other="#.") == "3."
    with pytest.raises(TemplateFailed, match=r"ordinal: en needs .* missing: two, few"):
        apply("ordinal", "en", 1, one="#st", other="#th")
    with pytest.raises(TemplateFailed, match=r"ordinal: needs a whole number"):
        apply("ordinal", "de", 1.5, other="#.")


@pytest.mark.parametrize(
    ("name", "lang", "value", "args", "text"),
    [
        ("number", "en", 1234567.891, (), "1,234,567.891"),
        ("number", "de", "1234567.891", (), "1.234.567,891"),
        ("number", "de", 2, (2,), "2,00"),
        ("number", "hi", 1234567, (1,), "12,34,567.0"),
        ("number", "en", Decimal("2.675"), (2,), "2.68"),
        ("number", "en", -0.4, (0,), "0"),
        ("number", "en", "1e-6", (6,), "0.000001"),
        ("percent", "en", 0.256, (), "26%"),
        ("percent", "de", 0.256, (1,), "25,6\xa0%"),
        ("percent", "en", -0.001, (), "0%"),
        ("currency", "en", 1234.5, ("EUR",), "€1,234.50"),
        ("currency", "de", Decimal("1234.5"), ("eur",), "1.234,50\xa0€"),
        ("currency", "ja", 1234, ("JPY",), "\uffe51,234"),
    ],
)
def test_numbers(name: str, lang: str, value: object, args: tuple[Any, ...], text: str) -> None:
    """Numbers, shares and amounts are written as the language writes them."""
    assert apply(name, lang, value, *args) == text


NOT_NUMBERS: list[object] = [
    *(True, None, [], {}, "", "abc", "12 EUR", " 1", "1_000", "\u0661", "0x10", float("nan"), float("inf"), "NaN"),
    *("Infinity", "1e999999999", Decimal("sNaN"), Decimal("-Infinity"), 10**18, "1e18", 10**4000, b"1"),
]


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("name", ["number", "percent", "currency", "plural", "ordinal"])
def test_what_is_no_number_is_refused(name: str, value: object) -> None:
    """The error names the filter and the rule; endless and huge numbers are refused before they take any memory."""
    args = ("EUR",) if name == "currency" else ()
    forms = dict.fromkeys(("one", "two", "few", "other"), "x") if name in ("plural", "ordinal") else {}
    with pytest.raises(TemplateFailed) as caught:
        apply(name, "en", value, *args, **forms)
    assert str(caught.value) == f"{name}: needs a finite number of at most 18 digits"


def test_smallest_and_largest_numbers() -> None:
    """The bounds themselves work at the greatest number of decimals."""
    assert apply("percent", "en", "999999999999999999.9999", 6).endswith("999,999.990000%")
    assert apply("number", "en", Decimal("1e-999999")) == "0"


@pytest.mark.parametrize("decimals", [-1, 7, 1.0, True, "2"])
@pytest.mark.parametrize("name", ["number", "percent"])
def test_decimals_are_checked(name: str, decimals: object) -> None:
    """Decimals are a whole number from 0 to 6."""
    with pytest.raises(TemplateFailed, match=f"^{name}: decimals must be 0 to 6$"):
        apply(name, "en", 1, decimals)


@pytest.mark.parametrize("code", ["EURO", "", "XYZ", "€", None, 978])
def test_currency_code_is_checked(code: object) -> None:
    """Only ISO 4217 codes are currencies."""
    with pytest.raises(TemplateFailed, match=r"^currency: needs an ISO 4217 code"):
        apply("currency", "en", 1, code)


@pytest.mark.parametrize(
    "call",
    [
        *("gone|number", "1|number(gone)", "gone|percent", "gone|currency('EUR')", "1|currency(gone)"),
        *("gone|plural(one='', other='')", "1|plural(one=gone, other='')", "gone|ordinal(other='')"),
    ],
)
def test_missing_variables_name_themselves(call: str) -> None:
    """A variable that is not in the context is reported by Jinja, wherever it stands."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    environment.filters.update(filters("de"))
    with pytest.raises(UndefinedError, match=r"'gone' is undefined"):
        environment.from_string("{{ " + call + " }}").render()


def test_shared_patterns_stay_as_they_are() -> None:
    """Asking for decimals once does not change how the next number is written."""
    assert apply("number", "en", 1, 4) == "1.0000"
    assert apply("number", "en", 1) == "1"
    assert apply("plural", "en", 2, one="", other=Markup("#")) == Markup("2")

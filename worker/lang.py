"""Language tags: their canonical form, and the languages to try when one has no texts."""

import re
from collections.abc import Iterator
from functools import lru_cache

from worker.errors import InvalidLanguage

MAX_LENGTH = 35
"""Characters; RFC 5646 section 4.4.1 reckons that no useful tag is longer."""

_TAG = re.compile(
    r"""(?: [a-z]{2,3} (?: -[a-z]{3} ){0,3} | [a-z]{4,8} )  # language, extended language
        (?: -[a-z]{4} )?                                    # script
        (?: -[a-z]{2} | -[0-9]{3} )?                        # region
        (?: -[a-z0-9]{5,8} | -[0-9][a-z0-9]{3} )*           # variants
        (?: -[a-wyz0-9] (?: -[a-z0-9]{2,8} )+ )*            # extensions
        (?: -x (?: -[a-z0-9]{1,8} )+ )?                     # private use""",
    re.VERBOSE,
)
"""`langtag` of RFC 5646 section 2.1. Tags that begin with `x-` or `i-` name no language and are refused."""


@lru_cache(maxsize=1024)
def normalize_lang(tag: str) -> str:
    """Return the BCP 47 tag with hyphens and in its canonical case: `PT_br` becomes `pt-BR`.

    The result holds only ASCII letters, digits and hyphens, so it is safe as a folder's name. Whether the language
    exists is not checked. Raises InvalidLanguage, without the tag.
    """
    if len(tag) > MAX_LENGTH:
        raise InvalidLanguage(f"lang: at most {MAX_LENGTH} characters")
    # Some other letters turn into ASCII ones when lowered (the Kelvin sign), so ASCII is checked first.
    lowered = tag.replace("_", "-").lower() if tag.isascii() else ""
    if not _TAG.fullmatch(lowered):
        raise InvalidLanguage("lang: not a well-formed BCP 47 tag, such as de, pt-BR or zh-Hant-TW")
    return "-".join(_cased(lowered.split("-")))


@lru_cache(maxsize=1024)
def lang_field(value: str) -> str:
    """`normalize_lang` for a field of a model, which names itself: raises ValueError with the rule alone."""
    try:
        return normalize_lang(value)
    except InvalidLanguage as error:
        raise ValueError(str(error).removeprefix("lang: ")) from None


def fallback_chain(lang: str, default: str) -> tuple[str, ...]:
    """Return the languages to try, best first: `pt-BR`, then `pt`, then the default; none twice.

    RFC 4647 section 3.4 (lookup); the default is shortened in the same way. Raises InvalidLanguage.
    """
    tags = (*_shortened(normalize_lang(lang)), *_shortened(normalize_lang(default)))
    return tuple(dict.fromkeys(tags))


def _cased(subtags: list[str]) -> Iterator[str]:
    """RFC 5646 section 2.1.1: regions in capitals, scripts capitalised, all else (and all after a singleton) small."""
    plain = True
    for position, subtag in enumerate(subtags):
        plain = plain and len(subtag) > 1
        if position and plain and len(subtag) == 2:
            yield subtag.upper()
        elif position and plain and len(subtag) == 4:
            yield subtag.capitalize()
        else:
            yield subtag


def _shortened(tag: str) -> Iterator[str]:
    """Cut from the end; a singleton means nothing without what followed it, so it goes too."""
    subtags = tag.split("-")
    while subtags:
        yield "-".join(subtags)
        subtags.pop()
        if subtags and len(subtags[-1]) == 1:
            subtags.pop()

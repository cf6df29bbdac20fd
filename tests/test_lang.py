"""Language tags."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.errors import InvalidLanguage
from worker.lang import fallback_chain, normalize_lang


@pytest.mark.parametrize(
    ("given_tag", "canonical"),
    [
        ("en", "en"),
        ("DE", "de"),
        ("PT_br", "pt-BR"),
        ("zh-hant-tw", "zh-Hant-TW"),
        ("ZH_HANT_TW", "zh-Hant-TW"),
        ("sr-latn", "sr-Latn"),
        ("es-419", "es-419"),
        ("de-ch-1996", "de-CH-1996"),
        ("sl-ROZAJ-biske", "sl-rozaj-biske"),
        ("de-1AbC", "de-1abc"),
        ("zh-cmn-hans-cn", "zh-cmn-Hans-CN"),
        ("en-u-CA-gregory", "en-u-ca-gregory"),
        ("de-x-US-Test", "de-x-us-test"),
        ("ast", "ast"),
    ],
)
def test_canonical_case(given_tag: str, canonical: str) -> None:
    """A tag comes out with hyphens and in the case of RFC 5646."""
    assert normalize_lang(given_tag) == canonical


@pytest.mark.parametrize(
    "tag",
    [
        *("", "e", "-", "_", "en-", "-en", "en--US", "en US", " en", "en\n", "en\x00", "x-private", "i-klingon"),
        *("..", "../en", "en/..", "en\\US", "en.UTF-8", "en@euro", "en;q=0.5", "*", "123", "toolonglang", "en-a"),
        *("dé", "en-ı", "\u212aa", "ſr", "е\u043d", "en-US-USA-USA-Latn", "de-" + "abcdefgh-" * 3 + "abcdefgh"),
    ],
)
def test_malformed_tags_are_refused(tag: str) -> None:
    """What is not a BCP 47 tag of at most 35 ASCII characters is refused, and not repeated in the error."""
    with pytest.raises(InvalidLanguage) as caught:
        normalize_lang(tag)
    assert len(tag) < 3 or tag not in str(caught.value)


def test_longest_tag() -> None:
    """35 characters pass, 36 do not."""
    tag = "de-abcdefgh-bcdefghi-cdefghij-defghi"
    assert len(tag) == 36
    assert normalize_lang(tag[:-1]) == tag[:-1]
    with pytest.raises(InvalidLanguage, match="at most 35"):
        normalize_lang(tag)


@settings(max_examples=50, deadline=None, database=None)
@given(st.text(max_size=40) | st.from_regex(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8}){0,4}", fullmatch=True))
def test_a_tag_is_safe_as_a_folder_name(text: str) -> None:
    """Whatever comes in, what comes out has only letters, digits and hyphens, and is its own canonical form."""
    try:
        tag = normalize_lang(text)
    except InvalidLanguage:
        return
    assert tag.replace("-", "").isalnum()
    assert tag.isascii()
    assert normalize_lang(tag) == tag


@pytest.mark.parametrize(
    ("lang", "default", "chain"),
    [
        ("pt-BR", "en", ("pt-BR", "pt", "en")),
        ("zh-Hant-TW", "en", ("zh-Hant-TW", "zh-Hant", "zh", "en")),
        ("en", "en", ("en",)),
        ("en-GB", "en", ("en-GB", "en")),
        ("en", "en-GB", ("en", "en-GB")),
        ("de", "pt-BR", ("de", "pt-BR", "pt")),
        ("pt_br", "EN", ("pt-BR", "pt", "en")),
        ("zh-Hant-CN-x-private1", "en", ("zh-Hant-CN-x-private1", "zh-Hant-CN", "zh-Hant", "zh", "en")),
    ],
)
def test_fallback_chain(lang: str, default: str, chain: tuple[str, ...]) -> None:
    """RFC 4647 lookup: shortened from the end, a singleton with what follows it, then the default; none twice."""
    assert fallback_chain(lang, default) == chain


def test_fallback_chain_refuses_malformed_tags() -> None:
    """The chain names folders, so both ends of it are checked."""
    with pytest.raises(InvalidLanguage):
        fallback_chain("../secret", "en")
    with pytest.raises(InvalidLanguage):
        fallback_chain("en", "../secret")


def test_lang_is_light() -> None:
    """The client imports this module, so it must not load Babel or Jinja."""
    code = "import sys, worker.lang; sys.exit(bool({'babel', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

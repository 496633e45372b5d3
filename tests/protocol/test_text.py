"""Which texts are plain, and which are identifiers."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.text import is_identifier, is_plain_text
from tests.support.strategies import identifiers, many

SAMPLES = ["Firmware 1.2", "Gerät", "прошивка", "固件", "ファームウェア", "👍🏽", "नमस्ते", "e\u0301"]


@pytest.mark.parametrize("text", ["", *SAMPLES])
def test_every_script_is_plain(text: str) -> None:
    assert is_plain_text(text)


@pytest.mark.slow
def test_everything_deceptive_in_the_running_unicode_is_refused() -> None:
    for number in range(0x110000):
        category = unicodedata.category(chr(number))
        if category in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") or number & 0xFFFE == 0xFFFE:
            assert not is_plain_text(chr(number)), hex(number)
        elif category[0] in "LNPS" and number not in (0x115F, 0x1160, 0x3164, 0xFFA0, 0x2800):
            assert is_plain_text(chr(number)), hex(number)


@pytest.mark.slow
def test_the_table_does_not_depend_on_the_running_unicode() -> None:
    count = sum(not is_plain_text(chr(number)) for number in range(0x110000))
    assert count == 143_856


@pytest.mark.parametrize(
    "character",
    ["\u202e", "\u200b", "\u2028", "\ufeff", "\u00ad", "\u3164", "\ufe0f", "\U000e0041"],
)
def test_one_bad_character_spoils_a_text(character: str) -> None:
    for sample in SAMPLES:
        assert not is_plain_text(sample + character)
        assert not is_plain_text(character + sample)


@many
@given(identifiers)
def test_identifiers_are_plain_ascii(text: str) -> None:
    assert is_identifier(text)
    assert text.isascii()
    assert is_plain_text(text)


@many
@given(st.text(max_size=70))
def test_no_identifier_is_a_path_or_an_option(text: str) -> None:
    if is_identifier(text):
        assert "/" not in text
        assert text.strip() == text
        assert text[0] not in ".-"
        assert 1 <= len(text.encode()) <= 64

"""Which texts may appear in signed and agreed objects.

Two classes. *Identifiers* (groups, products, components, transaction kinds) are compared, become
parts of topics and may become parts of file names: ASCII, one spelling. *Display texts* (names of
people and chains, versions, metadata) are only shown: any script, but no character that is
invisible, breaks lines or reorders what stands around it. Nothing is normalised: no display text is
ever compared, and bytes that were signed are never changed.

The table is ours rather than the running Python's Unicode database, because every node must
refuse the same bytes: a name that one version calls unassigned and another a letter would split the
ledger. It holds the categories Cc, Cf, Cs, Co, Zl and Zp of Unicode 15.1, every noncharacter, and
all code points that Unicode calls default-ignorable, those reserved for the future included. Other
unassigned code points are allowed.
"""

from __future__ import annotations

import re
from typing import Final

_REFUSED: Final = (
    "\x00-\x1f\x7f-\x9f"  # C0 and C1 controls
    "\u00ad\u034f"  # soft hyphen, combining grapheme joiner
    "\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2"  # Arabic and Syriac format characters
    "\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # Hangul fillers, Khmer and Mongolian invisibles
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f"  # zero width, line and paragraph breaks, bidi
    "\u2800\u3164"  # blank Braille pattern, Hangul filler
    "\ud800-\uf8ff"  # surrogates and private use
    "\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"  # noncharacters, selectors
    "\U000110bd\U000110cd\U00013430-\U0001343f"  # Kaithi and Egyptian format characters
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # shorthand and musical format characters
    "\U000e0000-\U000e0fff\U000f0000-\U0010ffff"  # tags, selectors, private use planes
    + "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(1, 15))
)
_DECEPTIVE: Final = re.compile(f"[{_REFUSED}]")
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._+:-]{0,62}[A-Za-z0-9+])?")


def is_plain_text(text: str) -> bool:
    """Tells whether a text shows what it holds: no control, line break, bidi, invisible, surrogate,
    private-use character or noncharacter.
    """
    return _DECEPTIVE.search(text) is None


def is_identifier(text: str) -> bool:
    """Tells whether a text is 1 to 64 of `A-Z a-z 0-9 . _ + : -`, begins with a letter or digit and
    ends with one or with `+`; so it is never a path, an option or an empty name.
    """
    return _IDENTIFIER.fullmatch(text) is not None

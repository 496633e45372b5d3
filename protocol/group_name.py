"""Names of device groups (P12)."""

from __future__ import annotations

import re
from typing import Final

from protocol.errors import EncodingError

_GROUP_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")


def check_group_name(name: str) -> str:
    """Checks a group's name: 1 to 64 of `a-z 0-9 . _ -`, ends alphanumeric; it is part of topics.

    Raises:
        EncodingError: it is something else.
    """
    if not _GROUP_NAME.fullmatch(name):
        raise EncodingError(f"group name {name[:80]!r} is not 1 to 64 of a-z, 0-9, '.', '_', '-'")
    return name

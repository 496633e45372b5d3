"""The envelope of a transaction (P80 to P83)."""

from __future__ import annotations

from typing import Any

from tests.support.naive.crypto import Signed
from tests.support.naive.forms import digest, fields, identifier, need, one, uint


def _body(value: Any) -> Any:
    need(isinstance(value, dict))
    return value


_TRANSACTION = fields({0: one, 1: uint, 2: digest, 3: uint, 4: uint, 5: identifier, 6: _body})


def read_transaction(raw: bytes) -> Signed:
    """Parses a transaction, not yet verified."""
    signed = Signed(raw, 20_480)
    signed.content = _TRANSACTION(signed.content)
    return signed

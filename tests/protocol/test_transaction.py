"""Envelopes of transactions."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.digest import DidId, sha256
from protocol.encoding import INTEGER_MAX
from protocol.errors import EncodingError, SignatureError
from protocol.limits import MANIFEST_BYTES_MAX, TRANSACTION_BYTES_MAX
from protocol.transaction import Transaction, parse_transaction, sign_transaction
from tests.support.strategies import CHAIN, OTHER_CHAIN, key


def transaction(**changes: Any) -> Transaction:
    values = {
        "era": 0,
        "signer": DidId(sha256(b"signer")),
        "nonce": 3,
        "valid_until_ms": 10_000,
        "kind": "manifest.propose",
        "body": {0: b"manifest"},
    }
    return Transaction(**{**values, **changes})


def test_the_id_is_the_digest_of_the_signed_bytes() -> None:
    made = sign_transaction(transaction(), key(1), CHAIN)
    assert made.transaction_id == sha256(made.signed.raw)
    assert parse_transaction(made.signed.raw) == made


def test_signatures_bind_signer_and_chain() -> None:
    made = sign_transaction(transaction(), key(1), CHAIN)
    made.verify(key(1).public, CHAIN)
    with pytest.raises(SignatureError):
        made.verify(key(2).public, CHAIN)
    with pytest.raises(SignatureError):
        made.verify(key(1).public, OTHER_CHAIN)


def test_a_full_manifest_fits_with_its_envelope() -> None:
    full = transaction(
        era=INTEGER_MAX,
        nonce=INTEGER_MAX,
        valid_until_ms=INTEGER_MAX,
        kind="k" * 64,
        body={0: bytes(MANIFEST_BYTES_MAX)},
    )
    assert len(sign_transaction(full, key(1), CHAIN).signed.raw) <= TRANSACTION_BYTES_MAX


@pytest.mark.parametrize(
    "changes",
    [
        {"era": -1},
        {"nonce": -1},
        {"nonce": 2**63},
        {"valid_until_ms": -1},
        {"signer": DidId(bytes(33))},
        {"kind": ""},
        {"kind": "manifest propose"},
        {"kind": "k" * 65},
        {"kind": "m\u0430nifest.propose"},
        {"body": {0: bytes(TRANSACTION_BYTES_MAX)}},
    ],
)
def test_what_cannot_be_read_cannot_be_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(EncodingError):
        sign_transaction(transaction(**changes), key(1), CHAIN)


def test_equal_content_signed_by_two_keys_is_two_transactions() -> None:
    first, second = (sign_transaction(transaction(), key(number), CHAIN) for number in (1, 2))
    assert first.transaction == second.transaction
    assert first.transaction_id != second.transaction_id

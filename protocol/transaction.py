"""The envelope of every transaction; bodies belong to `ledger.bodies`.

A transaction is a COSE_Sign1 by a member's node key. It names its era, signer, nonce and how long
it may wait, so that it can neither be replayed nor linger. `TransactionId` is the SHA-256 of its
bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocol.cose import Signed, parse_signed, sign
from protocol.digest import ChainId, DidId, TransactionId, sha256
from protocol.encoding import Fields, Value, decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.keys import PublicKey, Signer
from protocol.limits import TRANSACTION_BYTES_MAX

TRANSACTION_TAG: Final = "swarmd/transaction/1"
"""Domain of transaction signatures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """What a member asks the ledger to do."""

    era: int
    """Era it is signed for."""
    signer: DidId
    """The member; its node key signs."""
    nonce: int
    """Used once by this signer; at most 16 ahead of the lowest unused one."""
    valid_until_ms: int
    """Header time after which it can no longer enter a block, at most 24 h ahead."""
    kind: str
    """Identifier such as `manifest.propose`."""
    body: Mapping[int | str, Value]
    """Fields of that kind, with integer keys."""

    def encode(self) -> bytes:
        """Canonical bytes of the payload."""
        return encode_canonical(
            {
                0: 1,
                1: self.era,
                2: self.signer,
                3: self.nonce,
                4: self.valid_until_ms,
                5: self.kind,
                6: dict(self.body),
            }
        )


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A parsed transaction with its original bytes; not verified until `verify` was called."""

    transaction_id: TransactionId
    """SHA-256 of `signed.raw`."""
    transaction: Transaction
    """The content."""
    signed: Signed
    """The COSE_Sign1 it came in."""

    def verify(self, key: PublicKey, chain: ChainId) -> None:
        """Checks the signature of the signer's node key.

        Raises:
            SignatureError: another key, chain or era, or altered bytes.
        """
        self.signed.verify(key, tag=TRANSACTION_TAG, chain=chain, era=self.transaction.era)


def parse_transaction(raw: bytes) -> SignedTransaction:
    """Parses signed transaction bytes, without checking signature or body.

    Raises:
        EncodingError: malformed or over the transaction bound.
    """
    signed = parse_signed(raw, bytes_max=TRANSACTION_BYTES_MAX)
    value = decode_canonical(signed.payload, bytes_max=TRANSACTION_BYTES_MAX)
    fields = Fields(value, "transaction")
    fields.constant(0, 1)
    body = fields.value(6)
    if not isinstance(body, Mapping):
        raise EncodingError("transaction: body is not a map")
    transaction = Transaction(
        era=fields.uint(1),
        signer=DidId(fields.digest(2)),
        nonce=fields.uint(3),
        valid_until_ms=fields.uint(4),
        kind=fields.identifier(5),
        body=body,
    )
    fields.finish()
    return SignedTransaction(TransactionId(sha256(raw)), transaction, signed)


def sign_transaction(transaction: Transaction, key: Signer, chain: ChainId) -> SignedTransaction:
    """Signs a transaction with the signer's node key."""
    raw = sign(transaction.encode(), key, tag=TRANSACTION_TAG, chain=chain, era=transaction.era)
    return parse_transaction(raw)

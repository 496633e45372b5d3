"""Blocks: a header and the body it commits to.

The body holds opaque signed transactions, evidence, and skip proofs: the digests of the nullify
certificates for the views between the parent and this block, which make the chain self-auditing.
Format: C13 to C16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ledger.header import HEADER_BYTES_MAX, Header, decode_header
from ledger.vote import EVIDENCE_BYTES_MAX, Evidence, decode_evidence
from protocol.digest import BlockId, Digest, verify_digest
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_bytes,
    as_digest,
    as_uint,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import DigestMismatchError, EncodingError
from protocol.limits import (
    BLOCK_BYTES_MAX,
    BLOCK_EVIDENCE_MAX,
    BLOCK_SKIPS_MAX,
    BLOCK_TRANSACTIONS_MAX,
    TRANSACTION_BYTES_MAX,
)
from protocol.merkle import EMPTY_ROOT, leaf_hash, merkle_root

ENTRY_TRANSACTION: Final = 1
"""Kind of a body entry that holds a transaction's signed bytes."""
ENTRY_EVIDENCE: Final = 2
"""Kind of a body entry that holds encoded evidence."""
ENTRY_SKIP: Final = 3
"""Kind of a body entry that holds an encoded skip proof."""


@dataclass(frozen=True, slots=True)
class SkipProof:
    """Says which nullify certificate let a view be skipped."""

    view: int
    """The skipped view."""
    certificate: Digest
    """`Certificate.digest` of the nullify certificate the proposer held."""

    def to_value(self) -> Value:
        """The wire form: [view, digest]."""
        return [self.view, self.certificate]

    @classmethod
    def from_value(cls, value: Value) -> SkipProof:
        """Reads the wire form.

        Raises:
            EncodingError: malformed.
        """
        view, certificate = as_array(value, "skip proof", size=2)
        return cls(as_uint(view, "skip proof view"), as_digest(certificate, "skip proof"))


def body_root(
    transactions: Sequence[bytes], evidence: Sequence[Evidence], skips: Sequence[SkipProof]
) -> Digest:
    """Computes the RFC 6962 root over the body's entries, each encoded as [kind, bytes] (C13)."""
    entries: list[tuple[int, bytes]] = [(ENTRY_TRANSACTION, raw) for raw in transactions]
    entries += [(ENTRY_EVIDENCE, item.encode()) for item in evidence]
    entries += [(ENTRY_SKIP, encode_canonical(item.to_value())) for item in skips]
    if not entries:
        return EMPTY_ROOT
    return merkle_root([leaf_hash(encode_canonical([kind, raw])) for kind, raw in entries])


@dataclass(frozen=True, slots=True)
class Block:
    """A header with its body; the constructor checks that they belong together."""

    header: Header
    """What is voted on."""
    transactions: tuple[bytes, ...] = ()
    """Signed transactions, opaque here, at most 512."""
    evidence: tuple[Evidence, ...] = ()
    """Proofs of misbehaviour, at most 4, at most one for a signer and epoch."""
    skips: tuple[SkipProof, ...] = ()
    """Ascending by view, all between the parent's view and this one; at most 1,024 (C15)."""
    encoded: bytes = field(init=False, repr=False, compare=False)
    """The canonical bytes: {0: header bytes, 1: transactions, 2: evidence, 3: skips}."""

    def __post_init__(self) -> None:
        """Checks bounds and the body root and encodes the block, once.

        Raises:
            EncodingError: a bound of `protocol.limits` is exceeded or skips are out of order.
            DigestMismatchError: the header commits to another body.
        """
        _check_bounds(self)
        root = body_root(self.transactions, self.evidence, self.skips)
        if root != self.header.body_root:
            raise DigestMismatchError("block body", expected=self.header.body_root, actual=root)
        encoded = encode_canonical(
            {
                0: self.header.encoded,
                1: self.transactions,
                2: [item.encode() for item in self.evidence],
                3: [item.to_value() for item in self.skips],
            }
        )
        if len(encoded) > BLOCK_BYTES_MAX:
            raise EncodingError(f"block of {len(encoded)} bytes, at most {BLOCK_BYTES_MAX}")
        object.__setattr__(self, "encoded", encoded)

    @property
    def block_id(self) -> BlockId:
        """Id of the header."""
        return self.header.block_id

    def encode(self) -> bytes:
        """The canonical bytes."""
        return self.encoded


def _check_bounds(block: Block) -> None:
    if len(block.transactions) > BLOCK_TRANSACTIONS_MAX:
        raise EncodingError(f"block of {len(block.transactions)} transactions")
    if any(not 0 < len(raw) <= TRANSACTION_BYTES_MAX for raw in block.transactions):
        raise EncodingError(f"transaction is empty or over {TRANSACTION_BYTES_MAX} bytes")
    if len(block.evidence) > BLOCK_EVIDENCE_MAX:
        raise EncodingError(f"block of {len(block.evidence)} evidence entries")
    culprits = [(item.epoch, item.signer) for item in block.evidence]
    if len(dict.fromkeys(culprits)) != len(culprits):
        raise EncodingError("block convicts one signer twice in an epoch")
    if len(block.skips) > BLOCK_SKIPS_MAX:
        raise EncodingError(f"block of {len(block.skips)} skip proofs")
    previous = block.header.parent_view
    for skip in block.skips:
        if not previous < skip.view < block.header.view:
            raise EncodingError("skip proofs are not ascending between parent view and view")
        previous = skip.view


def decode_block(data: bytes) -> Block:
    """Reads an encoded block.

    Raises:
        EncodingError: malformed, out of bounds, or with fields this version does not know.
        VerificationError: the header commits to another body, or evidence convicts nobody.
    """
    fields = Fields(decode_canonical(data, bytes_max=BLOCK_BYTES_MAX), "block")
    header = decode_header(fields.bytes(0, maximum=HEADER_BYTES_MAX))
    block = Block(
        header,
        fields.items(1, _read_transaction, maximum=BLOCK_TRANSACTIONS_MAX),
        fields.items(2, _read_evidence, maximum=BLOCK_EVIDENCE_MAX),
        fields.items(3, SkipProof.from_value, maximum=BLOCK_SKIPS_MAX),
    )
    if fields.finish():
        raise EncodingError("block: extensions are not allowed")
    return block


def decode_block_of(data: bytes, block_id: BlockId) -> Block:
    """Reads the encoded block with a known id.

    Raises:
        VerificationError: malformed, or another block.
    """
    block = decode_block(data)
    verify_digest("block header", block.header.encoded, block_id)
    return block


def _read_transaction(value: Value) -> bytes:
    return as_bytes(value, "transaction", maximum=TRANSACTION_BYTES_MAX)


def _read_evidence(value: Value) -> Evidence:
    return decode_evidence(as_bytes(value, "evidence", maximum=EVIDENCE_BYTES_MAX))

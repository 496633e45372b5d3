"""Block headers: what certificates certify and light clients keep.

A header commits to its parent, to its body, and to log, state and validator sets after its own
execution. Its id is the SHA-256 of its canonical bytes. Format: docs/spec/consensus.md, C10 to C12.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.digest import ZERO_DIGEST, BlockId, ChainId, Digest, sha256
from protocol.encoding import Fields, decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.limits import VALIDATORS_MAX
from protocol.merkle import EMPTY_ROOT

HEADER_TIME_MS_MAX = 253_402_300_799_999
"""The last millisecond of the year 9999: sums with durations stay within every integer type."""
HEADER_BYTES_MAX = 512
"""Encoded header: 9 digests and 8 integers need at most 406 bytes."""
HEADER_SCHEMA = 1
"""Number of this format, field 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The header of one block."""

    chain: ChainId
    """Chain the block belongs to."""
    era: int
    """Raised by governance recovery only."""
    epoch: int
    """Epoch whose validators certify the block."""
    view: int
    """View in which it was proposed; 0 only for the genesis block."""
    height: int
    """Blocks between genesis and this one; the parent's height plus one."""
    parent: BlockId
    """Id of the parent, zero for the genesis block."""
    parent_view: int
    """View of the parent; 0 where the parent closed the epoch before."""
    time_ms: int
    """Proposer's clock, milliseconds since 1970; above the parent's."""
    proposer: int
    """Index of the leader of `view` in the validator set."""
    body_root: Digest
    """RFC 6962 root over the entries of the body (C13)."""
    log_size: int
    """Entries of the ledger's log after this block."""
    log_root: Digest
    """RFC 6962 root of the log after this block."""
    state_root: Digest
    """Root of the state tree after this block."""
    validators: Digest
    """Digest of the set that certifies this block."""
    next_validators: Digest
    """Digest of the set that certifies its successor; differs where an epoch closes."""
    encoded: bytes = field(init=False, repr=False, compare=False)
    """The canonical bytes."""
    block_id: BlockId = field(init=False, repr=False, compare=False)
    """SHA-256 of the canonical bytes (C11)."""

    def __post_init__(self) -> None:
        """Encodes and names the header, once."""
        encoded = encode_canonical(
            {
                0: HEADER_SCHEMA,
                1: self.chain,
                2: self.era,
                3: self.epoch,
                4: self.view,
                5: self.height,
                6: self.parent,
                7: self.parent_view,
                8: self.time_ms,
                9: self.proposer,
                10: self.body_root,
                11: self.log_size,
                12: self.log_root,
                13: self.state_root,
                14: self.validators,
                15: self.next_validators,
            }
        )
        object.__setattr__(self, "encoded", encoded)
        object.__setattr__(self, "block_id", BlockId(sha256(encoded)))

    @property
    def closes_epoch(self) -> bool:
        """Whether its successors are another set's; so for a closing block and its fillers."""
        return self.next_validators != self.validators

    def view_in(self, epoch: int) -> int:
        """The view a child of this block names as its parent's: 0 for the block before `epoch`."""
        return self.view if self.epoch == epoch else 0

    def encode(self) -> bytes:
        """The canonical bytes."""
        return self.encoded


def decode_header(data: bytes) -> Header:
    """Reads an encoded header.

    Raises:
        EncodingError: malformed, out of bounds, or with fields this version does not know; headers
            have no extensions, since every bit of them is agreed.
    """
    fields = Fields(decode_canonical(data, bytes_max=HEADER_BYTES_MAX), "header")
    fields.constant(0, HEADER_SCHEMA)
    header = Header(
        chain=ChainId(fields.digest(1)),
        era=fields.uint(2),
        epoch=fields.uint(3),
        view=fields.uint(4),
        height=fields.uint(5),
        parent=BlockId(fields.digest(6)),
        parent_view=fields.uint(7),
        time_ms=fields.uint(8, maximum=HEADER_TIME_MS_MAX),
        proposer=fields.uint(9, maximum=VALIDATORS_MAX - 1),
        body_root=fields.digest(10),
        log_size=fields.uint(11),
        log_root=fields.digest(12),
        state_root=fields.digest(13),
        validators=fields.digest(14),
        next_validators=fields.digest(15),
    )
    if fields.finish():
        raise EncodingError("header: extensions are not allowed")
    if header.view and header.parent_view >= header.view:
        raise EncodingError(
            f"header: parent view {header.parent_view} is not below view {header.view}"
        )
    return header


def genesis_header(
    *,
    chain: ChainId,
    era: int,
    time_ms: int,
    log_size: int,
    log_root: Digest,
    state_root: Digest,
    validators: Digest,
    epoch: int = 1,
) -> Header:
    """Builds the header of height 0, which needs no certificate: the genesis digest names it.

    Args:
        chain: SHA-256 of the genesis document.
        era: era of the document, 1 on a new chain.
        time_ms: time of the document, milliseconds since 1970.
        log_size: log entries the genesis state implies.
        log_root: root over them.
        state_root: root of the genesis state.
        validators: digest of the first set.
        epoch: epoch of the first set.
    """
    return Header(
        chain=chain,
        era=era,
        epoch=epoch,
        view=0,
        height=0,
        parent=BlockId(ZERO_DIGEST),
        parent_view=0,
        time_ms=time_ms,
        proposer=0,
        body_root=EMPTY_ROOT,
        log_size=log_size,
        log_root=log_root,
        state_root=state_root,
        validators=validators,
        next_validators=validators,
    )

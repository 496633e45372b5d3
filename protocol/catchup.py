"""Messages of the ledger stream: heads, blocks and freshness, request and answer.

One stream carries one request at a time. Blocks, headers and certificates are opaque bytes here.
Every request has exactly one answer, which may be `Refusal`. Messages that hand over transactions
are in `protocol.submit_messages`, those that fetch the state in `protocol.state_messages`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from protocol.cose import Signed, parse_signed, sign
from protocol.digest import DIGEST_BYTES, BlockId, ChainId, DidId, Digest
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_bytes,
    as_uint,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.keys import PrivateKey, PublicKey
from protocol.limits import BLOCK_BYTES_MAX, KIB, VALIDATORS_MAX
from protocol.state_messages import (
    HeaderAnswer,
    HeaderRequest,
    ManifestsAnswer,
    ManifestsRequest,
    StateHeadAnswer,
    StateHeadRequest,
    StateMessage,
    StatePageAnswer,
    StatePageRequest,
    encode_state_message,
    read_state_message,
)
from protocol.submit_messages import (
    Refusal,
    SubmitAnswer,
    SubmitBatchAnswer,
    SubmitBatchRequest,
    SubmitMessage,
    SubmitRequest,
    encode_submit_message,
    read_submit_message,
)
from protocol.tlog import COSIGNATURE_BYTES

LEDGER_FRAME_BYTES_MAX: Final = 1024 * KIB
"""Largest frame on the ledger stream: a batch of blocks."""
BLOCKS_BYTES_MAX: Final = 512 * KIB
"""Bytes of blocks in one answer; two of the largest fit."""
BLOCKS_MAX: Final = 256
"""Blocks in one answer."""
CERTIFICATE_BYTES_MAX: Final = 4096
"""A certificate of 32 votes takes about 2.2 KiB."""
NONCE_BYTES: Final = 32
"""Random bytes of a freshness question."""
FRESHNESS_BYTES_MAX: Final = 1024
"""A signed freshness statement takes about 330 bytes."""
FRESHNESS_TAG: Final = "swarmd/freshness/1"
"""Domain of validators' freshness statements."""
FRESHNESS_PROOF_MAX: Final = 10
"""Siblings of a nonce in its batch."""
FRESHNESS_BATCH_MAX: Final = 2**FRESHNESS_PROOF_MAX
"""Nonces in one batch: 1,024."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRequest:
    """Asks for the newest final header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadAnswer:
    """The newest final header with its certificate."""

    header: bytes
    """Encoded header."""
    certificate: bytes
    """Encoded certificate; empty at genesis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksRequest:
    """Asks for final blocks in ascending order."""

    from_height: int
    """First height wanted, at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksAnswer:
    """A run of final blocks; the certificate finalizes the last one and so all before it."""

    blocks: tuple[bytes, ...]
    """Encoded blocks, consecutive heights; empty: nothing newer."""
    certificate: bytes
    """Certificate of the last block; empty when there are none."""

    def __post_init__(self) -> None:
        """Refuses blocks without a certificate and a certificate without blocks.

        Raises:
            EncodingError: one of the two, or more blocks or bytes than one answer may hold.
        """
        if bool(self.blocks) != bool(self.certificate):
            raise EncodingError("blocks answer: a certificate belongs to blocks, and only to them")
        if len(self.blocks) > BLOCKS_MAX or sum(map(len, self.blocks)) > BLOCKS_BYTES_MAX:
            raise EncodingError("blocks answer: too many blocks or bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshnessRequest:
    """Asks validators to sign a nonce with what they hold as final."""

    nonce: bytes
    """32 random bytes, never used before."""
    relay: bool
    """Whether the asked member may pass it on to validators (it may not pass it twice)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshnessAnswer:
    """Validators' statements about one nonce."""

    statements: tuple[tuple[bytes, int, tuple[Digest, ...], int], ...]
    """(signed statement, index of the nonce, siblings, batch size) of up to 32 validators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CosignRequest:
    """Asks a validator to cosign the log as it was after a block (docs/spec/tlog.md, T15)."""

    height: int
    """Height of the block, final and among the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CosignAnswer:
    """A validator's cosignature of that checkpoint."""

    did: DidId
    """Who signed, which the key's name states."""
    cosignature: bytes
    """72 bytes: time and signature, as in a note."""


LedgerMessage = (
    HeadRequest
    | HeadAnswer
    | BlocksRequest
    | BlocksAnswer
    | FreshnessRequest
    | FreshnessAnswer
    | CosignRequest
    | CosignAnswer
    | StateMessage
    | SubmitMessage
)
"""Everything that may appear on a ledger stream."""


def encode_ledger_message(message: LedgerMessage) -> bytes:
    """Encodes a message as [kind, fields]."""
    match message:
        case HeadRequest():
            return encode_canonical([1, {}])
        case HeadAnswer():
            return encode_canonical([2, {0: message.header, 1: message.certificate}])
        case BlocksRequest():
            return encode_canonical([3, {0: message.from_height}])
        case BlocksAnswer():
            return encode_canonical([4, {0: list(message.blocks), 1: message.certificate}])
        case FreshnessRequest():
            return encode_canonical([7, {0: message.nonce, 1: message.relay}])
        case CosignRequest():
            return encode_canonical([20, {0: message.height}])
        case CosignAnswer():
            return encode_canonical([21, {0: message.did, 1: message.cosignature}])
        case FreshnessAnswer():
            statements: Value = [
                [signed, index, list(proof), size]
                for signed, index, proof, size in message.statements
            ]
            return encode_canonical([8, {0: statements}])
        case (
            StateHeadRequest()
            | StateHeadAnswer()
            | StatePageRequest()
            | StatePageAnswer()
            | ManifestsRequest()
            | ManifestsAnswer()
            | HeaderRequest()
            | HeaderAnswer()
        ):
            return encode_state_message(message)
        case (
            SubmitRequest()
            | SubmitAnswer()
            | SubmitBatchRequest()
            | SubmitBatchAnswer()
            | Refusal()
        ):
            return encode_submit_message(message)
        case _:
            assert_never(message)


def decode_ledger_message(data: bytes) -> LedgerMessage:
    """Reads a message.

    Raises:
        EncodingError: malformed, over a bound, or of an unknown kind.
    """
    kind, body = as_array(
        decode_canonical(data, bytes_max=LEDGER_FRAME_BYTES_MAX), "ledger message", size=2
    )
    fields = Fields(body, "ledger message")
    message = _read_message(as_uint(kind, "ledger message kind"), fields)
    fields.finish()
    return message


def _read_message(kind: int, fields: Fields) -> LedgerMessage:
    match kind:
        case 1:
            return HeadRequest()
        case 2:
            return HeadAnswer(
                header=fields.bytes(0, maximum=CERTIFICATE_BYTES_MAX),
                certificate=fields.bytes(1, maximum=CERTIFICATE_BYTES_MAX),
            )
        case 3:
            return BlocksRequest(from_height=fields.uint(0, minimum=1))
        case 4:
            return BlocksAnswer(
                blocks=fields.items(0, _read_block, maximum=BLOCKS_MAX),
                certificate=fields.bytes(1, maximum=CERTIFICATE_BYTES_MAX),
            )
        case 7:
            return FreshnessRequest(
                nonce=fields.bytes(0, size=NONCE_BYTES), relay=fields.boolean(1)
            )
        case 8:
            return FreshnessAnswer(
                statements=fields.items(0, _read_statement, maximum=VALIDATORS_MAX)
            )
        case 20:
            return CosignRequest(height=fields.uint(0, minimum=1))
        case 21:
            return CosignAnswer(
                did=DidId(fields.digest(0)),
                cosignature=fields.bytes(1, size=COSIGNATURE_BYTES),
            )
        case 5 | 6 | 9 | 18 | 19:
            return read_submit_message(kind, fields)
        case _:
            return read_state_message(kind, fields)


def _read_block(value: Value) -> bytes:
    return as_bytes(value, "block", maximum=BLOCK_BYTES_MAX)


def _read_statement(value: Value) -> tuple[bytes, int, tuple[Digest, ...], int]:
    signed, index, proof, size = as_array(value, "freshness statement", size=4)
    if not isinstance(proof, (list, tuple)) or len(proof) > FRESHNESS_PROOF_MAX:
        raise EncodingError("freshness statement: proof is not a short list")
    return (
        as_bytes(signed, "freshness statement", maximum=FRESHNESS_BYTES_MAX),
        as_uint(index, "freshness index", maximum=FRESHNESS_BATCH_MAX - 1),
        tuple(Digest(as_bytes(item, "nonce proof", size=DIGEST_BYTES)) for item in proof),
        as_uint(size, "freshness batch size", maximum=FRESHNESS_BATCH_MAX),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """What a validator states about its copy at the moment it saw a batch of nonces."""

    era: int
    """Its era."""
    validator: int
    """Its index in the set of `epoch`."""
    epoch: int
    """Epoch of its newest final header."""
    height: int
    """Height of its newest final header."""
    block_id: BlockId
    """That header."""
    nonces: Digest
    """RFC 6962 root over the batch of nonces."""
    time_ms: int
    """Its wall clock, milliseconds; far beyond the newest header it tells that the chain stands."""

    def encode(self) -> bytes:
        """Canonical bytes of the payload."""
        return encode_canonical(
            {
                0: 1,
                1: self.era,
                2: self.validator,
                3: self.epoch,
                4: self.height,
                5: self.block_id,
                6: self.nonces,
                7: self.time_ms,
            }
        )


@dataclass(frozen=True, slots=True)
class SignedFreshness:
    """A parsed statement; not verified until `verify` was called."""

    freshness: Freshness
    """The content."""
    signed: Signed
    """The COSE_Sign1 it came in."""

    def verify(self, key: PublicKey, chain: ChainId) -> None:
        """Checks the signature of the validator's key.

        Raises:
            SignatureError: another key, chain or era, or altered bytes.
        """
        self.signed.verify(key, tag=FRESHNESS_TAG, chain=chain, era=self.freshness.era)


def parse_freshness(raw: bytes) -> SignedFreshness:
    """Parses a signed statement, without checking the signature.

    Raises:
        EncodingError: malformed or over 1 KiB.
    """
    signed = parse_signed(raw, bytes_max=FRESHNESS_BYTES_MAX)
    value = decode_canonical(signed.payload, bytes_max=FRESHNESS_BYTES_MAX)
    fields = Fields(value, "freshness")
    fields.constant(0, 1)
    freshness = Freshness(
        era=fields.uint(1),
        validator=fields.uint(2, maximum=VALIDATORS_MAX - 1),
        epoch=fields.uint(3),
        height=fields.uint(4),
        block_id=BlockId(fields.digest(5)),
        nonces=fields.digest(6),
        time_ms=fields.uint(7),
    )
    fields.finish()
    return SignedFreshness(freshness, signed)


def sign_freshness(freshness: Freshness, key: PrivateKey, chain: ChainId) -> SignedFreshness:
    """Signs a statement with a validator's vote key."""
    raw = sign(freshness.encode(), key, tag=FRESHNESS_TAG, chain=chain, era=freshness.era)
    return parse_freshness(raw)

"""What validators say to each other, with strict bounded codecs.

Chain and era are implied: every signature inside covers them, and the stream's protocol id names
the chain. A message is the canonical array [type, fields...]. Format: docs/spec/consensus.md, C40
to C48.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ledger.block import Block, decode_block
from ledger.certificate import Certificate
from ledger.validators import ValidatorSet
from ledger.vote import Signer, Verifier, Vote, VoteKind
from protocol.digest import BlockId, ChainId
from protocol.encoding import (
    Value,
    as_array,
    as_bytes,
    as_digest,
    as_uint,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.keys import SIGNATURE_BYTES, signing_context
from protocol.limits import BLOCK_BYTES_MAX, KIB, VALIDATORS_MAX

WANT_VIEWS_MAX: Final = 64
"""Views whose certificates one message may ask for."""
WANT_BLOCKS_MAX: Final = 16
"""Block ids one message may ask for."""
BLOCKS_BYTES_MAX: Final = 2 * BLOCK_BYTES_MAX
"""Bytes of all blocks in one answer, unless it is a single one; half a MiB."""
BLOCKS_COUNT_MAX: Final = 256
"""Blocks in one answer."""
NONCE_BYTES: Final = 32
"""Bytes of the nonce of a start-up question."""
OPENING_BYTES_MAX: Final = 16
"""First frame of a stream: two integers."""
_OPENING: Final = 0
MESSAGE_BYTES_MAX: Final = BLOCKS_BYTES_MAX + 8 * KIB
"""Largest encoded message: an answer full of blocks, with its certificate."""
NEWEST_VOTE_TAG: Final = "swarmd/newest-vote/1"
"""Domain of the signature of an answer to the start-up question."""


@dataclass(frozen=True, slots=True)
class Propose:
    """The leader's block for a view (C40); who sent it is known from the stream."""

    block: Block
    """The proposal."""


@dataclass(frozen=True, slots=True)
class VoteMessage:
    """One ballot (C41)."""

    vote: Vote
    """Usually the sender's; anyone's is accepted if it is signed."""


@dataclass(frozen=True, slots=True)
class CertificateMessage:
    """A certificate, for one who lacks it (C42)."""

    certificate: Certificate
    """Of any kind."""


@dataclass(frozen=True, slots=True)
class Want:
    """Asks for what the sender lacks (C43)."""

    views: tuple[int, ...] = ()
    """Views, ascending, whose certificates are missing; at most 64."""
    block_ids: tuple[BlockId, ...] = ()
    """Blocks that are missing; at most 16."""
    after: int | None = None
    """Height of the sender's last final block, when it wants the final blocks above it."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Answers a `Want` (C44)."""

    blocks: tuple[Block, ...]
    """Oldest first. With a certificate: linked by parent, the last one certified."""
    certificate: Certificate | None = None
    """Finalize certificate of the last block, in the answer to `after`."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where the sender stands (C45); one who is ahead helps, one who is behind asks."""

    epoch: int
    """Its epoch."""
    view: int
    """Its current view."""
    certificate: Certificate | None
    """Finalize certificate of its last final block; None at genesis."""


@dataclass(frozen=True, slots=True)
class NewestVoteQuery:
    """The start-up question (C46): which is the newest vote you hold under my key?"""

    nonce: bytes
    """32 fresh random bytes, so that an old answer does not fit."""


@dataclass(frozen=True, slots=True)
class NewestVoteAnswer:
    """The signed answer to the start-up question (C47)."""

    nonce: bytes
    """Nonce of the question."""
    asker: int
    """Index of the validator that asked."""
    answerer: int
    """Index of the validator that answers."""
    vote: Vote | None
    """The newest vote under the asker's key, with the asker's signature; None if none is held."""
    signature: bytes
    """64 bytes by the answerer over `answer_message`."""

    def is_valid(
        self, validators: ValidatorSet, chain: ChainId, era: int, verifier: Verifier
    ) -> bool:
        """Tells whether the answerer signed this, and the asker the vote inside."""
        count = len(validators.members)
        if not (0 <= self.answerer < count and 0 <= self.asker < count):
            return False
        if self.vote is not None and (
            self.vote.signer != self.asker
            or not self.vote.is_valid(validators, chain, era, verifier)
        ):
            return False
        message = answer_message(chain, era, self.nonce, self.asker, self.vote)
        key = validators.key_of(self.answerer)
        return key is not None and verifier.verify(key, self.signature, message)


Message = (
    Propose
    | VoteMessage
    | CertificateMessage
    | Want
    | Blocks
    | Status
    | NewestVoteQuery
    | NewestVoteAnswer
)
"""Everything a consensus stream carries."""


def answer_message(chain: ChainId, era: int, nonce: bytes, asker: int, vote: Vote | None) -> bytes:
    """The bytes an answer signs: context || [nonce, asker, vote or null]."""
    value: Value = None if vote is None else vote.to_value()
    return signing_context(NEWEST_VOTE_TAG, chain, era) + encode_canonical([nonce, asker, value])


def make_answer(
    query: NewestVoteQuery,
    vote: Vote | None,
    signer: Signer,
    *,
    chain: ChainId,
    era: int,
    asker: int,
    answerer: int,
) -> NewestVoteAnswer:
    """Signs the answer to a question."""
    message = answer_message(chain, era, query.nonce, asker, vote)
    return NewestVoteAnswer(query.nonce, asker, answerer, vote, signer.sign(message))


def encode_opening(epoch: int) -> bytes:
    """The first frame of a consensus stream: [0, epoch] of all that follows (C49)."""
    return encode_canonical([_OPENING, epoch])


def decode_opening(data: bytes) -> int:
    """Reads the first frame of a stream.

    Raises:
        EncodingError: it is not an opening.
    """
    value = decode_canonical(data, bytes_max=OPENING_BYTES_MAX)
    number, epoch = as_array(value, "consensus opening", size=2)
    if as_uint(number, "consensus opening") != _OPENING:
        raise EncodingError("consensus stream does not begin with an opening")
    return as_uint(epoch, "consensus opening")


def _to_value(message: Message) -> list[Value]:
    match message:
        case Propose(block):
            return [1, block.encode()]
        case VoteMessage(vote):
            return [2, vote.to_value()]
        case CertificateMessage(certificate):
            return [3, certificate.to_value()]
        case Want(views, block_ids, after):
            return [4, views, block_ids, after]
        case Blocks(blocks, final):
            return [5, [block.encode() for block in blocks], _optional_certificate(final)]
        case Status(epoch, view, final):
            return [6, epoch, view, _optional_certificate(final)]
        case NewestVoteQuery(nonce):
            return [7, nonce]
        case NewestVoteAnswer(nonce, asker, answerer, newest, signature):
            value = None if newest is None else newest.to_value()
            return [8, nonce, asker, answerer, value, signature]


def _optional_certificate(certificate: Certificate | None) -> Value:
    return None if certificate is None else certificate.to_value()


def encode_message(message: Message) -> bytes:
    """Encodes a message; what it holds was checked when it was made."""
    return encode_canonical(_to_value(message))


def decode_message(data: bytes) -> Message:
    """Reads an encoded message; signatures are checked by the engine.

    Raises:
        EncodingError: malformed, out of bounds, or of unknown type.
        VerificationError: a block inside does not match its header.
    """
    value = decode_canonical(data, bytes_max=MESSAGE_BYTES_MAX)
    if not isinstance(value, (list, tuple)) or not value:
        raise EncodingError("consensus message: expected a non-empty array")
    number = as_uint(value[0], "consensus message type")
    if number not in _READERS:
        raise EncodingError(f"consensus message: unknown type {number}")
    size, read = _READERS[number]
    return read(as_array(value, "consensus message", size=size))


def _read_propose(value: Sequence[Value]) -> Message:
    return Propose(_read_block(value[1]))


def _read_block(value: Value) -> Block:
    return decode_block(as_bytes(value, "block", maximum=BLOCK_BYTES_MAX))


def _read_vote(value: Sequence[Value]) -> Message:
    return VoteMessage(Vote.from_value(value[1]))


def _read_certificate(value: Sequence[Value]) -> Message:
    return CertificateMessage(Certificate.from_value(value[1]))


def _read_want(value: Sequence[Value]) -> Message:
    views = tuple(as_uint(item, "want") for item in _bounded(value[1], "want", WANT_VIEWS_MAX))
    ids = _bounded(value[2], "want", WANT_BLOCKS_MAX)
    after = None if value[3] is None else as_uint(value[3], "want")
    if any(low >= high for low, high in pairwise(views)):
        raise EncodingError("want: views are not ascending")
    return Want(views, tuple(BlockId(as_digest(item, "want")) for item in ids), after)


def _read_blocks(value: Sequence[Value]) -> Message:
    raw = _bounded(value[1], "blocks", BLOCKS_COUNT_MAX)
    return Blocks(tuple(_read_block(item) for item in raw), _read_final(value[2]))


def _read_status(value: Sequence[Value]) -> Message:
    epoch, view = as_uint(value[1], "status epoch"), as_uint(value[2], "status view")
    return Status(epoch, view, _read_final(value[3]))


def _read_final(value: Value) -> Certificate | None:
    if value is None:
        return None
    certificate = Certificate.from_value(value)
    if certificate.kind is not VoteKind.FINALIZE:
        raise EncodingError("expected a finalize certificate")
    return certificate


def _read_query(value: Sequence[Value]) -> Message:
    return NewestVoteQuery(as_bytes(value[1], "nonce", size=NONCE_BYTES))


def _read_answer(value: Sequence[Value]) -> Message:
    return NewestVoteAnswer(
        as_bytes(value[1], "nonce", size=NONCE_BYTES),
        as_uint(value[2], "asker", maximum=VALIDATORS_MAX - 1),
        as_uint(value[3], "answerer", maximum=VALIDATORS_MAX - 1),
        None if value[4] is None else Vote.from_value(value[4]),
        as_bytes(value[5], "answer signature", size=SIGNATURE_BYTES),
    )


def _bounded(value: Value, what: str, maximum: int) -> Sequence[Value]:
    if not isinstance(value, (list, tuple)) or len(value) > maximum:
        raise EncodingError(f"{what}: expected an array of at most {maximum} items")
    return value


_READERS: Final[dict[int, tuple[int, Callable[[Sequence[Value]], Message]]]] = {
    1: (2, _read_propose),
    2: (2, _read_vote),
    3: (2, _read_certificate),
    4: (4, _read_want),
    5: (3, _read_blocks),
    6: (4, _read_status),
    7: (2, _read_query),
    8: (6, _read_answer),
}

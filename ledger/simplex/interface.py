"""Inputs, effects, parameters and journal records of the consensus engine.

The host feeds inputs with a monotonic time in seconds, executes the effects in order, and feeds
`TimerFired` when `Simplex.deadline` has passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ledger.block import Block, SkipProof
from ledger.certificate import Certificate, decode_certificate
from ledger.consensus_messages import Message
from ledger.header import Header
from ledger.vote import Evidence, Vote, decode_vote
from protocol.digest import BlockId
from protocol.limits import BLOCK_INTERVAL_MS_MIN, HEARTBEAT_INTERVAL_MS

ALL: Final = -1
"""Destination of a `Send` to every other validator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Times of the engine, in seconds; they bear on speed, never on safety."""

    delta_s: float = 1.0
    """Assumed bound of a message delay; 2 of it wait for a proposal, 3 for a certificate (C60)."""
    delta_s_max: float = 20.0
    """Bound of the growing delta, so that no view waits longer than a minute."""
    backoff: float = 1.5
    """Growth of delta for each view without a final block (C61)."""
    retry_s: float = 1.0
    """First pause before votes, certificate and wants are sent again (C63)."""
    retry_s_max: float = 10.0
    """Longest such pause."""
    heartbeat_s: float = HEARTBEAT_INTERVAL_MS / 1000
    """An idle chain makes an empty block this long after the last final one (C65)."""
    block_interval_s: float = BLOCK_INTERVAL_MS_MIN / 1000
    """Least time between two proposals (C66)."""
    silence_s: float = 15.0
    """A leader unheard for so long, while a quorum was heard, is skipped at once (C64)."""


class RecordKind(IntEnum):
    """What a journal record holds."""

    VOTE = 1
    """A vote of this validator, encoded."""
    CERTIFICATE = 2
    """A certificate that let it leave a view, encoded."""
    BLOCK = 3
    """A block it notarized, encoded."""
    HALT = 4
    """The UTF-8 reason why this key must never vote again."""


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the vote journal."""

    kind: RecordKind
    """What `payload` is."""
    epoch: int
    """Epoch it belongs to."""
    view: int
    """View it belongs to."""
    payload: bytes
    """Encoded content."""

    def vote(self) -> Vote:
        """Decodes the payload of a vote record."""
        return decode_vote(self.payload)

    def certificate(self) -> Certificate:
        """Decodes the payload of a certificate record."""
        return decode_certificate(self.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """First input, once: what survived the last run."""

    records: tuple[Record, ...]
    """The vote journal, oldest first."""
    final: Header
    """Header of the last final block of this epoch, or the block that closed the one before;
    genesis on a new chain."""
    certificate: Certificate | None
    """Its finalize certificate; None at the beginning of an epoch."""
    nonce: bytes
    """32 fresh random bytes for the start-up question."""
    halted: str | None = None
    """Reason why this key must not vote, such as a damaged journal; say it at every start."""
    evidence: tuple[Evidence, ...] = ()
    """Proofs left over from the epoch before."""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A peer said something."""

    peer: int
    """Index of the validator at the other end of the stream."""
    message: Message
    """Decoded, not yet verified."""


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A stream to a validator was opened; it is told where we stand."""

    peer: int
    """Index of the validator."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    """`deadline` has passed."""


@dataclass(frozen=True, slots=True)
class Built:
    """Answers `Build`."""

    view: int
    """View of the request."""
    block: Block | None
    """The proposal, or None if none can be made."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answers `Verify`, once and for good: never because something is still being fetched."""

    block_id: BlockId
    """Block that was judged."""
    ok: bool
    """Whether it executes to its roots and keeps the time rule (C50 to C52)."""


@dataclass(frozen=True, slots=True)
class Durable:
    """All records up to this sequence survive a power loss."""

    sequence: int
    """Sequence of a `Persist`."""


@dataclass(frozen=True, slots=True)
class TransactionsPending:
    """Whether the mempool holds anything to put in a block."""

    pending: bool
    """True wakes an idle engine."""


Input = (
    Start
    | MessageReceived
    | PeerConnected
    | TimerFired
    | Built
    | Verdict
    | Durable
    | TransactionsPending
)
"""Everything a host may feed."""


@dataclass(frozen=True, slots=True)
class Persist:
    """Append the records to the journal in one transaction, then feed `Durable`."""

    sequence: int
    """Ascending number of the request."""
    records: tuple[Record, ...]
    """In the order they must be kept."""


@dataclass(frozen=True, slots=True)
class Send:
    """Hand a message to one validator or all others; delivery is not promised."""

    to: int
    """Index, or `ALL`."""
    message: Message
    """What to send."""
    after: int | None = None
    """The `Persist` it depended on; the engine emits it only once that is durable (C70)."""


@dataclass(frozen=True, slots=True)
class Build:
    """Make a block for this view and answer with `Built`."""

    view: int
    """View to propose in."""
    parent: Header
    """Parent's header."""
    ancestors: tuple[Block, ...]
    """Blocks above the last final one up to the parent, oldest first."""
    skips: tuple[SkipProof, ...]
    """Skip proofs the block must carry."""
    evidence: tuple[Evidence, ...]
    """Proofs to include unless the chain already convicts the signer in that epoch; at most 4."""
    epoch: int
    """Epoch of the block."""

    @property
    def parent_id(self) -> BlockId:
        """Id of the parent."""
        return self.parent.block_id

    @property
    def parent_view(self) -> int:
        """View of the parent; 0 if it closed the epoch before."""
        return self.parent.view_in(self.epoch)


@dataclass(frozen=True, slots=True)
class Verify:
    """Execute a proposal, check roots and time rule, and answer with `Verdict`."""

    block: Block
    """Its place in the chain, proposer, skip proofs and evidence signatures are checked already."""
    ancestors: tuple[Block, ...]
    """Blocks above the last final one up to its parent, oldest first."""


@dataclass(frozen=True, slots=True)
class Commit:
    """These blocks are final: execute and store them durably."""

    blocks: tuple[Block, ...]
    """Oldest first, the first one a child of the previous final block."""
    certificate: Certificate
    """Finalize certificate of the last one, or of the last filler."""
    skips: tuple[Certificate, ...]
    """Nullify certificates the blocks refer to, as far as held; store them with the blocks."""
    notarized: tuple[Certificate, ...] = ()
    """Notarize certificates of the blocks, as far as held. Whoever keeps them can convict f + 1
    validators should another chain ever be final beside this one (C25)."""
    fillers: tuple[Block, ...] = ()
    """Blocks after the last of `blocks`, which closed the epoch: kept as proof, not adopted."""

    @property
    def run(self) -> tuple[Block, ...]:
        """All blocks up to the certified one."""
        return (*self.blocks, *self.fillers)


@dataclass(frozen=True, slots=True)
class EpochEnded:
    """The epoch is over: drop this engine and start one for the next epoch on `closing`.

    Emitted once, after the commit of the closing block; the engine does nothing any more.
    """

    closing: Header
    """Header of the block that closed the epoch, the parent of the next epoch's first."""
    evidence: tuple[Evidence, ...]
    """Proofs that no final block holds yet: the next engine puts them into one."""


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer a peer's want from the store, by a `Blocks` message, if it is there."""

    to: int
    """Peer that wants."""
    after: int | None
    """Wants final blocks above this height, with the finalize certificate of the last one sent."""
    block_ids: tuple[BlockId, ...]
    """Wants these blocks."""
    bytes_max: int
    """Budget for the answer, bytes; one block may always be sent."""


@dataclass(frozen=True, slots=True)
class Blame:
    """A validator contradicted itself; emitted once for a signer in an epoch."""

    evidence: Evidence
    """The proof, for blocks and for the operator's log."""


@dataclass(frozen=True, slots=True)
class Halt:
    """This key never votes again; the engine goes on as a follower. Already in the journal."""

    reason: str
    """For the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much an engine holds that is not final yet; whatever peers send, each is bounded."""

    views: int
    """Views with any knowledge: from the last final one to 8 above the current one (C53)."""
    votes: int
    """Votes in them, at most one of each kind and signer."""
    certificates: int
    """Certificates in them, at most one of each kind and another nullify of each peer."""
    blocks: int
    """Blocks above the last final one: proposals judged, and what was asked for (C93)."""
    accused: int
    """Validators with evidence that no final block holds."""
    writes: int
    """Writes of the journal whose votes are held back (C70)."""


Effect = Persist | Send | Build | Verify | Commit | EpochEnded | Serve | Blame | Halt
"""Everything an engine may ask for."""

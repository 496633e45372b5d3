"""What must hold after every step of a simulated chain, whoever misbehaves.

Each invariant is one function that returns what is wrong, or None; `Watch` calls them where they
can first be broken and notes what they say. It sees what no participant sees: who is honest, what
is on each disk, and which messages their senders meant to be bad. docs/spec/consensus.md has the
rules they come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from ledger.block import Block
from ledger.certificate import Certificate
from ledger.header import Header
from ledger.journal import MemoryJournal
from ledger.simplex.core import VIEW_WINDOW
from ledger.simplex.interface import Load, Record, RecordKind
from ledger.simplex.rules import FUTURE_MS_MAX, is_closed
from ledger.vote import Evidence, Vote, VoteKind
from protocol.digest import BlockId
from swarmd.simulation.consensus_store import executed

if TYPE_CHECKING:
    from swarmd.simulation.consensus_cluster import Cluster
    from swarmd.simulation.consensus_host import ConsensusHost

SLACK_BLOCKS: Final = 272
"""Blocks an engine may hold beyond two for each view: one full answer and a few asked for by id."""
SAMPLE_EVERY: Final = 8
"""Inputs between two counts of what an engine holds; what piles up is still there then."""


# -- invariants ------------------------------------------------------------------------------------


class OwnVotes:
    """All durable votes of one process, for the rules that bind them to each other."""

    def __init__(self) -> None:
        """Starts without any."""
        self._cast: dict[tuple[int, int, VoteKind], Vote] = {}
        self._newest: dict[int, int] = {}

    def rule_broken_by(self, vote: Vote) -> str | None:
        """Votes are valid: C71 (one notarize), C72, C73 (no contradiction), C74 (no way back)."""
        place = (vote.epoch, vote.view)
        held = {kind: self._cast.get((*place, kind)) for kind in VoteKind}
        same = held[vote.kind]
        newest = self._newest.get(vote.epoch, 0)
        self._cast[(*place, vote.kind)] = vote
        self._newest[vote.epoch] = max(newest, vote.view)
        if same is not None and same.block_id != vote.block_id:
            return f"voted {vote.kind.name.lower()} twice in view {vote.view}"
        if vote.kind is VoteKind.FINALIZE and held[VoteKind.NULLIFY] is not None:
            return f"finalized view {vote.view} after it nullified it"
        if vote.kind is not VoteKind.FINALIZE and held[VoteKind.FINALIZE] is not None:
            return f"voted {vote.kind.name.lower()} in view {vote.view} after it finalized it"
        if vote.kind is VoteKind.NOTARIZE and held[VoteKind.NULLIFY] is not None:
            return f"notarized in view {vote.view} after it nullified it"
        if vote.kind is not VoteKind.FINALIZE and vote.view < newest:
            return f"voted in view {vote.view}, which it left for {newest}"
        return None


class WatchedJournal(MemoryJournal):
    """A vote journal that remembers all that was ever durable in it, whatever is pruned."""

    def __init__(self) -> None:
        """Starts empty."""
        super().__init__()
        self.votes = OwnVotes()
        """Every durable vote."""
        self.broken: list[str] = []
        """Voting rules broken by durable votes."""
        self._payloads: set[bytes] = set()
        self._pending: list[tuple[int, tuple[Record, ...]]] = []

    def write(self, sequence: int, records: Sequence[Record]) -> None:
        """Writes without flushing."""
        super().write(sequence, records)
        self._pending.append((sequence, tuple(records)))

    def sync(self, sequence: int) -> None:
        """Makes everything written up to a sequence durable, and judges the votes in it."""
        super().sync(sequence)
        ready = [entry for entry in self._pending if entry[0] <= sequence]
        self._pending = [entry for entry in self._pending if entry[0] > sequence]
        for _, records in ready:
            for record in records:
                if record.kind is RecordKind.VOTE:
                    self._payloads.add(record.payload)
                    fault = self.votes.rule_broken_by(record.vote())
                    if fault is not None:
                        self.broken.append(fault)

    def lose_unsynced(self) -> None:
        """Power loss: forgets what was written but not synced."""
        super().lose_unsynced()
        self._pending.clear()

    def is_durable(self, vote: Vote) -> bool:
        """Whether a vote survives a power loss."""
        return vote.encode() in self._payloads


def unsaved_vote(journal: MemoryJournal, vote: Vote) -> str | None:
    """Journal before send (C70)."""
    if isinstance(journal, WatchedJournal) and not journal.is_durable(vote):
        return f"sent a vote of view {vote.view} that is not durable"
    return None


def unjustified_judgement(
    block: Block, final: Header, epoch: int, certificates: Iterable[Certificate]
) -> str | None:
    """A proposal is judged only with N of its parent and U of every view between (C54)."""
    header = block.header
    held = {(item.kind, item.view): item for item in certificates}
    final_view = final.view_in(epoch)
    if header.parent_view > final_view:
        kinds = (VoteKind.NOTARIZE, VoteKind.FINALIZE)
        found = [held.get((kind, header.parent_view)) for kind in kinds]
        if not any(item is not None and item.block_id == header.parent for item in found):
            return f"judged a block of view {header.view} whose parent is not notarized"
    elif header.parent != final.block_id:
        return f"judged a block of view {header.view} beside its final one"
    for view in range(max(header.parent_view, final_view) + 1, header.view):
        if (VoteKind.NULLIFY, view) not in held:
            return f"judged a block of view {header.view}, though view {view} is not skipped"
    return None


def overfull(load: Load, *, lead: int, count: int) -> str | None:
    """Queues are bounded: views by the window (C53), votes, certificates and blocks by views.

    Args:
        load: what an engine holds.
        lead: how many views its current one is ahead of its last final one.
        count: seats.
    """
    views = load.views
    limits = (
        ("views", views, lead + VIEW_WINDOW + 1),
        ("votes", load.votes, views * count * len(VoteKind)),
        ("certificates", load.certificates, views * (count + len(VoteKind))),
        ("blocks", load.blocks, 2 * views + SLACK_BLOCKS),
        ("accusations", load.accused, 2 * count),
        ("writes", load.writes, 2 * views + 2),
    )
    for name, held, limit in limits:
        if held > limit:
            return f"holds {held} {name}, at most {limit} are allowed"
    return None


def wrong_roots(block: Block, parent: Header) -> str | None:
    """Every final block executes to the roots in its header (C10)."""
    header = block.header
    closed = is_closed(parent, header.epoch)
    expected = executed(parent, block.transactions, block.skips, closed=closed)
    if (header.log_size, header.log_root, header.state_root) != expected:
        return f"height {header.height} is final with wrong roots"
    return None


def disagreement(final: dict[int, BlockId], block: Block) -> str | None:
    """Agreement: whatever is final at a height is the same everywhere."""
    height = block.header.height
    if final.setdefault(height, block.block_id) != block.block_id:
        return f"disagreement at height {height}"
    return None


def broken_link(block: Block, parent: Header) -> str | None:
    """Heights are monotonic: a final block continues the one before it."""
    header = block.header
    if (header.parent, header.height) != (parent.block_id, parent.height + 1):
        return f"committed height {header.height} out of order"
    if header.time_ms <= parent.time_ms or header.log_size < parent.log_size:
        return f"time or log of height {header.height} went back"
    return None


def premature(block: Block, now_ms: int, skew_ms: int) -> str | None:
    """No final block is further ahead of honest clocks than the rules allow (C52)."""
    ahead_ms = block.header.time_ms - now_ms
    if ahead_ms > FUTURE_MS_MAX + skew_ms:
        return f"height {block.header.height} is {ahead_ms} ms ahead of all honest clocks"
    return None


# -- the watch -------------------------------------------------------------------------------------


class Watch:
    """Calls the invariants for one cluster, and counts what receivers refused."""

    def __init__(self, cluster: Cluster) -> None:
        """Begins to watch."""
        self._cluster = cluster
        self._inputs = 0
        self.refusals: dict[int, int] = {}
        """By process: messages that honest receivers refused, and blocks they found invalid."""
        self.bad_received = 0
        """Messages meant to be bad that reached an honest engine."""
        self.bad_refused = 0
        """How many of them were refused; the others were outdated or unknown, and ignored."""

    def _note(self, host: ConsensusHost, fault: str | None) -> None:
        if fault is not None:
            self._cluster.violate(f"host {host.actor} {fault}")

    @staticmethod
    def _binds(host: ConsensusHost) -> bool:
        """Whether the rules for own votes bind a host; not one whose disk was exchanged."""
        return host.is_honest and not host.restored

    def after_input(self, host: ConsensusHost) -> None:
        """An engine took an input."""
        engine = host.engine
        if engine is None or not host.is_honest:
            return
        self._inputs += 1
        if self._inputs % SAMPLE_EVERY == 0:
            lead = engine.view - engine.final.view_in(host.epoch)
            count = len(self._cluster.seats(host.epoch))
            self._note(host, overfull(engine.load, lead=lead, count=count))

    def on_sync(self, host: ConsensusHost) -> None:
        """Something became durable in a host's journal."""
        journal = host.journal
        if isinstance(journal, WatchedJournal) and journal.broken:
            faults, journal.broken = journal.broken, []
            if self._binds(host):
                for fault in faults:
                    self._note(host, fault)

    def on_vote(self, host: ConsensusHost, vote: Vote) -> None:
        """A host sends a vote of its own."""
        if self._binds(host):
            self._note(host, unsaved_vote(host.journal, vote))

    def on_verify(self, host: ConsensusHost, block: Block) -> None:
        """An engine asks for the verdict on a proposal, which it will vote for if it is good."""
        engine = host.engine
        if engine is not None and host.is_honest:
            certificates = engine.certificates
            fault = unjustified_judgement(block, engine.final, host.epoch, certificates)
            self._note(host, fault)

    def on_verdict(self, host: ConsensusHost, block: Block, *, ok: bool) -> None:
        """A host executed a proposal; honest leaders never propose what is invalid."""
        if ok or not host.is_honest:
            return
        cluster = self._cluster
        proposer = cluster.seats(block.header.epoch)[block.header.proposer]
        self._refuse(proposer)
        if cluster.is_honest(proposer):
            self._note(host, f"found the proposal of process {proposer}, which is honest, invalid")

    def on_refused(self, host: ConsensusHost, process: int, error: Exception) -> None:
        """A host refused a message and knows who sent it."""
        if not host.is_honest:
            return
        self._refuse(process)
        if self._cluster.is_honest(process):
            self._note(host, f"scored honest validator {process}: {error}")

    def _refuse(self, process: int) -> None:
        self.refusals[process] = self.refusals.get(process, 0) + 1

    def on_bad(self, host: ConsensusHost, before: tuple[int, int], *, refused: bool) -> None:
        """A host took a message meant to be bad: nothing may have come of it (C48).

        Args:
            host: receiver.
            before: its view and final height before.
            refused: whether the sender was named.
        """
        if not host.is_honest:
            return
        self.bad_received += 1
        self.bad_refused += refused
        engine = host.engine
        if engine is not None and (engine.view, engine.final.height) != before:
            self._note(host, f"was moved by a bad message from {before}")

    def on_commit(self, host: ConsensusHost, blocks: Sequence[Block], parent: Header) -> None:
        """Blocks became final at an honest host."""
        cluster = self._cluster
        for block in blocks:
            height = block.header.height
            self._note(host, broken_link(block, parent))
            if height not in cluster.final:
                self._note(host, premature(block, cluster.now_ms, cluster.skew_ms_max))
                self._note(host, wrong_roots(block, parent))
            self._note(host, disagreement(cluster.final, block))
            for evidence in block.evidence:
                self.on_evidence(host, evidence)
            parent = block.header

    def on_evidence(self, host: ConsensusHost, evidence: Evidence) -> None:
        """A host found or adopted evidence: no honest key is ever convicted."""
        cluster = self._cluster
        culprit = cluster.seats(evidence.epoch)[evidence.signer]
        cluster.convicted[culprit] = None
        if host.is_honest and cluster.is_honest(culprit):
            cluster.violate(f"honest validator {culprit} convicted")

"""What a simulated consensus host keeps on its disk, and how it answers from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from ledger.block import Block, SkipProof
from ledger.certificate import Certificate
from ledger.consensus_messages import BLOCKS_COUNT_MAX, Blocks
from ledger.handover import Handover
from ledger.header import Header
from ledger.simplex.interface import Serve
from ledger.validators import ValidatorSet
from protocol.digest import Digest, sha256

RUN_BLOCKS_MAX: Final = 256
"""Blocks in one run to a host that is an epoch behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Delays of a host's disk and processor, seconds; each is drawn between 0 and the bound."""

    sync_s: float = 0.005
    """Longest flush of the vote journal."""
    commit_s: float = 0.2
    """Longest time until a final block is durable; followers batch commits."""
    compute_s: float = 0.005
    """Longest time to build or to execute a block."""


@dataclass(frozen=True, slots=True)
class Run:
    """Final blocks of one epoch for a host that is behind; the answer a follower gets."""

    blocks: tuple[Block, ...]
    """Consecutive, oldest first."""
    fillers: tuple[Block, ...]
    """After the last block, if that closes its epoch and is final by a filler."""
    certificate: Certificate
    """Finalizes the last of all of them."""


@dataclass(slots=True)
class Store:
    """Final blocks of one host; loses what was not synced when the power fails."""

    entries: list[tuple[Block, Certificate | None]] = field(default_factory=list)
    """Blocks from height 1; the newest of each commit with its finalize certificate."""
    synced: int = 0
    """Height that is durable."""
    audit: list[Certificate] = field(default_factory=list)
    """Every certificate that came with a final block, for `contradictions`."""
    handovers: dict[int, Handover] = field(default_factory=dict)
    """By height of the closing block: how its epoch ended."""
    convicted: dict[tuple[int, int], int] = field(default_factory=dict)
    """(epoch, seat) of validators convicted in final blocks, with the height."""

    def lose_unsynced(self) -> None:
        """Power loss: forgets what was not durable, back to a certified block."""
        del self.entries[self.synced :]
        for height in [item for item in self.handovers if item > self.synced]:
            del self.handovers[height]
        for name in [item for item, height in self.convicted.items() if height > self.synced]:
            del self.convicted[name]

    def add(
        self,
        blocks: tuple[Block, ...],
        fillers: tuple[Block, ...],
        certificate: Certificate,
    ) -> None:
        """Takes over a run that became final."""
        for block in blocks:
            self.entries.append((block, None))
            for evidence in block.evidence:
                name = (evidence.epoch, evidence.signer)
                self.convicted.setdefault(name, block.header.height)
        last = blocks[-1]
        if last.header.closes_epoch:
            self.handovers[last.header.height] = Handover(fillers=fillers, certificate=certificate)
        if not fillers:
            self.entries[-1] = (last, certificate)

    def answer(self, request: Serve) -> Blocks | None:
        """Answers a want from what is stored, within the request's budget."""
        if request.after is None:
            wanted = [block for block, _ in self.entries if block.block_id in request.block_ids]
            return Blocks(tuple(wanted[:1])) if wanted else None
        rest = self.entries[request.after : request.after + BLOCKS_COUNT_MAX]
        size, best, reach = 0, 0, 0
        for position, (block, certificate) in enumerate(rest, start=1):
            size += len(block.encoded)
            if size <= request.bytes_max:
                reach = position
            if certificate is not None and (best == 0 or reach == position):
                best = position
        if best == 0:
            return None
        first = max(0, best - max(reach, 1))
        return Blocks(tuple(block for block, _ in rest[first:best]), rest[best - 1][1])

    def run_after(self, height: int) -> Run | None:
        """The blocks above a height, to the end of their epoch at most."""
        run: list[Block] = []
        best: Run | None = None
        for block, certificate in self.entries[height : height + RUN_BLOCKS_MAX]:
            run.append(block)
            handover = self.handovers.get(block.header.height)
            if handover is not None:
                return Run(tuple(run), handover.fillers, handover.certificate)
            if certificate is not None:
                best = Run(tuple(run), (), certificate)
        return best


def is_final_run(run: Run, parent: Header, validators: ValidatorSet, certificate_ok: bool) -> bool:
    """Tells whether a run continues a final block and its certificate covers all of it.

    Args:
        run: what a peer sent.
        parent: header of the receiver's last final block, or of genesis.
        validators: the set of the epoch the receiver is in.
        certificate_ok: whether the certificate is valid under that set.
    """
    blocks = (*run.blocks, *run.fillers)
    first = blocks[0].header
    is_linked = all(two.header.parent == one.block_id for one, two in pairwise(blocks))
    is_next = (first.parent, first.height) == (parent.block_id, parent.height + 1)
    return (
        certificate_ok
        and is_linked
        and is_next
        and run.certificate.block_id == blocks[-1].block_id
        and run.certificate.epoch == validators.epoch
        and all(block.header.epoch == validators.epoch for block in blocks)
        and all(not block.header.closes_epoch for block in run.blocks[:-1])
        and (run.blocks[-1].header.closes_epoch or not run.fillers)
    )


def executed(
    parent: Header,
    transactions: tuple[bytes, ...],
    skips: tuple[SkipProof, ...],
    *,
    closed: bool,
) -> tuple[int, Digest, Digest]:
    """Log and state after a block: hash chains stand in for trees; a filler changes nothing."""
    if closed:
        return parent.log_size, parent.log_root, parent.state_root
    content = b"".join(transactions) + b"".join(skip.certificate for skip in skips)
    return (
        parent.log_size + len(transactions),
        sha256(parent.log_root + content),
        sha256(parent.state_root + content),
    )

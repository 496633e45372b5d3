"""Far claimer: validators that are robbed of their keys claim to be far ahead of everybody.

They sign freshness statements about heights that do not exist, and blocks at such heights, which
lack a quorum: f signatures, or those of f repeated under the names of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ledger.block import Block
from ledger.certificate import Certificate
from ledger.header import Header
from ledger.vote import VoteKind
from protocol.catchup import FreshnessAnswer
from protocol.digest import BlockId, sha256
from protocol.merkle import EMPTY_ROOT
from swarmd.simulation.lab import Lab
from swarmd.simulation.lab_chain import vouch
from swarmd.simulation.lab_gateway import blocks_answer

_DISTANCES = (1, 2, 1000, 10**9)
"""How many blocks ahead."""


class FarClaimer:
    """Speaks for some seats."""

    def __init__(self, lab: Lab, *, seats: Sequence[int]) -> None:
        """Holds the vote keys of these seats."""
        self._lab = lab
        self._seats = tuple(seats)

    def claim(self, head: Header, nonce: bytes) -> FreshnessAnswer:
        """That the newest block is a thousand million heights away."""
        far = replace(head, height=head.height + _DISTANCES[-1])
        return vouch(self._lab, far, nonce, self._seats)

    def runs(self, head: Header) -> Iterator[bytes]:
        """Blocks ahead of a header, with certificates that nobody may take."""
        for distance in _DISTANCES:
            header = replace(
                head,
                height=head.height + distance,
                view=head.view + distance,
                parent=head.block_id if distance == 1 else BlockId(sha256(b"parent")),
                time_ms=head.time_ms + 250 * distance,
                body_root=EMPTY_ROOT,
            )
            block = Block(header)
            yield blocks_answer((block.encoded,), self._few(block).encode())
            yield blocks_answer((block.encoded,), self._repeated(block).encode())

    def _few(self, block: Block) -> Certificate:
        """By the robbed seats alone."""
        header = block.header
        votes = [
            self._lab.vote(VoteKind.FINALIZE, seat, view=header.view, block_id=header.block_id)
            for seat in self._seats
        ]
        bits = sum(1 << seat for seat in self._seats)
        size = (len(self._lab.validators) + 7) // 8
        return Certificate(
            VoteKind.FINALIZE,
            header.epoch,
            header.view,
            header.block_id,
            bits.to_bytes(size, "little"),
            tuple(vote.signature for vote in votes),
        )

    def _repeated(self, block: Block) -> Certificate:
        """One robbed seat's signature under the names of a quorum."""
        few = self._few(block)
        quorum = self._lab.validator_set.quorum
        bits = (1 << quorum) - 1
        return replace(
            few,
            bitmap=bits.to_bytes(len(few.bitmap), "little"),
            signatures=few.signatures[:1] * quorum,
        )

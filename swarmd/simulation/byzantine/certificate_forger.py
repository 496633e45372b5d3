"""Certificate forger: certificates of its own signature alone, of one signer many times, altered.

What it forges always claims something that would move the receiver: a view skipped, a block
notarized, a block final.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ledger.certificate import Certificate
from ledger.consensus_messages import CertificateMessage, Status
from ledger.vote import VoteKind
from protocol.digest import BlockId, sha256
from swarmd.simulation.byzantine.rogue import RogueHost


class CertificateForger(RogueHost):
    """Forges for the current view and for one far ahead."""

    pause_s = 0.75

    def act(self) -> None:
        """Sends one forgery of each kind, alone and inside a status."""
        engine = self.engine
        assert engine is not None, "it acts only while its engine runs"
        for view in (engine.view, engine.view + 1_000):
            for kind in VoteKind:
                for forged in self._forge(kind, view):
                    self.say_all(CertificateMessage(forged), is_bad=True)
        for held in engine.certificates[-1:]:
            for forged in _alter(held):
                self.say_all(CertificateMessage(forged), is_bad=True)
        for forged in self._forge(VoteKind.FINALIZE, engine.view):
            self.say_all(Status(self.epoch, engine.view, forged), is_bad=True)

    def _forge(self, kind: VoteKind, view: int) -> Iterator[Certificate]:
        """Certificates out of nothing: one signer q times under one bit, or under q bits."""
        block_id = None if kind is VoteKind.NULLIFY else BlockId(sha256(b"forged %d" % view))
        vote = self.ballot(kind, view, block_id)
        quorum = self.cluster.validators_of(self.epoch).quorum
        count = len(self.cluster.seats(self.epoch))
        size = (count + 7) // 8
        signatures = (vote.signature,) * quorum
        for bits in (1 << vote.signer, (1 << quorum) - 1):
            bitmap = bits.to_bytes(size, "little")
            yield Certificate(kind, self.epoch, view, block_id, bitmap, signatures)


def _alter(held: Certificate) -> Iterator[Certificate]:
    """A real certificate with one thing wrong."""
    first = held.signatures[0]
    flipped = bytes((first[0] ^ 1,)) + first[1:]
    yield replace(held, signatures=(flipped, *held.signatures[1:]))
    yield replace(held, view=held.view + 1)
    yield replace(held, signatures=held.signatures[:-1])
    if held.kind is VoteKind.NOTARIZE:
        yield replace(held, kind=VoteKind.FINALIZE)
    if held.block_id is not None:
        yield replace(held, block_id=BlockId(sha256(held.block_id)))

"""What a validator knows about each view: votes, certificates, the proposal.

One slot for each (signer, kind, view): a second, different vote never replaces the first; it
becomes evidence (C22, C53). Certificates arise from q votes or arrive complete.
"""

from __future__ import annotations

from ledger.block import Block
from ledger.certificate import Certificate
from ledger.validators import ValidatorSet
from ledger.vote import Evidence, Vote, VoteKind, is_conflict
from protocol.digest import BlockId, Digest


class View:
    """One view's votes, certificates and proposal."""

    __slots__ = ("certificates", "number", "proposal", "skips", "verdict", "votes")

    def __init__(self, number: int) -> None:
        """Starts without any knowledge."""
        self.number = number
        self.votes: dict[tuple[VoteKind, int], Vote] = {}
        """The first valid vote of each (kind, signer)."""
        self.certificates: dict[VoteKind, Certificate] = {}
        """At most one of each kind; with at most f liars there cannot be two notarized blocks."""
        self.skips: dict[int, Certificate] = {}
        """Other nullify certificates than the held one, by the peer that sent it."""
        self.proposal: Block | None = None
        """First block the leader sent."""
        self.verdict: bool | None = None
        """None until the application judged the proposal."""

    def conflict(self, vote: Vote) -> Evidence | None:
        """Finds a held vote that contradicts this one."""
        for kind in VoteKind:
            held = self.votes.get((kind, vote.signer))
            if held is not None and is_conflict(held, vote):
                return Evidence.of(held, vote)
        return None

    def add(self, vote: Vote, validators: ValidatorSet) -> Certificate | None:
        """Counts a verified vote whose slot is free; returns the certificate it completes."""
        self.votes[vote.kind, vote.signer] = vote
        if vote.kind in self.certificates:
            return None
        same = [
            held
            for (kind, _), held in self.votes.items()
            if kind is vote.kind and held.block_id == vote.block_id
        ]
        if len(same) < validators.quorum:
            return None
        return Certificate.of(same, validators)

    def signers(self) -> list[int]:
        """Indices of validators with a vote in this view; may repeat."""
        return [signer for _, signer in self.votes]

    @property
    def notarized(self) -> BlockId | None:
        """The block with a notarize certificate, or with F, which implies one."""
        held = self.certificates.get(VoteKind.NOTARIZE) or self.certificates.get(VoteKind.FINALIZE)
        return None if held is None else held.block_id

    @property
    def is_skipped(self) -> bool:
        """Whether a nullify certificate is held."""
        return VoteKind.NULLIFY in self.certificates

    def skip_certificate(self, digest: Digest) -> Certificate | None:
        """Finds the nullify certificate with this digest."""
        held = self.certificates.get(VoteKind.NULLIFY)
        for certificate in [*([held] if held is not None else []), *self.skips.values()]:
            if certificate.digest == digest:
                return certificate
        return None

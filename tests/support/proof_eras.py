"""Proof files that lead through epochs, recoveries and a checkpoint, for whoever checks them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ledger.header import Header
from ledger.light import EpochStep
from ledger.proof import ProofFile, decode_proof
from ledger.validators import Validator, ValidatorSet
from protocol.approval import Action, parse_approval, sign_approval
from protocol.did import KeyPurpose
from protocol.digest import BlockId, ChainId, Digest
from protocol.governance import (
    Checkpoint,
    Recovery,
    RecoveryPlan,
    Seat,
    checkpoint_digest,
    governance_approval,
    seat_message,
)
from protocol.keys import PrivateKey
from tests.support.ledger import GENESIS_MS, Lab, Member
from tests.support.proofs import ProofWorld, certify

DAY_MS = 86_400_000


def governed(
    lab: Lab, action: Action, subject: Digest, *, era: int, count: int = 2, chain: ChainId | None
) -> tuple[bytes, ...]:
    """Approvals by the first governance keys, ascending by key id."""
    content = governance_approval(
        action, subject, era=era, valid_until_ms=GENESIS_MS + 9999 * DAY_MS
    )
    signed = [
        sign_approval(content, key, chain or lab.chain_id).signed.raw
        for key in lab.governance[:count]
    ]
    return tuple(sorted(signed, key=lambda raw: parse_approval(raw).signed.key_id))


def recovery_from(
    lab: Lab,
    last: Header,
    certificate: bytes,
    *,
    count: int = 2,
    chain: ChainId | None = None,
    keys: Callable[[Member], PrivateKey] | None = None,
) -> Recovery:
    """A recovery that goes on from a header with the lab's validators, in another order."""
    era, seats = last.era + 1, []
    for member in reversed(lab.validators):
        key = member.key(KeyPurpose.VALIDATOR) if keys is None else keys(member)
        message = seat_message(chain or lab.chain_id, era, member.did, last.block_id)
        seats.append(Seat(did=member.did, key=key.public, proof=key.sign(message)))
    plan = RecoveryPlan(
        era=era,
        header=last.encoded,
        certificate=certificate,
        time_ms=last.time_ms + 1000,
        seats=tuple(seats),
        joins=(),
    )
    approvals = governed(lab, Action.RECOVERY, plan.digest, era=last.era, count=count, chain=chain)
    return Recovery(plan=plan, approvals=approvals)


def seated(recovery: Recovery, epoch: int) -> ValidatorSet:
    """The set a recovery begins with."""
    return ValidatorSet(epoch, tuple(Validator(seat.did, seat.key) for seat in recovery.plan.seats))


@dataclass(kw_only=True)
class EraWorld:
    """Headers of four eras over one state: the last block of each is what a recovery names.

    Era 0 ends in epoch 2, certified. Era 1 closes epoch 3 and ends there: the hand-over names the
    set that never began. Era 2 ends with its first block. Era 3 closes epoch 6 and goes on.
    """

    world: ProofWorld

    def __post_init__(self) -> None:
        """Makes every header, step and recovery."""
        lab, head = self.world.lab, self.world.chain.head
        first = lab.validator_set
        second = ValidatorSet(2, first.members[::-1])
        self.second = second
        self.step_0 = self._closing(head, first, second)
        last_0 = replace(head, epoch=2, validators=second.digest, next_validators=second.digest)
        self.last_0 = last_0
        self.first_recovery = recovery_from(lab, last_0, certify(lab, last_0, second))
        third = seated(self.first_recovery, 3)
        base_1 = replace(head, era=1, epoch=3)
        fourth = ValidatorSet(4, first.members)
        self.step_1 = self._closing(base_1, third, fourth)
        closing = replace(base_1, validators=third.digest, next_validators=fourth.digest)
        self.closing_1 = closing
        self.fourth = fourth
        self.second_recovery = recovery_from(lab, closing, b"")
        fifth = seated(self.second_recovery, 5)
        begun = replace(
            head, era=2, epoch=5, view=0, validators=fifth.digest, next_validators=fifth.digest
        )
        self.third_recovery = recovery_from(lab, begun, b"")
        sixth = seated(self.third_recovery, 6)
        seventh = ValidatorSet(7, first.members)
        self.step_3 = self._closing(replace(head, era=3, epoch=6), sixth, seventh)
        self.final = replace(
            head, era=3, epoch=7, validators=seventh.digest, next_validators=seventh.digest
        )
        self.last_set = seventh

    def _closing(self, base: Header, own: ValidatorSet, following: ValidatorSet) -> EpochStep:
        header = replace(base, validators=own.digest, next_validators=following.digest)
        return EpochStep(
            header=header.encoded,
            certificate=certify(self.world.lab, header, own),
            validators=following.encode(),
        )

    @property
    def recoveries(self) -> tuple[bytes, ...]:
        """All of them, oldest first."""
        listed = (self.first_recovery, self.second_recovery, self.third_recovery)
        return tuple(recovery.encode() for recovery in listed)

    def checkpoint(self, *, count: int = 2, header: Header | None = None) -> Checkpoint:
        """Governance vouches for the block that closed epoch 3."""
        vouched = header or self.closing_1
        subject = checkpoint_digest(vouched.height, BlockId(vouched.block_id))
        return Checkpoint(
            header=self.closing_1.encoded,
            validators=self.fourth.encode(),
            approvals=governed(
                self.world.lab, Action.CHECKPOINT, subject, era=1, count=count, chain=None
            ),
        )

    def file(self, kind: str = "image", **changes: object) -> ProofFile:
        """A proof as of the last era that leads there from genesis."""
        base = decode_proof(self.world.files[kind])
        lab = self.world.lab
        values: dict[str, object] = {
            "header": self.final.encoded,
            "certificate": certify(lab, self.final, self.last_set),
            "epochs": (self.step_0, self.step_1, self.step_3),
            "recoveries": self.recoveries,
        }
        return replace(base, **{**values, **changes})

    def from_checkpoint(self, **changes: object) -> ProofFile:
        """The same from a checkpoint of the second era on."""
        values: dict[str, object] = {
            "epochs": (self.step_3,),
            "recoveries": self.recoveries[1:],
            "checkpoint": self.checkpoint().encode(),
        }
        return self.file(**{**values, **changes})

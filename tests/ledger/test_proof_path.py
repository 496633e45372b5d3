"""Proofs across eras: from genesis alone to a set that governance seated, and no other way."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ledger.bodies.governance import SetCheckpoint
from ledger.certificate import Certificate
from ledger.errors import LedgerNotYetError
from ledger.header import decode_header
from ledger.light import CHECKPOINT_EPOCHS_MAX
from ledger.proof import ProofFile, decode_proof
from ledger.proof_make import ProofBuilder
from ledger.proof_path import path_to
from ledger.proof_verify import verify_authorisation, verify_proof
from ledger.state_keys import subject_key
from ledger.vote import Vote, VoteKind, vote_message
from protocol.approval import Action
from protocol.digest import ChainId, sha256
from protocol.encoding import encode_canonical
from protocol.errors import VerificationError
from protocol.genesis import EPOCH_MS
from protocol.governance import Recovery, checkpoint_digest
from protocol.keys import PrivateKey
from tests.support.epochs import VoteKeys, advance_epochs, certify_all
from tests.support.ledger import HOUR_MS, Member, build_next, make_key, make_lab
from tests.support.proof_eras import EraWorld, governed, recovery_from
from tests.support.proofs import IMAGE, certify, make_world

EXAMPLE = Path(__file__).parents[2] / "examples" / "verify_proof.py"


@pytest.fixture(scope="module")
def eras() -> EraWorld:
    return EraWorld(world=make_world())


@pytest.fixture(scope="module")
def accepted(eras: EraWorld) -> Callable[[ProofFile], bool]:
    """What both readers say of a file; they must agree."""
    second = runpy.run_path(str(EXAMPLE))
    genesis = eras.world.lab.genesis

    def judge(proof: ProofFile) -> bool:
        data = proof.encode()
        container = encode_canonical({0: 1, 1: genesis.encode(), 2: data})
        try:
            second["verify"](container, genesis.chain)
            other = True
        except second["REFUSALS"]:
            other = False
        try:
            verify_proof(data, genesis)
        except VerificationError:
            assert not other, "only the second reader accepts"
            return False
        assert other, "only the first reader accepts"
        return True

    return judge


def test_genesis_alone_leads_through_three_recoveries(eras, accepted):
    for proof in (eras.file(), eras.from_checkpoint()):
        assert accepted(proof)
        shown = verify_authorisation(proof.encode(), eras.world.lab.genesis, sha256(IMAGE))
        assert shown.header.era == 3
        assert len(shown.approvers) == 2, "approvals of the first era count"
    assert accepted(eras.file("everything"))


def test_a_checkpoint_makes_the_file_smaller(eras):
    assert len(eras.from_checkpoint().encode()) < len(eras.file().encode())


def forged_paths(eras: EraWorld) -> dict[str, ProofFile]:
    """Ways that lead elsewhere."""
    lab, first = eras.world.lab, eras.first_recovery
    one, two, three = eras.recoveries
    other_chain = ChainId(sha256(b"another chain"))
    last = eras.last_0
    thieves = replace(last, view=last.view + 1)
    spoilt = bytearray(first.approvals[1])
    spoilt[-1] ^= 1

    def with_first(recovery: Recovery) -> ProofFile:
        return eras.file(recoveries=(recovery.encode(), two, three))

    return {
        "one governance key": with_first(recovery_from(lab, last, first.plan.certificate, count=1)),
        "another chain's consent": with_first(
            recovery_from(lab, last, first.plan.certificate, chain=other_chain)
        ),
        "no certificate": with_first(recovery_from(lab, last, b"")),
        "another header's certificate": with_first(
            recovery_from(lab, thieves, first.plan.certificate)
        ),
        "a certificate altered after the consent": with_first(
            replace(
                first,
                plan=replace(first.plan, certificate=certify(lab, thieves, eras.second)),
            )
        ),
        "a spoilt third approval": with_first(
            replace(first, approvals=(first.approvals[0], bytes(spoilt)))
        ),
        "approvals in another order": with_first(replace(first, approvals=first.approvals[::-1])),
        "an approval twice": with_first(
            replace(first, approvals=(*first.approvals, first.approvals[1]))
        ),
        "another seat": with_first(
            replace(first, plan=replace(first.plan, seats=first.plan.seats[::-1]))
        ),
        "reordered": eras.file(recoveries=(two, one, three)),
        "duplicated": eras.file(recoveries=(one, one, two, three)),
        "left out": eras.file(recoveries=(one, three)),
        "none": eras.file(recoveries=()),
        "one too few": eras.file(recoveries=(one, two)),
        "steps reordered": eras.file(epochs=(eras.step_1, eras.step_0, eras.step_3)),
        "a step left out": eras.file(epochs=(eras.step_0, eras.step_3)),
        "a step after the recovery of its era": eras.file(
            epochs=(eras.step_0, eras.step_1, eras.step_3, eras.step_0)
        ),
        "the lost set's header": eras.file(
            header=last.encoded, certificate=certify(lab, last, eras.second)
        ),
        "the lost set in the new era": eras.file(certificate=certify(lab, eras.final, eras.second)),
    }


def test_no_other_way_leads_into_an_era(eras, accepted):
    for name, proof in forged_paths(eras).items():
        assert not accepted(proof), name


def test_the_lost_set_steps_nowhere_after_the_recovery(eras, accepted):
    """Its keys still certify: a hand-over of its own, in its own era and in the new one."""
    lab = eras.world.lab
    for era in (0, 1):
        header = replace(eras.last_0, era=era, next_validators=eras.last_set.digest)
        step = replace(
            eras.step_0,
            header=header.encoded,
            certificate=certify(lab, header, eras.second),
            validators=eras.last_set.encode(),
        )
        for place in range(4):
            steps = [eras.step_0, eras.step_1, eras.step_3]
            steps.insert(place, step)
            assert not accepted(eras.file(epochs=tuple(steps)))


def test_a_checkpoint_that_governance_did_not_sign_leads_nowhere(eras, accepted):
    checkpoint = eras.checkpoint()
    forged = {
        "one key": eras.checkpoint(count=1),
        "another header": eras.checkpoint(header=eras.last_0),
        "another set": replace(checkpoint, validators=eras.last_set.encode()),
        "order": replace(checkpoint, approvals=checkpoint.approvals[::-1]),
        "no closing header": replace(checkpoint, header=eras.last_0.encoded),
    }
    for name, item in forged.items():
        assert not accepted(eras.from_checkpoint(checkpoint=item.encode())), name
    early = eras.from_checkpoint(recoveries=eras.recoveries)
    assert not accepted(early), "a recovery from before it"
    assert not accepted(eras.from_checkpoint(epochs=(eras.step_1, eras.step_3)))


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize("kind", ["file", "from_checkpoint"])
def test_every_byte_of_the_way_counts(eras, accepted, kind):
    proof = getattr(eras, kind)("core") if kind == "file" else eras.from_checkpoint()
    data = proof.encode()
    genesis = eras.world.lab.genesis
    second = runpy.run_path(str(EXAMPLE))
    for position in range(0, len(data), 7):
        altered = bytearray(data)
        altered[position] ^= 1 << position % 8
        container = encode_canonical({0: 1, 1: genesis.encode(), 2: bytes(altered)})
        with pytest.raises(VerificationError):
            verify_proof(bytes(altered), genesis)
        with pytest.raises(second["REFUSALS"]):
            second["verify"](container, genesis.chain)


def era_key(member: Member, era: int) -> PrivateKey:
    """A seat's vote key in an era of a real chain, where keys serve once."""
    return make_key(f"{member.label}/era/{era}")


class LongChain:
    """A chain that ends epochs, of which governance may say something."""

    def __init__(self, validators: int = 4) -> None:
        self.lab = make_lab(validators=validators)
        self.keys = VoteKeys(self.lab.validators)
        self.chain = self.lab.open_chain()

    def advance(self, *transactions: Any, after_ms: int = 1000) -> Any:
        return advance_epochs(self.lab, self.chain, self.keys, transactions, after_ms=after_ms)

    def hand_over(self, count: int = 1) -> None:
        """Ends some epochs."""
        for _ in range(count):
            epoch, now_ms = self.chain.validators.epoch + 1, self.chain.head.time_ms
            self.advance(*certify_all(self.lab, epoch, self.lab.validators, now_ms=now_ms))
            self.advance(after_ms=EPOCH_MS)
        self.advance()

    def checkpoint(self) -> None:
        """Governance records the newest closing header, two of its keys out of order."""
        step = self.chain.epoch_steps(self.chain.validators.epoch - 1, 1)[0]
        header = decode_header(step.header)
        subject = checkpoint_digest(header.height, header.block_id)
        approvals = governed(self.lab, Action.CHECKPOINT, subject, era=0, chain=None)
        body = SetCheckpoint(header=step.header, approvals=approvals[::-1])
        until = self.chain.head.time_ms + HOUR_MS
        self.advance(self.lab.transaction(self.lab.gateways[0], body, valid_until_ms=until))

    def proof(self) -> bytes:
        builder = ProofBuilder(self.chain)
        builder.add_subject(self.lab.gateways[0].did)
        return builder.encode()


@pytest.mark.slow
def test_a_year_of_epochs_needs_a_checkpoint_and_stays_small() -> None:
    world = LongChain(validators=7)
    world.hand_over(CHECKPOINT_EPOCHS_MAX)
    whole = world.proof()
    assert verify_proof(whole, world.lab.genesis).header.epoch == 1 + CHECKPOINT_EPOCHS_MAX
    world.checkpoint()
    assert len(decode_proof(world.proof()).epochs) == 0
    world.hand_over(CHECKPOINT_EPOCHS_MAX)
    year = world.proof()
    shown = verify_proof(year, world.lab.genesis)
    assert shown.header.epoch == 53
    proof = decode_proof(year)
    assert len(proof.epochs) == CHECKPOINT_EPOCHS_MAX
    assert len(proof.epochs) + 1 <= 60, "certificates to check"
    assert len(year) <= 100_000
    world.hand_over()
    with pytest.raises(LedgerNotYetError) as caught:
        world.proof()
    assert caught.value.rule == "proof.checkpoint"
    walk = world.chain.epoch_steps(1, 53)
    unvouched = replace(decode_proof(year), epochs=walk[:52], checkpoint=None)
    with pytest.raises(VerificationError, match="checkpoint is needed"):
        verify_proof(unvouched.encode(), world.lab.genesis)
    sizes = [len(encode_canonical(step.to_value())) for step in walk[:52]]
    assert sum(sizes) <= 100_000, "a node that was away walks them all"


def test_a_recovered_chain_writes_its_recoveries_into_every_proof() -> None:
    world = LongChain()
    world.hand_over()
    for era in (1, 2):
        tip = world.chain.tip
        certificate = b"" if tip.certificate is None else tip.certificate.encode()
        recovery = recovery_from(world.lab, tip.header, certificate, keys=partial(era_key, era=era))
        shuffled = replace(recovery, approvals=recovery.approvals[::-1])
        world.chain.recover(shuffled)
        with pytest.raises(LedgerNotYetError):
            world.proof()
    path = path_to(world.chain)
    assert (len(path.epochs), len(path.recoveries)) == (1, 2)
    block = build_next(world.chain)
    votes = []
    header = block.header
    for index, member in enumerate(reversed(world.lab.validators)):
        message = vote_message(
            world.lab.chain_id,
            2,
            VoteKind.FINALIZE,
            epoch=header.epoch,
            view=header.view,
            block_id=header.block_id,
        )
        signature = era_key(member, 2).sign(message)
        votes.append(
            Vote(VoteKind.FINALIZE, header.epoch, header.view, header.block_id, index, signature)
        )
    validators = world.chain.validators
    certificate = Certificate.of(votes[: validators.quorum], validators)
    world.chain.commit(block.block_id, certificate)
    shown = verify_proof(world.proof(), world.lab.genesis)
    assert (shown.header.era, shown.header.epoch) == (2, 4)
    value = shown.facts[subject_key(world.lab.gateways[0].did)]
    assert value is not None

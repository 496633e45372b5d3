"""A ledger goes on in another era: by command, over restarts, and not with the lost set."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.block import Block, decode_block
from ledger.certificate import Certificate
from ledger.chain import Chain
from ledger.errors import ForkAlarmError, LedgerError, LedgerNotYetError
from ledger.membership import make_membership_proof, verify_membership_proof
from ledger.vote import Vote, VoteKind, vote_message
from protocol.approval import Action, verify_threshold
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import Digest
from protocol.errors import StorageError, VerificationError
from protocol.governance import Recovery, RecoveryPlan, Seat, seat_message
from protocol.keys import PrivateKey
from tests.support.ledger import (
    FLEET,
    Lab,
    Member,
    advance,
    authorise,
    build_next,
    make_key,
    make_lab,
)

NEWCOMERS = [
    Member(label=f"replacement {index}", kind=SubjectKind.VALIDATOR, groups=(FLEET,))
    for index in range(3)
]


def seat_key(member: Member) -> PrivateKey:
    return make_key(f"{member.label}/second era")


def seated(lab: Lab) -> list[Member]:
    """Who goes on: one survivor and three newcomers."""
    return [lab.validators[3], *NEWCOMERS]


def recovery_of(lab: Lab, chain: Chain) -> Recovery:
    """What governance signs after looking at a survivor's copy."""
    tip = chain.tip
    plan = RecoveryPlan(
        era=tip.header.era + 1,
        header=tip.header.encoded,
        certificate=b"" if tip.certificate is None else tip.certificate.encode(),
        time_ms=tip.header.time_ms + 60_000,
        seats=(),
        joins=(),
    )
    draft = Recovery(plan=plan, approvals=())
    for member in seated(lab):
        key = seat_key(member)
        message = seat_message(lab.chain_id, plan.era, member.did, tip.header.block_id)
        seat = Seat(did=member.did, key=key.public, proof=key.sign(message))
        draft = draft.with_seat(seat, member.join if member in NEWCOMERS else None)
    for governor in lab.governance[:2]:
        draft = draft.signed_by(governor, lab.chain_id)
    return draft


def certify(lab: Lab, chain: Chain, block: Block) -> Certificate:
    """A finalize certificate by the set of the second era."""
    header, validators = block.header, chain.validators
    votes = []
    for index, member in enumerate(seated(lab)[: validators.quorum]):
        message = vote_message(
            lab.chain_id,
            header.era,
            VoteKind.FINALIZE,
            epoch=header.epoch,
            view=header.view,
            block_id=header.block_id,
        )
        signature = seat_key(member).sign(message)
        votes.append(
            Vote(VoteKind.FINALIZE, header.epoch, header.view, header.block_id, index, signature)
        )
    return Certificate.of(votes, validators)


def test_the_new_set_goes_on_and_what_owners_approved_stays(tmp_path: Path) -> None:
    lab = make_lab()
    chain = lab.open_chain(tmp_path / "ledger.db")
    manifest = lab.manifest()
    authorise(lab, chain, manifest)
    before = chain.head
    recovery = recovery_of(lab, chain)
    header = chain.recover(recovery)
    assert (header.era, header.height, header.parent) == (1, before.height + 1, before.block_id)
    reopened = lab.open_chain(tmp_path / "ledger.db")
    assert reopened.head == header
    assert reopened.recovery() == recovery.encode()
    block = build_next(reopened)
    assert block.header.era == 1
    (result,) = reopened.commit(block.block_id, certify(lab, reopened, block))
    assert result.header.height == header.height + 1
    record = reopened.state.manifest(manifest.manifest_id, FLEET)
    group = lab.genesis.group(FLEET)
    assert record is not None
    assert group is not None
    names = verify_threshold(
        reopened.approvals(manifest.manifest_id, FLEET, Action.AUTHORISE),
        root=group.owner_root,
        threshold=2,
        chain=lab.chain_id,
        era=reopened.head.era,
        action=Action.AUTHORISE,
        subject=Digest(manifest.manifest_id),
        group=FLEET,
        policy=record.policy,
    )
    assert len(names) == 2


def test_every_survivor_computes_the_same_era(tmp_path: Path) -> None:
    lab = make_lab()
    chains = [lab.open_chain(tmp_path / f"{name}.db") for name in "ab"]
    blocks = []
    for chain in chains:
        authorise(lab, chain, lab.manifest())
        lab.nonces.clear()
        blocks.append(chain.head.block_id)
    assert blocks[0] == blocks[1]
    recovery = recovery_of(lab, chains[0])
    first, second = (chain.recover(recovery) for chain in chains)
    assert first == second


def test_the_lost_set_certifies_nothing_any_more(tmp_path: Path) -> None:
    lab = make_lab()
    chain = lab.open_chain(tmp_path / "ledger.db")
    advance(lab, chain)
    fork = lab.open_chain()
    advance(lab, fork)
    lost = build_next(fork)
    chain.recover(recovery_of(lab, chain))
    with pytest.raises(VerificationError):
        chain.follow([lost], lab.certificate(lost))
    with pytest.raises(VerificationError):
        chain.commit(lost.block_id, lab.certificate(lost), ancestors=[lost])


def test_a_copy_that_went_on_refuses_and_one_behind_waits(tmp_path: Path) -> None:
    lab = make_lab()
    chain, ahead, behind = (lab.open_chain(tmp_path / f"{name}.db") for name in "abc")
    for copy in (chain, ahead):
        advance(lab, copy)
    recovery = recovery_of(lab, chain)
    advance(lab, ahead)
    with pytest.raises(LedgerError) as later:
        ahead.recover(recovery)
    assert later.value.rule == "recovery.later"
    with pytest.raises(LedgerNotYetError) as wait:
        behind.recover(recovery)
    assert wait.value.rule == "recovery.behind"
    assert (ahead.head.era, behind.head.era) == (0, 0)


def test_another_block_of_that_height_alarms(tmp_path: Path) -> None:
    lab = make_lab()
    chain, other = (lab.open_chain(tmp_path / f"{name}.db") for name in "ab")
    advance(lab, chain)
    advance(lab, other, after_ms=2000)
    with pytest.raises(ForkAlarmError):
        other.recover(recovery_of(lab, chain))


def test_a_recovery_serves_once(tmp_path: Path) -> None:
    lab = make_lab()
    chain = lab.open_chain(tmp_path / "ledger.db")
    advance(lab, chain)
    recovery = recovery_of(lab, chain)
    chain.recover(recovery)
    with pytest.raises(LedgerError) as caught:
        chain.recover(recovery)
    assert caught.value.rule == "recovery.era"


def test_a_follower_of_the_old_era_gets_its_blocks_but_none_of_the_new(tmp_path: Path) -> None:
    lab = make_lab()
    chain, follower = (lab.open_chain(tmp_path / f"{name}.db") for name in "ab")
    for _ in range(3):
        advance(lab, chain)
    recovery = recovery_of(lab, chain)
    chain.recover(recovery)
    chain = lab.open_chain(tmp_path / "a.db")
    block = build_next(chain)
    chain.commit(block.block_id, certify(lab, chain, block))
    blocks, certificate = chain.blocks(1, 1 << 20)
    assert len(blocks) == 3
    assert certificate is not None
    follower.follow([decode_block(raw) for raw in blocks], certificate)
    assert chain.blocks(4, 1 << 20) == ((), None)
    follower.recover(recovery)
    run, newest = chain.blocks(5, 1 << 20)
    assert newest is not None
    follower.follow([decode_block(raw) for raw in run], newest)
    assert follower.head == chain.head


def test_membership_is_shown_from_the_first_block_of_the_era(tmp_path: Path) -> None:
    lab = make_lab()
    chain, other = (lab.open_chain(tmp_path / f"{name}.db") for name in "ab")
    recovery = recovery_of(lab, chain)
    chain.recover(recovery)
    member = NEWCOMERS[0]
    proof = make_membership_proof(chain, member.did)
    key = member.key(KeyPurpose.TRANSPORT).public
    with pytest.raises(VerificationError):
        verify_membership_proof(proof, other.anchor, key, height_min=0)
    other.recover(recovery)
    anchor = lab.open_chain(tmp_path / "b.db").anchor
    assert verify_membership_proof(proof, anchor, key, height_min=1).did == member.did


def test_a_failed_write_adopts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    chain = lab.open_chain(tmp_path / "ledger.db")
    advance(lab, chain)
    recovery = recovery_of(lab, chain)
    before = chain.head
    chain._store._database.execute("DROP TABLE recoveries")
    with pytest.raises(StorageError):
        chain.recover(recovery)
    assert chain.head == before
    assert lab.open_chain(tmp_path / "ledger.db").head == before

"""The chain across the edges of epochs: closing, fillers, followers, restarts, versions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ledger.block import Block, decode_block
from ledger.block_store import BlockStore
from ledger.bodies.validators import Accuse
from ledger.chain import Chain
from ledger.database import Durability
from ledger.errors import ForkAlarmError, InvalidBlockError, UnsupportedVersionError
from ledger.light import EpochHistory, TrustAnchor, advance_anchor
from ledger.membership import make_membership_proof
from ledger.simplex.rules import check_filler
from ledger.vote import Ed25519Verifier, VoteKind
from protocol.digest import sha256
from protocol.errors import PolicyError, VerificationError
from protocol.genesis import EPOCH_MS, Parameters
from tests.support.epochs import (
    VoteKeys,
    advance_epochs,
    certify_all,
    newcomer,
    set_parameters,
    set_validators,
    upgrade,
)
from tests.support.ledger import HOUR_MS, build_next, make_lab

VERIFIER = Ed25519Verifier()


class World:
    """A lab whose chain may move from epoch to epoch."""

    def __init__(self, path: Path | str = ":memory:") -> None:
        self.lab = make_lab()
        self.members = [*self.lab.validators, newcomer(1), newcomer(2)]
        self.keys = VoteKeys(self.members)
        self.chain = self.lab.open_chain(path)

    def advance(self, *transactions, after_ms: int = 1000):
        return advance_epochs(self.lab, self.chain, self.keys, transactions, after_ms=after_ms)

    def certify(self, epoch: int, members=None):
        """One block in which members name their keys of an epoch."""
        chosen = members or self.lab.validators
        now_ms = self.chain.head.time_ms
        return self.advance(*certify_all(self.lab, epoch, chosen, now_ms=now_ms))

    def transaction(self, body):
        """Signed by a gateway, for the next blocks."""
        until = self.chain.head.time_ms + 20 * HOUR_MS
        return self.lab.transaction(self.lab.gateways[0], body, valid_until_ms=until)

    def close(self):
        """One block that ends the epoch by time."""
        return self.advance(after_ms=EPOCH_MS)

    def next_epoch(self):
        """Certifies and closes."""
        self.certify(self.chain.validators.epoch + 1)
        return self.close()

    def certificate(self, block: Block, *, epoch: int | None = None):
        validators = self.chain.validators
        if epoch is not None:
            known = self.chain.state.validators(epoch)
            assert known is not None
            validators = known
        return self.keys.certificate(validators, block, self.lab)


@pytest.fixture
def world() -> World:
    return World()


def test_an_epoch_ends_on_time_and_the_next_begins_on_its_last_block(world):
    world.certify(2)
    closing = world.close()
    assert closing.header.closes_epoch
    assert closing.following == world.chain.validators
    assert world.chain.validators.epoch == 2
    result = world.advance()
    header = result.header
    assert (header.epoch, header.view, header.parent_view) == (2, 1, 0)
    assert header.parent == closing.header.block_id
    assert header.validators == closing.header.next_validators == header.next_validators
    with pytest.raises(VerificationError):
        world.lab.certificate(build_next(world.chain)).verify(
            world.chain.validators, world.lab.chain_id, 0, VERIFIER
        )


def test_without_keys_an_epoch_goes_on(world):
    assert not world.close().header.closes_epoch
    assert world.certify(2).header.closes_epoch, "it is overdue"
    assert world.chain.validators.epoch == 2


def fill(world: World, count: int) -> tuple[Block, list[Block]]:
    """A closing block that is not final yet, with fillers on it."""
    world.certify(2)
    closing = build_next(world.chain, after_ms=EPOCH_MS)
    blocks = [closing]
    for _ in range(count):
        blocks.append(build_next(world.chain, parent=blocks[-1]))
    return closing, blocks[1:]


@pytest.mark.parametrize("count", [1, 3])
def test_fillers_make_the_closing_block_final_and_are_dropped(world, count):
    closing, fillers = fill(world, count)
    for filler in fillers:
        assert filler.transactions == ()
        assert filler.header.epoch == 1
        assert filler.header.next_validators == closing.header.next_validators
        assert filler.header.state_root == closing.header.state_root
    certificate = world.certificate(fillers[-1])
    (result,) = world.chain.commit(fillers[-1].block_id, certificate)
    assert result.header == closing.header
    assert world.chain.head == closing.header
    assert world.chain.tip.certificate is None
    assert world.chain.validators.epoch == 2
    assert world.advance().header.parent == closing.block_id
    assert world.chain.header_at(closing.header.height + 1) != fillers[0].header
    (step,) = world.chain.epoch_steps(1, 64)
    assert len(step.fillers) == count
    anchor = advance_anchor(TrustAnchor.of_genesis(world.lab.genesis), [step], VERIFIER)
    assert anchor.validators == world.chain.validators
    assert anchor.bridged == 1


def test_a_filler_does_nothing_or_is_no_filler(world):
    world.certify(2)
    late = world.transaction(set_parameters(world.lab, 1, Parameters(heartbeat_ms=9000)))
    closing = build_next(world.chain, after_ms=EPOCH_MS)
    world.chain.submit(late.signed.raw, now_ms=world.chain.head.time_ms + 1000)
    filler = build_next(world.chain, parent=closing)
    assert filler.transactions == ()
    header = filler.header
    digest = sha256(b"x")
    for change in (
        {"state_root": digest},
        {"log_root": digest},
        {"log_size": header.log_size + 1},
        {"next_validators": header.validators},
        {"next_validators": digest},
    ):
        with pytest.raises(VerificationError):
            check_filler(replace(header, **change), closing.header)
        with pytest.raises(InvalidBlockError) as caught:
            world.chain.check(Block(replace(header, **change)), ancestors=[closing])
        assert caught.value.rule == "block.filler"


def test_a_block_that_closes_early_late_or_for_another_set_is_invalid(world):
    world.certify(2)
    early, late = build_next(world.chain), build_next(world.chain, after_ms=EPOCH_MS)
    cases = [
        replace(early.header, next_validators=late.header.next_validators),
        replace(late.header, next_validators=late.header.validators),
        replace(late.header, next_validators=sha256(b"others")),
    ]
    for header in cases:
        with pytest.raises(InvalidBlockError) as caught:
            world.chain.check(Block(header))
        assert caught.value.rule == "block.next_validators"


def test_after_the_edge_the_old_epoch_is_over(world):
    closing, (one, two) = fill(world, 2)
    world.chain.commit(closing.block_id, world.certificate(closing))
    # A filler that gets its certificate later changes nothing, wherever it comes from.
    certificate = world.certificate(two, epoch=1)
    blocks = [one, two]
    assert world.chain.commit(two.block_id, certificate, ancestors=blocks) == ()
    assert world.chain.follow([closing, one, two], certificate) == ()
    assert world.chain.head == closing.header
    # Another block where the epoch ended is a fork, even one that the old set certified.
    other = Block(replace(closing.header, view=closing.header.view + 4))
    with pytest.raises(ForkAlarmError):
        world.chain.follow([other], world.certificate(other, epoch=1))
    with pytest.raises(InvalidBlockError):
        world.chain.check(one)


@pytest.mark.slow
def test_a_follower_crosses_edges_and_a_restart_goes_on_in_the_right_epoch(tmp_path):
    world = World()
    world.next_epoch()
    world.advance()
    world.certify(3)
    closing = build_next(world.chain, after_ms=EPOCH_MS)
    fillers = [build_next(world.chain, parent=closing)]
    world.chain.commit(fillers[0].block_id, world.certificate(fillers[0]))
    world.advance()
    path = tmp_path / "ledger.db"
    follower = world.lab.open_chain(path)
    edges = []
    while follower.head.height < world.chain.head.height:
        raws, certificate = world.chain.blocks(follower.head.height + 1, 10**6)
        assert certificate is not None
        results = follower.follow([decode_block(raw) for raw in raws], certificate)
        assert results
        edges += [result.header.epoch for result in results if result.following]
        follower._store.close()
        follower = Chain.open(BlockStore(path, Durability.BATCHED), world.lab.genesis)
        assert follower.state.epoch().epoch == follower.validators.epoch
    assert edges == [1, 2]
    assert follower.head == world.chain.head
    assert follower.validators == world.chain.validators
    assert follower.epoch_steps(1, 64) == world.chain.epoch_steps(1, 64)
    follower._store.close()


@pytest.mark.slow
def test_a_head_that_is_final_by_a_filler_survives_a_restart_and_proves_nothing_yet(tmp_path):
    world = World(tmp_path / "ledger.db")
    _, fillers = fill(world, 1)
    world.chain.commit(fillers[0].block_id, world.certificate(fillers[0]))
    with pytest.raises(PolicyError, match="filler"):
        make_membership_proof(world.chain, world.lab.gateways[0].did)
    world.chain._store.close()
    again = Chain.open(BlockStore(tmp_path / "ledger.db", Durability.FULL), world.lab.genesis)
    assert again.validators.epoch == 2
    assert again.certificate is None
    world.chain = again
    world.advance()
    assert make_membership_proof(world.chain, world.lab.gateways[0].did)
    again._store.close()


def test_a_seat_changes_hands(world):
    lab, new = world.lab, world.members[4]
    world.certify(2)
    members = [*lab.validators[:3], new]
    closing = world.advance(world.transaction(set_validators(lab, 1, members, joins=[new])))
    assert closing.header.closes_epoch, "a quorum has keys: no need to wait"
    assert [item.did for item in world.chain.validators.members] == [m.did for m in members]
    assert all(item.key is not None for item in world.chain.validators.members)
    # The new one counts: with it three of four certify, and so do later epochs.
    world.certify(3, members[1:])
    world.close()
    assert world.chain.validators.epoch == 3
    assert world.chain.validators.key_of(0) is None
    assert world.advance().header.epoch == 3


def test_evidence_is_accepted_for_one_epoch_longer(world):
    lab = world.lab
    first = lab.validator_set
    evidence = world.keys.evidence(first, 1, lab)
    other = world.keys.evidence(first, 2, lab)
    world.next_epoch()
    result = world.advance(world.transaction(Accuse(evidence=evidence)))
    assert result.convictions == ((1, 1),)
    world.certify(3, [m for i, m in enumerate(lab.validators) if i != 1])
    world.close()
    assert world.chain.validators.key_of(1) is None, "empty from the next epoch on"
    late = world.transaction(Accuse(evidence=other))
    with pytest.raises(PolicyError) as caught:
        world.chain.submit(late.signed.raw, now_ms=world.chain.head.time_ms + 1000)
    assert caught.value.rule == "evidence.epoch"


def test_an_accepted_empty_seat_cannot_vote(world):
    lab = world.lab
    world.certify(2, lab.validators[:3])
    world.close()
    validators = world.chain.validators
    assert validators.key_of(3) is None
    block = build_next(world.chain)
    certificate = world.keys.certificate(validators, block, lab)
    forged = replace(certificate, bitmap=bytes([0b1011]))
    with pytest.raises(VerificationError):
        forged.verify(validators, lab.chain_id, 0, VERIFIER)
    vote = world.keys.vote(validators, VoteKind.NOTARIZE, 0, view=1, block_id=None, lab=lab)
    assert not replace(vote, signer=3).is_valid(validators, lab.chain_id, 0, VERIFIER)


def test_parameters_take_effect_at_the_edge(world):
    lab, numbers = world.lab, Parameters(heartbeat_ms=5000, epoch_ms=4000)
    world.advance(world.transaction(set_parameters(lab, 1, numbers)))
    assert world.chain.rules.parameters == Parameters()
    world.next_epoch()
    assert world.chain.rules.parameters == numbers
    world.certify(3)
    assert not world.chain.head.closes_epoch
    assert world.advance(after_ms=4000).header.closes_epoch


@pytest.mark.slow
def test_a_version_this_program_lacks_stops_it_at_the_edge_and_no_earlier(tmp_path):
    world = World(tmp_path / "ledger.db")
    lab = world.lab
    world.advance(world.transaction(upgrade(lab, 1, version=2, epoch=3)))
    world.next_epoch()
    assert world.chain.version_fault is None
    world.next_epoch()
    assert world.chain.head.closes_epoch
    assert world.chain.rules.version == 2
    head = world.chain.head
    body = set_parameters(lab, 3, Parameters())
    raw = world.transaction(body).signed.raw
    block = Block(
        replace(
            head,
            epoch=3,
            height=head.height + 1,
            parent=head.block_id,
            view=1,
            parent_view=0,
            next_validators=world.chain.validators.digest,
        )
    )
    for attempt in (
        lambda: build_next(world.chain),
        lambda: world.chain.check(block),
        lambda: world.chain.follow([block], world.certificate(block)),
        lambda: world.chain.submit(raw, now_ms=head.time_ms + 1000),
    ):
        with pytest.raises(UnsupportedVersionError, match="update swarmd") as caught:
            attempt()
        assert caught.value.rule == "chain.version"
    world.chain._store.close()
    again = Chain.open(BlockStore(tmp_path / "ledger.db", Durability.FULL), lab.genesis)
    assert isinstance(again.version_fault, UnsupportedVersionError)
    again._store.close()


def test_what_is_due_is_worth_a_block(world):
    now_ms = world.chain.head.time_ms + EPOCH_MS
    assert not world.chain.is_epoch_due(now_ms), "nobody has a key"
    world.certify(2)
    assert world.chain.is_epoch_due(now_ms)
    assert not world.chain.is_epoch_due(world.chain.head.time_ms + 1000)


def test_a_client_follows_its_ledgers_steps_and_repeats_are_harmless(world):
    for _ in range(3):
        world.next_epoch()
    steps = world.chain.epoch_steps(1, 64)
    assert world.chain.epoch_steps(1, 2) == steps[:2]
    assert world.chain.epoch_steps(4, 64) == ()
    history = EpochHistory(TrustAnchor.of_genesis(world.lab.genesis), VERIFIER)
    assert history.advance(steps[:2]) == 2
    assert history.advance(steps) == 1
    assert history.anchor.validators == world.chain.validators
    with pytest.raises(VerificationError):
        EpochHistory(TrustAnchor.of_genesis(world.lab.genesis), VERIFIER).advance(steps[1:])

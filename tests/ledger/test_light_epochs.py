"""Clients that were away for many epochs: what it costs them, and who can deceive them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from ledger.certificate import Certificate
from ledger.header import Header
from ledger.light import (
    EPOCH_STEPS_MAX,
    FILLERS_MAX,
    EpochForkError,
    EpochHistory,
    EpochStep,
    TrustAnchor,
    advance_anchor,
    decode_epoch_step,
)
from ledger.validators import Validator, ValidatorSet
from ledger.vote import Ed25519Verifier, Vote, VoteKind, vote_message
from protocol.digest import ZERO_DIGEST, BlockId, ChainId, DidId, Digest, sha256
from protocol.errors import EncodingError, VerificationError
from protocol.keys import PublicKey
from protocol.merkle import EMPTY_ROOT
from tests.support.ledger import make_key

CHAIN = ChainId(sha256(b"light"))
VERIFIER = Ed25519Verifier()
WEEK_MS = 7 * 86_400_000


class Counting:
    """Checks real signatures and counts certificates by their first one."""

    def __init__(self) -> None:
        self.checks = 0

    def verify(self, key: PublicKey, signature: bytes, message: bytes) -> bool:
        self.checks += 1
        return VERIFIER.verify(key, signature, message)


def validators(epoch: int, count: int = 7) -> ValidatorSet:
    """A set whose keys are new in each epoch."""
    members = tuple(
        Validator(DidId(sha256(b"seat %d" % seat)), make_key(f"{seat} in {epoch}").public)
        for seat in range(count)
    )
    return ValidatorSet(epoch, members)


def certificate(held: ValidatorSet, header: Header) -> Certificate:
    """The first quorum of a set finalizes a header; needs the keys of that epoch."""
    message = vote_message(
        CHAIN, 0, VoteKind.FINALIZE, epoch=held.epoch, view=header.view, block_id=header.block_id
    )
    votes = [
        Vote(
            VoteKind.FINALIZE,
            held.epoch,
            header.view,
            header.block_id,
            seat,
            make_key(f"{seat} in {held.epoch}").sign(message),
        )
        for seat in range(held.quorum)
    ]
    return Certificate.of(votes, held)


def closing(held: ValidatorSet, following: ValidatorSet, *, label: bytes = b"") -> Header:
    """A header of realistic size that closes an epoch."""
    return Header(
        chain=CHAIN,
        era=0,
        epoch=held.epoch,
        view=600_000,
        height=1_000_000 * held.epoch,
        parent=BlockId(sha256(b"parent" + label)),
        parent_view=599_999,
        time_ms=1_700_000_000_000 + held.epoch * WEEK_MS,
        proposer=3,
        body_root=EMPTY_ROOT,
        log_size=5_000_000,
        log_root=EMPTY_ROOT,
        state_root=Digest(sha256(b"state" + label)),
        validators=held.digest,
        next_validators=following.digest,
    )


def step(
    held: ValidatorSet, following: ValidatorSet, *, label: bytes = b"", fillers: int = 0
) -> EpochStep:
    """One hand-over."""
    header = closing(held, following, label=label)
    last, more = header, []
    for _ in range(fillers):
        last = replace(
            last,
            view=last.view + 1,
            parent_view=last.view,
            parent=last.block_id,
            height=last.height + 1,
            time_ms=last.time_ms + 300,
        )
        more.append(last.encoded)
    return EpochStep(
        header=header.encoded,
        fillers=tuple(more),
        certificate=certificate(held, last).encode(),
        validators=following.encode(),
    )


def anchor(epoch: int = 1, count: int = 7) -> TrustAnchor:
    return TrustAnchor(chain=CHAIN, era=0, validators=validators(epoch, count), first=None)


def steps(first: int, last: int, count: int = 7) -> list[EpochStep]:
    """The hand-overs from epoch `first` to `last`."""
    return [
        step(validators(epoch, count), validators(epoch + 1, count)) for epoch in range(first, last)
    ]


@pytest.mark.slow
def test_a_client_offline_for_52_epochs_needs_100_kb_and_60_certificate_checks():
    way = steps(1, 53)
    counting = Counting()
    arrived = advance_anchor(anchor(), way, counting)
    assert arrived.validators == validators(53)
    assert arrived.bridged == 52
    certificates = counting.checks / validators(1).quorum
    assert certificates == 52 <= 60
    size = sum(len(item.encode()) for item in way)
    assert size <= 100_000, f"{size} bytes"


def test_a_step_survives_the_wire_and_every_altered_byte_is_refused():
    good = step(validators(1, 4), validators(2, 4))
    raw = good.encode()
    assert decode_epoch_step(raw) == good
    for place in range(0, len(raw), 7):
        altered = bytearray(raw)
        altered[place] ^= 1
        with pytest.raises(VerificationError):
            advance_anchor(anchor(1, 4), [decode_epoch_step(bytes(altered))], VERIFIER)


def test_fillers_lead_to_the_certificate_and_to_nothing_else():
    one, two = validators(1, 4), validators(2, 4)
    good = step(one, two, fillers=2)
    assert advance_anchor(anchor(1, 4), [good], VERIFIER).validators == two
    cases = [
        replace(good, fillers=good.fillers[:1]),
        replace(good, fillers=good.fillers[1:]),
        replace(good, fillers=good.fillers[::-1]),
        replace(good, fillers=()),
        replace(step(one, two), fillers=good.fillers[:1]),
    ]
    for wrong in cases:
        with pytest.raises(VerificationError):
            advance_anchor(anchor(1, 4), [wrong], VERIFIER)
    with pytest.raises(EncodingError):
        EpochStep.from_value([b"h", [b"f"] * (FILLERS_MAX + 1), b"c", b"v"])


def test_a_step_may_not_skip_an_epoch_or_come_from_another_set():
    one, two, three = (validators(epoch, 4) for epoch in (1, 2, 3))
    cases = [step(two, three), step(one, three), replace(step(one, two), validators=one.encode())]
    for wrong in cases:
        with pytest.raises(VerificationError):
            advance_anchor(anchor(1, 4), [wrong], VERIFIER)
    with pytest.raises(VerificationError, match="at most"):
        advance_anchor(anchor(1, 4), [step(one, two)] * (EPOCH_STEPS_MAX + 1), VERIFIER)


# Forks.


def forged_way(first: int, last: int) -> list[EpochStep]:
    """What a thief of epoch `first`'s retired keys makes: sets of keys of his own from there on."""
    own = [validators(first, 4)]
    for epoch in range(first + 1, last + 1):
        members = tuple(
            Validator(member.did, make_key(f"{seat} in {epoch} of the thief").public)
            for seat, member in enumerate(validators(first, 4).members)
        )
        own.append(ValidatorSet(epoch, members))
    first_step = step(own[0], own[1], label=b"thief")
    return [
        first_step,
        *(_thief_step(one, two) for one, two in itertools.pairwise(own[1:])),
    ]


def _thief_step(held: ValidatorSet, following: ValidatorSet) -> EpochStep:
    header = closing(held, following, label=b"thief")
    message = vote_message(
        CHAIN, 0, VoteKind.FINALIZE, epoch=held.epoch, view=header.view, block_id=header.block_id
    )
    votes = [
        Vote(
            VoteKind.FINALIZE,
            held.epoch,
            header.view,
            header.block_id,
            seat,
            make_key(f"{seat} in {held.epoch} of the thief").sign(message),
        )
        for seat in range(held.quorum)
    ]
    return EpochStep(
        header=header.encoded,
        certificate=Certificate.of(votes, held).encode(),
        validators=following.encode(),
    )


@pytest.mark.slow
def test_a_client_that_sees_both_chains_stops_and_stays_stopped():
    honest, forged = steps(1, 6, 4), forged_way(3, 6)
    for first, second in ((honest, forged), ([*honest[:2], *forged], honest)):
        client = EpochHistory(anchor(1, 4), VERIFIER)
        client.advance(first)
        with pytest.raises(EpochForkError) as caught:
            client.advance(second)
        assert caught.value.epoch == 3
        assert caught.value.first != caught.value.second
        with pytest.raises(EpochForkError):
            client.advance([])
        assert client.alarm is caught.value


def test_a_false_second_successor_is_no_fork():
    client = EpochHistory(anchor(1, 4), VERIFIER)
    way = steps(1, 3, 4)
    client.advance(way)
    other = step(validators(1, 4), validators(2, 4), label=b"other")
    junk = replace(other, certificate=way[0].certificate)
    with pytest.raises(VerificationError) as caught:
        client.advance([junk])
    assert not isinstance(caught.value, EpochForkError)
    assert client.alarm is None
    assert client.advance(way) == 0


def test_what_the_own_ledger_says_is_compared_too():
    client = EpochHistory(anchor(1, 4), VERIFIER)
    way = steps(1, 2, 4)
    client.advance(way)
    block = closing(validators(1, 4), validators(2, 4)).block_id
    client.check_closing(1, block)
    client.check_closing(9, BlockId(ZERO_DIGEST))
    with pytest.raises(EpochForkError):
        client.check_closing(1, BlockId(ZERO_DIGEST))
    assert client.alarm is not None


def test_a_history_remembers_whom_it_believed():
    client = EpochHistory(anchor(1, 4), VERIFIER)
    client.advance(steps(1, 4, 4))
    for epoch in range(1, 5):
        believed = client.anchor_of(epoch)
        assert believed is not None
        assert believed.validators == validators(epoch, 4)
    assert client.anchor_of(5) is None

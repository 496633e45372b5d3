"""Headers, hand-overs between epochs, and membership proofs, without executing anything."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.block import Block
from ledger.bodies.subject import SuspendSubject
from ledger.certificate import Certificate
from ledger.errors import LedgerNotYetError
from ledger.light import EpochStep, TrustAnchor, advance_anchor, verify_header
from ledger.membership import make_membership_proof, verify_membership_proof
from ledger.proof import decode_proof
from ledger.proof_make import make_proof
from ledger.proof_verify import verify_proof
from ledger.records.subject import SubjectStatus
from ledger.state_keys import subject_key
from ledger.validators import Validator, ValidatorSet
from ledger.vote import Ed25519Verifier, Vote, VoteKind, vote_message
from protocol.approval import Action
from protocol.did import KeyPurpose
from protocol.digest import ChainId, DidId, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError, NotYetError, SignatureError, VerificationError
from protocol.hello import MEMBERSHIP_BYTES_MAX
from tests.support.ledger import FLEET, advance, authorise, make_key, make_lab

VERIFIER = Ed25519Verifier()


class World:
    """A lab whose validators hand over to a second set."""

    def __init__(self):
        self.lab = make_lab()
        self.chain = self.lab.open_chain()
        advance(self.lab, self.chain)
        self.block = self.chain.block(self.chain.head.block_id)
        self.anchor = TrustAnchor.of_genesis(self.lab.genesis)
        self.heirs = [make_key(f"heir/{index}") for index in range(4)]
        members = tuple(
            Validator(DidId(sha256(b"%d" % index)), key.public)
            for index, key in enumerate(self.heirs)
        )
        self.next_set = ValidatorSet(2, members)

    def step(self, **changes):
        header = replace(self.block.header, **{"next_validators": self.next_set.digest, **changes})
        block = Block(header, self.block.transactions)
        return EpochStep(
            header=header.encoded,
            certificate=self.lab.certificate(block).encode(),
            validators=self.next_set.encode(),
        )

    def certify(self, header):
        """A certificate by the second set."""
        votes = []
        for index in range(3):
            message = vote_message(
                header.chain,
                0,
                VoteKind.FINALIZE,
                epoch=2,
                view=header.view,
                block_id=header.block_id,
            )
            signature = self.heirs[index].sign(message)
            votes.append(Vote(VoteKind.FINALIZE, 2, header.view, header.block_id, index, signature))
        return Certificate.of(votes, self.next_set)


@pytest.fixture(scope="module")
def world():
    return World()


def test_a_certified_header_is_believed(world):
    certificate = world.lab.certificate(world.block).encode()
    header = verify_header(world.block.header.encoded, certificate, world.anchor, VERIFIER)
    assert header == world.block.header


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chain": ChainId(sha256(b"x"))}, "another chain"),
        ({"era": 1}, "another era"),
        ({"epoch": 2}, "another epoch"),
        ({"validators": sha256(b"x")}, "another validator set"),
        ({"height": 9}, "no finalize certificate"),
    ],
)
def test_one_thing_wrong_with_a_header(world, changes, message):
    certificate = world.lab.certificate(world.block).encode()
    header = replace(world.block.header, **changes)
    with pytest.raises(VerificationError, match=message):
        verify_header(header.encoded, certificate, world.anchor, VERIFIER)


def test_a_certificate_of_another_view_or_kind_is_refused(world):
    raw = world.block.header.encoded
    genuine = world.lab.certificate(world.block)
    for certificate, message in (
        (replace(genuine, view=genuine.view + 1), "another certificate's view"),
        (world.lab.certificate(world.block, VoteKind.NOTARIZE), "no finalize certificate"),
    ):
        with pytest.raises(VerificationError, match=message):
            verify_header(raw, certificate.encode(), world.anchor, VERIFIER)
    for junk in (b"", b"\x80"):
        with pytest.raises(VerificationError):
            verify_header(raw, junk, world.anchor, VERIFIER)
        with pytest.raises(VerificationError):
            verify_header(junk, genuine.encode(), world.anchor, VERIFIER)


def test_every_signature_of_a_certificate_counts(world):
    raw = world.block.header.encoded
    genuine = world.lab.certificate(world.block)
    first, *others = genuine.signatures
    flipped = bytes((first[0] ^ 1,)) + first[1:]
    for signatures in ((flipped, *others), (*others, first), (first,) * len(genuine.signatures)):
        forged = replace(genuine, signatures=tuple(signatures))
        with pytest.raises(SignatureError):
            verify_header(raw, forged.encode(), world.anchor, VERIFIER)


def test_the_genesis_header_needs_no_certificate_where_it_is_known(world):
    first = world.chain.header_at(0)
    assert verify_header(first.encoded, b"", world.chain.anchor, VERIFIER) == first
    with pytest.raises(VerificationError, match="no certificate"):
        verify_header(first.encoded, b"", world.anchor, VERIFIER)
    forged = replace(first, state_root=sha256(b"x"))
    with pytest.raises(VerificationError, match="no certificate"):
        verify_header(forged.encoded, b"", world.chain.anchor, VERIFIER)


def test_an_anchor_moves_to_the_next_epoch_and_no_further(world):
    anchor = advance_anchor(world.anchor, [world.step()], VERIFIER)
    assert anchor.validators == world.next_set
    header = replace(
        world.block.header,
        epoch=2,
        height=2,
        validators=world.next_set.digest,
        next_validators=world.next_set.digest,
    )
    certificate = world.certify(header).encode()
    assert verify_header(header.encoded, certificate, anchor, VERIFIER) == header
    with pytest.raises(VerificationError):
        verify_header(header.encoded, certificate, world.anchor, VERIFIER)
    with pytest.raises(VerificationError, match="another epoch"):
        advance_anchor(world.anchor, [world.step(), world.step()], VERIFIER)


def test_false_hand_overs_are_refused(world):
    other = ValidatorSet(3, world.next_set.members)
    own = world.lab.validator_set.digest
    cases = [
        (world.step(next_validators=own), "closes no epoch"),
        (replace(world.step(), validators=other.encode()), "another set"),
        (world.step(next_validators=other.digest), "another set"),
        (replace(world.step(next_validators=other.digest), validators=other.encode()), "another"),
        (replace(world.step(), validators=b"\xa0"), "missing"),
        (replace(world.step(), certificate=b""), "truncated"),
    ]
    for step, message in cases:
        with pytest.raises(VerificationError, match=message):
            advance_anchor(world.anchor, [step], VERIFIER)
    with pytest.raises(VerificationError, match="65 epoch steps"):
        advance_anchor(world.anchor, [world.step()] * 65, VERIFIER)


def test_epoch_steps_survive_the_wire_and_are_checked_in_proof_files(world):
    step = world.step()
    assert EpochStep.from_value(step.to_value()) == step
    lab = make_lab()
    chain = lab.open_chain()
    manifest = lab.manifest()
    authorise(lab, chain, manifest)
    proof = decode_proof(make_proof(chain, manifest.manifest_id, FLEET))
    # The header of the proof is still of the first epoch.
    with pytest.raises(VerificationError, match="another epoch"):
        verify_proof(replace(proof, epochs=(step,)).encode(), lab.genesis)


# Membership.


class Club:
    """A chain whose gateway-0 proves its membership."""

    def __init__(self, blocks=1):
        self.lab = make_lab()
        self.chain = self.lab.open_chain()
        for _ in range(blocks):
            advance(self.lab, self.chain)
        self.member = self.lab.gateways[0]
        self.key = self.member.key(KeyPurpose.TRANSPORT).public

    def prove(self):
        return make_membership_proof(self.chain, self.member.did)

    def verify(self, data, *, key=None, height_min=0):
        return verify_membership_proof(
            data, self.chain.anchor, key or self.key, height_min=height_min
        )


def test_a_membership_proof_shows_the_record_of_a_transport_key():
    club = Club()
    shown = club.verify(club.prove(), height_min=1)
    assert (shown.did, shown.height) == (club.member.did, 1)
    assert shown.record == club.chain.subject(club.member.did)
    assert shown.header == club.chain.head


def test_a_node_with_genesis_only_can_prove_what_genesis_says():
    club = Club(blocks=0)
    assert club.verify(club.prove()).height == 0
    advance(club.lab, club.chain)
    with pytest.raises(NotYetError, match=r"membership\.old"):
        club.verify(Club(blocks=0).prove(), height_min=1)


def test_suspension_and_rotation_show():
    club = Club()
    body = SuspendSubject(
        did=club.member.did,
        group=FLEET,
        approvals=club.lab.approvals(Action.SUSPEND, club.member.did),
    )
    advance(club.lab, club.chain, [club.lab.transaction(club.lab.gateways[1], body)])
    assert club.verify(club.prove()).record.status is SubjectStatus.SUSPENDED
    other = Club()
    old = other.key
    rotation = other.lab.rotation(other.member)
    advance(other.lab, other.chain, [other.lab.transaction(other.lab.gateways[1], rotation)])
    with pytest.raises(VerificationError, match="another transport key"):
        other.verify(other.prove(), key=old)
    other.member.rotation = 1
    fresh = other.member.key(KeyPurpose.TRANSPORT).public
    assert other.verify(other.prove(), key=fresh).record.sequence == 1


def test_strangers_prove_nothing():
    club = Club()
    with pytest.raises(LedgerNotYetError, match=r"membership\.unknown"):
        make_membership_proof(club.chain, DidId(sha256(b"stranger")))
    with pytest.raises(VerificationError, match="another transport key"):
        club.verify(club.prove(), key=make_key("stranger").public)
    value = decode_canonical(club.prove(), bytes_max=MEMBERSHIP_BYTES_MAX)
    tree = club.chain.state.tree
    stranger = tree.prove(subject_key(DidId(sha256(b"stranger"))))
    person = tree.prove(b"g/" + FLEET.encode())
    short = tree.prove(b"d/short")
    for statement in (stranger, person, short):
        data = encode_canonical({**value, 3: statement.to_value()})
        with pytest.raises(VerificationError, match="no subject"):
            club.verify(data)
    for change in ({0: 2}, {4: 0}, {-1: 0}):
        with pytest.raises(EncodingError):
            club.verify(encode_canonical({**value, **change}))


def test_another_chains_membership_is_refused():
    club = Club()
    foreign = make_lab(gateways=3).open_chain()
    with pytest.raises(VerificationError, match="another chain"):
        verify_membership_proof(club.prove(), foreign.anchor, club.key, height_min=0)


@pytest.mark.slow
def test_every_altered_byte_of_a_membership_proof_is_refused():
    club = Club()
    data = club.prove()
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 1 << position % 8
        with pytest.raises(VerificationError):
            club.verify(bytes(altered))


def test_the_largest_membership_proof_fits_its_bound():
    lab = make_lab(validators=32)
    chain = lab.open_chain()
    advance(lab, chain)
    data = make_membership_proof(chain, lab.publisher.did)
    assert len(data) < MEMBERSHIP_BYTES_MAX // 2

"""Proof files: what they show, and that nothing in them can be altered (promise G3)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.bodies.group import CreateGroup
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.proof import (
    PROOF_FILE_BYTES_MAX,
    GroupOrigin,
    ProofFile,
    decode_proof,
    make_proof,
    verify_proof,
)
from ledger.records.manifest import ManifestStatus
from ledger.state_keys import latest_key, manifest_key
from ledger.state_tree import StateProof
from ledger.vote import VoteKind
from protocol.approval import Action
from protocol.did import KeyPurpose
from protocol.digest import sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError, VerificationError
from protocol.manifest import parse_manifest
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    PRODUCT,
    advance,
    authorise,
    make_group,
    make_lab,
    make_policy,
    owner_keys,
)

IMAGE = b"image 1"


class Case:
    """A chain with one authorised manifest and its proof."""

    def __init__(self, **arguments):
        self.lab = make_lab(**arguments)
        self.chain = self.lab.open_chain()
        self.manifest = self.lab.manifest(image=IMAGE)
        authorise(self.lab, self.chain, self.manifest)
        self.data = make_proof(self.chain, self.manifest.manifest_id, FLEET)
        self.proof = decode_proof(self.data)

    def verify(self, proof=None, image=None):
        data = self.data if proof is None else proof.encode()
        return verify_proof(data, self.lab.genesis, image)


@pytest.fixture(scope="module")
def case():
    return Case()


def test_a_proof_shows_who_authorised_what_when_and_under_which_policy(case):
    shown = case.verify(image=sha256(IMAGE))
    assert shown.manifest_id == case.manifest.manifest_id
    assert shown.signed.signed.raw == case.manifest.signed.raw
    assert shown.record.status is ManifestStatus.AUTHORISED
    assert (shown.group, shown.component) == (FLEET, "firmware")
    assert sorted(shown.approvers) == ["owner-0", "owner-1"]
    assert shown.policy == make_policy()
    assert (shown.height, shown.time_ms) == (2, case.chain.head.time_ms)
    assert shown.latest_sequence == 1
    assert case.verify().component is None


def test_the_core_of_a_proof_is_small_at_seven_validators():
    case = Case(validators=7)
    more = {b"z/" + number.to_bytes(4, "big"): b"" for number in range(3000)}
    statement = case.chain.state.tree.update(more).prove(case.proof.statement.key)
    core = (case.proof.header, case.proof.certificate, statement.encode())
    assert sum(len(part) for part in core) <= 2048
    assert len(case.data) < 4096


def test_images_are_compared_with_stored_and_plain_digests():
    lab = make_lab()
    chain = lab.open_chain()
    component = lab.manifest().manifest.components[0]
    sealed = replace(component, plain_digest=sha256(b"plain"))
    manifest = lab.manifest(components=(sealed,))
    authorise(lab, chain, manifest)
    data = make_proof(chain, manifest.manifest_id, FLEET)
    for digest in (sha256(b"plain"), component.digest):
        assert verify_proof(data, lab.genesis, digest).component == "firmware"
    with pytest.raises(VerificationError, match="no component"):
        verify_proof(data, lab.genesis, sha256(b"other"))


def test_there_is_no_proof_of_what_is_not_authorised():
    lab = make_lab()
    chain = lab.open_chain()
    manifest = lab.manifest(expires_ms=GENESIS_MS + 10_000)

    def refusal(manifest=manifest):
        with pytest.raises(LedgerError) as caught:
            make_proof(chain, manifest.manifest_id, FLEET)
        return caught.value

    assert (refusal().rule, type(refusal())) == ("proof.unknown", LedgerNotYetError)
    advance(lab, chain, [lab.propose(manifest)])
    assert (refusal().rule, type(refusal())) == ("proof.proposed", LedgerNotYetError)
    advance(lab, chain, [lab.approve(manifest.manifest_id)])
    data = make_proof(chain, manifest.manifest_id, FLEET)
    advance(lab, chain, after_ms=20_000)
    assert (refusal().rule, type(refusal())) == ("proof.expired", LedgerError)
    assert verify_proof(data, lab.genesis).height == 2, "an old proof stays true of its time"
    lasting = lab.manifest(sequence=2)
    authorise(lab, chain, lasting)
    advance(lab, chain, [lab.revoke(lasting.manifest_id)])
    assert refusal(lasting).rule == "proof.revoked"


def test_a_newer_release_shows_in_the_proof():
    case = Case()
    newer = case.lab.manifest(sequence=7)
    authorise(case.lab, case.chain, newer)
    data = make_proof(case.chain, case.manifest.manifest_id, FLEET)
    assert verify_proof(data, case.lab.genesis).latest_sequence == 7


@pytest.mark.slow
def test_every_altered_byte_is_refused(case):
    for position in range(len(case.data)):
        altered = bytearray(case.data)
        altered[position] ^= 1 << position % 8
        with pytest.raises(VerificationError):
            verify_proof(bytes(altered), case.lab.genesis)


def test_truncated_and_extended_files_are_refused(case):
    for cut in range(0, len(case.data), 37):
        with pytest.raises(EncodingError):
            verify_proof(case.data[:cut], case.lab.genesis)
    with pytest.raises(EncodingError):
        verify_proof(case.data + b"\x00", case.lab.genesis)
    with pytest.raises(EncodingError, match="at most"):
        verify_proof(bytes(PROOF_FILE_BYTES_MAX + 1), case.lab.genesis)


@pytest.mark.parametrize("change", [{-1: 0}, {10: 0}, {0: 2}, {4: []}, {5: []}, {9: [b"", []]}])
def test_unknown_fields_are_refused(case, change):
    value = decode_canonical(case.data, bytes_max=PROOF_FILE_BYTES_MAX)
    with pytest.raises(EncodingError):
        verify_proof(encode_canonical({**value, **change}), case.lab.genesis)


def test_another_genesis_is_refused(case):
    with pytest.raises(VerificationError, match="proof of chain"):
        verify_proof(case.data, make_lab(gateways=3).genesis)


def other_release(case):
    """A second authorised manifest of the same chain, with its proof."""
    manifest = case.lab.manifest(sequence=2, image=b"image 2")
    authorise(case.lab, case.chain, manifest)
    return decode_proof(make_proof(case.chain, manifest.manifest_id, FLEET))


def test_parts_of_two_proofs_do_not_mix():
    case = Case()
    other = other_release(case)
    for name in ("header", "certificate", "statement", "latest", "approvals", "manifest"):
        mixed = replace(case.proof, **{name: getattr(other, name)})
        with pytest.raises(VerificationError):
            case.verify(mixed)


def test_one_thing_wrong(case):
    lab, proof, tree = case.lab, case.proof, case.chain.state.tree
    manifest_id = case.manifest.manifest_id
    votes = lab.certificate(case.chain.block(case.chain.head.block_id), VoteKind.NOTARIZE)
    stranger = lab.approval(Action.AUTHORISE, manifest_id, owner_keys(FLEET)[2])
    origin = GroupOrigin(group=make_group(FLEET).encode(), approvals=(stranger,))
    cases = [
        (replace(proof, certificate=votes.encode()), "no finalize certificate"),
        (replace(proof, certificate=b""), "no certificate"),
        (replace(proof, statement=tree.prove(b"m/nothing")), "not about this manifest"),
        (replace(proof, latest=proof.statement), "second statement"),
        (replace(proof, approvals=proof.approvals[:1]), "other than the 2 on record"),
        (replace(proof, approvals=proof.approvals[::-1]), "other than the 2 on record"),
        (replace(proof, approvals=(*proof.approvals, stranger)), "other than the 2 on record"),
        (replace(proof, policy=make_policy(enrol_threshold=1).encode()), "policy is not"),
        (replace(proof, origin=origin), "origin is shown exactly if"),
    ]
    for altered, message in cases:
        with pytest.raises(VerificationError, match=message):
            case.verify(altered)


def conspire(case, record, *, approvals=None, latest=True, value=None):
    """A proof over a state that all validators certify although no rule led to it."""
    lab, proof = case.lab, case.proof
    manifest = parse_manifest(proof.manifest)
    key = manifest_key(manifest.manifest_id, FLEET)
    writes = {key: record.encode() if value is None else value}
    tree = case.chain.state.tree.update(writes)
    if not latest:
        tree = type(tree)().update(
            {k: v for k, v in tree.items() if k != latest_key(FLEET, PRODUCT)}
        )
    block = case.chain.block(case.chain.head.block_id)
    header = replace(block.header, state_root=tree.root)
    from ledger.block import Block

    forged = Block(header, block.transactions)
    return replace(
        proof,
        header=header.encoded,
        certificate=lab.certificate(forged).encode(),
        statement=tree.prove(key),
        latest=tree.prove(latest_key(FLEET, PRODUCT)),
        approvals=proof.approvals if approvals is None else approvals,
    )


def test_all_validators_together_make_no_proof_without_the_owners(case):
    """Promise G2: validators certify any state they like; a checker asks the owners."""
    lab, manifest_id = case.lab, case.manifest.manifest_id
    record = case.chain.manifest_record(manifest_id, FLEET)
    assert case.verify(conspire(case, record)).approvers, "the forgery is faultless but for owners"
    keys = sorted(
        (member.key(KeyPurpose.VALIDATOR) for member in lab.validators),
        key=lambda key: key.public.key_id,
    )
    forged = tuple(lab.approval(Action.AUTHORISE, manifest_id, key) for key in keys)
    ids = tuple(key.public.key_id for key in keys)
    with pytest.raises(VerificationError, match="0 valid owner approvals"):
        case.verify(conspire(case, replace(record, approvers=ids), approvals=forged))
    one = case.proof.approvals[:1]
    with pytest.raises(VerificationError, match="1 valid owner approvals, 2 needed"):
        case.verify(conspire(case, replace(record, approvers=record.approvers[:1]), approvals=one))
    mixed_ids = tuple(sorted((*record.approvers, ids[0])))
    by_id = dict(zip((*record.approvers, ids[0]), (*case.proof.approvals, forged[0]), strict=True))
    mixed = tuple(by_id[key_id] for key_id in mixed_ids)
    with pytest.raises(VerificationError, match="2 of 3 approvals"):
        case.verify(conspire(case, replace(record, approvers=mixed_ids), approvals=mixed))


def test_a_weaker_policy_invented_by_validators_does_not_help(case):
    """The owner root's own threshold holds whatever policy the state names."""
    record = case.chain.manifest_record(case.manifest.manifest_id, FLEET)
    weak = replace(make_policy(), approve_threshold=1)
    approval = case.lab.approval(
        Action.AUTHORISE, case.manifest.manifest_id, owner_keys(FLEET)[0], policy=weak.policy_id
    )
    forged = conspire(
        case,
        replace(record, policy=weak.policy_id, approvers=(owner_keys(FLEET)[0].public.key_id,)),
        approvals=(approval,),
    )
    with pytest.raises(VerificationError, match="2 needed"):
        case.verify(replace(forged, policy=weak.encode()))


def test_a_stricter_policy_holds_even_if_validators_authorise_too_early():
    strict = make_policy(approve_threshold=3, amend_threshold=3)
    lab = make_lab(policy=strict)
    chain = lab.open_chain()
    manifest = lab.manifest(image=IMAGE)
    advance(lab, chain, [lab.propose(manifest)])
    advance(lab, chain, [lab.approve(manifest.manifest_id, count=3)])
    early = Case.__new__(Case)
    early.lab, early.chain, early.manifest = lab, chain, manifest
    early.proof = decode_proof(make_proof(chain, manifest.manifest_id, FLEET))
    record = chain.manifest_record(manifest.manifest_id, FLEET)
    assert len(early.verify(conspire(early, record)).approvers) == 3
    forged = conspire(
        early,
        replace(record, approvers=record.approvers[:2]),
        approvals=early.proof.approvals[:2],
    )
    with pytest.raises(VerificationError, match="2 valid owner approvals, 3 needed"):
        early.verify(forged)


def test_what_the_record_says_counts(case):
    record = case.chain.manifest_record(case.manifest.manifest_id, FLEET)
    time_ms = case.chain.head.time_ms
    manifest = case.manifest.manifest
    cases = [
        (replace(record, status=ManifestStatus.REVOKED), "revoked"),
        (replace(record, status=ManifestStatus.PROPOSED), "proposed"),
        (replace(record, sequence=9), "contradicts"),
        (replace(record, expires_ms=time_ms - 1), "contradicts"),
        (replace(record, product="valve"), "contradicts"),
    ]
    assert manifest.expires_ms is None
    for altered, message in cases:
        with pytest.raises(VerificationError, match=message):
            case.verify(conspire(case, altered))
    with pytest.raises(VerificationError, match="no latest release"):
        case.verify(conspire(case, record, latest=False))
    with pytest.raises(EncodingError):
        case.verify(conspire(case, record, value=b"\xa0"))


def test_absence_and_an_older_latest_are_refused(case):
    tree, key = case.chain.state.tree, case.proof.statement.key
    without = type(tree)().update({k: v for k, v in tree.items() if k != key})
    block = case.chain.block(case.chain.head.block_id)
    from ledger.block import Block
    from ledger.records.manifest import LatestRecord

    def certified(tree):
        forged = Block(replace(block.header, state_root=tree.root), block.transactions)
        return replace(
            case.proof,
            header=forged.header.encoded,
            certificate=case.lab.certificate(forged).encode(),
            statement=tree.prove(key),
            latest=tree.prove(latest_key(FLEET, PRODUCT)),
        )

    with pytest.raises(VerificationError, match="not on record"):
        case.verify(certified(without))
    older = LatestRecord(manifest=case.manifest.manifest_id, sequence=0)
    with pytest.raises(VerificationError, match="older than the manifest"):
        case.verify(certified(tree.update({latest_key(FLEET, PRODUCT): older.encode()})))
    assert isinstance(case.proof.statement, StateProof)


def governed():
    """A manifest authorised in a group that governance created after genesis."""
    lab = make_lab()
    chain = lab.open_chain()
    named = make_policy(publishers=(lab.publisher.did,))
    group = make_group("pumps", named)
    approvals = tuple(
        lab.approval(
            Action.CREATE_GROUP,
            sha256(group.encode()),
            key,
            group="pumps",
            policy=named.policy_id,
        )
        for key in lab.governance[:2]
    )
    body = CreateGroup(group=group.encode(), approvals=approvals)
    advance(lab, chain, [lab.transaction(lab.gateways[0], body)])
    manifest = lab.manifest(groups=("pumps",))
    advance(lab, chain, [lab.propose(manifest)])
    from ledger.bodies.manifest import ApproveManifest

    signed = tuple(
        lab.approval(
            Action.AUTHORISE, manifest.manifest_id, key, group="pumps", policy=named.policy_id
        )
        for key in owner_keys("pumps")[:2]
    )
    body = ApproveManifest(manifest=manifest.manifest_id, group="pumps", approvals=signed)
    advance(lab, chain, [lab.transaction(lab.gateways[0], body)])
    return lab, decode_proof(make_proof(chain, manifest.manifest_id, "pumps"))


def test_a_later_groups_owners_are_believed_because_governance_signed_them():
    lab, proof = governed()
    assert proof.origin is not None
    assert verify_proof(proof.encode(), lab.genesis).group == "pumps"
    evil = make_group("pumps", make_policy(enrol_threshold=1)).encode()
    own = tuple(
        lab.approval(
            Action.CREATE_GROUP,
            sha256(proof.origin.group),
            member.key(KeyPurpose.VALIDATOR),
            group="pumps",
            policy=sha256(b""),
        )
        for member in lab.validators
    )
    origin = proof.origin
    for altered in (
        None,
        replace(origin, group=evil),
        replace(origin, group=make_group("valves").encode()),
        replace(origin, approvals=own),
        replace(origin, approvals=origin.approvals[:1]),
        replace(origin, approvals=(*origin.approvals, own[0])),
        replace(origin, approvals=(origin.approvals[0],) * 2),
    ):
        with pytest.raises(VerificationError):
            verify_proof(replace(proof, origin=altered).encode(), lab.genesis)


def test_a_proof_file_survives_encoding(case):
    assert isinstance(case.proof, ProofFile)
    assert decode_proof(case.proof.encode()) == case.proof
    assert case.proof.encode() == case.data

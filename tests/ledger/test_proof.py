"""Proof files: what they show, and that nothing in them can be altered (promise G3)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.block import Block
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.proof import PROOF_FILE_BYTES_MAX, ProofFile, decode_proof
from ledger.proof_facts import StateFacts
from ledger.proof_make import ProofBuilder, make_proof
from ledger.proof_statements import GroupOrigin
from ledger.proof_verify import verify_authorisation, verify_proof
from ledger.records.manifest import LatestRecord, ManifestStatus
from ledger.state_keys import anchor_key, latest_key, manifest_key, subject_key
from ledger.state_tree import StateTree
from ledger.vote import VoteKind
from protocol.approval import Action
from protocol.did import KeyPurpose
from protocol.digest import TransactionId, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError, LocalProtocolError, VerificationError
from protocol.merkle import leaf_hash
from protocol.sealing import Sealing
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    PRODUCT,
    advance,
    authorise,
    build_next,
    make_group,
    make_lab,
    make_policy,
    owner_keys,
)
from tests.support.proofs import PUMPS, make_world

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

    @property
    def key(self):
        return manifest_key(self.manifest.manifest_id, FLEET)

    def verify(self, proof=None, image=None):
        data = self.data if proof is None else proof.encode()
        return verify_authorisation(data, self.lab.genesis, image)

    def consent(self, **changes):
        """The proof with another consent."""
        (consent,) = self.proof.consents
        return replace(self.proof, consents=(replace(consent, **changes),))


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


def test_images_are_compared_with_stored_and_plain_digests():
    lab = make_lab()
    chain = lab.open_chain()
    component = lab.manifest().manifest.components[0]
    sealing = Sealing(ring=sha256(b"ring"), generation=1, nonce=bytes(16))
    size = component.size + 16 * component.chunk_count
    sealed = replace(component, size=size, plain_digest=sha256(b"plain"), sealing=sealing)
    manifest = lab.manifest(components=(sealed,))
    authorise(lab, chain, manifest)
    data = make_proof(chain, manifest.manifest_id, FLEET)
    for digest in (sha256(b"plain"), component.digest):
        assert verify_authorisation(data, lab.genesis, digest).component == "firmware"
    with pytest.raises(VerificationError, match="no component"):
        verify_authorisation(data, lab.genesis, sha256(b"other"))


def test_there_is_no_proof_of_what_is_not_authorised():
    lab = make_lab()
    chain = lab.open_chain()
    manifest = lab.manifest(expires_ms=GENESIS_MS + 10_000)

    def refusal(manifest=manifest):
        with pytest.raises(LedgerError) as caught:
            make_proof(chain, manifest.manifest_id, FLEET)
        return caught.value

    assert refusal().rule == "proof.genesis"
    advance(lab, chain)
    assert (refusal().rule, type(refusal())) == ("proof.unknown", LedgerNotYetError)
    advance(lab, chain, [lab.propose(manifest)])
    assert (refusal().rule, type(refusal())) == ("proof.proposed", LedgerNotYetError)
    advance(lab, chain, [lab.approve(manifest.manifest_id)])
    data = make_proof(chain, manifest.manifest_id, FLEET)
    advance(lab, chain, after_ms=20_000)
    assert (refusal().rule, type(refusal())) == ("proof.expired", LedgerError)
    assert verify_proof(data, lab.genesis).height == 3, "an old proof stays true of its time"
    lasting = lab.manifest(sequence=2)
    authorise(lab, chain, lasting)
    advance(lab, chain, [lab.revoke(lasting.manifest_id)])
    assert refusal(lasting).rule == "proof.revoked"


def test_a_newer_release_shows_in_the_proof():
    case = Case()
    newer = case.lab.manifest(sequence=7)
    authorise(case.lab, case.chain, newer)
    data = make_proof(case.chain, case.manifest.manifest_id, FLEET)
    assert verify_authorisation(data, case.lab.genesis).latest_sequence == 7


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


@pytest.mark.parametrize(
    "change",
    [{-1: 0}, {9: 0}, {0: 1}, {3: []}, {4: []}, {5: []}, {6: []}, {7: []}, {8: []}, {7: [{}]}],
)
def test_unknown_fields_and_empty_sections_are_refused(case, change):
    value = decode_canonical(case.data, bytes_max=PROOF_FILE_BYTES_MAX)
    with pytest.raises(EncodingError):
        verify_proof(encode_canonical({**value, **change}), case.lab.genesis)


def test_another_genesis_is_refused(case):
    with pytest.raises(VerificationError, match="header of another chain"):
        verify_proof(case.data, make_lab(gateways=3).genesis)


def other_release(case):
    """A second authorised manifest of the same chain, with its proof."""
    manifest = case.lab.manifest(sequence=2, image=b"image 2")
    authorise(case.lab, case.chain, manifest)
    return decode_proof(make_proof(case.chain, manifest.manifest_id, FLEET))


def test_parts_of_two_proofs_do_not_mix():
    case = Case()
    other = other_release(case)
    for name in ("header", "certificate", "facts", "consents", "manifests"):
        mixed = replace(case.proof, **{name: getattr(other, name)})
        with pytest.raises(VerificationError):
            case.verify(mixed)


def test_one_thing_wrong(case):
    lab, proof, tree = case.lab, case.proof, case.chain.state.tree
    manifest_id = case.manifest.manifest_id
    votes = lab.certificate(case.chain.block(case.chain.head.block_id), VoteKind.NOTARIZE)
    stranger = lab.approval(Action.AUTHORISE, manifest_id, owner_keys(FLEET)[2])
    origin = GroupOrigin(group=make_group(FLEET).encode(), approvals=(stranger,))
    (consent,) = proof.consents
    approvals = consent.approvals
    (place,) = (n for n, fact in enumerate(proof.facts.facts) if fact.key == case.key)
    unrelated = StateFacts.of([tree.prove(b"m/nothing"), tree.prove(subject_key(b"?" * 32))])
    own = StateFacts.of([tree.prove(case.key)])
    cases = [
        (replace(proof, certificate=votes.encode()), "no finalize certificate"),
        (replace(proof, certificate=b""), "no certificate"),
        (replace(proof, facts=unrelated, consents=()), "not among its facts"),
        (replace(proof, facts=unrelated, consents=(), manifests=()), "not about a manifest"),
        (replace(proof, consents=()), "lacks the manifest or its owners' consent"),
        (replace(proof, manifests=()), "lacks the manifest or its owners' consent"),
        (replace(proof, manifests=(lab.manifest(sequence=9).signed.raw,)), "not among its facts"),
        (replace(proof, facts=own, consents=(replace(consent, fact=1),)), "beyond the 1 there"),
        (case.consent(fact=1 - place), "not about a manifest on record"),
        (case.consent(approvals=approvals[:1]), "other than the 2 on record"),
        (case.consent(approvals=approvals[::-1]), "other than the 2 on record"),
        (case.consent(approvals=(*approvals, stranger)), "other than the 2 on record"),
        (case.consent(policy=make_policy(enrol_threshold=1).encode()), "policy is not"),
        (case.consent(origin=origin), "origin is shown exactly if"),
        (replace(proof, consents=(consent, consent)), "not strictly ascending"),
        (replace(proof, manifests=proof.manifests * 2), "not strictly ascending"),
    ]
    for altered, message in cases:
        with pytest.raises(VerificationError, match=message):
            case.verify(altered)


def certified(case, tree, proof=None, **changes):
    """The proof over a state that all validators certify although no rule led to it."""
    proof = case.proof if proof is None else proof
    block = case.chain.block(case.chain.head.block_id)
    forged = Block(replace(block.header, state_root=tree.root), block.transactions)
    keys = [fact.key for fact in proof.facts.facts]
    return replace(
        proof,
        header=forged.header.encoded,
        certificate=case.lab.certificate(forged).encode(),
        facts=StateFacts.of([tree.prove(key) for key in keys]),
        **changes,
    )


def conspire(case, record, *, approvals=None, latest=True, value=None, policy=None):
    """A proof over a forged record, and whatever approvals the validators can lay hands on."""
    tree = case.chain.state.tree.update({case.key: record.encode() if value is None else value})
    if not latest:
        hidden = latest_key(FLEET, PRODUCT)
        tree = StateTree().update({k: v for k, v in tree.items() if k != hidden})
    (consent,) = case.proof.consents
    consent = replace(
        consent,
        approvals=consent.approvals if approvals is None else approvals,
        policy=consent.policy if policy is None else policy,
    )
    return certified(case, tree, consents=(consent,))


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
    with pytest.raises(VerificationError, match="4 approvals, other than the 0 on record"):
        case.verify(conspire(case, replace(record, approvers=ids), approvals=forged))
    one = case.proof.consents[0].approvals[:1]
    with pytest.raises(VerificationError, match="1 valid owner approvals, 2 needed"):
        case.verify(conspire(case, replace(record, approvers=record.approvers[:1]), approvals=one))
    mixed_ids = tuple(sorted((*record.approvers, ids[0])))
    signed = (*case.proof.consents[0].approvals, forged[0])
    by_id = dict(zip((*record.approvers, ids[0]), signed, strict=True))
    mixed = tuple(by_id[key_id] for key_id in mixed_ids)
    with pytest.raises(VerificationError, match="3 approvals, other than the 2 on record"):
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
        policy=weak.encode(),
    )
    with pytest.raises(VerificationError, match="2 needed"):
        case.verify(forged)


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
        approvals=early.proof.consents[0].approvals[:2],
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
    tree = case.chain.state.tree
    without = StateTree().update({k: v for k, v in tree.items() if k != case.key})
    with pytest.raises(VerificationError, match="not about a manifest on record"):
        case.verify(certified(case, without))
    with pytest.raises(VerificationError, match="is not about a manifest on record"):
        case.verify(certified(case, without, consents=(), manifests=()))
    older = LatestRecord(manifest=case.manifest.manifest_id, sequence=0)
    with pytest.raises(VerificationError, match="older than the manifest"):
        case.verify(certified(case, tree.update({latest_key(FLEET, PRODUCT): older.encode()})))


@pytest.mark.parametrize("key", [b"m/", b"m/" + bytes(32), b"m/" + bytes(32) + b"\xff", b"m/\xff"])
def test_a_certified_key_that_names_no_manifest_is_refused(case, key):
    record = case.chain.manifest_record(case.manifest.manifest_id, FLEET)
    tree = case.chain.state.tree.update({key: record.encode()})
    facts = StateFacts.of([tree.prove(key)])
    bare = replace(case.proof, facts=facts, consents=(), manifests=())
    with pytest.raises(VerificationError):
        verify_proof(certified(case, tree, bare).encode(), case.lab.genesis)


def test_a_proof_file_survives_encoding(case):
    assert isinstance(case.proof, ProofFile)
    assert decode_proof(case.proof.encode()) == case.proof
    assert case.proof.encode() == case.data


# Groups that governance created.


def test_a_later_groups_owners_are_believed_because_governance_signed_them():
    world = make_world()
    lab, proof = world.lab, decode_proof(world.files["governed"])
    (consent,) = proof.consents
    origin = consent.origin
    assert origin is not None
    assert verify_authorisation(proof.encode(), lab.genesis).group == PUMPS
    evil = make_group(PUMPS, make_policy(enrol_threshold=1)).encode()
    own = tuple(
        lab.approval(
            Action.CREATE_GROUP,
            sha256(origin.group),
            member.key(KeyPurpose.VALIDATOR),
            group=PUMPS,
            policy=sha256(b""),
        )
        for member in lab.validators
    )
    for altered in (
        None,
        replace(origin, group=evil),
        replace(origin, group=make_group("valves").encode()),
        replace(origin, approvals=own),
        replace(origin, approvals=origin.approvals[:1]),
        replace(origin, approvals=(*origin.approvals, own[0])),
        replace(origin, approvals=(origin.approvals[0],) * 2),
        replace(origin, approvals=origin.approvals[::-1]),
    ):
        forged = replace(proof, consents=(replace(consent, origin=altered),))
        with pytest.raises(VerificationError):
            verify_proof(forged.encode(), lab.genesis)


# Other statements.


def test_the_core_names_status_policy_and_approvers_whatever_the_status():
    world = make_world()
    shown = verify_proof(world.files["core"], world.lab.genesis)
    (statement,) = shown.manifests
    record = world.chain.manifest_record(world.manifest.manifest_id, FLEET)
    assert (statement.manifest_id, statement.group) == (world.manifest.manifest_id, FLEET)
    assert statement.record == record
    assert (statement.consent, statement.signed, statement.latest) == (None, None, None)
    assert len(shown.facts) == 1
    with pytest.raises(VerificationError, match="lacks the manifest"):
        verify_authorisation(world.files["core"], world.lab.genesis)
    (revoked,) = verify_proof(world.files["revoked"], world.lab.genesis).manifests
    assert revoked.record.status is ManifestStatus.REVOKED
    with pytest.raises(VerificationError, match="revoked"):
        verify_authorisation(world.files["revoked"], world.lab.genesis)


def test_receipts_transactions_absence_and_subjects_are_shown():
    world = make_world()
    genesis, files = world.lab.genesis, world.files
    (receipt,) = verify_proof(files["receipt"], genesis).receipts
    assert (receipt.did, receipt.index, receipt.entry) == (world.did, 2, world.receipts[2])
    assert receipt.anchor.size == 5
    (entry,) = verify_proof(files["transaction"], genesis).entries
    assert entry.entry == world.anchored.signed.raw
    (leaf,) = verify_proof(files["leaf"], genesis).entries
    assert (leaf.index, leaf.leaf, leaf.entry) == (entry.index, entry.leaf, None)
    assert leaf.leaf == leaf_hash(world.anchored.signed.raw)
    assert set(verify_proof(files["absent"], genesis).facts.values()) == {None}
    shown = verify_proof(files["subject"], genesis)
    did = world.lab.publisher.did
    assert shown.facts == {subject_key(did): world.chain.state.subject(did).encode()}
    everything = verify_proof(files["everything"], genesis)
    assert {item.group for item in everything.manifests} == {FLEET, PUMPS}
    assert all(item.consent and item.signed and item.latest for item in everything.manifests)
    assert [item.index for item in everything.receipts] == [0, 3]


def test_what_cannot_be_shown_yet_is_said():
    lab = make_lab()
    chain = lab.open_chain()
    with pytest.raises(LedgerNotYetError, match=r"proof\.genesis"):
        ProofBuilder(chain)
    advance(lab, chain)
    builder = ProofBuilder(chain)
    manifest = lab.manifest()
    waiting = lab.propose(manifest)
    build_next(chain, [waiting])
    pending = TransactionId(waiting.transaction_id)
    for rule, call in (
        ("proof.unknown", lambda: builder.add_subject(sha256(b"nobody"))),
        ("proof.unknown", lambda: builder.add_manifest_bytes(manifest.manifest_id)),
        ("proof.unknown", lambda: builder.add_transaction(sha256(b"nothing"))),
        ("proof.pending", lambda: builder.add_transaction(pending)),
        ("proof.unanchored", lambda: builder.anchored_size(lab.gateways[0].did)),
    ):
        with pytest.raises(LedgerNotYetError) as caught:
            call()
        assert caught.value.rule == rule
    with pytest.raises(EncodingError, match="states nothing"):
        decode_proof(ProofBuilder(chain).encode())


def test_receipts_and_entries_are_held_to_their_roots():
    world = make_world()
    genesis = world.lab.genesis
    proof = decode_proof(world.files["everything"])
    (entry,), receipts = proof.entries, proof.receipts
    anchors = [n for n, fact in enumerate(proof.facts.facts) if fact.key == anchor_key(world.did)]
    assert [item.fact for item in receipts] == anchors * 2
    elsewhere = next(n for n in range(len(proof.facts.facts)) if n not in anchors)
    for changes in (
        {"entries": (replace(entry, index=entry.index + 1),)},
        {"entries": (replace(entry, siblings=entry.siblings[:-1]),)},
        {"entries": (replace(entry, entry=b"another"),)},
        {"entries": (replace(entry, entry=None),)},
        {"entries": (entry, entry)},
        {"receipts": receipts[::-1]},
        {"receipts": (replace(receipts[0], entry=world.receipts[1]),)},
        {"receipts": (replace(receipts[0], index=1),)},
        {"receipts": (replace(receipts[0], index=7),)},
        {"receipts": (replace(receipts[0], siblings=()),)},
        {"receipts": (replace(receipts[0], fact=elsewhere),)},
        {"receipts": (replace(receipts[0], fact=31),)},
    ):
        with pytest.raises((VerificationError, LocalProtocolError)):
            verify_proof(replace(proof, **changes).encode(), genesis)


def test_a_node_that_pruned_bodies_proves_its_manifests_and_receipts():
    world = make_world.__wrapped__()
    before = {name: len(data) for name, data in world.files.items()}
    world.chain.prune(1)
    assert world.chain.block(world.chain.header_at(1).block_id) is None
    image = make_proof(world.chain, world.manifest.manifest_id, FLEET)
    assert verify_authorisation(image, world.lab.genesis).group == FLEET
    governed = make_proof(world.chain, world.governed.manifest_id, PUMPS)
    assert verify_authorisation(governed, world.lab.genesis).group == PUMPS
    builder = ProofBuilder(world.chain)
    world.add_receipt(builder, 4)
    (receipt,) = verify_proof(builder.encode(), world.lab.genesis).receipts
    assert receipt.entry == world.receipts[4]
    assert len(image) == before["image"]
    with pytest.raises(LedgerError, match=r"proof\.pruned"):
        builder.add_transaction(world.anchored.transaction_id)

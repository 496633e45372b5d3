"""Rules of `manifest.propose`, `manifest.approve` and `manifest.revoke`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.bodies.group import SetPolicy
from ledger.bodies.manifest import ApproveManifest, ProposeManifest, RevokeManifest
from ledger.bodies.subject import SuspendSubject
from ledger.errors import LedgerNotYetError
from ledger.records.manifest import ManifestStatus
from protocol.approval import Action
from protocol.did import KeyPurpose
from protocol.digest import ChainId, sha256
from protocol.encoding import EncodingError
from protocol.manifest import sign_manifest
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    HOUR_MS,
    PRODUCT,
    make_bench,
    make_group,
    make_policy,
    owner_keys,
)


def standing(bench, manifest, group=FLEET):
    return bench.state.manifest(manifest.manifest_id, group)


def approve(bench, manifest, owners, *, action=Action.AUTHORISE, group=FLEET, **changes):
    """A transaction with approvals by owners of given indices."""
    lab, keys = bench.lab, owner_keys(group)
    approvals = tuple(
        lab.approval(action, manifest.manifest_id, keys[index], group=group, **changes)
        for index in owners
    )
    make = ApproveManifest if action is Action.AUTHORISE else RevokeManifest
    body = make(manifest=manifest.manifest_id, group=group, approvals=approvals)
    return lab.transaction(lab.gateways[0], body)


def revoke(bench, manifest, owners, **arguments):
    return approve(bench, manifest, owners, action=Action.REVOKE, **arguments)


def test_approvals_add_up_until_the_threshold_authorises():
    bench = make_bench()
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED
    bench.apply(approve(bench, manifest, [2]))
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED
    assert bench.state.latest(FLEET, PRODUCT) is None
    bench.apply(approve(bench, manifest, [0]))
    record = standing(bench, manifest)
    assert (record.status, record.authorised_height) == (ManifestStatus.AUTHORISED, 3)
    assert bench.state.latest(FLEET, PRODUCT).manifest == manifest.manifest_id
    bench.apply(approve(bench, manifest, [1]))
    record = standing(bench, manifest)
    assert (len(record.approvers), record.authorised_height) == (3, 3)
    for key_id in record.approvers:
        assert bench.state.approval(manifest.manifest_id, Action.AUTHORISE, key_id, FLEET)


def test_one_thing_wrong_with_a_proposal():
    bench = make_bench(groups=[make_group("pumps")])
    lab = bench.lab
    publisher_key = lab.publisher.key(KeyPurpose.PERSON)
    good = lab.manifest()

    def signed_by(key, chain=None, **changes):
        content = replace(good.manifest, **changes)
        return sign_manifest(content, key, chain or lab.chain_id)

    def proposal(manifest, signer=None):
        body = ProposeManifest(manifest=manifest.signed.raw)
        return lab.transaction(signer or lab.publisher, body)

    gateway = lab.gateways[0]
    cases = [
        (proposal(signed_by(gateway.key(KeyPurpose.NODE))), "manifest.signature"),
        (proposal(signed_by(lab.publisher.key(KeyPurpose.NODE))), "manifest.signature"),
        (proposal(signed_by(publisher_key, ChainId(sha256(b"x")))), "manifest.signature"),
        (proposal(signed_by(publisher_key, era=1)), "manifest.era"),
        (proposal(signed_by(publisher_key, publisher=gateway.did)), "manifest.publisher"),
        (proposal(good, gateway), "manifest.publisher"),
        (
            proposal(signed_by(gateway.key(KeyPurpose.NODE), publisher=gateway.did), gateway),
            "manifest.publisher",
        ),
        (proposal(signed_by(publisher_key, groups=("nowhere",))), "group.unknown"),
        (proposal(signed_by(publisher_key, groups=(FLEET, "pumps"))), "manifest.publisher"),
        (proposal(signed_by(publisher_key, expires_ms=GENESIS_MS + 999)), "manifest.expired"),
    ]
    for signed, rule in cases:
        assert bench.refusal(signed).rule == rule
    for raw in (b"", good.signed.raw[:-1], good.signed.raw + b"\x00", b"x" * 16_000):
        body = ProposeManifest(manifest=raw)
        error = bench.refusal(lab.transaction(lab.publisher, body, nonce=0))
        assert error.rule == "manifest.malformed"
    bench.apply(lab.transaction(lab.publisher, ProposeManifest(manifest=good.signed.raw), nonce=0))
    again = lab.transaction(lab.publisher, ProposeManifest(manifest=good.signed.raw), nonce=1)
    assert bench.refusal(again).rule == "manifest.known"


@pytest.mark.parametrize("text", ["1.0\x07", "1.0\u202e0.1", "1.0\ue000", ""])
def test_deceptive_texts_never_reach_the_owners(text):
    bench = make_bench()
    content = replace(bench.lab.manifest().manifest, version=text)
    from protocol.cose import sign
    from protocol.manifest import MANIFEST_TAG

    key = bench.lab.publisher.key(KeyPurpose.PERSON)
    with pytest.raises(EncodingError):
        sign_manifest(content, key, bench.lab.chain_id)
    raw = sign(content.encode(), key, tag=MANIFEST_TAG, chain=bench.lab.chain_id, era=0)
    body = ProposeManifest(manifest=raw)
    error = bench.refusal(bench.lab.transaction(bench.lab.publisher, body))
    assert error.rule == "manifest.malformed"


def test_an_oversized_manifest_does_not_fit_a_transaction():
    bench = make_bench()
    with pytest.raises(EncodingError):
        bench.lab.transaction(bench.lab.publisher, ProposeManifest(manifest=bytes(21_000)))
    signed = bench.lab.transaction(bench.lab.publisher, ProposeManifest(manifest=bytes(17_000)))
    assert bench.refusal(signed).rule == "tx.body"


def test_a_policy_that_names_publishers_decides_alone():
    lab = make_bench().lab
    named = make_policy(publishers=(lab.publisher.did,))
    bench = make_bench(groups=[make_group("pumps", named)])
    bench.apply(bench.lab.propose(bench.lab.manifest(groups=("pumps",))))
    others = make_policy(publishers=(lab.gateways[0].did,))
    bench = make_bench(policy=others)
    assert bench.refusal(bench.lab.propose(bench.lab.manifest())).rule == "manifest.publisher"


def test_one_thing_wrong_with_an_approval():
    bench = make_bench()
    manifest, other = bench.lab.manifest(), bench.lab.manifest(sequence=2)
    bench.apply(bench.lab.propose(manifest))
    lab, keys = bench.lab, owner_keys(FLEET)
    good = lab.approval(Action.AUTHORISE, manifest.manifest_id, keys[0])
    for_other = lab.approval(Action.AUTHORISE, other.manifest_id, keys[1])
    mixed = ApproveManifest(manifest=manifest.manifest_id, group=FLEET, approvals=(good, for_other))
    revocation = ApproveManifest(
        manifest=manifest.manifest_id,
        group=FLEET,
        approvals=lab.approvals(Action.REVOKE, manifest.manifest_id),
    )
    cases = [
        (lab.transaction(lab.gateways[0], mixed), "approval.subject"),
        (lab.transaction(lab.gateways[0], revocation), "approval.action"),
        (approve(bench, other, [0]), "manifest.unknown"),
        (approve(bench, manifest, [0, 0]), "approval.duplicate"),
        (approve(bench, manifest, [0], policy=sha256(b"policy")), "approval.policy"),
        (approve(bench, manifest, [0], era=1), "approval.era"),
        (approve(bench, manifest, [0], valid_until_ms=GENESIS_MS), "approval.expired"),
        (approve(bench, manifest, [0], chain=ChainId(sha256(b"x"))), "approval.signature"),
        (revoke(bench, other, [0]), "manifest.unknown"),
    ]
    for signed, rule in cases:
        error = bench.refusal(signed)
        assert error.rule == rule
        assert isinstance(error, LedgerNotYetError) == (rule == "manifest.unknown")
    bench.lab.nonces.clear()
    bench.apply(approve(bench, manifest, [0]))
    # The same owner with a fresh approval still counts once.
    again = approve(bench, manifest, [0], valid_until_ms=GENESIS_MS + 10**9)
    assert bench.refusal(again).rule == "approval.duplicate"


@pytest.mark.parametrize("validators", [4, 7])
def test_all_validators_together_authorise_nothing(validators):
    """Promise G2 at the ledger: no key of a validator is an owner's."""
    bench = make_bench(validators=validators)
    lab, manifest = bench.lab, bench.lab.manifest()
    bench.apply(lab.propose(manifest))
    for purpose in (KeyPurpose.VALIDATOR, KeyPurpose.NODE, KeyPurpose.TRANSPORT):
        approvals = tuple(
            lab.approval(Action.AUTHORISE, manifest.manifest_id, member.key(purpose))
            for member in lab.validators
        )
        body = ApproveManifest(manifest=manifest.manifest_id, group=FLEET, approvals=approvals)
        error = bench.refusal(lab.transaction(lab.validators[0], body))
        assert error.rule == "approval.owner"
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED


def test_owners_of_another_group_do_not_count():
    bench = make_bench(groups=[make_group("pumps")])
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    approvals = tuple(
        bench.lab.approval(Action.AUTHORISE, manifest.manifest_id, key)
        for key in owner_keys("pumps")
    )
    body = ApproveManifest(manifest=manifest.manifest_id, group=FLEET, approvals=approvals)
    signed = bench.lab.transaction(bench.lab.gateways[0], body)
    assert bench.refusal(signed).rule == "approval.owner"


def test_sequences_only_rise_at_proposal_and_at_authorisation():
    bench = make_bench()
    lab = bench.lab
    first, second, third = (lab.manifest(sequence=n) for n in (1, 2, 3))
    for manifest in (first, second):
        bench.apply(lab.propose(manifest))
    bench.apply(lab.approve(second.manifest_id))
    # Proposed before, but overtaken: it can never be authorised any more.
    assert bench.refusal(lab.approve(first.manifest_id)).rule == "manifest.sequence"
    same = lab.manifest(sequence=2, version="2.0-other")
    assert bench.refusal(lab.propose(same)).rule == "manifest.sequence"
    older = lab.manifest(sequence=1, version="1.0-other")
    assert bench.refusal(lab.propose(older)).rule == "manifest.sequence"
    other_product = lab.manifest(sequence=1, product="valve")
    bench.lab.nonces[lab.publisher.did] = 2
    bench.lab.nonces[lab.gateways[0].did] = 1
    bench.apply(lab.propose(other_product))
    bench.apply(lab.propose(third))
    bench.apply(lab.approve(third.manifest_id))
    assert bench.state.latest(FLEET, PRODUCT).sequence == 3
    # Both stay authorised; the floor is what moved.
    assert standing(bench, second).status is ManifestStatus.AUTHORISED


def test_revocation_is_final_and_keeps_the_floor():
    bench = make_bench()
    manifest = bench.lab.manifest(sequence=5)
    bench.apply(bench.lab.propose(manifest))
    bench.apply(approve(bench, manifest, [0, 1]))
    bench.apply(revoke(bench, manifest, [2]))
    assert standing(bench, manifest).status is ManifestStatus.AUTHORISED
    bench.apply(revoke(bench, manifest, [0]))
    record = standing(bench, manifest)
    assert (record.status, record.revoked_height) == (ManifestStatus.REVOKED, 4)
    assert bench.refusal(approve(bench, manifest, [2])).rule == "manifest.revoked"
    assert bench.refusal(revoke(bench, manifest, [1])).rule == "manifest.revoked"
    assert bench.state.latest(FLEET, PRODUCT).sequence == 5
    again = bench.lab.manifest(sequence=5, version="again")
    assert bench.refusal(bench.lab.propose(again)).rule == "manifest.sequence"
    assert bench.refusal(bench.lab.propose(manifest)).rule == "manifest.known"


def test_a_proposal_can_be_revoked_before_it_is_authorised():
    bench = make_bench()
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    bench.apply(approve(bench, manifest, [0]))
    bench.apply(revoke(bench, manifest, [1, 2]))
    assert standing(bench, manifest).status is ManifestStatus.REVOKED
    assert bench.refusal(approve(bench, manifest, [1])).rule == "manifest.revoked"
    assert bench.state.latest(FLEET, PRODUCT) is None


def test_thresholds_of_approval_and_revocation_differ():
    bench = make_bench(
        policy=make_policy(approve_threshold=3, amend_threshold=3, revoke_threshold=1)
    )
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    bench.apply(approve(bench, manifest, [0, 1]))
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED
    bench.apply(approve(bench, manifest, [2]))
    assert standing(bench, manifest).status is ManifestStatus.AUTHORISED
    bench.apply(revoke(bench, manifest, [1]))
    assert standing(bench, manifest).status is ManifestStatus.REVOKED


def test_an_expired_manifest_takes_no_approvals_but_revocations():
    bench = make_bench()
    manifest = bench.lab.manifest(expires_ms=GENESIS_MS + 5000)
    bench.apply(bench.lab.propose(manifest))
    error = bench.refusal(approve(bench, manifest, [0, 1]), after_ms=10_000)
    assert error.rule == "manifest.expired"
    bench.lab.nonces.clear()
    bench.apply(approve(bench, manifest, [0, 1]))
    assert standing(bench, manifest).is_authorised(GENESIS_MS + 5000)
    assert not standing(bench, manifest).is_authorised(GENESIS_MS + 5001)
    bench.apply(revoke(bench, manifest, [0, 1]), after_ms=10_000)
    assert standing(bench, manifest).status is ManifestStatus.REVOKED


def test_a_manifest_is_judged_under_the_policy_at_its_proposal():
    bench = make_bench(policy=make_policy(amend_delay_ms=HOUR_MS))
    lab, manifest = bench.lab, bench.lab.manifest()
    bench.apply(lab.propose(manifest))
    strict = make_policy(approve_threshold=3, amend_threshold=3)
    approvals = lab.approvals(Action.AMEND, strict.policy_id)
    body = SetPolicy(group=FLEET, policy=strict.encode(), approvals=approvals)
    bench.apply(lab.transaction(lab.gateways[0], body))
    bench.apply(approve(bench, manifest, [0, 1]), after_ms=HOUR_MS)
    assert standing(bench, manifest).status is ManifestStatus.AUTHORISED
    later = lab.manifest(sequence=2)
    bench.apply(lab.propose(later))
    assert standing(bench, later).policy == strict.policy_id
    assert bench.refusal(approve(bench, later, [0, 1])).rule == "approval.policy"
    bench.lab.nonces[lab.gateways[0].did] = 2
    bench.apply(approve(bench, later, [0, 1], policy=strict.policy_id))
    assert standing(bench, later).status is ManifestStatus.PROPOSED


def test_groups_are_judged_one_by_one():
    bench = make_bench(groups=[make_group("pumps", make_policy(publishers=()))])
    named = make_policy(publishers=(bench.lab.publisher.did,))
    bench = make_bench(groups=[make_group("pumps", named)], policy=named)
    manifest = bench.lab.manifest(groups=(FLEET, "pumps"))
    bench.apply(bench.lab.propose(manifest))
    bench.apply(approve(bench, manifest, [0, 1], group="pumps"))
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED
    assert standing(bench, manifest, "pumps").status is ManifestStatus.AUTHORISED


def test_a_suspended_publishers_proposals_are_not_authorised():
    bench = make_bench()
    lab, manifest = bench.lab, bench.lab.manifest()
    bench.apply(lab.propose(manifest))
    approvals = lab.approvals(Action.SUSPEND, lab.publisher.did)
    body = SuspendSubject(did=lab.publisher.did, group=FLEET, approvals=approvals)
    bench.apply(lab.transaction(lab.gateways[0], body))
    assert bench.refusal(approve(bench, manifest, [0, 1])).rule == "manifest.publisher"
    assert bench.refusal(lab.propose(lab.manifest(sequence=2))).rule == "tx.signer_status"

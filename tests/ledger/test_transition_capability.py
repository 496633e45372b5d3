"""Capabilities: granted by enough owners, for what they say, until withdrawn or void."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.bodies.capability import GrantCapability, RevokeCapability
from ledger.bodies.subject import SuspendSubject
from ledger.standing import capabilities_of, issue_of
from ledger.transition.capability import may_by_capability
from protocol.approval import Action
from protocol.capability import ROLES, Capability, Verb, decode_capability, verbs_of
from protocol.digest import DidId, ManifestId, sha256
from protocol.errors import EncodingError
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    HOUR_MS,
    make_bench,
    make_group,
    make_policy,
    owner_keys,
)

OTHER = "other"
MANIFEST = ManifestId(sha256(b"m"))


class Desk:
    """A group whose owners grant things to a gateway of another one."""

    def __init__(self, **policy):
        self.bench = make_bench(groups=(make_group(OTHER, make_policy(**policy)),))
        self.lab = self.bench.lab
        self.holder = self.lab.gateways[0]

    def capability(self, **changes):
        values = {
            "subject": self.holder.did,
            "group": OTHER,
            "verbs": (Verb.FETCH,),
            "expires_ms": GENESIS_MS + HOUR_MS,
            **changes,
        }
        return Capability(**values)

    def approvals(self, action, capability, owners=(0, 1)):
        keys = owner_keys(OTHER)
        return tuple(
            self.lab.approval(action, capability.capability_id, keys[index], group=OTHER)
            for index in owners
        )

    def grant(self, capability, owners=(0, 1)):
        approvals = self.approvals(Action.GRANT, capability, owners)
        body = GrantCapability(capability=capability.encode(), approvals=approvals)
        return self.lab.transaction(self.lab.gateways[1], body)

    def revoke(self, capability, owners=(0, 1)):
        approvals = self.approvals(Action.WITHDRAW, capability, owners)
        body = RevokeCapability(capability=capability.capability_id, approvals=approvals)
        return self.lab.transaction(self.lab.gateways[1], body)

    def may(self, verb=Verb.FETCH, *, product="pump", manifest=MANIFEST, time_ms=None):
        return may_by_capability(
            self.bench.state,
            self.holder.did,
            OTHER,
            verb,
            product=product,
            manifest=manifest,
            time_ms=self.bench.time_ms if time_ms is None else time_ms,
        )


def test_a_grant_allows_its_verbs_until_it_expires():
    desk = Desk()
    capability = desk.capability()
    assert not desk.may()
    desk.bench.apply(desk.grant(capability))
    assert desk.may()
    assert desk.may(time_ms=capability.expires_ms)
    assert not desk.may(time_ms=capability.expires_ms + 1)
    assert not any(desk.may(verb) for verb in Verb if verb is not Verb.FETCH)


@pytest.mark.parametrize(
    ("scope", "product", "manifest", "expected"),
    [
        ({"product": "pump"}, "pump", MANIFEST, True),
        ({"product": "pump"}, "valve", MANIFEST, False),
        ({"manifest": MANIFEST}, "pump", MANIFEST, True),
        ({"manifest": MANIFEST}, "pump", ManifestId(sha256(b"n")), False),
    ],
)
def test_scope(scope, product, manifest, expected):
    desk = Desk()
    desk.bench.apply(desk.grant(desk.capability(**scope)))
    assert desk.may(product=product, manifest=manifest) is expected


def test_withdrawn_is_withdrawn_for_good():
    desk = Desk()
    capability = desk.capability()
    desk.bench.apply(desk.grant(capability))
    desk.bench.apply(desk.revoke(capability))
    assert not desk.may()
    assert issue_of(desk.bench.state, capability.capability_id).withdrawn_height == 2
    assert desk.bench.refusal(desk.grant(capability)).rule == "cap.known"
    desk.lab.nonces[desk.lab.gateways[1].did] -= 1
    assert desk.bench.refusal(desk.revoke(capability)).rule == "cap.withdrawn"
    desk.lab.nonces[desk.lab.gateways[1].did] -= 1
    desk.bench.apply(desk.grant(replace(capability, issue=1)))
    assert desk.may()


def test_a_suspended_subject_loses_all_at_once():
    desk = Desk()
    desk.bench.apply(desk.grant(desk.capability()))
    approvals = desk.lab.approvals(Action.SUSPEND, desk.holder.did)
    body = SuspendSubject(did=desk.holder.did, group=FLEET, approvals=approvals)
    desk.bench.apply(desk.lab.transaction(desk.lab.gateways[1], body))
    assert not desk.may()
    assert desk.bench.refusal(desk.grant(desk.capability(issue=1))).rule == "cap.subject"


def test_refusals():
    desk = Desk()
    bench = desk.bench

    def rule(signed):
        found = bench.refusal(signed).rule
        desk.lab.nonces[desk.lab.gateways[1].did] -= 1
        return found

    assert rule(desk.grant(desk.capability(), owners=(0,))) == "approval.threshold"
    assert rule(desk.grant(desk.capability(expires_ms=GENESIS_MS))) == "cap.expired"
    now_ms = bench.time_ms + 1000
    assert rule(desk.grant(desk.capability(expires_ms=now_ms - 1))) == "cap.expired"
    few = desk.grant(desk.capability(expires_ms=now_ms), owners=(0,))
    assert rule(few) == "approval.threshold", "in force up to its last moment (A12)"
    assert rule(desk.grant(desk.capability(subject=DidId(sha256(b"x"))))) == "cap.subject"
    assert rule(desk.revoke(desk.capability())) == "cap.unknown"
    other = desk.approvals(Action.GRANT, desk.capability(issue=5))
    body = GrantCapability(capability=desk.capability().encode(), approvals=other)
    assert rule(desk.lab.transaction(desk.lab.gateways[1], body)) == "approval.subject"
    body = GrantCapability(capability=b"\xa0", approvals=other)
    assert rule(desk.lab.transaction(desk.lab.gateways[1], body)) == "cap.malformed"
    keys = owner_keys(FLEET)[:2]
    capability = desk.capability()
    foreign = tuple(
        desk.lab.approval(Action.GRANT, capability.capability_id, key, group=OTHER) for key in keys
    )
    body = GrantCapability(capability=capability.encode(), approvals=foreign)
    assert rule(desk.lab.transaction(desk.lab.gateways[1], body)) == "approval.owner"


def test_a_lax_enrolment_rule_does_not_let_one_owner_grant():
    desk = Desk(enrol_threshold=1)
    assert desk.bench.refusal(desk.grant(desk.capability(), owners=(0,))).rule == (
        "approval.threshold"
    )


def test_sixteen_at_a_time_and_expired_ones_make_room():
    desk = Desk()
    for issue in range(16):
        desk.bench.apply(desk.grant(desk.capability(issue=issue)))
    full = desk.grant(desk.capability(issue=99))
    assert desk.bench.refusal(full).rule == "cap.count"
    desk.lab.nonces[desk.lab.gateways[1].did] -= 1
    later = desk.capability(issue=100, expires_ms=GENESIS_MS + 3 * HOUR_MS)
    desk.bench.apply(desk.grant(later), after_ms=HOUR_MS)
    held = capabilities_of(desk.bench.state, desk.holder.did, OTHER, desk.bench.time_ms)
    assert held == (later,)


def test_a_publisher_of_another_group_proposes_by_capability_and_for_its_product_only():
    desk = Desk()
    lab = desk.lab
    pump = lab.manifest(groups=(OTHER,))
    assert desk.bench.refusal(lab.propose(pump)).rule == "manifest.publisher"
    lab.nonces[lab.publisher.did] -= 1
    capability = desk.capability(
        subject=lab.publisher.did, verbs=(Verb.PUBLISH,), product=pump.manifest.product
    )
    desk.bench.apply(desk.grant(capability))
    valve = lab.manifest(groups=(OTHER,), product="valve")
    assert desk.bench.refusal(lab.propose(valve)).rule == "manifest.publisher"
    lab.nonces[lab.publisher.did] -= 1
    desk.bench.apply(lab.propose(pump))
    assert desk.bench.state.manifest(pump.manifest_id, OTHER) is not None
    assert desk.bench.state.manifest(pump.manifest_id, OTHER).authorised_height is None


# -- form -------------------------------------------------------------------------------------


@given(
    verbs=st.sets(st.sampled_from(Verb), min_size=1),
    product=st.none() | st.just("pump"),
    expires_ms=st.integers(0, 2**62),
    issue=st.integers(0, 2**62),
)
def test_reads_what_it_writes(verbs, product, expires_ms, issue):
    made = Capability(
        subject=DidId(sha256(b"s")),
        group=OTHER,
        verbs=tuple(sorted(verbs)),
        product=product,
        expires_ms=expires_ms,
        issue=issue,
    )
    assert decode_capability(made.encode()) == made


@pytest.mark.parametrize(
    "change",
    [
        {"verbs": ()},
        {"verbs": (Verb.SERVE, Verb.FETCH)},
        {"verbs": (Verb.FETCH, Verb.FETCH)},
        {"group": "A/B"},
        {"product": "a b"},
        {"product": "pump", "manifest": MANIFEST},
        {"expires_ms": -1},
        {"issue": -1},
    ],
)
def test_unfit_capabilities_are_refused(change):
    with pytest.raises(EncodingError):
        Desk().capability(**change)


def test_names_of_roles_and_verbs():
    assert verbs_of(("mirror",)) == ROLES["mirror"]
    assert verbs_of(("read-ledger", "publish", "auditor")) == (Verb.PUBLISH, Verb.READ_LEDGER)
    assert all(list(verbs) == sorted(verbs) for verbs in ROLES.values())
    for bad in ((), ("root",), ("FETCH",)):
        with pytest.raises(EncodingError):
            verbs_of(bad)

from __future__ import annotations

import pytest

from ledger.bodies.capability import GrantCapability, RevokeCapability
from ledger.bodies.defence import (
    Complaint,
    ReleaseQuarantine,
    ReportContradiction,
    ReportTamper,
    SetQuarantine,
)
from ledger.bodies.emergency import DecidePause, PauseOffers
from ledger.bodies.governance import SetCheckpoint
from ledger.bodies.group import CreateGroup, RotateRoot, SetPolicy, UpdateGroup, VetoPolicy
from ledger.bodies.health import ReportHealth
from ledger.bodies.manifest import (
    ApproveManifest,
    AttestManifest,
    OverrideManifest,
    ProposeManifest,
    RevokeManifest,
    SettleManifest,
)
from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.rollout import Command, CommandRollout, StopRollout
from ledger.bodies.subject import CreateSubject, SuspendSubject
from ledger.bodies.subject_decisions import (
    CertifySubject,
    ClaimKeys,
    Decider,
    RecoverKeys,
    ResumeSubject,
    RevokeSubject,
)
from ledger.bodies.validators import Accuse, CertifyKey, SetParameters, SetValidators, Upgrade
from ledger.transition.kinds import KINDS, PROTECTING_KINDS, decode_body, kind_of
from protocol.contradiction import ConflictingAnchors
from protocol.defence import QuarantineLevel
from protocol.digest import sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.enrolment_token import SeatClaim
from protocol.errors import EncodingError
from protocol.genesis import Parameters
from tests.support.epochs import VoteKeys
from tests.support.ledger import make_key, make_lab

LAB = make_lab()
ONE = sha256(b"1")
BODIES = [
    CreateSubject(
        join=LAB.gateways[0].join,
        approvals=((b"a", b"b"),),
        seat=SeatClaim(tokens=(b"t",), proof=b"p" * 64),
    ),
    LAB.rotation(LAB.gateways[0]),
    SuspendSubject(did=ONE, group="fleet", approvals=(b"a",)),
    ResumeSubject(did=ONE, group="fleet", approvals=(b"a",)),
    RevokeSubject(did=ONE, group=None, approvals=(b"a",)),
    RecoverKeys(
        did=ONE,
        keys=LAB.gateways[0].record.keys,
        next_keys=None,
        signatures=(b"s" * 64,),
        decider=Decider.GROUPS,
        approvals=((b"a",),),
    ),
    ClaimKeys(did=ONE, keys=LAB.gateways[0].record.keys, next_keys=ONE),
    CertifySubject(did=ONE, group="fleet", attributes=(("class", "pump"),), approvals=(b"a",)),
    CreateGroup(group=b"g", approvals=(b"a",)),
    UpdateGroup(group="fleet", placement=b"p", approvals=(b"a",), adoption=(b"b",)),
    RotateRoot(group="fleet", root=b"r", approvals=(b"a",) * 64),
    SetPolicy(group="fleet", policy=b"p", approvals=(b"a",)),
    VetoPolicy(group="fleet", policy=ONE, approvals=(b"a",)),
    ProposeManifest(manifest=b"m"),
    ApproveManifest(manifest=ONE, group="fleet", approvals=(b"a",)),
    RevokeManifest(manifest=ONE, group="fleet", approvals=(b"a",)),
    AttestManifest(manifest=ONE, group="fleet", approvals=(b"a",)),
    SettleManifest(manifest=ONE, group="fleet"),
    OverrideManifest(manifest=ONE, group="fleet", approvals=(b"a",)),
    AnchorReceipts(size=1, root=ONE),
    ReportTamper(subject=ONE, group="fleet", complaint=Complaint.FORGED, evidence=ONE),
    ReportContradiction(subject=ONE, evidence=ConflictingAnchors(b"a", b"b")),
    SetQuarantine(
        subject=ONE,
        group="fleet",
        level=QuarantineLevel.NO_SERVING,
        until_ms=5,
        approvals=(b"a",),
    ),
    ReleaseQuarantine(subject=ONE, group="fleet", approvals=(b"a",)),
    GrantCapability(capability=b"c", approvals=(b"a",)),
    RevokeCapability(capability=ONE, approvals=(b"a",)),
    CertifyKey(epoch=2, key=make_key("vote").public, proof=b"p" * 64),
    Accuse(evidence=VoteKeys(LAB.validators).evidence(LAB.validator_set, 1, LAB)),
    SetValidators(
        members=tuple(member.did for member in LAB.validators),
        joins=(LAB.gateways[0].join,),
        approvals=(b"a",),
    ),
    SetCheckpoint(header=b"h", approvals=(b"a",)),
    SetParameters(parameters=Parameters(), approvals=(b"a",)),
    Upgrade(version=2, epoch=3, approvals=(b"a",)),
    CommandRollout(
        manifest=ONE,
        group="fleet",
        command=Command.PRIORITY,
        priority=3,
        sequence=1,
        approvals=(b"a",),
    ),
    StopRollout(manifest=ONE, group="fleet", command=Command.PAUSE, sequence=1, approvals=(b"a",)),
    ReportHealth(manifest=ONE, group="fleet", successes=2, failures=1, devices=2),
    PauseOffers(group="fleet", product="pump", manifest=ONE, sequence=1, approval=b"a"),
    DecidePause(group="fleet", key_id=ONE, sequence=1, until_ms=5, approvals=(b"a",)),
]


def through_wire(value: object) -> object:
    return decode_canonical(encode_canonical(value), bytes_max=20_000)


@pytest.mark.parametrize("body", BODIES, ids=kind_of)
def test_bodies_survive_the_wire_and_ignore_extensions_only(body):
    value = through_wire(body.to_value())
    assert decode_body(kind_of(body), value) == body
    assert decode_body(kind_of(body), {**value, -1: b"more"}) == body
    for key in value:
        lacking = {other: item for other, item in value.items() if other != key}
        with pytest.raises(EncodingError, match=f"field {key} is missing"):
            decode_body(kind_of(body), lacking)
        with pytest.raises(EncodingError):
            decode_body(kind_of(body), {**value, key: {}})
    with pytest.raises(EncodingError, match="unknown critical field 9"):
        decode_body(kind_of(body), {**value, 9: 0})


def test_every_kind_has_a_body_and_the_reserved_ones_exist():
    assert sorted(kind_of(body) for body in BODIES) == sorted(KINDS)
    assert all(kind in KINDS for kind in PROTECTING_KINDS)


def test_unknown_kind_is_refused():
    with pytest.raises(EncodingError, match="unknown transaction kind"):
        decode_body("coin.mint", {})


@pytest.mark.parametrize("count", [0, 33])
def test_approvals_are_1_to_32(count):
    body = ApproveManifest(manifest=ONE, group="fleet", approvals=(b"a",) * count)
    with pytest.raises(EncodingError):
        decode_body("manifest.approve", body.to_value())
    join = CreateSubject(join=LAB.gateways[0].join, approvals=((b"a",) * count,))
    with pytest.raises(EncodingError):
        decode_body("did.create", join.to_value())


@pytest.mark.parametrize("group", ["", "Fleet", "fleet\n", "fl\u202eeet", "a/b", "a" * 65])
def test_deceptive_group_names_are_refused(group):
    body = RevokeManifest(manifest=ONE, group=group, approvals=(b"a",))
    with pytest.raises(EncodingError):
        decode_body("manifest.revoke", body.to_value())

"""The one question about standing: quarantine, capabilities, rotations, staging, operators."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.bodies.capability import GrantCapability, RevokeCapability
from ledger.bodies.defence import SetQuarantine, quarantine_digest
from ledger.bodies.group import RotateRoot
from ledger.bodies.subject import CreateSubject, SuspendSubject
from ledger.offer import UNKNOWN_DEVICE
from ledger.records.capability import CapabilitiesRecord, IssueRecord
from ledger.state_keys import capabilities_key, group_key, issue_key
from protocol.approval import Action
from protocol.capability import Capability, Verb
from protocol.defence import QuarantineLevel
from protocol.did import SubjectKind
from protocol.digest import DidId, ManifestId, sha256
from protocol.encoding import encode_canonical
from protocol.errors import LocalProtocolError
from protocol.owner_root import OwnerRoot
from protocol.rotation import root_digest
from swarmd.peers import Peer, PeerClass
from swarmd.questions import (
    Access,
    Allowed,
    Denial,
    DeviceSubject,
    ImageAct,
    Line,
    OperatorSubject,
    PeerSubject,
    Permit,
    ThisNode,
)
from tests.support.authority import PEER, Bench, make_bench
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    PRODUCT,
    Lab,
    Member,
    make_group,
    make_key,
    make_lab,
    owner_keys,
)

DAY_MS = 24 * 3_600_000


def connect(bench: Bench, did: DidId, *groups: str) -> Peer:
    peer = bench.registry.connected(PEER)
    peer.peer_class, peer.did, peer.groups = PeerClass.MEMBER, did, groups
    return peer


def answer(bench: Bench, action: ImageAct | Access, about: object) -> str:
    found = bench.authority.ask(PeerSubject(PEER), action, about)  # type: ignore[call-overload]
    return found.rule if isinstance(found, Denial) else "yes"


async def quarantine(bench: Bench, did: DidId, level: QuarantineLevel) -> None:
    digest = quarantine_digest(did, FLEET, level=int(level), until_ms=None, sequence=1)
    body = SetQuarantine(
        subject=did,
        group=FLEET,
        level=level,
        until_ms=None,
        approvals=bench.lab.approvals(Action.QUARANTINE, digest),
    )
    await bench.apply(bench.lab.transaction(bench.lab.gateways[1], body))


@pytest.mark.parametrize(
    ("level", "serve", "take"),
    [
        (QuarantineLevel.NO_SERVING, "yes", "quarantine.peer"),
        (QuarantineLevel.NO_EXCHANGE, "quarantine.peer", "quarantine.peer"),
    ],
)
async def test_a_peer_in_quarantine(level: QuarantineLevel, serve: str, take: str) -> None:
    bench = make_bench()
    manifest = (await bench.authorise(bench.lab.manifest())).manifest_id
    did = bench.lab.gateways[1].did
    connect(bench, did, FLEET)
    assert answer(bench, ImageAct.SERVE, manifest) == "yes"
    assert answer(bench, ImageAct.TAKE, manifest) == "yes"
    await quarantine(bench, did, level)
    assert answer(bench, ImageAct.SERVE, manifest) == serve
    assert answer(bench, ImageAct.TAKE, manifest) == take
    assert answer(bench, Access.READ_LEDGER, None) == "yes"
    assert isinstance(bench.authority.may_fetch(manifest), Permit), "others are not concerned"


@pytest.mark.parametrize("level", [QuarantineLevel.NO_SERVING, QuarantineLevel.NO_EXCHANGE])
async def test_this_node_in_quarantine(level: QuarantineLevel) -> None:
    bench = make_bench()
    manifest = (await bench.authorise(bench.lab.manifest())).manifest_id
    connect(bench, bench.lab.gateways[1].did, FLEET)
    await quarantine(bench, bench.lab.gateways[0].did, level)
    may_fetch = level is QuarantineLevel.NO_SERVING
    assert answer(bench, ImageAct.SERVE, manifest) == "quarantine.peer"
    assert (answer(bench, ImageAct.TAKE, manifest) == "yes") is may_fetch
    fetch = bench.authority.may_fetch(manifest)
    assert isinstance(fetch, Permit) is may_fetch
    assert isinstance(bench.authority.may_offer(manifest), Permit), "devices are not concerned"


# -- capabilities -------------------------------------------------------------------------------


def capability_of(did: DidId, **changes: object) -> Capability:
    values: dict[str, object] = {
        "subject": did,
        "group": FLEET,
        "verbs": (Verb.FETCH,),
        "expires_ms": GENESIS_MS + DAY_MS,
        **changes,
    }
    return Capability(**values)  # type: ignore[arg-type]


async def outsider_of(bench: Bench) -> DidId:
    """A gateway of another group, which the ledger knows."""
    lab = bench.lab
    member = Member(label="outsider", kind=SubjectKind.GATEWAY, groups=("other",))
    approvals = lab.approvals(Action.ENROL, member.did, group="other")
    body = CreateSubject(join=member.join, approvals=(approvals,))
    await bench.apply(lab.transaction(lab.gateways[1], body))
    connect(bench, member.did, "other")
    return member.did


async def grant(bench: Bench, capability: Capability) -> None:
    approvals = bench.lab.approvals(Action.GRANT, capability.capability_id)
    body = GrantCapability(capability=capability.encode(), approvals=approvals)
    await bench.apply(bench.lab.transaction(bench.lab.gateways[1], body))


async def test_a_capability_opens_what_it_says_until_it_is_withdrawn() -> None:
    bench = make_bench(make_lab(groups=(make_group("other"),)))
    manifest = (await bench.authorise(bench.lab.manifest())).manifest_id
    did = await outsider_of(bench)
    assert answer(bench, ImageAct.SERVE, manifest) == "peer.group"
    capability = capability_of(did)
    await grant(bench, capability)
    assert answer(bench, ImageAct.SERVE, manifest) == "yes"
    assert answer(bench, ImageAct.TAKE, manifest) == "peer.group", "fetching is not serving"
    approvals = bench.lab.approvals(Action.WITHDRAW, capability.capability_id)
    body = RevokeCapability(capability=capability.capability_id, approvals=approvals)
    await bench.apply(bench.lab.transaction(bench.lab.gateways[1], body))
    assert answer(bench, ImageAct.SERVE, manifest) == "peer.group"


async def test_whoever_is_suspended_loses_capabilities_too() -> None:
    bench = make_bench(make_lab(groups=(make_group("other"),)))
    manifest = (await bench.authorise(bench.lab.manifest())).manifest_id
    did = await outsider_of(bench)
    await grant(bench, capability_of(did, verbs=(Verb.FETCH, Verb.SERVE)))
    assert answer(bench, ImageAct.TAKE, manifest) == "yes"
    approvals = bench.lab.approvals(Action.SUSPEND, did, group="other")
    body = SuspendSubject(did=did, group="other", approvals=approvals)
    await bench.apply(bench.lab.transaction(bench.lab.gateways[0], body))
    assert answer(bench, ImageAct.SERVE, manifest) == "peer.group"
    assert answer(bench, ImageAct.TAKE, manifest) == "peer.group"


async def test_a_capability_that_validators_made_up_opens_nothing_and_alarms() -> None:
    bench = make_bench(make_lab(groups=(make_group("other"),)))
    manifest = (await bench.authorise(bench.lab.manifest())).manifest_id
    did = await outsider_of(bench)
    capability = capability_of(did)
    issue = IssueRecord(
        subject=did, group=FLEET, granted_height=1, granters=(sha256(b"x"),), root_version=1
    )
    bench.poison(
        {
            capabilities_key(did, FLEET): CapabilitiesRecord((capability,)).encode(),
            issue_key(capability.capability_id): issue.encode(),
        }
    )
    assert answer(bench, ImageAct.SERVE, manifest) == "peer.group"
    assert bench.ledger.alarm is not None
    assert "nobody granted" in bench.ledger.alarm


@pytest.mark.slow
async def test_this_node_as_a_guest_of_another_group() -> None:
    bench = make_bench()
    manifest = (await bench.authorise(bench.lab.manifest())).manifest_id
    bench.groups = ("elsewhere",)
    bench.authority._cache.clear()
    assert isinstance(bench.authority.may_fetch(manifest), Denial)
    own = bench.lab.gateways[0].did
    await grant(bench, capability_of(own, product=PRODUCT, expires_ms=GENESIS_MS + 60_000))
    assert isinstance(bench.authority.may_fetch(manifest), Permit)
    # It ends with header time, whatever was cached.
    while bench.chain.head.time_ms <= GENESIS_MS + 60_000:
        await bench.apply()
        bench.age.confirm(bench.clock.monotonic())
        if bench.chain.head.height > 100:
            break
    assert isinstance(bench.authority.may_fetch(manifest), Denial)


async def test_staged_images_are_for_those_whom_owners_named() -> None:
    bench = make_bench()
    manifest = bench.lab.manifest()
    await bench.propose(manifest)
    did = bench.lab.gateways[1].did
    connect(bench, did, FLEET)
    assert answer(bench, Access.STAGE, manifest.manifest_id) == "staging.named"
    await grant(bench, capability_of(did, verbs=(Verb.APPROVE_STAGING,)))
    assert answer(bench, Access.STAGE, manifest.manifest_id) == "yes"
    await bench.apply(bench.lab.approve(manifest.manifest_id))
    assert answer(bench, Access.STAGE, manifest.manifest_id) == "staging.named", "no longer staged"


async def test_who_publishes() -> None:
    bench = make_bench()
    line = Line(FLEET, PRODUCT)
    connect(bench, bench.lab.gateways[1].did, FLEET)
    assert answer(bench, Access.PUBLISH, line) == "manifest.publisher", "a gateway does not"
    connect(bench, bench.lab.publisher.did, FLEET)
    assert answer(bench, Access.PUBLISH, line) == "yes"
    assert answer(bench, Access.PUBLISH, Line("nowhere", PRODUCT)) == "group.unknown"


async def test_a_publisher_of_another_group_publishes_by_capability() -> None:
    bench = make_bench(make_lab(groups=(make_group("other"),)))
    lab = bench.lab
    connect(bench, lab.publisher.did)
    line = Line("other", PRODUCT)
    assert answer(bench, Access.PUBLISH, line) == "manifest.publisher"
    capability = capability_of(lab.publisher.did, group="other", verbs=(Verb.PUBLISH,))
    approvals = lab.approvals(Action.GRANT, capability.capability_id, group="other")
    body = GrantCapability(capability=capability.encode(), approvals=approvals)
    await bench.apply(lab.transaction(lab.gateways[1], body))
    assert answer(bench, Access.PUBLISH, line) == "yes"


async def test_relaying_reading_and_operating() -> None:
    bench = make_bench(make_lab(groups=(make_group("other"),)))
    did = await outsider_of(bench)
    peer = connect(bench, did)
    assert answer(bench, Access.RELAY, FLEET) == "peer.group"
    await grant(bench, capability_of(did, verbs=(Verb.RELAY,)))
    assert answer(bench, Access.RELAY, FLEET) == "yes"
    peer.peer_class = PeerClass.STRANGER
    assert answer(bench, Access.RELAY, FLEET) == "peer.class"
    assert answer(bench, Access.READ_LEDGER, None) == "peer.class"
    for uid, expected in ((0, Allowed), (1234, Denial)):
        found = bench.authority.ask(OperatorSubject(uid), Access.OPERATE)
        assert isinstance(found, expected)


@pytest.mark.parametrize(
    ("subject", "action", "about"),
    [
        (ThisNode(), ImageAct.SERVE, ManifestId(bytes(32))),
        (PeerSubject(PEER), ImageAct.OFFER, ManifestId(bytes(32))),
        (DeviceSubject(UNKNOWN_DEVICE), ImageAct.FETCH, ManifestId(bytes(32))),
        (OperatorSubject(0), Access.RELAY, FLEET),
        (PeerSubject(PEER), Access.OPERATE, None),
        (PeerSubject(PEER), ImageAct.SERVE, None),
        (PeerSubject(PEER), Access.PUBLISH, FLEET),
    ],
)
def test_questions_that_make_no_sense_are_defects(
    subject: object, action: object, about: object
) -> None:
    with pytest.raises(LocalProtocolError):
        make_bench().authority.ask(subject, action, about)  # type: ignore[call-overload]


# -- rotated owners -----------------------------------------------------------------------------


def next_root(lab: Lab) -> OwnerRoot:
    group = lab.genesis.group(FLEET)
    assert group is not None
    newcomer = (make_key("owner/new").public, "newcomer")
    owners = sorted((*group.owner_root.owners[:2], newcomer), key=lambda pair: pair[0].raw)
    return replace(group.owner_root, version=2, owners=tuple(owners))


async def test_pins_follow_rotations_and_what_was_agreed_before_stays_agreed() -> None:
    bench = make_bench()
    lab, root = bench.lab, next_root(bench.lab)
    before = await bench.authorise(lab.manifest())
    keys = [*owner_keys(FLEET)[:2], make_key("owner/new")]
    approvals = tuple(lab.approval(Action.ROTATE_ROOT, root_digest(root), key) for key in keys)
    raw = encode_canonical(root.to_value())
    body = RotateRoot(group=FLEET, root=raw, approvals=approvals)
    await bench.apply(lab.transaction(lab.gateways[1], body))
    assert isinstance(bench.authority.verdict(before.manifest_id), Permit)
    after = lab.manifest(sequence=2)
    await bench.propose(after)
    from ledger.bodies.manifest import ApproveManifest

    signed = tuple(
        lab.approval(Action.AUTHORISE, after.manifest_id, key) for key in (keys[0], keys[2])
    )
    approve = ApproveManifest(manifest=after.manifest_id, group=FLEET, approvals=signed)
    await bench.apply(lab.transaction(lab.gateways[1], approve))
    assert isinstance(bench.authority.verdict(after.manifest_id), Permit)
    assert bench.ledger.alarm is None


async def test_a_rotation_that_the_pinned_owners_did_not_sign_alarms() -> None:
    bench = make_bench()
    manifest = await bench.authorise(bench.lab.manifest())
    record = bench.chain.state.group(FLEET)
    assert record is not None
    changed = replace(record, owner_root=next_root(bench.lab))
    bench.poison({group_key(FLEET): changed.encode()})
    assert bench.refusal(manifest) == "manifest.owners"
    assert bench.ledger.alarm is not None
    assert "no rotation" in bench.ledger.alarm

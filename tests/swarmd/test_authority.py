"""The authority, attacked: states that validators made up, stale copies, expiry, floors, groups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger.records.group import GroupRecord
from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.state_keys import approval_key, group_key, manifest_key, origin_key, policy_key
from protocol.approval import Action
from protocol.digest import Digest, ManifestId, sha256
from protocol.errors import LocalProtocolError, NotYetError, PolicyError
from protocol.group import DAY_MS, OFFER_FRESHNESS_MS, SERVE_FRESHNESS_MS
from protocol.owner_root import Holder
from swarmd.authority import REFUSALS
from swarmd.floor import Floor
from swarmd.peers import PeerClass
from swarmd.questions import Denial, Permit, Verdict
from tests.support.authority import PEER, make_bench
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    advance,
    authorise,
    make_group,
    make_key,
    make_policy,
    make_root,
    owner_keys,
)


async def test_a_block_judges_only_what_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench()
    first = await bench.authorise(bench.lab.manifest())
    second = bench.lab.manifest(sequence=2)
    await bench.propose(second)
    judged: list[bytes] = []
    judge = bench.authority._judge

    def count(manifest: ManifestId) -> Verdict:
        judged.append(manifest)
        return judge(manifest)

    monkeypatch.setattr(bench.authority, "_judge", count)
    for manifest in (first, second, first, second):
        bench.authority.verdict(manifest.manifest_id)
    assert judged == [first.manifest_id, second.manifest_id], "each once"
    await bench.commit(lambda: (advance(bench.lab, bench.chain, []),))
    bench.authority.verdict(first.manifest_id)
    assert len(judged) == 2, "an empty block changes nothing"
    approval = bench.lab.approve(second.manifest_id)
    await bench.commit(lambda: (advance(bench.lab, bench.chain, [approval]),))
    assert isinstance(bench.authority.verdict(second.manifest_id), Permit)
    assert isinstance(bench.authority.verdict(first.manifest_id), Permit)
    assert judged == [first.manifest_id, second.manifest_id, second.manifest_id]


async def test_the_way_of_a_manifest() -> None:
    bench = make_bench()
    manifest = bench.lab.manifest()
    assert bench.refusal(manifest) == "manifest.unknown"
    await bench.propose(manifest)
    assert bench.refusal(manifest) == "manifest.proposed"
    await bench.commit(
        lambda: (advance(bench.lab, bench.chain, [bench.lab.approve(manifest.manifest_id)]),)
    )
    verdict = bench.authority.verdict(manifest.manifest_id)
    assert isinstance(verdict, Permit)
    assert sorted(verdict.authorised.approvers[0]) == ["owner-0", "owner-1"]
    assert verdict.authorised.height == 2
    await bench.commit(
        lambda: (advance(bench.lab, bench.chain, [bench.lab.revoke(manifest.manifest_id)]),)
    )
    assert bench.refusal(manifest) == "manifest.revoked"
    assert bench.ledger.alarm is None


# -- all validators together cannot authorise --------------------------------------------------


async def test_a_state_that_claims_an_authorisation_without_approvals_alarms() -> None:
    bench = make_bench()
    good = await bench.authorise(bench.lab.manifest(sequence=1))
    evil = await bench.propose(bench.lab.manifest(sequence=2))
    assert isinstance(bench.authority.verdict(good.manifest_id), Permit)
    told: list[str] = []
    bench.ledger.listen_alarm(told.append)
    bench.claim(evil, status=ManifestStatus.AUTHORISED, authorised_height=2)
    assert bench.refusal(evil) == "manifest.owners"
    assert bench.ledger.alarm is not None
    assert "0 valid owner approvals, 2 needed" in bench.ledger.alarm
    assert told == [bench.ledger.alarm]
    # From here on everything is refused, and nothing is to be deleted for it.
    for manifest in (good, evil):
        assert bench.refusal(manifest) == "node.alarm"
        assert isinstance(bench.authority.may_offer(manifest.manifest_id), Denial)
    assert "node.alarm" not in REFUSALS


def _ids(keys: list[bytes]) -> tuple[Digest, ...]:
    return tuple(sorted(Digest(key) for key in keys))


@pytest.mark.parametrize(
    "forge",
    ["one owner", "one owner twice", "strangers", "revocations", "other manifest", "other chain"],
)
async def test_approvals_that_do_not_count_alarm(forge: str) -> None:
    bench = make_bench()
    lab = bench.lab
    evil = await bench.propose(lab.manifest())
    other = lab.manifest(sequence=9).manifest_id
    first, second, _ = owner_keys(FLEET)
    strangers = [make_key("stranger 1"), make_key("stranger 2")]
    action, subject, keys, chain = Action.AUTHORISE, evil.manifest_id, [first, second], None
    match forge:
        case "one owner":
            keys = [first]
        case "one owner twice":
            keys = [first, first]
        case "strangers":
            keys = strangers
        case "revocations":
            action = Action.REVOKE
        case "other manifest":
            subject = other
        case _:
            chain = sha256(b"another chain")
    raws = [lab.approval(action, subject, key, chain=chain) for key in keys]
    ids = [first.public.key_id, second.public.key_id]
    if forge == "strangers":
        ids = [key.public.key_id for key in strangers]
    writes = {
        approval_key(Digest(evil.manifest_id), Action.AUTHORISE, Digest(key_id), FLEET): raw
        for key_id, raw in zip(ids, raws, strict=False)
    }
    bench.poison(writes)
    bench.claim(
        evil, status=ManifestStatus.AUTHORISED, authorised_height=1, approvers=_ids(list(ids))
    )
    assert bench.refusal(evil) == "manifest.owners"
    assert bench.ledger.alarm is not None


async def test_a_policy_that_no_owner_saw_does_not_lower_the_threshold() -> None:
    bench = make_bench()
    evil = await bench.propose(bench.lab.manifest())
    (raw,) = bench.lab.approvals(Action.AUTHORISE, evil.manifest_id, count=1)
    key_id = owner_keys(FLEET)[0].public.key_id
    lax = make_policy(approve_threshold=1, amend_threshold=1)
    record = bench.record(evil)
    bench.poison(
        {
            policy_key(record.policy): lax.encode(),
            approval_key(Digest(evil.manifest_id), Action.AUTHORISE, Digest(key_id), FLEET): raw,
        }
    )
    bench.claim(
        evil, status=ManifestStatus.AUTHORISED, authorised_height=1, approvers=_ids([key_id])
    )
    assert bench.refusal(evil) == "manifest.owners"
    assert bench.ledger.alarm is not None
    assert "another policy" in bench.ledger.alarm


async def test_owners_that_validators_chose_are_not_those_pinned() -> None:
    bench = make_bench()
    evil = await bench.propose(bench.lab.manifest())
    theirs = owner_keys("attacker")
    group = bench.chain.state.group(FLEET)
    assert group is not None
    writes = {group_key(FLEET): replace(group, owner_root=make_root(theirs)).encode()}
    ids = [key.public.key_id for key in theirs[:2]]
    for key in theirs[:2]:
        name = approval_key(
            Digest(evil.manifest_id), Action.AUTHORISE, Digest(key.public.key_id), FLEET
        )
        writes[name] = bench.lab.approval(Action.AUTHORISE, evil.manifest_id, key)
    bench.poison(writes)
    bench.claim(evil, status=ManifestStatus.AUTHORISED, authorised_height=1, approvers=_ids(ids))
    assert bench.refusal(evil) == "manifest.owners"
    assert bench.ledger.alarm is not None
    assert "other owners than pinned" in bench.ledger.alarm


async def test_a_group_that_governance_did_not_create_pins_nothing() -> None:
    bench = make_bench()
    group = make_group("shadow")
    record = GroupRecord(
        owner_root=group.owner_root, policy=group.policy.policy_id, scheduled=None, creators=()
    )
    manifest = bench.lab.manifest(groups=("shadow",))
    bench.keep(manifest)
    claimed = ManifestRecord(
        status=ManifestStatus.AUTHORISED,
        publisher=bench.lab.publisher.did,
        product="pump",
        sequence=1,
        policy=group.policy.policy_id,
        expires_ms=None,
        proposed_height=1,
        proposed_ms=GENESIS_MS,
        authorised_height=1,
    )
    bench.groups = (FLEET, "shadow")
    bench.poison(
        {
            group_key("shadow"): record.encode(),
            origin_key("shadow"): group.encode(),
            policy_key(group.policy.policy_id): group.policy.encode(),
            manifest_key(manifest.manifest_id, "shadow"): claimed.encode(),
        }
    )
    assert bench.refusal(manifest) == "manifest.owners"
    assert bench.ledger.alarm is not None


@pytest.mark.parametrize("origin", [None, b"junk", make_group("another").encode()])
async def test_a_group_with_a_false_origin_pins_nothing(origin: bytes | None) -> None:
    bench = make_bench()
    manifest = bench.lab.manifest(groups=("shadow",))
    group = make_group("shadow")
    bench.keep(manifest)
    claimed = ManifestRecord(
        status=ManifestStatus.AUTHORISED,
        publisher=bench.lab.publisher.did,
        product="pump",
        sequence=1,
        policy=group.policy.policy_id,
        expires_ms=None,
        proposed_height=1,
        proposed_ms=GENESIS_MS,
        authorised_height=1,
    )
    record = GroupRecord(
        owner_root=group.owner_root, policy=group.policy.policy_id, scheduled=None, creators=()
    )
    writes = {
        group_key("shadow"): record.encode(),
        policy_key(group.policy.policy_id): group.policy.encode(),
        manifest_key(manifest.manifest_id, "shadow"): claimed.encode(),
    }
    if origin is not None:
        writes[origin_key("shadow")] = origin
    bench.groups = ("shadow",)
    bench.poison(writes)
    assert bench.refusal(manifest) == "manifest.owners"


# -- what else is asked ------------------------------------------------------------------------


async def test_the_local_floor_only_tightens() -> None:
    bench = make_bench(floor=Floor(approvals_min=3))
    manifest = await bench.authorise(bench.lab.manifest())
    assert bench.refusal(manifest) == "floor.approvals"
    assert bench.ledger.alarm is None
    approvals = bench.lab.approvals(Action.AUTHORISE, manifest.manifest_id, count=3)
    from ledger.bodies.manifest import ApproveManifest

    body = ApproveManifest(manifest=manifest.manifest_id, group=FLEET, approvals=approvals[2:])
    third = bench.lab.transaction(bench.lab.gateways[1], body)
    await bench.commit(lambda: (advance(bench.lab, bench.chain, [third]),))
    assert isinstance(bench.authority.verdict(manifest.manifest_id), Permit)


async def test_groups_of_this_node_and_of_the_peer() -> None:
    bench = make_bench()
    manifest = await bench.authorise(bench.lab.manifest())
    identity = manifest.manifest_id

    def may_serve() -> str:
        verdict = bench.authority.may_serve(PEER, identity)
        return verdict.rule if isinstance(verdict, Denial) else "yes"

    assert may_serve() == "peer.class"
    peer = bench.registry.connected(PEER)
    for peer_class in (PeerClass.STRANGER, PeerClass.READER):
        peer.peer_class = peer_class
        assert may_serve() == "peer.class"
    peer.peer_class = PeerClass.MEMBER
    assert may_serve() == "peer.group"
    peer.groups = (FLEET,)
    assert may_serve() == "yes"
    bench.groups = ("other",)
    bench.authority._cache.clear()
    assert may_serve() == "manifest.group"


async def test_knowledge_grows_old_for_offers_first() -> None:
    bench = make_bench()
    manifest = (await bench.authorise(bench.lab.manifest())).manifest_id
    peer = bench.registry.connected(PEER)
    peer.peer_class, peer.groups = PeerClass.MEMBER, (FLEET,)
    bench.clock.advance(OFFER_FRESHNESS_MS / 1000)
    assert isinstance(bench.authority.may_offer(manifest), Permit)
    bench.clock.advance(0.01)
    late = bench.authority.may_offer(manifest)
    assert isinstance(late, Denial)
    assert (late.rule, late.may_retry) == ("freshness", True)
    assert isinstance(late.error(), NotYetError)
    assert isinstance(bench.authority.may_serve(PEER, manifest), Permit)
    bench.clock.advance((SERVE_FRESHNESS_MS - OFFER_FRESHNESS_MS) / 1000)
    assert isinstance(bench.authority.may_serve(PEER, manifest), Denial)
    assert isinstance(bench.authority.may_fetch(manifest), Denial)
    assert isinstance(bench.authority.verdict(manifest), Permit)  # nothing is to be deleted
    bench.age.confirm(bench.clock.monotonic())
    assert isinstance(bench.authority.may_fetch(manifest), Permit)


async def test_knowledge_that_was_never_confirmed_permits_nothing() -> None:
    bench = make_bench()
    manifest = (await bench.authorise(bench.lab.manifest())).manifest_id
    bench.age._anchor = None
    for verdict in (bench.authority.may_offer(manifest), bench.authority.may_fetch(manifest)):
        assert isinstance(verdict, Denial)
        assert verdict.rule == "freshness"


async def test_expiry_needs_no_further_block() -> None:
    bench = make_bench()
    manifest = await bench.authorise(bench.lab.manifest(expires_ms=GENESIS_MS + DAY_MS))
    assert isinstance(bench.authority.verdict(manifest.manifest_id), Permit)
    bench.clock.advance(DAY_MS / 1000)
    assert bench.refusal(manifest) == "manifest.expired"
    verdict = bench.authority.verdict(manifest.manifest_id)
    assert isinstance(verdict, Denial)
    assert isinstance(verdict.error(), PolicyError)


async def test_questions_about_anything_fill_no_memory() -> None:
    bench = make_bench()
    await bench.authorise(bench.lab.manifest())
    for index in range(100):
        bench.authority.verdict(ManifestId(sha256(b"%d" % index)))
    assert len(bench.authority._cache) <= 1


async def test_signatures_are_checked_once_while_blocks_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = make_bench()
    manifest = await bench.authorise(bench.lab.manifest())
    import swarmd.authority

    calls = 0
    real = swarmd.authority.verified_consent

    def counting(*arguments: Any, **more: Any) -> tuple[Holder, ...]:
        nonlocal calls
        calls += 1
        return real(*arguments, **more)

    monkeypatch.setattr(swarmd.authority, "verified_consent", counting)
    for _ in range(3):
        assert isinstance(bench.authority.verdict(manifest.manifest_id), Permit)
        await bench.commit(lambda: (advance(bench.lab, bench.chain),))
    assert calls == 1


def test_an_authorisation_without_owners_cannot_be_made() -> None:
    bench = make_bench()
    with pytest.raises(LocalProtocolError):
        bench.authority._authorise(bench.lab.manifest(), {})
    authorise(bench.lab, bench.chain, bench.lab.manifest())

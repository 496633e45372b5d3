"""Attacks on the seams of contracts: attestations, policies and rotations meet each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.bodies.rollout import Command, StopRollout
from ledger.records.manifest import ManifestStatus
from ledger.records.rollout import RolloutStatus
from protocol.approval import Action, find_holders
from protocol.encoding import INTEGER_MAX
from protocol.image import image_digest
from protocol.policy import AMEND_DELAY_MS_MIN
from tests.support.contracts import (
    BUILDERS,
    OWNERS,
    SITE,
    amending,
    approving,
    attesting,
    proposal,
    revoking,
    rotating,
    signed,
    site_bench,
    site_policy,
    site_root,
    submit,
    wait,
)
from tests.support.ledger import make_bench, make_key
from tests.support.rollout import emergency_group, emergency_keys, make_plan, pause

NEW = sorted((make_key(f"site/new/{i}") for i in range(2)), key=lambda key: key.public.raw)


def standing(bench, manifest):
    record = bench.state.manifest(manifest.manifest_id, SITE)
    assert record is not None
    return record


def test_a_second_release_of_an_image_does_not_take_the_attestations_of_the_first() -> None:
    """What gateways find for the first one must go on to name its own policy."""
    bench = site_bench(site_policy(attestations=1, amend_delay_ms=AMEND_DELAY_MS_MIN))
    first = proposal(bench, image=b"same")
    bench.apply(attesting(bench, first, BUILDERS[:1]))
    bench.apply(approving(bench, first, OWNERS[:2]))
    assert standing(bench, first).status is ManifestStatus.AUTHORISED
    bench.apply(amending(bench, site_policy(attestations=1, soak_ms=1)))
    wait(bench, AMEND_DELAY_MS_MIN)
    second = proposal(bench, image=b"same", sequence=2)
    bench.apply(attesting(bench, second, BUILDERS[:1]))
    for manifest in (first, second):
        record = standing(bench, manifest)
        stored = bench.state.approvals(manifest.manifest_id, SITE, Action.ATTEST)
        holders = find_holders(
            stored,
            root=site_root(),
            chain=bench.lab.chain_id,
            era=0,
            action=Action.ATTEST,
            subject=image_digest(manifest.manifest),
            group=SITE,
            policy=record.policy,
        )
        assert [holder.key for holder in holders] == [BUILDERS[0].public]


def shrunk(bench, keys):
    """Rotates to fewer owners under a policy that asks for fewer of them."""
    lenient = site_policy(
        approve_threshold=2, amend_threshold=2, revoke_threshold=2, enrol_threshold=2
    )
    bench.apply(amending(bench, lenient, OWNERS))
    wait(bench, AMEND_DELAY_MS_MIN)
    root = site_root(keys, version=2)
    bench.apply(rotating(bench, root, [*OWNERS, *(key for key in keys if key not in OWNERS)]))


STRICT = {"revoke_threshold": 3, "amend_threshold": 3, "amend_delay_ms": AMEND_DELAY_MS_MIN}


def test_a_release_can_be_revoked_after_a_rotation_to_fewer_owners() -> None:
    bench = site_bench(site_policy(**STRICT))
    manifest = proposal(bench)
    bench.apply(approving(bench, manifest, OWNERS[:2]))
    shrunk(bench, OWNERS[:2])
    bench.apply(revoking(bench, manifest, OWNERS[:1]))
    assert standing(bench, manifest).status is ManifestStatus.AUTHORISED
    bench.apply(revoking(bench, manifest, OWNERS[1:2]))
    assert standing(bench, manifest).status is ManifestStatus.REVOKED


def test_an_owner_with_a_new_key_does_not_revoke_twice() -> None:
    bench = site_bench()
    manifest = proposal(bench)
    bench.apply(revoking(bench, manifest, OWNERS[:1]))
    renewed = [NEW[0], *OWNERS[1:]]
    bench.apply(rotating(bench, site_root(renewed, version=2), [*OWNERS, NEW[0]]))
    bench.apply(revoking(bench, manifest, NEW[:1]))
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED
    bench.apply(revoking(bench, manifest, OWNERS[1:2]))
    assert standing(bench, manifest).status is ManifestStatus.REVOKED


def test_revocations_before_a_rotation_suffice_if_all_who_are_left_gave_them() -> None:
    bench = site_bench(site_policy(**STRICT))
    manifest = proposal(bench)
    bench.apply(revoking(bench, manifest, OWNERS[:2]))
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED
    shrunk(bench, OWNERS[:2])
    bench.apply(revoking(bench, manifest, OWNERS[:1]))
    assert standing(bench, manifest).status is ManifestStatus.REVOKED
    assert standing(bench, manifest).revokers == tuple(
        sorted(key.public.key_id for key in OWNERS[:2])
    )


@pytest.mark.parametrize("count", [1, 2])
def test_the_policy_still_decides_how_many_revoke_while_there_are_enough(count) -> None:
    bench = site_bench(replace(site_policy(), revoke_threshold=3))
    manifest = proposal(bench)
    bench.apply(revoking(bench, manifest, OWNERS[:count]))
    assert standing(bench, manifest).status is ManifestStatus.PROPOSED


def test_no_header_time_makes_a_pause_end_after_all_numbers():
    """Whoever holds all validators may certify any time; gateways must judge it, not fall over."""
    bench = make_bench(groups=(emergency_group(),))
    wait(bench, INTEGER_MAX - bench.time_ms - 5000)
    (key, *_) = emergency_keys("pumps")
    body = pause(bench.lab, key, valid_until_ms=INTEGER_MAX)
    until_ms = INTEGER_MAX
    bench.apply(bench.lab.transaction(bench.lab.gateways[0], body, valid_until_ms=until_ms))
    (entry,) = bench.state.pauses("pumps").entries
    assert entry.until_ms == INTEGER_MAX


def test_a_rollout_can_be_halted_after_a_rotation_to_fewer_owners():
    plan = make_plan()
    bench = site_bench(site_policy(**STRICT, rollout=plan))
    manifest = proposal(bench)
    bench.apply(approving(bench, manifest, OWNERS[:2]))
    assert bench.state.rollout(manifest.manifest_id, SITE) is not None
    policy = standing(bench, manifest).policy
    shrunk(bench, OWNERS[:2])

    def halt(keys):
        body = StopRollout(
            manifest=manifest.manifest_id,
            group=SITE,
            command=Command.HALT,
            sequence=0,
            approvals=(),
        )
        given = signed(bench, Action.ROLLOUT, body.subject, keys, policy=policy)
        return submit(bench, replace(body, approvals=given))

    assert bench.refusal(halt(OWNERS[:1])).rule == "approval.threshold"
    bench.apply(halt(OWNERS[:2]))
    record = bench.state.rollout(manifest.manifest_id, SITE)
    assert record is not None
    assert record.status is RolloutStatus.HALTED

"""One key against every gateway of a group: what is signed later must not turn into an alarm."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.bodies.manifest import ApproveManifest
from ledger.records.manifest import ManifestStatus
from ledger.state_keys import approval_key, manifest_key
from protocol.approval import Action
from protocol.digest import Digest, PolicyId
from protocol.rule import All, Compare, Comparison, KOf, Not, OneOf, RuleField
from swarmd.authority import REFUSALS
from swarmd.questions import Permit
from tests.support.authority import Bench, make_bench
from tests.support.contracts import AUDITOR, OWNERS, SITE, site_group, site_policy
from tests.support.ledger import make_lab


def site(policy) -> Bench:
    bench = make_bench(make_lab(groups=(site_group(policy),)))
    bench.groups = (SITE,)
    return bench


async def approve(bench: Bench, manifest, keys) -> None:
    record = bench.chain.state.manifest(manifest.manifest_id, SITE)
    approvals = tuple(
        bench.lab.approval(
            Action.AUTHORISE, manifest.manifest_id, key, group=SITE, policy=record.policy
        )
        for key in keys
    )
    body = ApproveManifest(manifest=manifest.manifest_id, group=SITE, approvals=approvals)
    await bench.apply(bench.lab.transaction(bench.lab.gateways[0], body))


@pytest.mark.parametrize(
    ("rule", "late"),
    [
        (Not(KOf(1, ("auditor",))), AUDITOR),
        (All((KOf(2, ("owner",)), Not(KOf(3, ("owner",))))), OWNERS[2]),
        (Compare(RuleField.APPROVALS, Comparison.AT_MOST, 2), OWNERS[2]),
        (Compare(RuleField.APPROVALS, Comparison.EQUAL, 2), OWNERS[2]),
        (Not(Compare(RuleField.APPROVALS, Comparison.AT_LEAST, 3)), OWNERS[2]),
        (OneOf(RuleField.APPROVALS, (2,)), OWNERS[2]),
    ],
)
async def test_an_approval_after_the_authorisation_raises_no_alarm(rule, late) -> None:
    bench = site(site_policy(rule=rule))
    manifest = await bench.propose(bench.lab.manifest(groups=(SITE,)))
    await approve(bench, manifest, OWNERS[:2])
    assert isinstance(bench.authority.verdict(manifest.manifest_id), Permit)
    await approve(bench, manifest, [late])
    assert isinstance(bench.authority.verdict(manifest.manifest_id), Permit)
    assert bench.ledger.alarm is None


@pytest.mark.parametrize(
    ("keys", "changes", "holds"),
    [
        (OWNERS[:2], {"is_override": True}, True),
        ([], {"is_override": True}, False),
        (OWNERS[:1], {"is_override": True}, False),
        ([OWNERS[0], AUDITOR], {"is_override": True}, False),
        ([], {"sequence": 9}, False),
        ([], {"product": "valve"}, False),
        ([], {"expires_ms": 1}, False),
        ([], {"policy": PolicyId(bytes(32))}, False),
        ([], {}, True),
    ],
)
async def test_validators_alone_neither_override_nor_rewrite_what_a_manifest_says(
    keys, changes, holds
) -> None:
    """All of them together let a release pass freezes and pauses, or fit another rule."""
    bench = site(site_policy())
    manifest = await bench.propose(bench.lab.manifest(groups=(SITE,)))
    await approve(bench, manifest, OWNERS[:2])
    record = bench.chain.state.manifest(manifest.manifest_id, SITE)
    assert record is not None
    subject = Digest(manifest.manifest_id)
    writes = {
        approval_key(subject, Action.OVERRIDE, key.public.key_id, SITE): bench.lab.approval(
            Action.OVERRIDE, subject, key, group=SITE, policy=record.policy
        )
        for key in keys
    }
    claim = replace(record, **changes)
    bench.poison({**writes, manifest_key(subject, SITE): claim.encode()})
    verdict = bench.authority.verdict(manifest.manifest_id)
    assert isinstance(verdict, Permit) is holds
    if "expires_ms" not in changes:
        assert (bench.ledger.alarm is None) is holds


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        (OWNERS[:2], "manifest.revoked"),
        ([], "node.alarm"),
        (OWNERS[:1], "node.alarm"),
        ([OWNERS[0], AUDITOR], "node.alarm"),
    ],
)
async def test_validators_alone_revoke_nothing(keys, rule) -> None:
    """Stored bytes of a revoked release go: all validators together must wipe no fleet."""
    bench = site(site_policy())
    manifest = await bench.propose(bench.lab.manifest(groups=(SITE,)))
    await approve(bench, manifest, OWNERS[:2])
    record = bench.chain.state.manifest(manifest.manifest_id, SITE)
    assert record is not None
    subject = Digest(manifest.manifest_id)
    writes = {
        approval_key(subject, Action.REVOKE, key.public.key_id, SITE): bench.lab.approval(
            Action.REVOKE, subject, key, group=SITE, policy=record.policy
        )
        for key in keys
    }
    claim = replace(
        record,
        status=ManifestStatus.REVOKED,
        revoked_height=3,
        revokers=tuple(sorted(key.public.key_id for key in keys)),
    )
    bench.poison({**writes, manifest_key(subject, SITE): claim.encode()})
    assert bench.refusal(manifest) == rule
    assert (rule in REFUSALS) is (len(keys) == 2 and AUDITOR not in keys)
    assert (bench.ledger.alarm is None) is (rule in REFUSALS)

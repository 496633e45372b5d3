"""Approvals are public: whoever repeats some of them first must not make the others void."""

from __future__ import annotations

import pytest

from ledger.bodies.manifest import ApproveManifest, RevokeManifest
from ledger.records.manifest import ManifestStatus
from protocol.approval import Action
from tests.support.ledger import FLEET, make_bench, owner_keys


def test_an_approval_repeated_by_another_member_stops_neither_approval_nor_revocation() -> None:
    bench = make_bench()
    lab = bench.lab
    manifest = lab.manifest()
    bench.apply(lab.propose(manifest))
    for action, body, goal in (
        (Action.AUTHORISE, ApproveManifest, ManifestStatus.AUTHORISED),
        (Action.REVOKE, RevokeManifest, ManifestStatus.REVOKED),
    ):
        approvals = lab.approvals(action, manifest.manifest_id)
        for submitter, part in ((lab.gateways[1], approvals[:1]), (lab.gateways[0], approvals)):
            transaction = body(manifest=manifest.manifest_id, group=FLEET, approvals=part)
            bench.apply(lab.transaction(submitter, transaction))
        record = bench.state.manifest(manifest.manifest_id, FLEET)
        assert record is not None
        assert record.status is goal


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_new_is_still_refused(count: int) -> None:
    bench = make_bench()
    lab = bench.lab
    manifest = lab.manifest()
    bench.apply(lab.propose(manifest))
    keys = owner_keys(FLEET)[:1] if count == 1 else owner_keys(FLEET)[:2]
    approvals = tuple(lab.approval(Action.AUTHORISE, manifest.manifest_id, key) for key in keys)
    body = ApproveManifest(manifest=manifest.manifest_id, group=FLEET, approvals=approvals)
    bench.apply(lab.transaction(lab.gateways[0], body))
    again = bench.refusal(lab.transaction(lab.gateways[1], body))
    assert again.rule == "approval.duplicate"

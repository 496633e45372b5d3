"""Who asks for what only waited for time: when, and how often."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger.bodies.manifest import ApproveManifest, SettleManifest
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.transition.kind import Body
from protocol.approval import Action
from protocol.calendar import HOUR_MS, MINUTE_MS, Freeze
from protocol.digest import DidId, Digest, TransactionId
from protocol.manifest import SignedManifest
from protocol.policy import Policy
from swarmd.ledger_host import LedgerHost
from swarmd.services.settling import VALIDATOR_GRACE_MS, SettlingService, find_waiting
from swarmd.services.submission import LIFETIME_MS
from tests.support.contracts import OWNERS, SITE, site_group, site_policy
from tests.support.ledger import GENESIS_MS, advance, make_lab

SOAK_MS = 4 * HOUR_MS
SOAKING = site_policy(soak_ms=SOAK_MS)


class Site:
    """A chain with one manifest that owners have approved, and what a node asks for."""

    def __init__(self, policy: Policy = SOAKING, *, seat: int | None = None) -> None:
        self.lab = make_lab(groups=(site_group(policy),))
        self.chain = self.lab.open_chain()
        self.manifest = self.propose(1)
        self.asked: list[SettleManifest] = []
        self.refusal: LedgerError | None = None
        self.service = SettlingService(
            ledger=LedgerHost(self.chain, lambda: self.chain.head.time_ms),
            own_did=self.lab.publisher.did,
            is_publisher=seat is None,
            seat=lambda: seat,
        )

    def propose(self, sequence: int, **changes: Any) -> SignedManifest:
        manifest = self.lab.manifest(sequence=sequence, groups=(SITE,), **changes)
        advance(self.lab, self.chain, [self.lab.propose(manifest)])
        return manifest

    def approve(self, manifest: SignedManifest) -> None:
        record = self.chain.state.manifest(manifest.manifest_id, SITE)
        assert record is not None
        approvals = tuple(
            self.lab.approval(
                Action.AUTHORISE, manifest.manifest_id, key, group=SITE, policy=record.policy
            )
            for key in OWNERS[:2]
        )
        body = ApproveManifest(manifest=manifest.manifest_id, group=SITE, approvals=approvals)
        advance(self.lab, self.chain, [self.lab.transaction(self.lab.gateways[0], body)])

    async def submit(self, body: Body) -> TransactionId:
        assert isinstance(body, SettleManifest)
        self.asked.append(body)
        if self.refusal is not None:
            raise self.refusal
        return TransactionId(Digest(bytes(32)))

    async def later(self, after_ms: int) -> int:
        """One more block; returns how often the node has asked."""
        advance(self.lab, self.chain, after_ms=after_ms)
        await self.service._review(self.submit)
        return len(self.asked)


async def test_a_publisher_asks_once_when_the_soak_is_over() -> None:
    site = Site()
    site.approve(site.manifest)
    assert await site.later(MINUTE_MS) == 0
    assert await site.later(SOAK_MS) == 1
    assert site.asked[0] == SettleManifest(manifest=site.manifest.manifest_id, group=SITE)
    for _ in range(5):
        assert await site.later(HOUR_MS) == 1
    assert await site.later(LIFETIME_MS) == 1  # forgets, for the transaction has expired
    assert await site.later(MINUTE_MS) == 2


async def test_nobody_asks_while_owners_are_missing() -> None:
    site = Site()
    for _ in range(5):
        assert await site.later(SOAK_MS) == 0
    (waiting,) = find_waiting(site.chain.state, None, time_ms=site.chain.head.time_ms)
    assert waiting.missing == ("policy.approvals",)


async def test_a_freeze_that_ends_is_another_reason() -> None:
    begin = GENESIS_MS + SOAK_MS + HOUR_MS
    freezes = (Freeze(begin, begin + HOUR_MS),)
    site = Site(replace(SOAKING, freezes=freezes))
    site.approve(site.manifest)
    assert await site.later(SOAK_MS) == 1
    assert await site.later(HOUR_MS) == 1
    (waiting,) = find_waiting(site.chain.state, None, time_ms=site.chain.head.time_ms)
    assert waiting.missing == ("policy.freeze",)
    assert await site.later(HOUR_MS) == 2
    assert await site.later(MINUTE_MS) == 2


@pytest.mark.parametrize(
    ("refusal", "count"),
    [
        (LedgerError("manifest.publisher", "suspended"), 1),
        (LedgerNotYetError("tx.nonce", "too many wait"), 3),
    ],
    ids=["for good", "not yet"],
)
async def test_a_refusal_ends_nothing_but_this_question(refusal: LedgerError, count: int) -> None:
    site = Site()
    site.refusal = refusal
    site.approve(site.manifest)
    for _ in range(3):
        await site.later(SOAK_MS)
    assert len(site.asked) == count


async def test_validators_ask_in_turn_and_later() -> None:
    site = Site(seat=2)
    site.approve(site.manifest)
    advance(site.lab, site.chain, after_ms=SOAK_MS)
    while site.chain.head.height % 4 != 2:
        assert await site.later(1000) == 0
    assert VALIDATOR_GRACE_MS > 4 * 1000
    heights = []
    for _ in range(8):
        before = len(site.asked)
        if await site.later(VALIDATOR_GRACE_MS) > before:
            heights.append(site.chain.head.height % 4)
    assert heights == [2]  # at its turn, once
    unseated = Site()
    unseated.service._is_publisher = False
    unseated.approve(unseated.manifest)
    assert await unseated.later(2 * SOAK_MS) == 0


def test_what_can_never_be_authorised_is_not_asked_for() -> None:
    site = Site(replace(SOAKING, soak_ms=HOUR_MS))
    newer = site.propose(2)
    ends = site.propose(3, expires_ms=site.chain.head.time_ms + HOUR_MS)
    for manifest in (site.manifest, ends):
        site.approve(manifest)
    state, now_ms = site.chain.state, site.chain.head.time_ms
    everybody = find_waiting(state, None, time_ms=now_ms)
    assert {one.manifest for one in everybody} == {
        manifest.manifest_id for manifest in (site.manifest, newer, ends)
    }
    assert find_waiting(state, DidId(Digest(bytes(32))), time_ms=now_ms) == []
    assert find_waiting(state, site.lab.publisher.did, time_ms=now_ms) == everybody
    later = find_waiting(state, None, time_ms=now_ms + 2 * HOUR_MS)
    assert ends.manifest_id not in {one.manifest for one in later}
    advance(site.lab, site.chain, after_ms=2 * HOUR_MS)
    site.approve(newer)  # is authorised at once: its soak is over
    left = find_waiting(site.chain.state, None, time_ms=site.chain.head.time_ms)
    assert left == []

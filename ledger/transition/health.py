"""What `report.health` does: counts, per site and capped, and what a rollout makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger.bodies.health import ReportHealth
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.health import HealthRecord, SiteRecord
from ledger.records.manifest import ManifestRecord
from ledger.records.rollout import RolloutRecord
from ledger.state import Draft, StateReader
from ledger.state_keys import health_key, rollout_key, site_health_key
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind
from ledger.transition.opinion import marks_of
from ledger.transition.rollout import judged
from protocol.did import SubjectKind
from protocol.digest import DidId, Digest

HEALTH_INTERVAL_MS: Final = 5 * 60 * 1000
"""Least header time between two reports of one gateway about one release, milliseconds: half of
what honest gateways keep, so that clocks and blocks that lag refuse none of theirs."""


def report_health(draft: Draft, signer: DidId, body: ReportHealth, context: BlockContext) -> None:
    """Counts a gateway's report; it may halt the release's rollout or promote it (R40 to R46).

    Raises:
        LedgerError: `health.reporter`, `health.manifest`, `health.falling`, `health.same`;
            `health.early` while waiting helps.
    """
    manifest = _check_reporter(draft, signer, body, context)
    before = draft.health(body.manifest, signer, body.group)
    _check_progress(before, body, context)
    old = HealthRecord() if before is None else before
    following = HealthRecord(
        successes=body.successes,
        failures=body.failures,
        devices=body.devices,
        time_ms=context.time_ms,
    )
    draft.put(health_key(body.manifest, signer, body.group), following.encode())
    rollout = draft.rollout(body.manifest, body.group)
    plan = draft.policy(manifest.policy).rollout
    if rollout is None or plan is None:
        return
    added = (body.successes - old.successes, body.failures - old.failures)
    counted = _count(
        draft, site_of(draft, signer, body.group, context.time_ms), body, rollout, added
    )
    after = judged(counted, plan, context.time_ms)
    draft.put(rollout_key(body.manifest, body.group), after.encode())


def _check_reporter(
    draft: Draft, signer: DidId, body: ReportHealth, context: BlockContext
) -> ManifestRecord:
    subject = draft.subject(signer)
    assert subject is not None, "the envelope was checked"
    if subject.kind is not SubjectKind.GATEWAY or body.group not in subject.groups:
        raise LedgerError("health.reporter", f"only gateways of {body.group!r} may report")
    manifest = draft.manifest(body.manifest, body.group)
    if manifest is None or not manifest.is_authorised(context.time_ms):
        raise LedgerError("health.manifest", f"not authorised in group {body.group!r}")
    return manifest


def _check_progress(before: HealthRecord | None, body: ReportHealth, context: BlockContext) -> None:
    """Counts never fall, and reports that say nothing new or come too often are refused (R41).

    A gateway's first failure waits for nothing: it may have to stop the rollout.
    """
    if before is None:
        return
    if body.successes < before.successes or body.failures < before.failures:
        raise LedgerError("health.falling", "counts of a gateway never fall")
    said = (before.successes, before.failures, before.devices)
    if (body.successes, body.failures, body.devices) == said:
        raise LedgerError("health.same", "this was reported before")
    is_first_failure = before.failures == 0 and body.failures > 0
    if not is_first_failure and context.time_ms < before.time_ms + HEALTH_INTERVAL_MS:
        raise LedgerNotYetError("health.early", "this gateway reported a moment ago")


def _count(
    draft: Draft,
    site: Digest,
    body: ReportHealth,
    rollout: RolloutRecord,
    added: tuple[int, int],
) -> RolloutRecord:
    """Adds what is new to the site's counts and exchanges its part in the rollout's (R43, R44)."""
    known = draft.site_health(body.manifest, site, body.group)
    if known is None or known.period != rollout.period:
        known = SiteRecord(period=rollout.period)
    following = replace(
        known, successes=known.successes + added[0], failures=known.failures + added[1]
    )
    draft.put(site_health_key(body.manifest, site, body.group), following.encode())
    (was_good, was_bad), (is_good, is_bad) = known.counted(), following.counted()
    return replace(
        rollout,
        success_sites=rollout.success_sites + _first(known.successes, following.successes),
        failure_sites=rollout.failure_sites + _first(known.failures, following.failures),
        successes=rollout.successes + is_good - was_good,
        failures=rollout.failures + is_bad - was_bad,
    )


def _first(before: int, after: int) -> int:
    """1 if a count has just left zero."""
    return int(before == 0 and after > 0)


def site_of(state: StateReader, did: DidId, name: str, time_ms: int) -> Digest:
    """Which site a gateway counts for (R42): the first mark by which opinions are told apart too.

    Owners answer for whom they admit: gateways whose place or owner is not certified are one site
    for each owner who let them in, and one in all for those since genesis.
    """
    group = state.group(name)
    assert group is not None, "the reporter belongs to an existing group"
    return marks_of(state, did, name, group, time_ms)[0]


KINDS: Final = (
    Kind(
        name="report.health",
        body=ReportHealth,
        read=ReportHealth.read,
        apply=report_health,
    ),
)
"""Kinds of this area."""

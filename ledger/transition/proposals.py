"""How many manifests a publisher may hold open in a group (docs/spec/quotas.md, Q20 to Q22)."""

from __future__ import annotations

from ledger.errors import LedgerNotYetError
from ledger.records.manifest import ManifestStatus
from ledger.records.tenant import OPEN_PROPOSALS_MAX, OpenProposals
from ledger.state import Draft, StateReader
from ledger.state_keys import open_key
from ledger.transition.context import BlockContext
from protocol.digest import DidId, ManifestId


def enter_proposal(
    draft: Draft, publisher: DidId, group: str, manifest: ManifestId, context: BlockContext
) -> None:
    """Counts a proposal among those that wait for owners (Q20).

    Raises:
        LedgerNotYetError: `manifest.open`: as many wait already.
    """
    waiting = draft.open_proposals(publisher, group).manifests
    if len(waiting) >= OPEN_PROPOSALS_MAX:
        waiting = tuple(item for item in waiting if _is_open(draft, item, group, context))
    if len(waiting) >= OPEN_PROPOSALS_MAX:
        raise LedgerNotYetError(
            "manifest.open",
            f"{len(waiting)} manifests of this publisher wait for owners in {group!r}",
        )
    following = OpenProposals(manifests=(*waiting, manifest))
    draft.put(open_key(publisher, group), following.encode())


def _is_open(state: StateReader, manifest: ManifestId, group: str, context: BlockContext) -> bool:
    """Whether owners could still authorise a manifest (Q21)."""
    record = state.manifest(manifest, group)
    if record is None or record.status is not ManifestStatus.PROPOSED:
        return False
    latest = state.latest(group, record.product)
    is_below = latest is not None and record.sequence <= latest.sequence
    return not is_below and not record.is_expired(context.time_ms)

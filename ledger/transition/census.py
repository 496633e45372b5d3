"""Counts the active peers of each group, so that a share of a group can be computed (D33).

Whatever writes subjects, the count follows from what a transaction changed.
"""

from __future__ import annotations

from ledger.records.defence import CensusRecord
from ledger.records.subject import SubjectRecord, SubjectStatus
from ledger.standing import member_count
from ledger.state import Draft
from ledger.state_keys import census_key
from protocol.did import SubjectKind

EXCHANGING = (SubjectKind.GATEWAY, SubjectKind.PUBLISHER)
"""Kinds of nodes that exchange images, and that a quarantine may concern."""


def count_members(draft: Draft) -> None:
    """Brings the counts of groups in step with the subjects that a draft has written."""
    changes: dict[str, int] = {}
    for before, after in draft.changes(b"d/"):
        for raw, step in ((before, -1), (after, 1)):
            for group in () if raw is None else _counted_groups(raw):
                changes[group] = changes.get(group, 0) + step
    for group, change in changes.items():
        if change:
            count = member_count(draft, group) + change
            draft.put(census_key(group), CensusRecord(count).encode())


def _counted_groups(raw: bytes) -> tuple[str, ...]:
    record = SubjectRecord.decode(raw)
    is_counted = record.kind in EXCHANGING and record.status is SubjectStatus.ACTIVE
    return record.groups if is_counted else ()

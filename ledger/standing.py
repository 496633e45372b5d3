"""How a subject stands in a group: quarantine, opinion, reputation, capabilities.

Read from any state; nothing here writes. Levels and weights are functions of records and of a
header time, so that nothing has to happen for a quarantine to end or an opinion to fade
(docs/spec/defence.md).
"""

from __future__ import annotations

from ledger.records.capability import CapabilitiesRecord, IssueRecord
from ledger.records.defence import (
    CensusRecord,
    OpinionRecord,
    QuarantineRecord,
    SelfConvictionRecord,
    TallyRecord,
)
from ledger.records.subject import SubjectStatus
from ledger.state import StateReader
from ledger.state_keys import (
    capabilities_key,
    census_key,
    issue_key,
    opinion_key,
    quarantine_key,
    self_conviction_key,
    tally_key,
)
from protocol.capability import Capability
from protocol.defence import WEIGHT_MAX, DefenceRules, QuarantineLevel
from protocol.digest import DidId, Digest


def quarantine_of(state: StateReader, did: DidId, group: str) -> QuarantineRecord | None:
    """A subject's quarantine record in a group."""
    raw = state.get(quarantine_key(did, group))
    return None if raw is None else QuarantineRecord.decode(raw)


def conviction_of(state: StateReader, did: DidId) -> SelfConvictionRecord | None:
    """The newest conviction of a subject for contradicting itself."""
    raw = state.get(self_conviction_key(did))
    return None if raw is None else SelfConvictionRecord.decode(raw)


def quarantine_level(state: StateReader, did: DidId, group: str, time_ms: int) -> QuarantineLevel:
    """What a subject may not do with a group's images at a header time (D31, D43)."""
    record, conviction = quarantine_of(state, did, group), conviction_of(state, did)
    if conviction is not None and (record is None or record.height < conviction.height):
        return QuarantineLevel.NO_EXCHANGE  # its owners have not spoken since
    return QuarantineLevel.NONE if record is None else record.level_at(time_ms)


def opinion_of(state: StateReader, did: DidId, group: str) -> OpinionRecord:
    """What other owners of a group think of a subject; empty where nobody reported."""
    raw = state.get(opinion_key(did, group))
    return OpinionRecord() if raw is None else OpinionRecord.decode(raw)


def tally_of(state: StateReader, group: str, time_ms: int) -> TallyRecord:
    """How many of a group opinion has put into quarantine lately."""
    raw = state.get(tally_key(group))
    return (TallyRecord() if raw is None else TallyRecord.decode(raw)).at(time_ms)


def member_count(state: StateReader, group: str) -> int:
    """Active gateways and publishers of a group."""
    raw = state.get(census_key(group))
    return 0 if raw is None else CensusRecord.decode(raw).count


def reputation(
    state: StateReader, did: DidId, group: str, rules: DefenceRules, time_ms: int
) -> int:
    """What a subject's own reports count for at a header time, 0 to 1,000 (D22)."""
    if quarantine_level(state, did, group, time_ms) is not QuarantineLevel.NONE:
        return 0
    count, total = opinion_of(state, did, group).live(time_ms, rules)
    if count < rules.voices_min:
        return WEIGHT_MAX  # what fewer owners say moves nothing at all
    return WEIGHT_MAX - min(WEIGHT_MAX, total * WEIGHT_MAX // rules.threshold)


def capabilities_of(
    state: StateReader, did: DidId, group: str, time_ms: int
) -> tuple[Capability, ...]:
    """A subject's capabilities in a group at a header time; none unless it is active (A12)."""
    raw = state.get(capabilities_key(did, group))
    if raw is None:
        return ()
    subject = state.subject(did)
    if subject is None or subject.status is not SubjectStatus.ACTIVE:
        return ()
    return CapabilitiesRecord.decode(raw).in_force(time_ms)


def issue_of(state: StateReader, capability: Digest) -> IssueRecord | None:
    """What became of a capability by id."""
    raw = state.get(issue_key(capability))
    return None if raw is None else IssueRecord.decode(raw)

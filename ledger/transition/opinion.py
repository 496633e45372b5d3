"""Whose opinion a report is: owners speak, however many nodes they run (D10 to D13)."""

from __future__ import annotations

from typing import Final

from ledger.records.group import GroupRecord
from ledger.state import StateReader
from protocol.approval import Action
from protocol.digest import DidId, Digest, tagged_digest
from protocol.encoding import encode_canonical

Marks = tuple[Digest, ...]
"""See `marks_of`."""
MARK_TAG: Final = "swarmd/voice/1"
"""Domain of marks that are no key ids."""
FOUNDERS: Final = tagged_digest(MARK_TAG, b"founders")
"""Mark of all whose sponsors are not on record: members since genesis, or enrolled by owners whose
keys the root no longer holds. Together they are one voice."""


OWNER_ATTRIBUTES: Final = ("owner", "site")
"""Certified attributes that name a reporter's owner; the first that is certified counts."""


def marks_of(state: StateReader, did: DidId, name: str, group: GroupRecord, time_ms: int) -> Marks:
    """What tells the owner of a reporter from others, ascending; reports that share one are one.

    It is the owner or site that the group's owners certified, where certifying takes as many of
    them as anything a gateway believes; else a single owner could make up as many as it likes.
    Otherwise it is the owners whose ENROL approvals admitted the reporter, whoever submitted them.
    """
    policy = state.policy(group.policy_at(time_ms))
    if policy.enrol_threshold >= group.owner_root.threshold:
        certified = _certified_owner(state, did, name)
        if certified is not None:
            return (certified,)
    sponsors = [
        key.key_id
        for key, _ in group.owner_root.owners
        if state.approval(Digest(did), Action.ENROL, key.key_id, name) is not None
    ]
    return tuple(sorted(Digest(mark) for mark in sponsors)) or (FOUNDERS,)


def _certified_owner(state: StateReader, did: DidId, group: str) -> Digest | None:
    known = state.attributes(did, group)
    for attribute in OWNER_ATTRIBUTES:
        if attribute in known:
            return tagged_digest(MARK_TAG, encode_canonical([attribute, known[attribute]]))
    return None

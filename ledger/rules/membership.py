"""Which groups a subject belongs to: by its own record, and by attributes that owners certified.

A subject belongs to every group its record lists, to all ancestors of a group it belongs to, and to
each child group (or group without parent) whose selector its attributes satisfy. Attributes count
for a group if they are certified for it or for one of its ancestors; the nearest certification of a
name decides. All of it is read from the state; nothing is stored per member (K60 to K69).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ledger.rules.evaluate import attribute_facts, selector_truth
from ledger.state import StateReader
from protocol.digest import DidId
from protocol.group import GROUP_DEPTH_MAX


def ancestors_of(state: StateReader, group: str) -> tuple[str, ...]:
    """A group's parent, its parent's parent and so on, nearest first; at most 8."""
    found: list[str] = []
    parent = state.placement(group).parent
    while parent is not None and parent not in found and len(found) < GROUP_DEPTH_MAX:
        found.append(parent)
        parent = state.placement(parent).parent
    return tuple(found)


def height_of(state: StateReader, group: str) -> int:
    """Levels of groups below and including a group; stops above 8."""
    level, height = [group], 0
    while len(level) > 0 and height <= GROUP_DEPTH_MAX:
        height += 1
        level = [child for parent in level for child in state.children(parent)]
    return height


def effective_attributes(state: StateReader, did: DidId, group: str) -> Mapping[str, str]:
    """What counts of a subject in a group: certified there, or by the nearest ancestor."""
    merged: dict[str, str] = {}
    for certifier in reversed((group, *ancestors_of(state, group))):
        merged.update(state.attributes(did, certifier))
    return merged


def groups_of(state: StateReader, did: DidId) -> tuple[str, ...]:
    """The groups a subject belongs to, ascending; none for one that does not exist.

    Its status is not looked at: what a suspended member may do is another question. Costs a few
    reads for each group it belongs to and for each child of one.
    """
    record = state.subject(did)
    if record is None:
        return ()
    found = dict.fromkeys(record.groups)
    for group in record.groups:
        found.update(dict.fromkeys(ancestors_of(state, group)))
    pending: list[str | None] = [None, *found]
    while pending:
        for child in state.children(pending.pop()):
            if child not in found and is_selected(state, did, child):
                found[child] = None
                pending.append(child)
    return tuple(sorted(found))


def belongs_to(state: StateReader, did: DidId, group: str) -> bool:
    """Tells whether `groups_of` names a group, at the cost of one path to the top.

    A transaction asks about one group; `groups_of` looks at every child of every group of a
    subject, and at every group that takes members by selector alone.
    """
    record = state.subject(did)
    if record is None:
        return False
    listed = set(record.groups)
    for own in record.groups:
        listed.update(ancestors_of(state, own))
    for level in (group, *ancestors_of(state, group)):
        if level in listed:
            return True
        if not is_selected(state, did, level):
            return False
    return True


def is_selected(state: StateReader, did: DidId, group: str) -> bool:
    """Tells whether a group's selector takes a subject, be it in the parent or not."""
    selector = state.placement(group).selector
    if selector is None:
        return False
    facts = attribute_facts(effective_attributes(state, did, group))
    return selector_truth(selector, facts.fields) is True


def accepting_groups(
    state: StateReader, own: Iterable[str], authorised: Iterable[str], time_ms: int
) -> tuple[str, ...]:
    """Through which groups a member may accept a manifest, ascending.

    A member of a *closed* group takes what an ancestor of it authorised only if the closed group
    authorised it too. So a child can only tighten what its ancestors decide.

    Args:
        state: newest final state.
        own: groups the member belongs to.
        authorised: groups in which the manifest is authorised.
        time_ms: header time.
    """
    mine, given = tuple(own), tuple(authorised)
    closed = [group for group in mine if group not in given and is_closed(state, group, time_ms)]
    barred = {above for group in closed for above in ancestors_of(state, group)}
    return tuple(sorted(group for group in given if group in mine and group not in barred))


def is_closed(state: StateReader, group: str, time_ms: int) -> bool:
    """Tells whether a group's policy in force keeps its members from what only ancestors allow."""
    record = state.group(group)
    return record is not None and state.policy(record.policy_at(time_ms)).closed

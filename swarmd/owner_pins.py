"""The owner roots this node believes, group by group, whatever validators say.

Genesis groups are pinned by the genesis document. A later group is pinned when its creation carries
the governance root's threshold, checked here again and not taken from the state. A pinned root
moves only by rotations that its own owners and the next ones signed, each checked here. What owners
agreed to earlier is judged by the root of that time.
"""

from __future__ import annotations

from ledger.records.group import GroupRecord
from ledger.state import StateReader
from protocol.approval import Action, verify_threshold
from protocol.digest import ChainId, sha256
from protocol.errors import VerificationError
from protocol.genesis import Genesis
from protocol.group import OwnerRoot, decode_group

Pinned = list[tuple[int, OwnerRoot]]
"""Roots of a group with the height from which each holds, oldest first."""


class OwnerPins:
    """Pins roots and follows their rotations."""

    def __init__(self, genesis: Genesis) -> None:
        """Pins the groups of genesis."""
        self._genesis = genesis
        self._chain: ChainId = genesis.chain
        self._roots: dict[str, Pinned] = {
            group.name: [(0, group.owner_root)] for group in genesis.groups
        }

    def root(self, name: str, record: GroupRecord, state: StateReader, era: int) -> OwnerRoot:
        """The root of a group now; pins it at first sight if governance created the group.

        Args:
            name: the group.
            record: what the newest final state says of it.
            state: that state.
            era: era of the newest final header.

        Raises:
            VerificationError: the state names other owners than the pinned ones and those that
                rotations lead to, or a group that governance did not create.
        """
        pinned = self._roots.get(name)
        if pinned is None:
            pinned = self._roots[name] = [(0, self._verify_creation(name, record, state, era))]
        while pinned[-1][1].version < record.owner_root.version:
            pinned.append(self._follow(name, pinned[-1][1], state, era))
        if record.owner_root != pinned[-1][1]:
            raise VerificationError(f"group {name!r}: the ledger names other owners than pinned")
        return pinned[-1][1]

    def root_at(self, name: str, height: int) -> OwnerRoot:
        """The root in force at a height, of a group whose root was asked for before."""
        return next(root for since, root in reversed(self._roots[name]) if since <= height)

    def _verify_creation(
        self, name: str, record: GroupRecord, state: StateReader, era: int
    ) -> OwnerRoot:
        raw = state.origin(name)
        if raw is None:
            raise VerificationError(f"group {name!r} has no origin")
        group, subject = decode_group(raw), sha256(raw)
        if group.name != name:
            raise VerificationError(f"the origin of group {name!r} is that of {group.name!r}")
        root = self._genesis.governance_root
        stored = (
            state.approval(subject, Action.CREATE_GROUP, key_id, name) for key_id in record.creators
        )
        verify_threshold(
            [raw for raw in stored if raw is not None],
            root=root,
            threshold=root.threshold,
            chain=self._chain,
            era=era,
            action=Action.CREATE_GROUP,
            subject=subject,
            group=name,
            policy=group.policy.policy_id,
        )
        return group.owner_root

    def _follow(
        self, name: str, current: OwnerRoot, state: StateReader, era: int
    ) -> tuple[int, OwnerRoot]:
        raise VerificationError(f"group {name!r}: root {current.version + 1} was not signed for")

"""The owner roots this node believes, group by group, whatever validators say.

Genesis groups are pinned by the genesis document. A later group is pinned when its creation carries
the governance root's threshold, checked here again and not taken from the state. A pinned root
moves only by rotations that its own owners and the next ones signed, each checked here. What owners
agreed to earlier is judged by the root of that time, whose version is on record.
"""

from __future__ import annotations

from ledger.records.group import GroupRecord
from ledger.state import StateReader
from protocol.approval import Action, verify_threshold
from protocol.digest import ChainId, sha256
from protocol.errors import VerificationError
from protocol.genesis import Genesis
from protocol.group import OwnerRoot, decode_group
from protocol.rotation import root_digest, verify_rotation


class OwnerPins:
    """Pins roots and follows their rotations."""

    def __init__(self, genesis: Genesis) -> None:
        """Pins the groups of genesis."""
        self._genesis = genesis
        self._chain: ChainId = genesis.chain
        self._roots: dict[str, list[OwnerRoot]] = {
            group.name: [group.owner_root] for group in genesis.groups
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
            pinned = self._roots[name] = [self._verify_creation(name, record, state, era)]
        while pinned[-1].version < record.owner_root.version:
            pinned.append(self._follow(name, pinned[-1], state, era))
        if record.owner_root != pinned[-1]:
            raise VerificationError(f"group {name!r}: the ledger names other owners than pinned")
        return pinned[-1]

    def root_of(self, name: str, version: int | None) -> OwnerRoot:
        """A root by its version, of a group whose root was asked for before.

        Raises:
            VerificationError: this node never pinned such a root.
        """
        for root in self._roots[name]:
            if root.version == version:
                return root
        raise VerificationError(f"group {name!r}: owner root {version} was never pinned")

    def roots_of(self, name: str) -> tuple[OwnerRoot, ...]:
        """Every root of a group whose root was asked for before, ascending by version."""
        return tuple(self._roots[name])

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

    def _follow(self, name: str, current: OwnerRoot, state: StateReader, era: int) -> OwnerRoot:
        """The root after `current`, if both agreed to it; the state only brings the signatures."""
        record = state.rotation(name, current.version + 1)
        if record is None:
            raise VerificationError(f"group {name!r}: no rotation follows root {current.version}")
        digest = root_digest(record.owner_root)
        stored = (
            state.approval(digest, Action.ROTATE_ROOT, key_id, name) for key_id in record.signers
        )
        verify_rotation(
            current,
            record.owner_root,
            [raw for raw in stored if raw is not None],
            chain=self._chain,
            era=era,
            group=name,
            policy=record.policy,
        )
        return record.owner_root

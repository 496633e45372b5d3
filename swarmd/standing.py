"""How peers and this node stand in a group: quarantine, and capabilities whose owners are checked.

Reads the newest final state each time it is asked, so that a block that changes somebody's standing
has its effect at once. A capability counts only if its grant verifies against the pinned owners:
validators alone can give nobody access (promise G2).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ledger.records.capability import IssueRecord
from ledger.records.group import GroupRecord
from ledger.rules.membership import groups_of
from ledger.standing import capabilities_of, issue_of, quarantine_level
from protocol.approval import Action, parse_approval, verify_threshold
from protocol.capability import Capability, Verb
from protocol.defence import QuarantineLevel
from protocol.digest import DidId, Digest, ManifestId
from protocol.errors import VerificationError
from swarmd.ledger_host import LedgerHost
from swarmd.owner_pins import OwnerPins

CHECKED_MAX: Final = 4096
"""Capabilities whose signatures are remembered as good; the oldest is forgotten first."""


class Standing:
    """Answers about one chain, from its newest final state."""

    def __init__(self, ledger: LedgerHost, pins: OwnerPins) -> None:
        """Reads `ledger` and believes `pins`."""
        self._ledger = ledger
        self._pins = pins
        self._checked: dict[Digest, bool] = {}
        self._groups: dict[DidId, tuple[str, ...]] = {}

    def on_commit(self) -> None:
        """Forgets what a block may have changed."""
        self._groups.clear()

    def groups(self, did: DidId) -> tuple[str, ...]:
        """Groups a subject belongs to by the newest final state; parents and selectors count."""
        if did not in self._groups:
            self._groups[did] = groups_of(self._ledger.chain.state, did)
        return self._groups[did]

    def may_exchange(self, did: DidId, group: str) -> bool:
        """Whether a subject may be served the group's images."""
        return self._level(did, group) < QuarantineLevel.NO_EXCHANGE

    def may_be_taken_from(self, did: DidId, group: str) -> bool:
        """Whether a subject's chunks may be taken in the group."""
        return self._level(did, group) is QuarantineLevel.NONE

    def _level(self, did: DidId, group: str) -> QuarantineLevel:
        chain = self._ledger.chain
        return quarantine_level(chain.state, did, group, chain.head.time_ms)

    def holds(
        self,
        did: DidId,
        group: str,
        verb: Verb,
        *,
        product: str,
        manifest: ManifestId | None = None,
    ) -> bool:
        """Whether a capability in force, granted by the pinned owners, allows something."""
        return any(
            item.covers(verb, product=product, manifest=manifest) and self._is_granted(item)
            for item in self._held(did, (group,))
        )

    def holds_any(self, did: DidId, groups: Iterable[str], verb: Verb) -> bool:
        """Whether a subject has a capability for a verb in any of these groups, in any scope."""
        return any(
            verb in item.verbs and self._is_granted(item) for item in self._held(did, groups)
        )

    def _held(self, did: DidId, groups: Iterable[str]) -> list[Capability]:
        chain = self._ledger.chain
        time_ms = chain.head.time_ms
        return [
            item for group in groups for item in capabilities_of(chain.state, did, group, time_ms)
        ]

    def _is_granted(self, capability: Capability) -> bool:
        identifier = capability.capability_id
        if identifier not in self._checked:  # signatures do not change with blocks
            self._checked[identifier] = self._verify(capability, identifier)
            while len(self._checked) > CHECKED_MAX:
                self._checked.pop(next(iter(self._checked)))
        return self._checked[identifier]

    def _verify(self, capability: Capability, identifier: Digest) -> bool:
        state = self._ledger.chain.state
        issue, group = issue_of(state, identifier), state.group(capability.group)
        if issue is None or group is None:
            return False
        try:
            self._verify_grant(capability.group, identifier, issue, group)
        except VerificationError as error:
            self._ledger.raise_alarm(error)
            return False
        return True

    def _verify_grant(
        self, name: str, identifier: Digest, issue: IssueRecord, group: GroupRecord
    ) -> None:
        state, era = self._ledger.chain.state, self._ledger.chain.head.era
        self._pins.root(name, group, state, era)
        stored = [
            raw
            for key_id in issue.granters
            if (raw := state.approval(identifier, Action.GRANT, key_id, name)) is not None
        ]
        if not stored:
            raise VerificationError(f"a capability in group {name!r} that nobody granted")
        verify_threshold(
            stored,
            root=self._pins.root_of(name, issue.root_version),
            threshold=1,  # the root's own threshold counts for grants
            chain=self._ledger.chain_id,
            era=era,
            action=Action.GRANT,
            subject=identifier,
            group=name,
            policy=parse_approval(stored[0]).approval.policy,
        )

"""Owner thief: holds some owner keys of a group, and tries every decision that owners can take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ledger.bodies.defence import SetQuarantine, quarantine_digest
from ledger.bodies.group import RotateRoot, SetPolicy
from ledger.bodies.manifest import ApproveManifest, OverrideManifest, RevokeManifest
from ledger.bodies.subject import CreateSubject, SuspendSubject
from ledger.bodies.subject_decisions import CertifySubject, attributes_digest
from ledger.transition.kind import Body
from protocol.approval import Action
from protocol.defence import QuarantineLevel
from protocol.did import SubjectKind
from protocol.digest import ManifestId
from protocol.encoding import encode_canonical
from protocol.keys import PrivateKey
from protocol.rotation import root_digest
from protocol.transaction import SignedTransaction
from swarmd.simulation.lab import FLEET, Lab, Member, make_policy, make_root, owner_keys

ACCOMPLICE = Member(label="accomplice", kind=SubjectKind.PUBLISHER, groups=(FLEET,))
"""A publisher whom the thief would like to enrol."""
THEIR_POLICY = make_policy(
    approve_threshold=2, amend_threshold=2, revoke_threshold=1, enrol_threshold=1
)
"""What the thief would like to put in force."""


class OwnerThief:
    """Signs with what it holds, in every shape."""

    def __init__(self, lab: Lab, keys: Sequence[PrivateKey]) -> None:
        """Holds these keys of the fleet's owner root."""
        self._lab = lab
        self._keys = tuple(keys)

    def tries(self, good: ManifestId, evil: ManifestId) -> Iterator[SignedTransaction]:
        """Transactions that authorise, revoke, amend, replace, enrol, suspend, mark.

        Args:
            good: an authorised release.
            evil: one that the thief proposed.
        """
        for body in (*self._about_releases(good, evil), *self._about_the_group()):
            yield self._lab.transaction(self._lab.gateways[1], body)
        for body in self._about_members():
            yield self._lab.transaction(self._lab.gateways[1], body)

    def _signed(self, action: Action, subject: bytes) -> tuple[bytes, ...]:
        return tuple(self._lab.approval(action, subject, key) for key in self._keys)

    def _lists(self, action: Action, subject: bytes) -> Iterator[tuple[bytes, ...]]:
        """Its approvals as they are, each twice, with a stranger's, with one for another act."""
        own = self._signed(action, subject)
        other = Action.REVOKE if action is not Action.REVOKE else Action.AUTHORISE
        stranger = self._lab.approval(action, subject, owner_keys("strangers")[0])
        publisher = self._lab.publisher.keys_of(0)
        yield own
        yield own * 2
        yield (*own, stranger)
        yield (*own, *self._signed(other, subject))
        yield (*own, *(self._lab.approval(action, subject, key) for key in publisher.values()))

    def _about_releases(self, good: ManifestId, evil: ManifestId) -> Iterator[Body]:
        for approvals in self._lists(Action.AUTHORISE, evil):
            yield ApproveManifest(manifest=evil, group=FLEET, approvals=approvals)
        for approvals in self._lists(Action.OVERRIDE, evil):
            yield OverrideManifest(manifest=evil, group=FLEET, approvals=approvals)
        for approvals in self._lists(Action.REVOKE, good):
            yield RevokeManifest(manifest=good, group=FLEET, approvals=approvals)

    def _about_the_group(self) -> Iterator[Body]:
        for approvals in self._lists(Action.AMEND, THEIR_POLICY.policy_id):
            yield SetPolicy(group=FLEET, policy=THEIR_POLICY.encode(), approvals=approvals)
        known = self._lab.genesis.group(FLEET)
        assert known is not None, "every lab has the fleet"
        mine = make_root(owner_keys("thieves"))
        root = type(mine)(
            version=known.owner_root.version + 1, threshold=mine.threshold, owners=mine.owners
        )
        theirs = tuple(
            self._lab.approval(Action.ROTATE_ROOT, root_digest(root), key)
            for key in owner_keys("thieves")
        )
        for approvals in self._lists(Action.ROTATE_ROOT, root_digest(root)):
            raw = encode_canonical(root.to_value())
            yield RotateRoot(group=FLEET, root=raw, approvals=(*approvals, *theirs))

    def _about_members(self) -> Iterator[Body]:
        victim = self._lab.gateways[0].did
        for approvals in self._lists(Action.SUSPEND, victim):
            yield SuspendSubject(did=victim, group=FLEET, approvals=approvals)
        for approvals in self._lists(Action.ENROL, ACCOMPLICE.did):
            yield CreateSubject(join=ACCOMPLICE.join, approvals=(approvals,))
        attributes = (("class", "anything"),)
        digest = attributes_digest(victim, FLEET, 1, attributes)
        for approvals in self._lists(Action.CERTIFY, digest):
            yield CertifySubject(
                did=victim, group=FLEET, attributes=attributes, approvals=approvals
            )
        level = QuarantineLevel.NO_EXCHANGE
        digest = quarantine_digest(victim, FLEET, level=level, until_ms=None, sequence=1)
        for approvals in self._lists(Action.QUARANTINE, digest):
            yield SetQuarantine(
                subject=victim, group=FLEET, level=level, until_ms=None, approvals=approvals
            )

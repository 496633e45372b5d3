"""Answers that rest on standing alone: staging, publishing, reading, relaying, operating.

Only `swarmd.authority` asks these; everybody else asks the authority.
"""

from __future__ import annotations

from ledger.records.manifest import ManifestStatus
from ledger.records.subject import SubjectRecord, SubjectStatus
from ledger.rules.membership import is_selected
from protocol.capability import Verb
from protocol.did import SubjectKind
from protocol.digest import DidId, ManifestId
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerClass, PeerRegistry
from swarmd.questions import Allowed, Answer, Denial, Line, PeerSubject, ThisNode
from swarmd.standing import Standing


class AccessRules:
    """The rules of `swarmd.questions.Access`."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        registry: PeerRegistry,
        standing: Standing,
        own_did: DidId,
        operators: tuple[int, ...],
    ) -> None:
        """Judges by the newest final state, by classes of peers, and by a list of user ids."""
        self._ledger = ledger
        self._registry = registry
        self._standing = standing
        self._own_did = own_did
        self._operators = operators

    def may_stage(self, peer: PeerKey, manifest: ManifestId) -> Answer:
        """Staged images are for those whom owners named, while the manifest waits for approval."""
        known = self._registry.get(peer)
        if known is None or known.did is None or known.peer_class < PeerClass.MEMBER:
            return Denial("peer.class", "only members are shown anything")
        signed = self._ledger.manifests.get(manifest)
        if signed is None or self._ledger.alarm is not None:
            return Denial("manifest.unknown", "the ledger does not know this manifest", True)
        content, state = signed.manifest, self._ledger.chain.state
        for group in content.groups:
            record = state.manifest(manifest, group)
            if record is None or record.status is not ManifestStatus.PROPOSED:
                continue
            if self._standing.holds(
                known.did, group, Verb.APPROVE_STAGING, product=content.product, manifest=manifest
            ):
                return Allowed("capability")
        return Denial("staging.named", "no owners named this peer to look at it")

    def may_publish(self, subject: ThisNode | PeerSubject, line: Line) -> Answer:
        """What the ledger will say to a proposal, as far as standing goes."""
        did = self._own_did
        if isinstance(subject, PeerSubject):
            known = self._registry.get(subject.key)
            if known is None or known.did is None:
                return Denial("peer.class", "a stranger publishes nothing")
            did = known.did
        answer = self._may_publish_all(did, line.group)
        if isinstance(answer, Denial) and answer.rule == "manifest.capability":
            if self._standing.holds(did, line.group, Verb.PUBLISH, product=line.product):
                return Allowed("capability")
            return Denial("manifest.publisher", answer.message)
        return answer

    def _may_publish_all(self, did: DidId, name: str) -> Answer:
        """Whether a subject may propose any product; `manifest.capability`: not without one."""
        state = self._ledger.chain.state
        record, group = state.subject(did), state.group(name)
        if not _is_active(record) or record is None or record.kind is not SubjectKind.PUBLISHER:
            return Denial("manifest.publisher", "no active publisher")
        if group is None:
            return Denial("group.unknown", f"group {name!r} does not exist", True)
        named = state.policy(group.policy_at(self._ledger.chain.head.time_ms)).publishers
        is_member = name in record.groups or (
            name in self._standing.groups(did) and is_selected(state, did, name)
        )
        if did in named or (not named and is_member):
            return Allowed("policy")
        return Denial("manifest.capability", f"may not propose for {name!r}")

    def may_seal(self, did: DidId, group: str) -> Answer:
        """Rings are made by those who may propose something for the group (Z22)."""
        answer = self._may_publish_all(did, group)
        if isinstance(answer, Denial) and answer.rule == "manifest.capability":
            if self._standing.holds_any(did, (group,), Verb.PUBLISH):
                return Allowed("capability")
            return Denial("sealing.publisher", answer.message)
        return answer

    def may_read_ring(self, peer: PeerKey, group: str) -> Answer:
        """Rings are for members of their group: they tell who belongs to it (Z24)."""
        known = self._registry.get(peer)
        if known is None or known.did is None or known.peer_class < PeerClass.MEMBER:
            return Denial("peer.class", "only members are given rings")
        return self.may_open_ring(known.did, group)

    def may_open_ring(self, did: DidId, group: str) -> Answer:
        """Content keys are wrapped to active members of the group (Z20)."""
        if not _is_active(self._ledger.chain.state.subject(did)):
            return Denial("sealing.member", f"{did.hex()[:8]} is no active subject")
        if group not in self._standing.groups(did):
            return Denial("peer.group", f"{did.hex()[:8]} does not belong to group {group!r}")
        return Allowed("member")

    def may_read(self, peer: PeerKey) -> Answer:
        """Whether a peer may read the ledger: everybody who has shown a membership may."""
        if self._registry.peer_class(peer) >= PeerClass.READER:
            return Allowed("known")
        return Denial("peer.class", "strangers read nothing")

    def may_relay(self, peer: PeerKey, group: str) -> Answer:
        """Whether a peer may pass on a group's announcements."""
        known = self._registry.get(peer)
        if known is None or known.peer_class < PeerClass.MEMBER:
            return Denial("peer.class", "only members relay")
        is_member = known.did is not None and group in self._standing.groups(known.did)
        if is_member or group in known.groups or known.peer_class is PeerClass.VALIDATOR:
            return Allowed("member")
        if known.did is not None and self._standing.holds_any(known.did, (group,), Verb.RELAY):
            return Allowed("capability")
        return Denial("peer.group", f"the peer does not belong to group {group!r}")

    def may_operate(self, uid: int) -> Answer:
        """Whether a process of a user may control this daemon."""
        if uid in self._operators:
            return Allowed("operator")
        return Denial("control.user", f"user id {uid} may not control this daemon")


def _is_active(record: SubjectRecord | None) -> bool:
    return record is not None and record.status is SubjectStatus.ACTIVE

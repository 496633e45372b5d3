"""May SUBJECT do ACTION on OBJECT? The one module that answers, and the one that authorises.

Store, exchange, gossip, device and operator interfaces ask here and nowhere else. A verdict needs
all of these: my own final ledger state says authorised, unrevoked, unexpired; the owners'
approvals verify against the owner root that this node has *pinned*, whatever validators say; my
local floor is met; my knowledge is fresh enough for the group; no alarm is raised. If the ledger
says yes and the owners do not, that is no matter of waiting: it raises the node's alarm (promise
G2). Under an alarm every answer is no, also about what was authorised before, because a copy that
cannot go on cannot learn of revocations; the bytes stay until an operator has looked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, assert_never

from ledger.chain_blocks import CommitResult
from ledger.records.group import GroupRecord
from ledger.records.manifest import ManifestRecord, ManifestStatus
from protocol.approval import Action, verify_threshold
from protocol.authorised import AuthorisedManifest
from protocol.digest import Digest, ManifestId, PolicyId, sha256
from protocol.errors import NotYetError, PolicyError, VerificationError
from protocol.genesis import Genesis
from protocol.group import OwnerRoot, decode_group
from protocol.manifest import SignedManifest
from swarmd.freshness import FreshnessClock
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerClass, PeerRegistry

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Permit:
    """Yes, resting on this authorisation."""

    authorised: AuthorisedManifest
    """What was checked."""


@dataclass(frozen=True, slots=True)
class Denial:
    """No."""

    rule: str
    """Stable name of the rule, such as `manifest.revoked`."""
    message: str
    """For people."""
    may_retry: bool = False
    """Whether waiting may help."""

    def error(self) -> PolicyError:
        """The same as an error."""
        return (NotYetError if self.may_retry else PolicyError)(self.rule, self.message)


Verdict = Permit | Denial
"""Every answer."""


class OwnerPins:
    """The owner roots this node believes, group by group.

    Genesis groups are pinned by the genesis document. A later group is pinned when its creation
    carries the governance root's threshold, checked here again and not taken from the state.
    """

    def __init__(self, genesis: Genesis) -> None:
        """Pins the groups of genesis."""
        self._genesis = genesis
        self._roots = {group.name: group.owner_root for group in genesis.groups}

    def root(self, name: str, record: GroupRecord, ledger: LedgerHost) -> OwnerRoot:
        """The pinned root of a group; pins it at first sight if governance created it.

        Raises:
            VerificationError: the state names other owners than the pinned ones, or a group that
                governance did not create.
        """
        pinned = self._roots.get(name)
        if pinned is None:
            pinned = self._roots[name] = self._verify_creation(name, record, ledger)
        if record.owner_root != pinned:
            raise VerificationError(f"group {name!r}: the ledger names other owners than pinned")
        return pinned

    def _verify_creation(self, name: str, record: GroupRecord, ledger: LedgerHost) -> OwnerRoot:
        state = ledger.chain.state
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
            chain=ledger.chain_id,
            era=self._genesis.era,
            action=Action.CREATE_GROUP,
            subject=subject,
            group=name,
            policy=group.policy.policy_id,
        )
        return group.owner_root


class Authority:
    """Answers for one node."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        genesis: Genesis,
        age: FreshnessClock,
        registry: PeerRegistry,
        own_groups: Callable[[], tuple[str, ...]],
        approvals_min: int,
        monotonic: Callable[[], float],
        time_ms: Callable[[], int],
    ) -> None:
        """Wires the authority.

        Args:
            ledger: own copy of the ledger.
            genesis: what pins owners.
            age: how old this node's knowledge is.
            registry: classes and groups of peers.
            own_groups: groups this node belongs to now.
            approvals_min: local floor of owner approvals; can only tighten.
            monotonic: seconds.
            time_ms: this node's ledger time, which goes on between blocks; milliseconds.
        """
        self._time_ms = time_ms
        self._ledger = ledger
        self._pins = OwnerPins(genesis)
        self._age = age
        self._registry = registry
        self._own_groups = own_groups
        self._approvals_min = approvals_min
        self._monotonic = monotonic
        self._cache: dict[ManifestId, Verdict] = {}
        self._cached_groups: tuple[str, ...] = ()
        self._checked: dict[tuple[ManifestId, str], tuple[ManifestRecord, tuple[str, ...]]] = {}

    # -- verdicts ------------------------------------------------------------------------------

    def verdict(self, manifest: ManifestId) -> Verdict:
        """Judges a manifest for this node, apart from freshness."""
        if self._ledger.alarm is not None:
            return Denial("node.alarm", "this node raised an alarm and accepts nothing")
        verdict = self._at_head(manifest)
        if isinstance(verdict, Permit):
            expires_ms = verdict.authorised.manifest.expires_ms
            if expires_ms is not None and self._time_ms() > expires_ms:
                return Denial("manifest.expired", f"expired at {expires_ms}")
        return verdict

    def on_commit(self, result: CommitResult) -> None:
        """Commit listener, the first one: forgets the verdicts that a block may have changed."""
        own = self._own_groups()
        if result.groups or own != self._cached_groups:
            self._cache.clear()
            self._cached_groups = own
        for change in result.manifests:
            self._cache.pop(change.manifest_id, None)

    def _at_head(self, manifest: ManifestId) -> Verdict:
        """The verdict of the newest final state; kept until a block changes what it rests on."""
        cached = self._cache.get(manifest)
        if cached is not None:
            return cached
        verdict = self._judge(manifest)
        if manifest in self._ledger.manifests:  # peers may ask about anything
            self._cache[manifest] = verdict
        return verdict

    def _judge(self, manifest: ManifestId) -> Verdict:
        signed = self._ledger.manifests.get(manifest)
        if signed is None:
            return Denial("manifest.unknown", "the ledger does not know this manifest", True)
        own = self._own_groups()
        targets = [group for group in signed.manifest.groups if group in own]
        if not targets:
            return Denial("manifest.group", "this node belongs to none of its target groups")
        approvers: dict[str, tuple[tuple[str, ...], PolicyId]] = {}
        denial = Denial("manifest.unknown", "the ledger does not know this manifest", True)
        for group in targets:
            outcome = self._judge_group(manifest, group)
            if isinstance(outcome, Denial):
                denial = outcome
            else:
                approvers[group] = outcome
        if not approvers:
            return denial
        return Permit(self._authorise(signed, approvers))

    def _judge_group(
        self, manifest: ManifestId, group: str
    ) -> Denial | tuple[tuple[str, ...], PolicyId]:
        state = self._ledger.chain.state
        record = state.manifest(manifest, group)
        if record is None:
            return Denial("manifest.unknown", f"not proposed in group {group!r}", True)
        if (denial := _standing(record, group, self._ledger.chain.head.time_ms)) is not None:
            return denial
        checked = self._checked.get((manifest, group))
        if checked is not None and checked[0] == record:
            return checked[1], record.policy
        try:
            names = self._check_owners(manifest, group, record)
        except VerificationError as error:
            self._ledger.raise_alarm(error)
            return Denial("manifest.owners", str(error))
        except PolicyError as error:
            return Denial(error.rule, str(error))
        self._checked[manifest, group] = (record, names)  # signatures do not change with blocks
        return names, record.policy

    def _check_owners(
        self, manifest: ManifestId, group: str, record: ManifestRecord
    ) -> tuple[str, ...]:
        """Verifies the approvals themselves against the pinned owner root (promise G2)."""
        state = self._ledger.chain.state
        group_record = state.group(group)
        if group_record is None:
            raise VerificationError(f"a manifest is authorised in unknown group {group!r}")
        root = self._pins.root(group, group_record, self._ledger)
        policy = state.policy(record.policy)
        if policy.policy_id != record.policy:
            raise VerificationError(f"group {group!r}: the ledger names another policy than it has")
        stored = [
            state.approval(Digest(manifest), Action.AUTHORISE, key_id, group)
            for key_id in record.approvers
        ]
        names = verify_threshold(
            [raw for raw in stored if raw is not None],
            root=root,
            threshold=policy.approve_threshold,
            chain=self._ledger.chain_id,
            era=self._ledger.chain.head.era,
            action=Action.AUTHORISE,
            subject=manifest,
            group=group,
            policy=record.policy,
        )
        if len(names) < self._approvals_min:
            raise PolicyError(
                "floor.approvals",
                f"{len(names)} approvals, this node's own floor asks for {self._approvals_min}",
            )
        return names

    def _authorise(
        self, signed: SignedManifest, approvers: dict[str, tuple[tuple[str, ...], PolicyId]]
    ) -> AuthorisedManifest:
        head = self._ledger.chain.head
        groups = tuple(sorted(approvers))
        return AuthorisedManifest(
            signed=signed,
            groups=groups,
            policies=tuple(approvers[group][1] for group in groups),
            approvers=tuple(approvers[group][0] for group in groups),
            height=head.height,
            block_id=head.block_id,
        )

    # -- questions -----------------------------------------------------------------------------

    def may_fetch(self, manifest: ManifestId) -> Verdict:
        """May this node fetch and store the images of a manifest?"""
        return self._with_freshness(self.verdict(manifest), serving=True)

    def may_offer(self, manifest: ManifestId) -> Verdict:
        """May this node offer a manifest's images to devices?"""
        return self._with_freshness(self.verdict(manifest), serving=False)

    def may_serve(self, peer: PeerKey, manifest: ManifestId) -> Verdict:
        """May this node send a manifest's recipes and chunks to a peer, or say it has them?"""
        known = self._registry.get(peer)
        if known is None or known.peer_class < PeerClass.MEMBER:
            return Denial("peer.class", "only members are served")
        verdict = self._with_freshness(self.verdict(manifest), serving=True)
        if isinstance(verdict, Denial):
            return verdict
        if not set(known.groups) & set(verdict.authorised.groups):
            return Denial("peer.group", "the peer belongs to no group of this manifest")
        return verdict

    def _with_freshness(self, verdict: Verdict, *, serving: bool) -> Verdict:
        """Refuses when my knowledge is older than the group allows; the strictest group counts."""
        match verdict:
            case Denial():
                return verdict
            case Permit(authorised):
                limit_ms = min(
                    self._limit_ms(group, serving=serving) for group in authorised.groups
                )
                if self._age.is_within(limit_ms, self._monotonic()):
                    return verdict
                what = "serving" if serving else "offers"
                return Denial("freshness", f"my knowledge is too old for {what}", True)
            case _:
                assert_never(verdict)

    def _limit_ms(self, group: str, *, serving: bool) -> int:
        record = self._ledger.chain.state.group(group)
        assert record is not None, "a group with an authorised manifest exists"
        policy = self._ledger.chain.state.policy(record.policy_at(self._ledger.chain.head.time_ms))
        return policy.serve_freshness_ms if serving else policy.offer_freshness_ms


def _standing(record: ManifestRecord, group: str, time_ms: int) -> Denial | None:
    """What the ledger's own record of a manifest in a group forbids."""
    match record.status:
        case ManifestStatus.PROPOSED:
            return Denial("manifest.proposed", f"waits for approvals in group {group!r}", True)
        case ManifestStatus.REVOKED:
            return Denial("manifest.revoked", f"revoked in group {group!r}")
        case ManifestStatus.AUTHORISED:
            if record.is_expired(time_ms):
                return Denial("manifest.expired", f"expired in group {group!r}")
            return None
        case _:
            assert_never(record.status)


REFUSALS: Final = ("manifest.revoked", "manifest.owners")
"""Rules after which stored bytes must go, not only wait. What validators alone can bring about is
none of them, neither an alarm nor expiry by a false header time: their keys must wipe no fleet."""

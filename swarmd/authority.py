"""May SUBJECT do ACTION on OBJECT? The one module that answers, and the one that authorises.

Store, exchange, gossip, device and operator interfaces ask here (`Authority.ask`) and nowhere else.
A verdict about images needs all of these: my own final ledger state says authorised, unrevoked,
unexpired; the owners' approvals verify against the owner root that this node has *pinned*, whatever
validators say; my local floor is met; my knowledge is fresh enough for the group; no alarm is
raised; whoever asks belongs to a group of the manifest, or holds a capability of its owners, and is
not in quarantine there. If the ledger says yes and the owners do not, that is no matter of waiting:
it raises the node's alarm (promise G2). Under an alarm every answer about images is no, also about
what was authorised before, because a copy that cannot go on cannot learn of revocations; the bytes
stay until an operator has looked.

Answers hold for the moment they are given. Standing is read from the newest final state each time;
what a block may have changed of the rest is forgotten by `on_commit`, before anything else acts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, assert_never, overload

from ledger.chain_blocks import CommitResult
from ledger.offer import UNKNOWN_DEVICE, Device, OfferRefusal, OfferVerdict, offer_verdict
from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.rules.membership import accepting_groups, is_closed
from ledger.state import LedgerState
from ledger.state_keys import capabilities_key
from protocol.authorised import AuthorisedManifest
from protocol.capability import Verb
from protocol.digest import DIGEST_BYTES, BlockId, DidId, ManifestId, PolicyId
from protocol.errors import LocalProtocolError, PolicyError, VerificationError
from protocol.genesis import Genesis
from protocol.limits import MIB
from protocol.manifest import SignedManifest
from protocol.policy import Policy, Witnesses
from swarmd.access_rules import AccessRules
from swarmd.consent import verified_consent, verify_revocation
from swarmd.floor import Floor
from swarmd.freshness import FreshnessClock
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.owner_pins import OwnerPins
from swarmd.peers import Peer, PeerClass, PeerRegistry
from swarmd.questions import (
    Access,
    Answer,
    Denial,
    DeviceSubject,
    ImageAct,
    Line,
    MemberSubject,
    Object,
    OperatorSubject,
    PeerSubject,
    Permit,
    Subject,
    ThisNode,
    Verdict,
)
from swarmd.recent_map import RecentMap
from swarmd.standing import Standing
from swarmd.witnesses import WitnessBook

logger = logging.getLogger(__name__)

ROLLOUT_PREFIX: Final = b"ro/"
"""Of the state keys of rollouts; manifest id and group follow."""
_SELF: Final = ThisNode()
_ACCESS_KINDS: Final = ("cap.grant", "cap.revoke")
"""Transactions after which this node's own capabilities may be others."""


VERDICTS_BYTES_MAX: Final = 2 * MIB
"""Signed bytes of the manifests whose verdicts are kept, in each generation: some 2,000 usual ones.
With its parsed manifest a verdict takes about four times as much memory."""
CHECKED_MAX: Final = 4096
"""Groups of manifests, in each generation, whose owners' signatures were checked."""
OFFER_MOMENT_MS: Final = 250
"""How long an answer about an offer is kept while no block becomes final, milliseconds of ledger
time: what time alone changes may come that much late, what a block changes never."""
OFFERS_REMEMBERED: Final = 1024
"""Answers about offers that are kept at hand: 32 transfers at a time, and some."""


class Authority:
    """Answers for one node."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        genesis: Genesis,
        age: FreshnessClock,
        registry: PeerRegistry,
        own_did: DidId,
        own_groups: Callable[[], tuple[str, ...]],
        floor: Floor,
        monotonic: Callable[[], float],
        time_ms: Callable[[], int],
        operators: tuple[int, ...] = (0,),
        witnesses: WitnessBook | None = None,
    ) -> None:
        """Wires the authority.

        Args:
            ledger: own copy of the ledger.
            genesis: what pins owners.
            age: how old this node's knowledge is.
            registry: classes and groups of peers.
            own_did: who this node is.
            own_groups: groups this node belongs to now.
            floor: what this node demands beyond the policies; can only tighten.
            monotonic: seconds.
            time_ms: this node's ledger time, which goes on between blocks; milliseconds.
            operators: user ids that may use the control socket.
            witnesses: what outside witnesses have seen; None: nothing.
        """
        self._time_ms = time_ms
        self._witnesses = witnesses or WitnessBook()
        self._ledger = ledger
        self._pins = OwnerPins(genesis)
        self._standing = Standing(ledger, self._pins)
        self._age = age
        self._registry = registry
        self._access = AccessRules(
            ledger=ledger,
            registry=registry,
            standing=self._standing,
            own_did=own_did,
            operators=operators,
        )
        self._own_did = own_did
        self._own_groups = own_groups
        self._floor = floor
        self._closed: tuple[str, ...] = ()
        self._monotonic = monotonic
        self._cache: RecentMap[ManifestId, Verdict] = RecentMap(VERDICTS_BYTES_MAX)
        self._offers: dict[
            tuple[ManifestId, str, Device], tuple[LedgerState, int, OfferVerdict]
        ] = {}
        self._cached_groups: tuple[str, ...] = ()
        self._checked: RecentMap[tuple[ManifestId, str], tuple[ManifestRecord, tuple[str, ...]]] = (
            RecentMap(CHECKED_MAX)
        )
        self._authorising: dict[tuple[ManifestId, str], BlockId] = self._find_authorising()

    def _find_authorising(self) -> dict[tuple[ManifestId, str], BlockId]:
        """Blocks that authorised what is being rolled out; they pick the devices of its stages."""
        found: dict[tuple[ManifestId, str], BlockId] = {}
        chain = self._ledger.chain
        for key, _value in chain.state.scan(ROLLOUT_PREFIX):
            manifest, group = ManifestId(key[:DIGEST_BYTES]), key[DIGEST_BYTES:].decode()
            record = chain.state.manifest(manifest, group)
            height = None if record is None else record.authorised_height
            header = None if height is None else chain.header_at(height)
            if header is not None:
                found[manifest, group] = header.block_id
        return found

    # -- the question --------------------------------------------------------------------------

    @overload
    def ask(self, subject: Subject, action: ImageAct, about: ManifestId) -> Verdict: ...

    @overload
    def ask(self, subject: Subject, action: Access, about: Object = None) -> Answer: ...

    def ask(
        self, subject: Subject, action: ImageAct | Access, about: Object = None
    ) -> Verdict | Answer:
        """May SUBJECT do ACTION on OBJECT, now?

        Raises:
            LocalProtocolError: the action is none of the subject, or not about that object.
        """
        match action, subject, about:
            case ImageAct.FETCH, ThisNode(), bytes():
                return self._may_fetch(ManifestId(about))
            case ImageAct.SERVE, PeerSubject(key), bytes():
                return self._may_serve(key, ManifestId(about))
            case ImageAct.TAKE, PeerSubject(key), bytes():
                return self._may_take(key, ManifestId(about))
            case ImageAct.OFFER, DeviceSubject(device), bytes():
                return self._may_offer(ManifestId(about), device)
            case Access.STAGE, PeerSubject(key), bytes():
                return self._access.may_stage(key, ManifestId(about))
            case Access.PUBLISH, ThisNode() | PeerSubject(), Line():
                return self._access.may_publish(subject, about)
            case Access.READ_LEDGER, PeerSubject(key), None:
                return self._access.may_read(key)
            case Access.RELAY, PeerSubject(key), str():
                return self._access.may_relay(key, about)
            case Access.SEAL, MemberSubject(did), str():
                return self._access.may_seal(did, about)
            case Access.READ_RING, PeerSubject(key), str():
                return self._access.may_read_ring(key, about)
            case Access.READ_RING, MemberSubject(did), str():
                return self._access.may_open_ring(did, about)
            case Access.OPERATE, OperatorSubject(uid), None:
                return self._access.may_operate(uid)
            case _:
                raise LocalProtocolError(
                    f"{type(subject).__name__} cannot be asked to {action.value} {about!r:.40}"
                )

    def may_fetch(self, manifest: ManifestId) -> Verdict:
        """May this node fetch and store the images of a manifest?"""
        return self.ask(_SELF, ImageAct.FETCH, manifest)

    def may_offer(self, manifest: ManifestId, device: Device = UNKNOWN_DEVICE) -> Verdict:
        """May this node offer a manifest's images to a device?"""
        return self.ask(DeviceSubject(device), ImageAct.OFFER, manifest)

    def may_serve(self, peer: PeerKey, manifest: ManifestId) -> Verdict:
        """May this node send a manifest's recipes and chunks to a peer, or say it has them?"""
        return self.ask(PeerSubject(peer), ImageAct.SERVE, manifest)

    def may_take(self, peer: PeerKey, manifest: ManifestId) -> Verdict:
        """May this node tell a peer that it wants a manifest's images, and take its chunks?"""
        return self.ask(PeerSubject(peer), ImageAct.TAKE, manifest)

    # -- verdicts ------------------------------------------------------------------------------

    @property
    def fetching_groups(self) -> tuple[str, ...]:
        """Groups whose releases this node may want: its own, and those it was granted something in.

        Whether it may fetch one of them is each verdict's matter.
        """
        granted = self._ledger.chain.state.scan(capabilities_key(self._own_did, ""))
        named = (key.decode() for key, _value in granted)
        return tuple(dict.fromkeys((*self._own_groups(), *named)))

    @property
    def own_groups(self) -> tuple[str, ...]:
        """Groups this node belongs to now."""
        return self._own_groups()

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
        self._standing.on_commit()
        own = self._own_groups()
        access_changed = any(kind in _ACCESS_KINDS for _, kind in result.transactions)
        closed = self._closed_groups(own)
        if result.groups or access_changed or (own, closed) != (self._cached_groups, self._closed):
            self._cache.clear()
            self._cached_groups, self._closed = own, closed
        for change in result.manifests:
            self._cache.pop(change.manifest_id)
            if change.record.authorised_height == result.header.height:
                self._authorising[change.manifest_id, change.group] = result.header.block_id

    def _closed_groups(self, own: tuple[str, ...]) -> tuple[str, ...]:
        """Own groups that take nothing which only an ancestor of theirs authorised, for now."""
        state, time_ms = self._ledger.chain.state, self._ledger.chain.head.time_ms
        return tuple(group for group in own if is_closed(state, group, time_ms))

    def _at_head(self, manifest: ManifestId) -> Verdict:
        """The verdict of the newest final state; kept until a block changes what it rests on."""
        cached = self._cache.get(manifest)
        if cached is not None:
            return cached
        verdict = self._judge(manifest)
        signed = self._ledger.manifests.get(manifest)
        if signed is not None and not self._is_guest(manifest):
            # Of known ones only: peers may ask about anything.
            self._cache.put(manifest, verdict, len(signed.signed.raw))
        return verdict

    def _is_guest(self, manifest: ManifestId) -> bool:
        """Whether a capability, which may expire between blocks, lets this node have a manifest."""
        targets = self._ledger.manifests[manifest].manifest.groups
        return not set(targets) & set(self._own_groups()) and self._standing.holds_any(
            self._own_did, targets, Verb.FETCH
        )

    def _judge(self, manifest: ManifestId) -> Verdict:
        signed = self._ledger.manifests.get(manifest)
        if signed is None:
            return Denial("manifest.unknown", "the ledger does not know this manifest", True)
        targets = self._own_targets(manifest, signed)
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
        own, head = self._own_groups(), self._ledger.chain.head
        accepting = accepting_groups(self._ledger.chain.state, own, approvers, head.time_ms)
        kept = {
            group: found
            for group, found in approvers.items()
            if group in accepting or group not in own
        }
        if not kept:
            return Denial("group.closed", "a closed group of this node has not authorised it", True)
        return Permit(self._authorise(signed, kept))

    def _own_targets(self, manifest: ManifestId, signed: SignedManifest) -> list[str]:
        """Target groups that this node belongs to, or whose owners let it fetch the manifest."""
        own, content = self._own_groups(), signed.manifest
        return [
            group
            for group in content.groups
            if group in own
            or self._standing.holds(
                self._own_did, group, Verb.FETCH, product=content.product, manifest=manifest
            )
        ]

    def _judge_group(
        self, manifest: ManifestId, group: str
    ) -> Denial | tuple[tuple[str, ...], PolicyId]:
        state = self._ledger.chain.state
        record = state.manifest(manifest, group)
        if record is None:
            return Denial("manifest.unknown", f"not proposed in group {group!r}", True)
        if (denial := _standing(record, group, self._ledger.chain.head.time_ms)) is not None:
            is_claim = record.status is ManifestStatus.REVOKED
            return self._doubt_revocation(manifest, group, record) or denial if is_claim else denial
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
        # Signatures do not change with blocks.
        self._checked.put((manifest, group), (record, names))
        return names, record.policy

    def _doubt_revocation(
        self, manifest: ManifestId, group: str, record: ManifestRecord
    ) -> Denial | None:
        """None if owners revoked it; else an alarm, for stored bytes go by their word alone."""
        state, head = self._ledger.chain.state, self._ledger.chain.head
        try:
            known = state.group(group)
            if known is None:
                raise VerificationError(f"a manifest is revoked in unknown group {group!r}")
            self._pins.root(group, known, state, head.era)
            roots, chain = self._pins.roots_of(group), self._ledger.chain_id
            verify_revocation(state, manifest, group, record, roots, chain=chain, era=head.era)
        except VerificationError as error:
            self._ledger.raise_alarm(error)
            return Denial("node.alarm", str(error))
        return None

    def _check_owners(
        self, manifest: ManifestId, group: str, record: ManifestRecord
    ) -> tuple[str, ...]:
        """Verifies the approvals themselves against the pinned owner root (promise G2)."""
        state = self._ledger.chain.state
        group_record = state.group(group)
        if group_record is None:
            raise VerificationError(f"a manifest is authorised in unknown group {group!r}")
        self._pins.root(group, group_record, state, self._ledger.chain.head.era)
        root = self._pins.root_of(group, record.root_version)
        signed = self._ledger.manifests[manifest]
        holders = verified_consent(
            state,
            signed,
            group,
            root=root,
            roots=self._pins.roots_of(group),
            chain=self._ledger.chain_id,
            era=self._ledger.chain.head.era,
        )
        refusal = self._floor.check_release(signed.manifest, record, group, holders)
        if refusal is not None:
            raise PolicyError(*refusal)
        return tuple(holder.name for holder in holders if holder.is_owner)

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

    # -- questions about images ----------------------------------------------------------------

    def _may_fetch(self, manifest: ManifestId) -> Verdict:
        verdict = self._with_freshness(self.verdict(manifest), serving=True)
        if isinstance(verdict, Permit) and not any(
            self._standing.may_exchange(self._own_did, group) for group in verdict.authorised.groups
        ):
            return Denial("quarantine.self", "this node is in quarantine", True)
        return verdict

    def _may_offer(self, manifest: ManifestId, device: Device) -> Verdict:
        """Beyond the verdict: pauses, freezes, windows, stages; one group's yes is enough."""
        verdict = self._with_freshness(self.verdict(manifest), serving=False)
        if isinstance(verdict, Denial):
            return verdict
        if (refusal := self._below_floor(verdict.authorised)) is not None:
            return refusal
        denial = Denial("manifest.group", "authorised in no group of this node")
        for group in verdict.authorised.groups:
            answer = self._offer(verdict.authorised.signed, group, device)
            if not isinstance(answer, OfferRefusal):
                return verdict
            denial = Denial(answer.rule, answer.text, answer.may_retry)
        return denial

    def _below_floor(self, authorised: AuthorisedManifest) -> Denial | None:
        """What this node's own floor forbids to offer now; every group's record must meet it."""
        limit_ms = self._floor.offer_freshness_ms
        if limit_ms is not None and not self._age.is_within(limit_ms, self._monotonic()):
            return Denial("floor.freshness", "my knowledge is too old for my own floor", True)
        for group in authorised.groups:
            record = self._ledger.chain.state.manifest(authorised.manifest_id, group)
            assert record is not None, "an authorised manifest has a record"
            refusal = self._floor.check_offer(record, self._time_ms())
            if refusal is not None:
                return Denial(*refusal, may_retry=True)
            own = self._floor.witnesses
            lack = self._unwitnessed(own, record, self._floor.witness_age_ms)
            if lack is not None:
                return Denial("floor.witnesses", lack, may_retry=True)
        return None

    def _unwitnessed(
        self, witnesses: Witnesses | None, record: ManifestRecord, age_ms: int
    ) -> str | None:
        """Why outside witnesses have not seen enough to offer a release; None: they have (T18)."""
        if witnesses is None:
            return None
        height = record.authorised_height
        assert height is not None, "an authorised manifest was authorised by a block"
        return self._witnesses.lacks(
            witnesses, height=height, now_ms=self._time_ms(), age_ms=age_ms
        )

    def _policy(self, group: str) -> Policy:
        """The policy in force in a group in which something is authorised."""
        state, head = self._ledger.chain.state, self._ledger.chain.head
        record = state.group(group)
        assert record is not None, "a group with an authorised manifest exists"
        return state.policy(record.policy_at(head.time_ms))

    def _offer(self, signed: SignedManifest, group: str, device: Device) -> OfferVerdict:
        """The ledger's answer; kept for a moment within one state, since each chunk asks.

        The group's outside witnesses, which are no matter of the ledger, are asked about each time.
        """
        state, now_ms = self._ledger.chain.state, self._time_ms()
        policy = self._policy(group)
        if policy.witnesses is not None:
            record = state.manifest(signed.manifest_id, group)
            assert record is not None, "an authorised manifest has a record"
            lack = self._unwitnessed(policy.witnesses, record, policy.offer_freshness_ms)
            if lack is not None:
                return OfferRefusal("policy.witnesses", lack, may_retry=True)
        moment = now_ms // OFFER_MOMENT_MS
        key = (signed.manifest_id, group, device)
        known = self._offers.get(key)
        if known is not None and known[0] is state and known[1] == moment:
            return known[2]
        answer = offer_verdict(
            state,
            signed,
            group,
            device=device,
            now_ms=now_ms,
            block_id=self._authorising.get((signed.manifest_id, group)),
        )
        if len(self._offers) >= OFFERS_REMEMBERED:
            self._offers.clear()
        self._offers[key] = (state, moment, answer)
        return answer

    def _may_serve(self, peer: PeerKey, manifest: ManifestId) -> Verdict:
        return self._with_peer(peer, manifest, is_taking=False)

    def _may_take(self, peer: PeerKey, manifest: ManifestId) -> Verdict:
        return self._with_peer(peer, manifest, is_taking=True)

    def _with_peer(self, peer: PeerKey, manifest: ManifestId, *, is_taking: bool) -> Verdict:
        """Judges an exchange with a peer; chunks flow from it to this node if `is_taking`."""
        known = self._registry.get(peer)
        if known is None or known.peer_class < PeerClass.MEMBER:
            return Denial("peer.class", "only members are served")
        verdict = self._with_freshness(self.verdict(manifest), serving=True)
        if isinstance(verdict, Denial):
            return verdict
        verb = Verb.SERVE if is_taking else Verb.FETCH
        shared = [
            group
            for group in verdict.authorised.groups
            if self._belongs(known, group, verb, verdict.authorised)
        ]
        if not shared:
            return Denial("peer.group", "the peer belongs to no group of this manifest")
        giver, taker = (known.did, self._own_did) if is_taking else (self._own_did, known.did)
        for group in shared:
            if (giver is None or self._standing.may_be_taken_from(giver, group)) and (
                taker is None or self._standing.may_exchange(taker, group)
            ):
                return verdict
        return Denial("quarantine.peer", "the peer, or this node, is in quarantine", True)

    def _belongs(self, peer: Peer, group: str, verb: Verb, authorised: AuthorisedManifest) -> bool:
        if group in peer.groups:
            return True
        if peer.did is None:
            return False
        return group in self._standing.groups(peer.did) or self._standing.holds(
            peer.did,
            group,
            verb,
            product=authorised.manifest.product,
            manifest=authorised.manifest_id,
        )

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
        policy = self._policy(group)
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

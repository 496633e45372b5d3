"""Random but seeded sequences of transactions, mostly sensible, for two transitions to agree on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from ledger.bodies.defence import Complaint, ReportTamper
from ledger.bodies.group import SetPolicy
from ledger.bodies.manifest import ApproveManifest, OverrideManifest, RevokeManifest, SettleManifest
from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.rollout import Command
from ledger.bodies.subject import CreateSubject
from ledger.bodies.subject_decisions import Decider
from ledger.bodies.validators import Accuse
from ledger.state import LedgerState
from protocol.approval import Action
from protocol.calendar import DAY_MS, HOUR_MS
from protocol.capability import Capability, Verb
from protocol.defence import DefenceRules
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import sha256, tagged_digest
from protocol.encoding import decode_canonical, encode_canonical
from protocol.genesis import Parameters
from protocol.group import Placement
from protocol.keys import PrivateKey
from protocol.manifest import SignedManifest
from protocol.owner_root import OwnerRoot
from protocol.policy import Policy
from protocol.rollout import Promotion
from protocol.rule import Compare, Comparison, RuleField
from protocol.transaction import SignedTransaction, parse_transaction
from tests.support import contracts, epochs, rollout, seats, subjects
from tests.support.conformance.story import Story
from tests.support.contracts import AUDITOR, BUILDERS, EMERGENCY, OWNERS, SITE, STRANGER
from tests.support.ledger import (
    FLEET,
    PRODUCT,
    Member,
    make_group,
    make_key,
    make_policy,
    owner_keys,
)
from tests.support.rule_oracle import random_rule

FRESH = sorted((make_key(f"walk/fresh/{i}") for i in range(3)), key=lambda key: key.public.raw)
LATER_MS = 400 * DAY_MS


def _policy() -> Policy:
    """Two of three owners, rollouts in two stages, opinion that counts early."""
    plan = rollout.make_plan(
        5000, 10_000, promotion=Promotion.AUTOMATIC, soak_ms=60_000, sample_min=3
    )
    rules = DefenceRules(voices_min=2, threshold=1001, daily_share=10_000)
    return make_policy(enrol_threshold=1, rollout=plan, defence=rules, amend_delay_ms=HOUR_MS)


def _site() -> Any:
    return contracts.site_group(contracts.site_policy(attestations=1, amend_delay_ms=HOUR_MS))


class Walk:
    """One sequence; `step` gives the next transaction of a story."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.story = Story(
            f"walk {seed}", policy=_policy(), groups=[_site(), make_group("child")], gateways=3
        )
        self.lab, self.bench = self.story.lab, self.story.bench
        self.newcomers = [
            Member(label=f"walker {i}", kind=SubjectKind.GATEWAY, groups=(FLEET,)) for i in range(4)
        ]
        self.manifests: list[SignedManifest] = []
        self.sequence = 0
        self.root = contracts.site_root()
        self.moves: list[Callable[[], SignedTransaction]] = [
            self._propose,
            self._propose,
            self._approve,
            self._approve,
            self._approve,
            self._revoke,
            self._attest,
            self._settle,
            self._override,
            self._anchor,
            self._enrol,
            self._seat,
            self._rotate,
            self._status,
            self._certify,
            self._recover,
            self._policy,
            self._veto,
            self._root,
            self._place,
            self._command,
            self._health,
            self._health,
            self._pause,
            self._tamper,
            self._capability,
            self._vote_key,
            self._seats,
            self._governance,
            self._accuse,
        ]

    def step(self) -> bytes:
        """The next transaction's bytes, now and then with something changed."""
        rng = self.rng
        if rng.random() < 0.15:
            self.story.wait(rng.choice((60_000, HOUR_MS, 2 * HOUR_MS, DAY_MS, 3 * DAY_MS)))
        signed = rng.choice(self.moves)()
        if rng.random() < 0.2:
            return self._mutated(signed)
        return signed.signed.raw

    def accept(self, raw: bytes, state: LedgerState) -> None:
        """Takes a block with this transaction: whose keys and which root are new."""
        self.bench.state = state
        self.bench.height += 1
        self.bench.time_ms += 1000
        transaction = parse_transaction(raw).transaction
        if transaction.kind == "did.rotate":
            for member in [*self._members(), *self.lab.validators, self.lab.publisher]:
                if member.did == transaction.body[0]:
                    member.rotation += 1
        record = self.bench.state.group(SITE)
        assert record is not None
        self.root = record.owner_root

    # ---- who and what

    def _members(self) -> list[Member]:
        return [*self.lab.gateways, *self.newcomers]

    def _known(self) -> Member:
        return self.rng.choice([each for each in self._members() if self._holds(each)])

    def _holds(self, member: Member) -> bool:
        """Whether a member is known and its keys are still those it knows."""
        record = self.bench.state.subject(member.did)
        node = KeyPurpose.NODE
        return record is not None and record.key(node) == member.key(node).public

    def _keys(self, group: str) -> list[PrivateKey]:
        """Mostly two owners; sometimes fewer, more, or others."""
        rng = self.rng
        owners = OWNERS if group == SITE else owner_keys(group)
        if group == SITE and self.root.version > 1 and rng.random() < 0.8:
            owners = FRESH
        chosen = rng.sample(list(owners), rng.choice((1, 2, 2, 2, 2, 3)))
        if rng.random() < 0.05:
            chosen.append(rng.choice([STRANGER, AUDITOR, *chosen]))
        return chosen

    def _group(self) -> str:
        return self.rng.choice((FLEET, FLEET, SITE))

    def _release(self) -> SignedManifest:
        state = self.bench.state
        known = [
            each
            for each in self.manifests
            if any(state.manifest(each.manifest_id, group) for group in each.manifest.groups)
        ]
        return self.rng.choice(known[-4:] or self.manifests[-1:] or [self.lab.manifest()])

    def _send(self, body: Any, member: Member | None = None) -> SignedTransaction:
        return self.lab.transaction(member or self._known(), body)

    def _approvals(
        self, action: Action, subject: bytes, group: str, keys: list[PrivateKey] | None = None
    ) -> tuple[bytes, ...]:
        rng = self.rng
        until = self.bench.time_ms + rng.choice((0, HOUR_MS, 100 * DAY_MS, LATER_MS))
        chosen = self._keys(group) if keys is None else keys
        return tuple(
            self.lab.approval(action, subject, key, group=group, valid_until_ms=until + 1000)
            for key in chosen
        )

    # ---- moves

    def _propose(self) -> SignedTransaction:
        rng = self.rng
        self.sequence += rng.choice((0, 1, 1, 1))
        targets = rng.choice(((FLEET,), (FLEET,), (SITE,), (FLEET, SITE)))
        expires = rng.choice((None, None, self.bench.time_ms + rng.choice((HOUR_MS, DAY_MS))))
        manifest = self.lab.manifest(
            sequence=max(self.sequence, 1),
            image=b"image %d" % rng.randrange(4),
            groups=targets,
            expires_ms=expires,
        )
        self.manifests.append(manifest)
        return self.lab.propose(manifest)

    def _decided(self, body: Any, action: Action, extra: list[PrivateKey]) -> SignedTransaction:
        manifest = self._release()
        group = self.rng.choice(manifest.manifest.groups)
        record = self.bench.state.manifest(manifest.manifest_id, group)
        keys = self._keys(group)
        if self.rng.random() < 0.2:
            keys = [*keys, *self.rng.sample(extra, min(1, len(extra)))]
        policy = self.lab.policy_id(group) if record is None else record.policy
        approvals = tuple(
            self.lab.approval(action, manifest.manifest_id, key, group=group, policy=policy)
            for key in keys
        )
        return self._send(body(manifest=manifest.manifest_id, group=group, approvals=approvals))

    def _approve(self) -> SignedTransaction:
        return self._decided(ApproveManifest, Action.AUTHORISE, [AUDITOR])

    def _revoke(self) -> SignedTransaction:
        return self._decided(RevokeManifest, Action.REVOKE, [])

    def _override(self) -> SignedTransaction:
        return self._decided(OverrideManifest, Action.OVERRIDE, [])

    def _attest(self) -> SignedTransaction:
        manifest = self._release()
        if self.bench.state.manifest(manifest.manifest_id, SITE) is None:
            return self._approve()
        keys = self.rng.sample([*BUILDERS, *BUILDERS, AUDITOR], self.rng.choice((1, 1, 2)))
        return contracts.attesting(self.bench, manifest, keys)

    def _settle(self) -> SignedTransaction:
        manifest = self._release()
        group = self.rng.choice(manifest.manifest.groups)
        return self._send(SettleManifest(manifest=manifest.manifest_id, group=group))

    def _anchor(self) -> SignedTransaction:
        size, root = self.rng.randrange(4), sha256(b"%d" % self.rng.randrange(2))
        return self._send(AnchorReceipts(size=size, root=root))

    def _enrol(self) -> SignedTransaction:
        member = self.rng.choice(self.newcomers)
        approvals = self._approvals(Action.ENROL, member.did, FLEET)
        return self._send(CreateSubject(join=member.join, approvals=(approvals,)))

    def _seat(self) -> SignedTransaction:
        member, rng = self.rng.choice(self.newcomers), self.rng
        confirmed = rng.random() < 0.5
        seat = seats.make_seat(
            self.lab.chain_id,
            member,
            seat_id=bytes([rng.randrange(2)] * 16),
            confirmed=confirmed,
            expiry_s=self.bench.time_ms // DAY_MS * DAY_MS // 1000 + 86_400,
        )
        lists = (self._approvals(Action.ENROL, member.did, FLEET),) if confirmed else ()
        return self._send(CreateSubject(join=member.join, approvals=lists, seat=seat))

    def _rotate(self) -> SignedTransaction:
        member = self.rng.choice([*self._members(), *self.lab.validators, self.lab.publisher])
        return self._send(self.lab.rotation(member))

    def _status(self) -> SignedTransaction:
        rng, bench = self.rng, self.bench
        did = rng.choice([*self._members()[2:], self.lab.publisher]).did
        if bench.state.subject(did) is None:
            return self._enrol()
        until = bench.time_ms + rng.choice((HOUR_MS, 100 * DAY_MS))
        return rng.choice(
            (
                lambda: subjects.suspension(bench, did, until_ms=until),
                lambda: subjects.resumption(bench, did),
                lambda: subjects.resumption(bench, did, count=1),
                lambda: subjects.revocation(
                    bench, did, governed=rng.random() < 0.3, count=rng.choice((1, 1, 1, 2))
                ),
            )
        )()

    def _certify(self) -> SignedTransaction:
        rng = self.rng
        attributes = tuple(
            (name, rng.choice(values))
            for name, values in (
                ("owner", ("a", "b")),
                ("site", ("north", "south")),
                ("vendor", ("acme", "other")),
            )
            if rng.random() < 0.7
        )
        member = rng.choice([self._known(), self.lab.publisher])
        return subjects.certification(self.bench, member.did, attributes, count=rng.choice((1, 2)))

    def _recover(self) -> SignedTransaction:
        rng, bench = self.rng, self.bench
        member = rng.choice([*self.lab.gateways[2:], *self.newcomers])
        if bench.state.subject(member.did) is None:
            return self._enrol()
        if rng.random() < 0.5:
            return subjects.claim(bench, member)
        decider = rng.choice((Decider.GROUPS, Decider.GOVERNANCE))
        return subjects.recovery(bench, member, decider=decider, count=rng.choice((1, 2, 2)))

    def _policy(self) -> SignedTransaction:
        """A policy with a random rule, as it stands on the wire."""
        rng, group = self.rng, self._group()
        base = _policy() if group == FLEET else _site().policy
        content = decode_canonical(base.encode(), bytes_max=8192)
        assert isinstance(content, dict)
        changes: dict[Any, Any] = {2: rng.choice((1, 2, 3)), 3: rng.choice((2, 2, 3))}
        if rng.random() < 0.6:
            changes[9] = random_rule(rng)
        if rng.random() < 0.3:
            changes[18] = rng.choice((60_000, HOUR_MS))
        raw = encode_canonical({**content, **changes})
        approvals = self._approvals(Action.AMEND, tagged_digest("swarmd/policy/1", raw), group)
        return self._send(SetPolicy(group=group, policy=raw, approvals=approvals))

    def _veto(self) -> SignedTransaction:
        record = self.bench.state.group(SITE)
        assert record is not None
        target = record.policy if record.scheduled is None else record.scheduled[0]
        return contracts.vetoing(self.bench, target, self._keys(SITE))

    def _root(self) -> SignedTransaction:
        rng = self.rng
        following: OwnerRoot = contracts.site_root(
            rng.choice((FRESH, OWNERS)), version=self.root.version + rng.choice((1, 1, 1, 0))
        )
        keys = list(dict.fromkeys([*OWNERS[: rng.choice((2, 2, 1))], *FRESH[:2]]))
        return contracts.rotating(self.bench, following, keys)

    def _place(self) -> SignedTransaction:
        rng = self.rng
        selector = Compare(RuleField.VENDOR, Comparison.EQUAL, "acme")
        place = Placement(
            parent=rng.choice((None, FLEET, FLEET, SITE, "child")),
            selector=rng.choice((None, selector)),
        )
        until = self.bench.time_ms + rng.choice((DAY_MS, LATER_MS))
        return contracts.moving(self.bench, "child", place, valid_until_ms=until)

    def _command(self) -> SignedTransaction:
        rng, manifest = self.rng, self._release().manifest_id
        record = self.bench.state.rollout(manifest, FLEET)
        sequence = 0 if record is None else record.sequence
        standing = self.bench.state.manifest(manifest, FLEET)
        policy = self.lab.policy_id(FLEET) if standing is None else standing.policy
        return (
            rollout.command(
                self.lab,
                manifest,
                rng.choice(list(Command)),
                owners=rng.choice((0, 1, 2, 2, 3)),
                sequence=max(0, sequence + rng.choice((0, 0, 0, 0, -1, 1))),
                priority=rng.choice((0, 3)),
                policy=policy,
            )
            if rng.random() < 0.9
            else self._health()
        )

    def _health(self) -> SignedTransaction:
        rng = self.rng
        return rollout.health(
            self.lab,
            self._release().manifest_id,
            self._known(),
            good=rng.choice((0, 1, 5, 150)),
            bad=rng.choice((0, 0, 0, 1, 3, 120)),
            devices=rng.randrange(3),
        )

    def _pause(self) -> SignedTransaction:
        rng, sequence = self.rng, self.rng.randrange(1, 4)
        if rng.random() < 0.5:
            product = rng.choice((None, PRODUCT))
            body: Any = rollout.pause(
                self.lab, EMERGENCY, group=SITE, product=product, sequence=sequence
            )
        else:
            until = rng.choice((0, self.bench.time_ms + 5 * DAY_MS))
            body = rollout.decide(
                self.lab, EMERGENCY, until, group=SITE, sequence=sequence, owners=self._keys(SITE)
            )
        return self._send(body)

    def _tamper(self) -> SignedTransaction:
        subject = self.rng.choice([*self._members(), self.lab.publisher, self.lab.validators[0]])
        body = ReportTamper(subject=subject.did, group=FLEET, complaint=Complaint.BAD_CHUNK)
        return self._send(body)

    def _capability(self) -> SignedTransaction:
        from ledger.bodies.capability import GrantCapability, RevokeCapability

        rng = self.rng
        capability = Capability(
            subject=self.lab.publisher.did,
            group=SITE,
            verbs=(rng.choice((Verb.PUBLISH, Verb.FETCH)),),
            expires_ms=self.bench.time_ms // DAY_MS * DAY_MS + DAY_MS,
        )
        name = capability.capability_id
        if rng.random() < 0.6:
            approvals = self._approvals(Action.GRANT, name, SITE)
            return self._send(GrantCapability(capability=capability.encode(), approvals=approvals))
        approvals = self._approvals(Action.WITHDRAW, name, SITE)
        return self._send(RevokeCapability(capability=name, approvals=approvals))

    def _vote_key(self) -> SignedTransaction:
        member = self.rng.choice(self.lab.validators)
        epoch = self.bench.state.epoch().epoch + self.rng.choice((0, 1, 1, 1, 2, 5))
        return self._send(epochs.certify(self.lab, member, epoch), member)

    def _seats(self) -> SignedTransaction:
        rng, keep = self.rng, self.lab.validators
        epoch, one = self.bench.state.epoch().epoch, epochs.newcomer(rng.randrange(2))
        members = rng.choice(([*keep[1:], one], keep, [*keep[2:], *keep[:2]]))
        joins = [one] if one in members and rng.random() < 0.8 else []
        return self._send(epochs.set_validators(self.lab, epoch, members, joins=joins))

    def _governance(self) -> SignedTransaction:
        rng, epoch = self.rng, self.bench.state.epoch().epoch
        if rng.random() < 0.5:
            numbers = Parameters(epoch_ms=rng.choice((HOUR_MS, DAY_MS)))
            return self._send(epochs.set_parameters(self.lab, epoch, numbers))
        version, first = rng.choice(((2, epoch + 1), (3, epoch + 2), (0, 0), (1, epoch)))
        return self._send(epochs.upgrade(self.lab, epoch, version=version, epoch=first))

    def _accuse(self) -> SignedTransaction:
        if self.rng.random() < 0.7:
            return self._vote_key()
        validators = self.bench.state.validators(max(1, self.bench.state.epoch().epoch - 1))
        assert validators is not None
        index = self.rng.randrange(len(validators.members))
        if validators.key_of(index) is None:
            return self._vote_key()
        keys = epochs.VoteKeys([*self.lab.validators, epochs.newcomer(0), epochs.newcomer(1)])
        return self._send(Accuse(evidence=keys.evidence(validators, index, self.lab)))

    # ---- mutation

    def _mutated(self, signed: SignedTransaction) -> bytes:
        """The same with one value of its body changed, signed again; or with a bit flipped."""
        members = [*self._members(), *self.lab.validators, self.lab.publisher]
        signer = next(each for each in members if each.did == signed.transaction.signer)
        raw = signed.signed.raw
        if self.rng.random() < 0.2:
            at = self.rng.randrange(len(raw))
            return raw[:at] + bytes([raw[at] ^ 1 << self.rng.randrange(8)]) + raw[at + 1 :]
        body = self._changed(_plain(signed.transaction.body))
        if not isinstance(body, dict):
            body = {}
        return self.story.altered(signed, signer, body=body)

    def _changed(self, value: Any) -> Any:
        rng = self.rng
        if isinstance(value, dict) and value and rng.random() < 0.95:
            key = rng.choice(list(value))
            return {**value, key: self._changed(value[key])}
        if isinstance(value, list) and value and rng.random() < 0.8:
            at = rng.randrange(len(value))
            return [*value[:at], self._changed(value[at]), *value[at + 1 :]]
        if isinstance(value, bool) or value is None:
            return rng.choice((True, False, None, 0, b""))
        if isinstance(value, int):
            return rng.choice((value + 1, max(value - 1, 0), 0, -1, 2**63 - 1))
        if isinstance(value, bytes) and value:
            at = rng.randrange(len(value))
            return rng.choice(
                (
                    value[:at] + bytes([value[at] ^ 1 << rng.randrange(8)]) + value[at + 1 :],
                    value[:-1],
                    b"",
                    value + b"\0",
                )
            )
        if isinstance(value, str):
            return rng.choice((value + "x", "", "Z", value[:-1]))
        if isinstance(value, list):
            return rng.choice(([], value[::-1], value * 2, value[1:]))
        return rng.choice((None, 0, b"x"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value

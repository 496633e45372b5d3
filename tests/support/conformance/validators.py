"""Validators, epochs, governance (epochs.md, governance.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ledger.bodies.governance import SetCheckpoint
from ledger.bodies.validators import Accuse, CertifyKey, Upgrade, upgrade_digest
from ledger.header import Header
from ledger.transition.genesis import genesis_block
from ledger.transition.kind import Body
from ledger.validators import ValidatorSet
from ledger.vote import Evidence
from protocol.approval import Action
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import sha256
from protocol.genesis import EPOCH_MS, Parameters
from protocol.governance import GOVERNANCE_GROUP, GOVERNANCE_POLICY, checkpoint_digest
from protocol.transaction import SignedTransaction
from tests.support.conformance.story import Story
from tests.support.epochs import (
    VoteKeys,
    certify,
    governance_approvals,
    newcomer,
    set_parameters,
    set_validators,
    upgrade,
)
from tests.support.ledger import FLEET, GENESIS_MS, HOUR_MS, Member
from tests.support.subjects import revocation

NUMBERS = Parameters(heartbeat_ms=5000, epoch_ms=60_000)


def _send(story: Story, body: Body) -> SignedTransaction:
    return story.lab.transaction(story.lab.gateways[0], body)


def _certified(story: Story, epoch: int, members: Sequence[Member]) -> None:
    """Vote keys of an epoch, in one block."""
    lab = story.lab
    bodies = [lab.transaction(member, certify(lab, member, epoch)) for member in members]
    story.ok(f"keys of epoch {epoch} on {story.at}", *bodies)


def keys_of_epochs_story() -> Story:
    """`validator.certify` and `validator.accuse`, and evidence in blocks."""
    story = Story("certified")
    lab = story.lab
    member, other, third = lab.validators[:3]
    good = certify(lab, member, 2)

    def by(body: CertifyKey, signer: Member = member) -> SignedTransaction:
        return lab.transaction(signer, body)

    for code, name, signed in (
        (
            "validator.kind",
            "a gateway's vote key",
            by(certify(lab, lab.gateways[0], 2), lab.gateways[0]),
        ),
        ("validator.epoch", "a key for this epoch", by(certify(lab, member, 1))),
        ("validator.ahead", "a key for the fifth epoch from now", by(certify(lab, member, 6))),
        ("validator.proof", "the key did not sign", by(replace(good, proof=bytes(64)))),
        ("validator.proof", "signed for another epoch", by(replace(good, epoch=3))),
        ("validator.proof", "signed for another subject", by(good, other)),
        (
            "validator.key",
            "its own node key",
            by(certify(lab, member, 2, key=member.key(KeyPurpose.NODE))),
        ),
        (
            "validator.key",
            "another's vote key",
            by(certify(lab, member, 2, key=other.key(KeyPurpose.VALIDATOR))),
        ),
    ):
        story.no(code, name, signed)
    story.ok("validator.certify", by(good))
    story.no("validator.certified", "a second key", by(good))
    story.ok("a key for the fourth epoch from now", by(certify(lab, member, 5)))
    evidence = VoteKeys(lab.validators).evidence(lab.validator_set, 2, lab)
    forged = Evidence(evidence.first, replace(evidence.second, signature=bytes(64)))
    elsewhere = Evidence(replace(evidence.first, signer=1), replace(evidence.second, signer=1))
    beyond = Evidence(replace(evidence.first, signer=9), replace(evidence.second, signer=9))
    later = Evidence(replace(evidence.first, epoch=2), replace(evidence.second, epoch=2))
    for code, name, wrong in (
        ("evidence.signature", "a forged vote", forged),
        ("evidence.signature", "somebody else's seat", elsewhere),
        ("evidence.signature", "a seat that is none", beyond),
        ("evidence.epoch", "an epoch to come", later),
    ):
        story.no(code, f"accused: {name}", _send(story, Accuse(evidence=wrong)))
        story.no(code, f"in a block: {name}", evidence=[wrong])
    story.ok("validator.accuse", _send(story, Accuse(evidence=evidence)))
    story.no("evidence.known", "accused twice", _send(story, Accuse(evidence=evidence)))
    story.no("evidence.known", "in a block what was accused", evidence=[evidence])
    convicted = certify(lab, third, 2)
    story.no("validator.convicted", "a key of who is convicted", by(convicted, third))
    story.back("a key for the fourth epoch from now")
    story.ok("evidence in a block", evidence=[evidence])
    return story


def seats_story() -> Story:
    """`validators.set`, and the end of an epoch by it (E10 to E12, E30 to E32)."""
    story = Story("seats")
    lab = story.lab
    keep, one = lab.validators, newcomer(1)
    two = newcomer(2)
    good = set_validators(lab, 1, [*keep[1:], one], joins=[one])
    broken = replace(one.join, signatures=(bytes(64), *one.join.signatures[1:]))
    lost = Member(label="lost", kind=SubjectKind.VALIDATOR, groups=("nowhere",))
    gateway = Member(label="a gateway", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    members = [*keep[1:], one]
    for code, name, body in (
        (
            "validators.replaced",
            "two of four seats",
            set_validators(lab, 1, [*keep[2:], one, two], joins=[one, two]),
        ),
        ("validators.unknown", "a newcomer without record", set_validators(lab, 1, members)),
        ("validators.kind", "a record for no seat", set_validators(lab, 1, keep, joins=[one])),
        (
            "validators.kind",
            "a gateway's seat",
            set_validators(lab, 1, [*keep[1:], lab.gateways[0]]),
        ),
        (
            "validators.kind",
            "a newcomer that is a gateway",
            set_validators(lab, 1, [*keep[1:], gateway], joins=[gateway]),
        ),
        ("did.known", "a record of who is known", set_validators(lab, 1, keep, joins=[keep[0]])),
        ("did.join", "a newcomer's key did not sign", replace(good, joins=(broken,))),
        (
            "group.unknown",
            "a newcomer of no group",
            set_validators(lab, 1, [*keep[1:], lost], joins=[lost]),
        ),
        ("approval.threshold", "one governor", set_validators(lab, 1, keep, count=1)),
        ("approval.subject", "decided in another epoch", set_validators(lab, 2, keep)),
        (
            "approval.subject",
            "another order",
            replace(good, members=(*good.members[1:], good.members[0])),
        ),
        ("approval.duplicate", "a governor twice", replace(good, approvals=good.approvals[:1] * 2)),
        ("did.key", "a newcomer with another's key", _with_taken_key(story)),
    ):
        story.no(code, name, _send(story, body))
    story.ok("validators.set: named, and waiting for keys", _send(story, good))
    story.ok("taken back", _send(story, set_validators(lab, 1, keep)))
    story.no("approval.used", "named by the same words", _send(story, replace(good, joins=())))
    story.back("validators.set: named, and waiting for keys")
    story.ok("a named newcomer is revoked", revocation(story.bench, one.did, governed=True))
    _certified(story, 2, keep[1:3])
    assert story.bench.state.epoch().epoch == 1, "the newcomer's seat would be empty (E11)"
    story.back("validators.set: named, and waiting for keys")
    _certified(story, 2, keep[1:2])
    last = lab.transaction(keep[2], certify(lab, keep[2], 2))
    story.ok("the third key: epoch 2 begins with an empty seat", last)
    evidence = VoteKeys(keep).evidence(_set_of_epoch(story, 1), 3, lab)
    story.ok("evidence of the epoch before", evidence=[evidence])
    story.no("evidence.known", "the same once more", evidence=[evidence])
    _certified(story, 3, [keep[1], keep[2]])
    _certified(story, 4, [keep[1], keep[2], one])
    bare = set_validators(lab, 2, [*keep[:3], one])
    story.no("validators.uncertified", "a former seat without a key", _send(story, bare))
    story.back("evidence of the epoch before")
    _leaver_returns(story, one)
    return story


def _with_taken_key(story: Story) -> Body:
    lab = story.lab
    victim = lab.gateways[0]

    class Thief(Member):
        def keys_of(self, rotation: int):  # type: ignore[no-untyped-def]
            keys = super().keys_of(rotation)
            return {**keys, KeyPurpose.TRANSPORT: victim.keys_of(0)[KeyPurpose.TRANSPORT]}

    thief = Thief(label="thief", kind=SubjectKind.VALIDATOR, groups=(FLEET,))
    return set_validators(lab, 1, [*lab.validators[1:], thief], joins=[thief])


def _set_of_epoch(story: Story, epoch: int) -> ValidatorSet:
    found = story.bench.state.validators(epoch)
    assert found is not None
    return found


def _leaver_returns(story: Story, one: Member) -> None:
    """Who left and was convicted since is not seated again (E42)."""
    lab = story.lab
    first = lab.validators[0]
    evidence = VoteKeys(lab.validators).evidence(_set_of_epoch(story, 1), 0, lab)
    story.ok("a leaver is convicted", evidence=[evidence])
    back = set_validators(lab, 2, [first, *lab.validators[1:3], one])
    story.no("validators.convicted", "a convicted leaver's seat", _send(story, back))


def epochs_story() -> Story:
    """Epochs that end by time; parameters, versions and checkpoints."""
    story = Story("epochs")
    lab = story.lab
    for code, name, body in (
        (
            "approval.threshold",
            "parameters by one governor",
            set_parameters(lab, 1, NUMBERS, count=1),
        ),
        ("approval.subject", "parameters of another epoch", set_parameters(lab, 2, NUMBERS)),
        ("upgrade.version", "the version in force", upgrade(lab, 1, version=1, epoch=3)),
        ("upgrade.epoch", "an epoch that has begun", upgrade(lab, 1, version=2, epoch=1)),
        ("upgrade.none", "nothing to take back", upgrade(lab, 1, version=0, epoch=0)),
        (
            "approval.threshold",
            "an upgrade by one governor",
            upgrade(lab, 1, version=2, epoch=3, count=1),
        ),
    ):
        story.no(code, name, _send(story, body))
    story.ok("gov.parameters", _send(story, set_parameters(lab, 1, NUMBERS)))
    story.no(
        "approval.used", "the same parameters again", _send(story, set_parameters(lab, 1, NUMBERS))
    )
    story.ok("gov.upgrade", _send(story, upgrade(lab, 1, version=2, epoch=3)))
    story.ok("an upgrade is taken back", _send(story, upgrade(lab, 1, version=0, epoch=0)))
    story.no(
        "approval.used",
        "planned by the same words",
        _send(story, upgrade(lab, 1, version=2, epoch=3)),
    )
    later = _planned_again(story)
    story.ok("planned by later words", later)
    back_again = _planned_again(story, version=0, epoch=0)
    story.ok("taken back by later words", back_again)
    replay = _send(story, upgrade(lab, 1, version=2, epoch=3))
    story.no("approval.used", "the first words, replaced on record, serve no more", replay)
    story.back("gov.upgrade")
    _certified(story, 2, lab.validators[:2])
    story.wait(EPOCH_MS)
    story.ok("two keys of four begin no epoch")
    _certified(story, 2, lab.validators[2:3])
    assert story.bench.state.epoch().epoch == 2
    _second(story)
    return story


def _planned_again(story: Story, *, version: int = 2, epoch: int = 3) -> SignedTransaction:
    """An upgrade by approvals that are valid for longer than those on record."""
    lab = story.lab
    subject = upgrade_digest(1, version, epoch)
    approvals = tuple(
        lab.approval(
            Action.UPGRADE,
            subject,
            key,
            group=GOVERNANCE_GROUP,
            policy=GOVERNANCE_POLICY,
            valid_until_ms=GENESIS_MS + 20_000 * HOUR_MS,
        )
        for key in lab.governance[:2]
    )
    return _send(story, Upgrade(version=version, epoch=epoch, approvals=approvals))


def _second(story: Story) -> None:
    lab = story.lab
    story.no(
        "upgrade.none",
        "taken back with an epoch",
        _send(story, upgrade(lab, 2, version=0, epoch=3)),
    )
    begun = story.at
    _certified(story, 3, lab.validators)
    story.ok("epoch 2 goes on")
    story.wait(NUMBERS.epoch_ms)
    story.ok("epoch 3 begins by its new length, with its version")
    assert story.bench.state.epoch().epoch == 3
    _checkpoints(story)
    story.back(begun)
    story.wait(NUMBERS.epoch_ms)
    story.ok("without keys epoch 2 goes on")


def _checkpoints(story: Story) -> None:
    lab = story.lab
    first = genesis_block(lab.genesis, story.bench.state).header
    sets = {epoch: _set_of_epoch(story, epoch).digest for epoch in (1, 2, 3)}

    def closing(epoch: int, **changes: object) -> Header:
        values = {
            "epoch": epoch,
            "height": 10 * epoch,
            "view": 9,
            "validators": sets[epoch],
            "next_validators": sets.get(epoch + 1, sets[epoch]),
            **changes,
        }
        return replace(first, **values)  # type: ignore[arg-type]

    def setting(header: Header, *, count: int = 2, raw: bytes | None = None) -> SignedTransaction:
        digest = checkpoint_digest(header.height, header.block_id)
        approvals = governance_approvals(lab, Action.CHECKPOINT, digest, count=count)
        body = SetCheckpoint(header=header.encoded if raw is None else raw, approvals=approvals)
        return _send(story, body)

    good = closing(1)
    other = closing(1, chain=sha256(b"chain"))
    for code, name, signed in (
        ("checkpoint.malformed", "no header", setting(good, raw=b"\xa0")),
        ("checkpoint.header", "a header of another chain", setting(other)),
        ("checkpoint.header", "a header of another era", setting(closing(1, era=1))),
        ("checkpoint.header", "a header that closed nothing", setting(closing(3))),
        ("checkpoint.header", "another next set", setting(closing(1, next_validators=sets[3]))),
        ("approval.threshold", "a checkpoint by one governor", setting(good, count=1)),
        ("approval.subject", "approved for another header", setting(closing(2), raw=good.encoded)),
    ):
        story.no(code, name, signed)
    story.ok("gov.checkpoint", setting(good))
    story.no("checkpoint.old", "the same checkpoint", setting(good))
    story.ok("a later checkpoint", setting(closing(2)))
    story.no("checkpoint.old", "an earlier checkpoint", setting(good))

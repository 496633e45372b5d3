"""Subjects: enrolment, seats, rotation, status, attributes, recovery (L50 to L52, identity.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ledger.bodies.subject import CreateSubject, RotateKeys
from ledger.bodies.subject_decisions import Decider
from ledger.transition.kind import Body
from protocol.approval import Action
from protocol.did import JoinStatement, SubjectKind, sign_join
from protocol.digest import sha256
from protocol.transaction import SignedTransaction
from tests.support.conformance.story import Story
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    HOUR_MS,
    Member,
    make_group,
    make_key,
    owner_keys,
)
from tests.support.seats import NEWCOMER, make_seat
from tests.support.subjects import (
    PUMPS,
    certification,
    claim,
    keys_for,
    recovery,
    resumption,
    revocation,
    suspension,
)

WIDE = Member(label="wide", kind=SubjectKind.GATEWAY, groups=(FLEET, PUMPS))


def _send(story: Story, body: Body) -> SignedTransaction:
    return story.lab.transaction(story.lab.gateways[1], body)


def _creation(story: Story, member: Member, **changes: Any) -> CreateSubject:
    lists = tuple(story.agree(Action.ENROL, member.did, group=name) for name in member.groups)
    return replace(CreateSubject(join=member.join, approvals=lists), **changes)


def enrolment_story() -> Story:
    """`did.create`, by approvals and by seats."""
    story = Story("enrolment", groups=[make_group(PUMPS)])
    lab = story.lab
    good = _creation(story, NEWCOMER)
    bad_join = replace(good.join, signatures=(bytes(64), good.join.signatures[1]))
    taken = _taking_a_key(lab.gateways[0])
    validator = Member(label="validator-9", kind=SubjectKind.VALIDATOR, groups=(FLEET,))
    nowhere = Member(label="lost", kind=SubjectKind.GATEWAY, groups=("nowhere",))
    homeless = Member(label="homeless", kind=SubjectKind.GATEWAY, groups=())
    one = (story.agree(Action.ENROL, NEWCOMER.did, 1),)
    enrol = story.agree(Action.ENROL, nowhere.did)
    for code, name, body in (
        ("did.join", "a key did not sign", replace(good, join=bad_join)),
        ("did.kind", "a validator", _creation(story, validator)),
        ("did.groups", "no group", CreateSubject(join=homeless.join, approvals=())),
        ("did.groups", "a list too many", replace(good, approvals=good.approvals * 2)),
        ("group.unknown", "an unknown group", CreateSubject(join=nowhere.join, approvals=(enrol,))),
        ("did.known", "somebody known", _creation(story, lab.gateways[0])),
        ("did.key", "another's key", _creation(story, taken, join=_join_of(taken))),
        ("approval.threshold", "one owner of two", replace(good, approvals=one)),
    ):
        story.no(code, name, _send(story, body))
    story.ok("did.create for two groups", _send(story, _creation(story, WIDE)))
    story.back("genesis")
    _seats(story)
    return story


def _taking_a_key(victim: Member) -> Member:
    """A newcomer whose transport key is somebody else's."""

    class Thief(Member):
        def keys_of(self, rotation: int) -> Any:
            keys = super().keys_of(rotation)
            first = next(iter(keys))
            return {**keys, first: victim.keys_of(0)[first]}

    return Thief(label="thief", kind=SubjectKind.GATEWAY, groups=(FLEET,))


def _join_of(member: Member) -> JoinStatement:
    return sign_join(member.record, list(member.keys_of(0).values()))


def _seats(story: Story) -> None:
    lab = story.lab
    chain, owners = lab.chain_id, owner_keys(FLEET)
    good = make_seat(chain)
    mixed = replace(good, tokens=(good.tokens[0], make_seat(chain, expiry_s=1).tokens[1]))
    tampered = good.tokens[1][:-1] + bytes((good.tokens[1][-1] ^ 1,))
    stranger = [owners[0], make_key("stranger")]
    two = (FLEET, PUMPS)
    for code, name, seat in (
        ("seat.malformed", "a token that is none", replace(good, tokens=(b"\x80",))),
        ("seat.mixed", "tokens that differ", mixed),
        ("seat.chain", "a seat of another chain", make_seat(sha256(b"another"))),
        ("seat.era", "a seat of another era", make_seat(chain, era=1)),
        ("seat.expired", "an expired seat", make_seat(chain, expiry_s=GENESIS_MS // 1000)),
        ("seat.kind", "a publisher's seat", make_seat(chain, kind=SubjectKind.PUBLISHER)),
        ("seat.groups", "a seat in other groups", make_seat(chain, groups=two)),
        ("seat.holder", "no proof of the holder", replace(good, proof=bytes(64))),
        ("seat.duplicate", "an owner's token twice", make_seat(chain, owners=[owners[0]] * 2)),
        ("seat.owner", "a stranger's token", make_seat(chain, owners=stranger)),
        ("seat.signature", "a token altered", replace(good, tokens=(good.tokens[0], tampered))),
        ("seat.threshold", "one token of two", make_seat(chain, owners=owners[:1])),
    ):
        story.no(
            code, name, _send(story, CreateSubject(join=NEWCOMER.join, approvals=(), seat=seat))
        )
    both = replace(_creation(story, NEWCOMER), seat=good)
    story.no("seat.confirmation", "approvals nobody asked for", _send(story, both))
    asking = make_seat(chain, seat_id=bytes(16), confirmed=True)
    bare = CreateSubject(join=NEWCOMER.join, approvals=(), seat=asking)
    story.no("seat.confirmation", "no confirmation", _send(story, bare))
    confirm = (story.agree(Action.ENROL, NEWCOMER.did, 1),)
    story.ok("did.create by a confirmed seat", _send(story, replace(bare, approvals=confirm)))
    story.back("genesis")
    seated = CreateSubject(join=NEWCOMER.join, approvals=(), seat=good)
    story.ok("did.create by a seat", _send(story, seated))
    other = Member(label="second", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    again = CreateSubject(join=other.join, approvals=(), seat=make_seat(chain, other))
    story.no("seat.taken", "a seat twice", _send(story, again))


def keys_story() -> Story:
    """`did.rotate`, `did.recover`, `did.claim`."""
    story = Story("keys", groups=[make_group(PUMPS)])
    lab, bench = story.lab, story.bench
    first = lab.gateways[0]
    good = lab.rotation(first)
    publisher = lab.rotation(lab.publisher)
    for code, name, body in (
        ("did.unknown", "rotation of nobody", replace(good, did=sha256(b"nobody"))),
        ("did.commitment", "keys not committed to", replace(good, keys=tuple(good.keys[:1]))),
        ("did.commitment", "another's keys", replace(good, keys=publisher.keys)),
        ("did.signature", "a new key did not sign", _unsigned(good)),
        ("did.signature", "another next commitment", replace(good, next_keys=None)),
    ):
        story.no(code, name, _send(story, body))
    story.ok("did.rotate", _send(story, good))
    story.no("did.commitment", "the rotation again", _send(story, good))
    _recoveries(story)
    story.back("genesis")
    story.ok("suspended before a rotation", suspension(bench, first.did))
    story.no("did.status", "a suspended subject rotates", _send(story, good))
    story.back("genesis")
    validator = lab.rotation(lab.validators[0])
    story.ok("did.rotate of a validator", _send(story, validator))
    story.back("genesis")
    last = _last_keys(story)
    story.no("did.commitment", "keys that never rotate", _send(story, last))
    return story


def _unsigned(body: RotateKeys) -> RotateKeys:
    return replace(body, signatures=(bytes(64), *body.signatures[1:]))


def _last_keys(story: Story) -> RotateKeys:
    """A rotation to keys without successor, and one more."""
    first = story.lab.gateways[0]
    story.ok("recovery to keys without successor", recovery(story.bench, first))
    story.wait(24 * HOUR_MS)
    story.ok("they are claimed", claim(story.bench, first))
    return story.lab.rotation(first)


def _recoveries(story: Story) -> None:
    story.back("genesis")
    lab, bench = story.lab, story.bench
    first, publisher = lab.gateways[0], lab.publisher
    known = keys_for(first)
    transport = next(iter(known))
    stolen = {**known, transport: lab.gateways[1].keys_of(0)[transport]}
    missing = {transport: known[transport]}
    for code, name, signed in (
        ("did.unknown", "recovery of nobody", recovery(bench, first, did=sha256(b"nobody"))),
        ("did.purposes", "recovery with a key too few", recovery(bench, first, keys=missing)),
        (
            "did.signature",
            "recovery that a key did not sign",
            recovery(bench, first, signatures=()),
        ),
        ("did.key", "recovery to another's key", recovery(bench, first, keys=stolen)),
        ("did.decider", "recovery of a publisher by its group", recovery(bench, publisher)),
        ("did.groups", "recovery with a list too many", _two_lists(story)),
        ("approval.threshold", "recovery by one owner", recovery(bench, first, count=1)),
        ("did.pending", "a claim of nothing", claim(bench, first)),
    ):
        story.no(code, name, signed)
    governed = recovery(bench, publisher, decider=Decider.GOVERNANCE)
    story.ok("did.recover by governance", governed)
    story.back("genesis")
    story.ok("did.recover by owners", recovery(bench, first))
    story.no("did.waiting", "a claim too early", claim(bench, first))
    story.wait(24 * HOUR_MS - 2000)
    story.no("did.waiting", "a claim a moment too early", claim(bench, first))
    story.wait(1000)
    other = claim(bench, first, keys_for(first, "other"))
    story.no("did.pending", "a claim of other keys", other)
    story.ok("did.claim", claim(bench, first))
    story.back("did.recover by owners")
    story.ok("the committed keys object", _send(story, lab.rotation(first)))
    story.wait(24 * HOUR_MS)
    story.no("did.pending", "a claim after an objection", claim(bench, first))
    story.back("did.recover by owners")
    story.ok("a later decision", recovery(bench, first, keys=keys_for(first, "other")))


def _two_lists(story: Story) -> SignedTransaction:
    from ledger.bodies.subject_decisions import RecoverKeys
    from protocol.encoding import Fields

    signed = recovery(story.bench, story.lab.gateways[0])
    body = RecoverKeys.read(Fields(signed.transaction.body, "recovery"))
    return _send(story, replace(body, approvals=body.approvals * 2))


def status_story() -> Story:
    """`did.suspend`, `did.resume`, `did.revoke`, `did.certify`."""
    story = Story("status", groups=[make_group(PUMPS)])
    lab, bench = story.lab, story.bench
    story.ok("a gateway of two groups", _send(story, _creation(story, WIDE)))
    did, first = WIDE.did, lab.gateways[0]
    for code, name, signed in (
        ("did.unknown", "suspension of nobody", suspension(bench, sha256(b"nobody"))),
        ("did.validator", "suspension of a validator", suspension(bench, lab.validators[0].did)),
        (
            "did.group",
            "suspension by a group it is not in",
            suspension(bench, first.did, group=PUMPS),
        ),
        ("approval.threshold", "suspension by one owner", suspension(bench, did, owners=1)),
        ("did.status", "resumption of an active one", resumption(bench, did, changes=0)),
        ("did.unknown", "resumption of nobody", _resume_nobody(story)),
        ("did.group", "revocation by another group", revocation(bench, first.did, group=PUMPS)),
        ("did.validator", "revocation of a seat", revocation(bench, lab.validators[0].did)),
        ("approval.threshold", "revocation by one owner", revocation(bench, did, count=1)),
        ("did.group", "attributes by another group", certification(bench, first.did, group=PUMPS)),
        ("did.unknown", "attributes of nobody", certification(bench, sha256(b"nobody"), version=1)),
        ("approval.threshold", "attributes by one owner", certification(bench, did, count=1)),
        ("approval.subject", "attributes of a later version", certification(bench, did, version=2)),
        ("tx.body", "attributes out of order", certification(bench, did, (("b", "1"), ("a", "1")))),
    ):
        story.no(code, name, signed)
    for index in range(2):
        story.ok(f"did.certify, version {index + 1}", certification(bench, did))
    story.ok("did.suspend", suspension(bench, did))
    story.no("did.status", "suspension by the same group twice", suspension(bench, did))
    story.ok("suspended by another group too", suspension(bench, did, group=PUMPS))
    story.no("approval.subject", "an old resumption", resumption(bench, did, changes=0))
    story.ok("did.resume by one of two groups", resumption(bench, did))
    story.ok("did.resume by the other", resumption(bench, did, group=PUMPS))
    story.no("approval.used", "the first suspension again", suspension(bench, did))
    late = GENESIS_MS + 2000 * HOUR_MS
    story.ok("suspended anew by later words", suspension(bench, did, until_ms=late))
    story.ok("did.revoke by owners", revocation(bench, did))
    story.no("did.status", "revocation twice", revocation(bench, did))
    story.no("did.status", "suspension of a revoked one", suspension(bench, did))
    story.no("did.status", "attributes of a revoked one", certification(bench, did))
    story.no("did.status", "recovery of a revoked one", recovery(bench, WIDE))
    story.no("did.known", "a revoked one enters again", _send(story, _creation(story, WIDE)))
    story.back("a gateway of two groups")
    story.ok("did.revoke by governance", revocation(bench, did, governed=True))
    story.no(
        "approval.threshold",
        "revocation by one governor",
        revocation(bench, first.did, governed=True, count=1),
    )
    return story


def _resume_nobody(story: Story) -> SignedTransaction:
    from ledger.bodies.subject_decisions import ResumeSubject

    nobody = sha256(b"nobody")
    approvals = story.agree(Action.RESUME, nobody)
    return _send(story, ResumeSubject(did=nobody, group=FLEET, approvals=approvals))

"""Opinion, quarantine, conviction, capabilities (defence.md, access.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ledger.bodies.capability import GrantCapability, RevokeCapability
from ledger.bodies.defence import (
    Complaint,
    ReleaseQuarantine,
    ReportContradiction,
    ReportTamper,
    SetQuarantine,
    quarantine_digest,
    release_digest,
)
from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.subject import CreateSubject
from ledger.header import Header
from ledger.state_keys import manifest_key
from ledger.transition.genesis import genesis_block
from ledger.transition.kind import Body
from protocol.announcement import Announcement, sign_announcement
from protocol.approval import Action
from protocol.capability import Capability, Verb
from protocol.contradiction import ConflictingAnchors, Contradiction, FalseAnnouncement
from protocol.defence import DefenceRules, QuarantineLevel
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import sha256
from protocol.encoding import encode_canonical
from protocol.group import Placement
from protocol.rule import Compare, Comparison, RuleField
from protocol.transaction import SignedTransaction, Transaction, sign_transaction
from protocol.version import group_topic, heads_topic
from tests.support.conformance.story import Story
from tests.support.contracts import moving
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    HOUR_MS,
    PRODUCT,
    Member,
    make_group,
    make_policy,
    owner_keys,
)
from tests.support.subjects import certification, revocation, suspension

RULES = DefenceRules(daily_share=10_000)
DAY_MS = 24 * HOUR_MS
OTHER = "other"


def _send(story: Story, body: Body) -> SignedTransaction:
    return story.lab.transaction(story.lab.gateways[1], body)


def _enrol(story: Story, label: str, *owners: int) -> Member:
    lab = story.lab
    member = Member(label=label, kind=SubjectKind.GATEWAY, groups=(FLEET,))
    keys = owner_keys(FLEET)
    approvals = tuple(lab.approval(Action.ENROL, member.did, keys[index]) for index in owners)
    body = CreateSubject(join=member.join, approvals=(approvals,))
    story.ok(f"enrolled: {label}", _send(story, body))
    return member


def _report(
    story: Story, reporter: Member, subject: Member, group: str = FLEET
) -> SignedTransaction:
    body = ReportTamper(subject=subject.did, group=group, complaint=Complaint.BAD_CHUNK)
    return story.lab.transaction(reporter, body)


def _held(
    story: Story,
    subject: Member,
    until_ms: int | None,
    sequence: int,
    *,
    owners: int = 2,
    group: str = FLEET,
) -> SignedTransaction:
    level = QuarantineLevel.NO_EXCHANGE
    digest = quarantine_digest(
        subject.did, group, level=int(level), until_ms=until_ms, sequence=sequence
    )
    approvals = story.agree(Action.QUARANTINE, digest, owners, group=group)
    body = SetQuarantine(
        subject=subject.did, group=group, level=level, until_ms=until_ms, approvals=approvals
    )
    return _send(story, body)


def _released(
    story: Story, subject: Member, sequence: int, *, owners: int = 2
) -> SignedTransaction:
    digest = release_digest(subject.did, FLEET, sequence)
    approvals = story.agree(Action.RELEASE, digest, owners)
    return _send(story, ReleaseQuarantine(subject=subject.did, group=FLEET, approvals=approvals))


def opinions_story() -> Story:
    """`report.tamper`, `quarantine.set`, `quarantine.release`."""
    policy = make_policy(enrol_threshold=1, defence=RULES)
    story = Story("opinions", policy=policy, groups=[make_group(OTHER)])
    lab = story.lab
    victim, helper = lab.gateways
    voices = [_enrol(story, f"of owner {index}", index) for index in range(3)]
    twin = _enrol(story, "of owner 0 too", 0)
    both = _enrol(story, "of owners 0 and 1", 0, 1)
    stranger = Member(label="stranger", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    for code, name, signed in (
        ("report.self", "a report of itself", _report(story, victim, victim)),
        ("report.group", "a group the reporter is not in", _report(story, helper, victim, OTHER)),
        ("report.group", "a group that is none", _report(story, helper, victim, "nowhere")),
        ("report.unknown", "nobody reported", _report(story, helper, stranger)),
        ("report.subject", "a validator reported", _report(story, helper, lab.validators[0])),
    ):
        story.no(code, name, signed)
    story.ok("report.tamper", _report(story, voices[0], victim))
    story.no("report.repeat", "the same owner's other gateway", _report(story, twin, victim))
    story.no("report.repeat", "a voice that shares an owner", _report(story, both, victim))
    story.ok("a second voice", _report(story, voices[1], victim))
    story.ok("the third voice: quarantine", _report(story, voices[2], victim))
    story.no(
        "report.reputation", "the word of who is in quarantine", _report(story, victim, helper)
    )
    story.ok("quarantine.release", _released(story, victim, 2))
    story.ok("protected for a while: 1", _report(story, voices[0], victim))
    story.ok("protected for a while: 2", _report(story, voices[1], victim))
    story.ok("protected for a while: 3", _report(story, voices[2], victim))
    story.ok("owners hold it all the same", _held(story, victim, None, 3))
    story.back("a second voice")
    story.wait(HOUR_MS)
    story.ok("two voices become one", _report(story, both, victim))
    story.back("a second voice")
    story.wait(20 * HOUR_MS)
    story.ok("opinions have faded", _report(story, voices[2], victim))
    story.wait(DAY_MS)
    story.ok("opinions have lapsed", _report(story, voices[0], victim))
    story.back("genesis")
    _owners(story, stranger)
    story.ok("the subject is suspended", suspension(story.bench, victim.did))
    story.no("report.subject", "a suspended one reported", _report(story, helper, victim))
    return story


def _owners(story: Story, stranger: Member) -> None:
    victim = story.lab.gateways[0]
    later = story.bench.time_ms + DAY_MS
    for code, name, signed in (
        ("quarantine.unknown", "nobody held", _held(story, stranger, None, 1)),
        ("quarantine.group", "held by another group", _held(story, victim, None, 1, group=OTHER)),
        ("quarantine.until", "held until the past", _held(story, victim, GENESIS_MS, 1)),
        ("approval.threshold", "held by one owner", _held(story, victim, later, 1, owners=1)),
        ("approval.subject", "held by later words", _held(story, victim, later, 2)),
        ("quarantine.none", "released from nothing", _released(story, victim, 1)),
    ):
        story.no(code, name, signed)
    story.ok("quarantine.set", _held(story, victim, later, 1))
    story.no("approval.subject", "held by the same words", _held(story, victim, later, 1))
    story.no("approval.threshold", "released by one owner", _released(story, victim, 2, owners=1))
    story.ok("released by owners", _released(story, victim, 2))
    story.back("quarantine.set")
    story.wait(DAY_MS)
    story.no("quarantine.none", "released after its end", _released(story, victim, 2))


def sites_story() -> Story:
    """Certified sites as voices, groups without rules, groups too small for opinion (D12, D30)."""
    policy = make_policy(defence=DefenceRules(voices_min=2, threshold=1001))
    story = Story("sites", policy=policy, groups=[make_group(OTHER)], gateways=5)
    lab = story.lab
    victim, one, same, two, founder = lab.gateways
    for member, site in ((one, "north"), (same, "north"), (two, "south")):
        story.ok(
            f"site of {member.label}", certification(story.bench, member.did, (("site", site),))
        )
    story.ok("a site's report", _report(story, one, victim))
    story.no("report.repeat", "the same site", _report(story, same, victim))
    story.ok("another site: a group of six is too small", _report(story, two, victim))
    story.ok("founders are a voice", _report(story, founder, victim))
    member = Member(label="of other", kind=SubjectKind.GATEWAY, groups=(OTHER,))
    peer = Member(label="peer", kind=SubjectKind.GATEWAY, groups=(OTHER,))
    for each in (member, peer):
        lists = (story.agree(Action.ENROL, each.did, group=OTHER),)
        story.ok(
            f"enrolled: {each.label}", _send(story, CreateSubject(join=each.join, approvals=lists))
        )
    story.no("report.off", "a group without rules", _report(story, member, peer, OTHER))
    return story


def _anchor(
    story: Story, member: Member, root: bytes, *, size: int = 3, **changes: object
) -> bytes:
    chain = changes.pop("chain", story.lab.chain_id)
    values: dict[str, object] = {
        "era": 0,
        "signer": member.did,
        "nonce": 7,
        "valid_until_ms": GENESIS_MS + HOUR_MS,
        "kind": "receipt.anchor",
        "body": AnchorReceipts(size=size, root=sha256(root)).to_value(),
        **changes,
    }
    transaction = Transaction(**values)
    return sign_transaction(transaction, member.key(KeyPurpose.NODE), chain).signed.raw


def convictions_story() -> Story:
    """`report.contradiction`."""
    story = Story("convictions", groups=[make_group("lab")])
    lab = story.lab
    culprit, other = lab.gateways
    first = _anchor(story, culprit, b"1")

    def accuse(evidence: Contradiction, subject: Member = culprit) -> SignedTransaction:
        return _send(story, ReportContradiction(subject=subject.did, evidence=evidence))

    def pair(second: bytes) -> ConflictingAnchors:
        return ConflictingAnchors(*sorted((first, second)))

    person = Member(label="a person", kind=SubjectKind.PERSON, groups=(FLEET,))
    nobody = Member(label="nobody", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    good = pair(_anchor(story, culprit, b"2"))
    for code, name, signed in (
        ("contradiction.unknown", "nobody accused", accuse(good, nobody)),
        ("contradiction.subject", "somebody else accused", accuse(good, other)),
        ("contradiction.malformed", "no transaction", accuse(pair(b"\x80"))),
        (
            "contradiction.consistent",
            "two sizes",
            accuse(pair(_anchor(story, culprit, b"2", size=4))),
        ),
        (
            "contradiction.consistent",
            "one root",
            accuse(pair(_anchor(story, culprit, b"1", nonce=8))),
        ),
        (
            "contradiction.era",
            "another era's anchor",
            accuse(pair(_anchor(story, culprit, b"2", era=1))),
        ),
        (
            "contradiction.signature",
            "another chain's anchor",
            accuse(pair(_anchor(story, culprit, b"2", chain=sha256(b"chain")))),
        ),
        (
            "contradiction.consistent",
            "no anchor",
            accuse(pair(_anchor(story, culprit, b"2", kind="report.tamper"))),
        ),
    ):
        story.no(code, name, signed)
    story.ok("report.contradiction by anchors", accuse(good))
    story.no("contradiction.known", "convicted twice", accuse(good))
    _in_other_groups(story, culprit)
    story.back("report.contradiction by anchors")
    story.ok("the convicted keys are rotated", _send(story, lab.rotation(culprit)))
    story.no("contradiction.signature", "a retired key convicts nobody", accuse(good))
    story.back("genesis")
    lists = (story.agree(Action.ENROL, person.did),)
    story.ok("a person", _send(story, CreateSubject(join=person.join, approvals=lists)))
    story.no("contradiction.subject", "a person has no node key", accuse(good, person))
    story.back("genesis")
    _announcements(story)
    return story


def _in_other_groups(story: Story, culprit: Member) -> None:
    """A conviction counts in a group that the subject comes into later, until released (D43)."""
    bench = story.bench
    acme = Compare(RuleField.VENDOR, Comparison.EQUAL, "acme")
    story.ok("a group by selector", moving(bench, "lab", Placement(FLEET, acme)))
    story.ok("it takes the convicted", certification(bench, culprit.did, (("vendor", "acme"),)))
    digest = release_digest(culprit.did, "lab", 1)
    approvals = story.agree(Action.RELEASE, digest, group="lab")
    body = ReleaseQuarantine(subject=culprit.did, group="lab", approvals=approvals)
    story.ok("released where nothing is on record", _send(story, body))
    again = release_digest(culprit.did, "lab", 2)
    body = replace(body, approvals=story.agree(Action.RELEASE, again, group="lab"))
    story.no("quarantine.none", "released twice", _send(story, body))


def _announcements(story: Story) -> None:
    lab = story.lab
    culprit = lab.gateways[0]
    manifest = lab.manifest().manifest_id
    header = genesis_block(lab.genesis, story.bench.state).header
    proof = encode_canonical(story.bench.state.tree.prove(manifest_key(manifest, FLEET)).to_value())

    def case(
        *,
        header: Header = header,
        proof: bytes = proof,
        named: Header | None = None,
        chain: bytes = lab.chain_id,
        **changes: object,
    ) -> SignedTransaction:
        named = header if named is None else named
        values: dict[str, object] = {
            "era": 0,
            "author": culprit.did,
            "topic": group_topic(lab.chain_id, FLEET),
            "manifest": manifest,
            "height": named.height,
            "block_id": named.block_id,
            **changes,
        }
        content = Announcement(**values)
        key = culprit.key(KeyPurpose.NODE)
        signed = sign_announcement(content, key, chain)
        evidence = FalseAnnouncement(
            announcement=signed.signed.raw, header=header.encoded, proof=proof
        )
        return _send(story, ReportContradiction(subject=culprit.did, evidence=evidence))

    other_key = encode_canonical(story.bench.state.tree.prove(b"m/other").to_value())
    topic = group_topic(sha256(b"another"), FLEET)
    for code, name, signed in (
        ("contradiction.subject", "an announcement by another", case(author=lab.gateways[1].did)),
        ("contradiction.era", "an announcement of another era", case(era=1)),
        ("contradiction.consistent", "a head is announced", case(manifest=None)),
        ("contradiction.chain", "a topic of another chain", case(topic=topic)),
        ("contradiction.chain", "the topic of heads", case(topic=heads_topic(lab.chain_id))),
        (
            "contradiction.chain",
            "a header of another chain",
            case(header=replace(header, chain=sha256(b"c"))),
        ),
        ("contradiction.header", "another header", case(named=replace(header, proposer=1))),
        ("contradiction.header", "another height", case(height=5)),
        ("contradiction.signature", "an announcement for another chain", case(chain=sha256(b"c"))),
        ("contradiction.proof", "a proof of something else", case(proof=other_key)),
        (
            "contradiction.proof",
            "a proof under another root",
            case(header=replace(header, state_root=sha256(b"r"))),
        ),
        ("contradiction.malformed", "a proof that is none", case(proof=b"\xa0")),
    ):
        story.no(code, name, signed)
    story.ok("report.contradiction by an announcement", case())
    _announced_later(story, header, case)


def _announced_later(story: Story, header: Header, case: Callable[..., SignedTransaction]) -> None:
    """An announcement is judged by the state of the header that it names."""
    lab = story.lab
    story.back("genesis")
    release = lab.manifest()
    story.ok("proposed and not authorised", lab.propose(release))
    shown = encode_canonical(
        story.bench.state.tree.prove(manifest_key(release.manifest_id, FLEET)).to_value()
    )
    proposed = replace(header, height=1, state_root=story.bench.state.tree.root)
    story.ok("announced when merely proposed", case(header=proposed, proof=shown))
    story.back("proposed and not authorised")
    story.ok("authorised", lab.approve(release.manifest_id))
    shown = encode_canonical(
        story.bench.state.tree.prove(manifest_key(release.manifest_id, FLEET)).to_value()
    )
    authorised = replace(header, height=2, state_root=story.bench.state.tree.root)
    story.no(
        "contradiction.consistent",
        "announced when authorised",
        case(header=authorised, proof=shown),
    )


def _capability(story: Story, **changes: object) -> Capability:
    values: dict[str, object] = {
        "subject": story.lab.gateways[0].did,
        "group": OTHER,
        "verbs": (Verb.FETCH, Verb.SERVE),
        "product": PRODUCT,
        "expires_ms": story.bench.time_ms + HOUR_MS,
        **changes,
    }
    return Capability(**values)


def capabilities_story() -> Story:
    """`cap.grant`, `cap.revoke`, and what a publisher may do by one."""
    story = Story("capabilities", groups=[make_group(OTHER)])
    lab, bench = story.lab, story.bench
    first, _ = lab.gateways
    good = _capability(story)

    def granting(
        capability: Capability, count: int = 2, raw: bytes | None = None, nonce: int | None = None
    ) -> SignedTransaction:
        approvals = story.agree(Action.GRANT, capability.capability_id, count, group=OTHER)
        body = GrantCapability(
            capability=capability.encode() if raw is None else raw, approvals=approvals
        )
        return lab.transaction(lab.gateways[1], body, nonce=nonce)

    def withdrawing(capability: Capability, count: int = 2) -> SignedTransaction:
        approvals = story.agree(Action.WITHDRAW, capability.capability_id, count, group=OTHER)
        return _send(
            story, RevokeCapability(capability=capability.capability_id, approvals=approvals)
        )

    now_ms = bench.time_ms + 1000
    nobody = _capability(story, subject=sha256(b"nobody"))
    nowhere = _capability(story, group="nowhere")
    elsewhere = GrantCapability(capability=nowhere.encode(), approvals=(b"",))
    for code, name, signed in (
        ("cap.malformed", "no capability", granting(good, raw=b"\xa0")),
        ("cap.expired", "a moment too late", granting(_capability(story, expires_ms=now_ms - 1))),
        ("cap.subject", "given to nobody", granting(nobody)),
        ("group.unknown", "by no group", _send(story, elsewhere)),
        ("approval.threshold", "by one owner", granting(good, 1)),
        ("cap.unknown", "withdrawn before it is given", withdrawing(good)),
    ):
        story.no(code, name, signed)
    story.ok("in force at its last moment", granting(_capability(story, expires_ms=now_ms)))
    story.back("genesis")
    story.ok("cap.grant", granting(good))
    story.no("cap.known", "granted twice", granting(good))
    story.no("approval.threshold", "withdrawn by one owner", withdrawing(good, 1))
    story.ok("cap.revoke", withdrawing(good))
    story.no("cap.withdrawn", "withdrawn twice", withdrawing(good))
    story.no("cap.known", "granted again after that", granting(good))
    story.back("genesis")
    many = [granting(_capability(story, issue=issue), nonce=issue) for issue in range(16)]
    story.ok("sixteen capabilities", *many)
    story.no("cap.count", "a seventeenth", granting(_capability(story, issue=16)))
    story.wait(2 * HOUR_MS)
    story.ok("void ones make room", granting(_capability(story, issue=16)))
    story.back("genesis")
    story.ok("the holder is revoked", revocation(bench, first.did))
    story.no("cap.subject", "given to who is revoked", granting(good))
    _publishing(story, granting)
    return story


def _publishing(story: Story, granting: object) -> None:
    lab = story.lab
    story.back("genesis")
    manifest = lab.manifest(groups=(OTHER,))
    story.no("manifest.publisher", "proposed without a capability", lab.propose(manifest))
    assert callable(granting)
    for name, verbs, product, is_allowed in (
        ("to publish", (Verb.PUBLISH,), PRODUCT, True),
        ("to publish another product", (Verb.PUBLISH,), "fan", False),
        ("to fetch", (Verb.FETCH,), PRODUCT, False),
    ):
        story.back("genesis")
        capability = _capability(
            story,
            subject=lab.publisher.did,
            verbs=verbs,
            product=product,
            expires_ms=GENESIS_MS + HOUR_MS,
        )
        story.ok(f"a capability {name}", granting(capability))
        if not is_allowed:
            story.no(
                "manifest.publisher", f"proposed by a capability {name}", lab.propose(manifest)
            )
            continue
        story.ok(f"proposed by a capability {name}", lab.propose(manifest))
        story.back(f"a capability {name}")
        story.wait(HOUR_MS)
        story.no("manifest.publisher", "proposed by a void capability", lab.propose(manifest))

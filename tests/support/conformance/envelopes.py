"""Envelopes, shares, lanes, whole blocks (L40, quotas.md, E10)."""

from __future__ import annotations

from dataclasses import replace

from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.subject import CreateSubject, SuspendSubject
from protocol.approval import Action
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import ChainId, sha256
from protocol.transaction import SignedTransaction, sign_transaction
from tests.support.conformance.story import Story
from tests.support.ledger import FLEET, HOUR_MS, Member, owner_keys

DAY_MS = 24 * HOUR_MS


def _anchor(story: Story, member: Member, size: int = 1, **options: int) -> SignedTransaction:
    return story.lab.transaction(member, AnchorReceipts(size=size, root=sha256(b"r")), **options)


def envelope_story() -> Story:
    """One thing wrong with an envelope each; the limits themselves pass."""
    story = Story("envelope")
    lab = story.lab
    first = lab.gateways[0]
    good = _anchor(story, first)
    now_ms = story.bench.time_ms + 1000
    for code, name, changes in (
        ("tx.era", "another era", {"era": 1}),
        ("tx.signer", "nobody signs", {"signer": sha256(b"nobody")}),
        ("tx.expired", "valid until just before now", {"valid_until_ms": now_ms - 1}),
        ("tx.lifetime", "valid for too long", {"valid_until_ms": now_ms + DAY_MS + 1}),
        ("tx.nonce_ahead", "nonce 16 above", {"nonce": 16}),
        ("tx.body", "unknown kind", {"kind": "coin.mint"}),
        ("tx.body", "empty body", {"body": {}}),
        ("tx.body", "unknown critical field", {"body": {**good.transaction.body, 7: 1}}),
        ("tx.body", "field of another type", {"body": {0: True, 1: sha256(b"r")}}),
    ):
        story.no(code, name, story.altered(good, first, **changes))
    story.no("tx.malformed", "no bytes", b"")
    story.no("tx.malformed", "one byte too few", good.signed.raw[:-1])
    story.no("tx.malformed", "one byte too many", good.signed.raw + b"\0")
    _signatures(story, good)
    story.ok(
        "extensions are ignored", story.altered(good, first, body={**good.transaction.body, -1: 0})
    )
    story.no("tx.nonce", "replay of nonce 0", good)
    story.back("genesis")
    story.ok(
        "limits of nonce and time", story.altered(good, first, nonce=15, valid_until_ms=now_ms)
    )
    later = story.bench.time_ms + 1000 + DAY_MS
    story.ok("a day ahead", story.altered(good, first, nonce=0, valid_until_ms=later))
    story.no("tx.nonce", "nonce 15 again", _anchor(story, first, nonce=15))
    _approvals(story)
    return story


def _signatures(story: Story, good: SignedTransaction) -> None:
    lab = story.lab
    first, second = lab.gateways
    other_chain = ChainId(sha256(b"another chain"))
    foreign = sign_transaction(good.transaction, first.key(KeyPurpose.NODE), other_chain)
    story.no("tx.signature", "signed for another chain", foreign)
    for name, key in (
        ("another member's key", second.key(KeyPurpose.NODE)),
        ("the transport key", first.key(KeyPurpose.TRANSPORT)),
    ):
        forged = sign_transaction(good.transaction, key, lab.chain_id)
        story.no("tx.signature", name, forged)
    person = Member(label="a person", kind=SubjectKind.PERSON, groups=(FLEET,))
    lists = (story.agree(Action.ENROL, person.did),)
    story.ok(
        "a person enters", lab.transaction(second, CreateSubject(join=person.join, approvals=lists))
    )
    by_person = replace(good.transaction, signer=person.did)
    signed = sign_transaction(by_person, person.key(KeyPurpose.PERSON), lab.chain_id)
    story.no("tx.signer_key", "persons submit nothing", signed)
    suspended = SuspendSubject(
        did=first.did, group=FLEET, approvals=story.agree(Action.SUSPEND, first.did)
    )
    story.ok("the signer is suspended", lab.transaction(second, suspended))
    story.no("tx.signer_status", "a suspended signer", _anchor(story, first))
    story.back("genesis")


def _approvals(story: Story) -> None:
    """One thing wrong with an approval each (L42), by the example of `did.suspend`."""
    lab, action = story.lab, Action.SUSPEND
    first, second = lab.gateways
    keys = owner_keys(FLEET)
    good = lab.approval(action, first.did, keys[0])

    def suspending(*approvals: bytes) -> SignedTransaction:
        body = SuspendSubject(did=first.did, group=FLEET, approvals=approvals)
        return lab.transaction(second, body)

    def one(**options: object) -> bytes:
        return lab.approval(
            options.pop("action", action),  # type: ignore[arg-type]
            options.pop("subject", first.did),  # type: ignore[arg-type]
            options.pop("key", keys[1]),  # type: ignore[arg-type]
            **options,
        )

    now_ms = story.bench.time_ms + 1000
    for code, name, approval in (
        ("approval.malformed", "an approval that is none", b"\x80"),
        ("approval.era", "an approval of another era", one(era=1)),
        ("approval.action", "an approval of something else", one(action=Action.ENROL)),
        ("approval.subject", "an approval about another", one(subject=second.did)),
        (
            "approval.group",
            "an approval of another group",
            one(group="pumps", policy=lab.policy_id()),
        ),
        ("approval.policy", "an approval under another policy", one(policy=sha256(b"p"))),
        ("approval.expired", "an approval too late", one(valid_until_ms=now_ms - 1)),
        ("approval.owner", "an approval by nobody's key", one(key=lab.governance[0])),
        ("approval.signature", "an approval for another chain", one(chain=sha256(b"c"))),
        ("approval.duplicate", "an owner twice", good),
    ):
        story.no(code, name, suspending(good, approval))
    story.no("approval.threshold", "one owner of two", suspending(good))
    story.no("tx.body", "no approval at all", suspending())
    story.ok("an approval to its last moment", suspending(good, one(valid_until_ms=now_ms)))


def shares_story() -> Story:
    """Hourly bounds and the share of lanes in a block."""
    story = Story("shares", gateways=2)
    lab = story.lab
    first, second = lab.gateways
    for turn in range(8):
        body = lab.rotation(first)
        story.ok(f"rotation {turn + 1} in this hour", lab.transaction(second, body))
        first.rotation += 1
    ninth = lab.rotation(first)
    story.no("tx.rate", "a ninth rotation in this hour", lab.transaction(second, ninth))
    story.no("tx.nonce", "order matters: the same twice in a block", *[_anchor(story, second)] * 2)
    story.ok("the signer's other kinds go on", _anchor(story, second))
    story.wait(HOUR_MS)
    story.ok("the next hour counts anew", lab.transaction(second, ninth))
    first.rotation += 1
    story.back("genesis")
    first.rotation = 0
    _lanes(story)
    return story


def _lanes(story: Story) -> None:
    """384 ordinary transactions fill the ordinary part of a block (Q30)."""
    lab = story.lab
    second = lab.gateways[1]
    anchors = [_anchor(story, second, size, nonce=size) for size in range(385)]
    manifest = lab.manifest()
    story.ok("a proposal", lab.propose(manifest))
    story.no("block.share", "one ordinary transaction too many", *anchors)
    revocation = lab.revoke(manifest.manifest_id)
    story.ok("ordinary ones up to the share, and one that protects", *anchors[:384], revocation)

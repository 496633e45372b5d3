"""Convictions: nothing but the culprit's own signatures, and never those of an honest node."""

from __future__ import annotations

import pytest

from ledger.bodies.defence import ReleaseQuarantine, ReportContradiction, release_digest
from ledger.bodies.receipt import AnchorReceipts
from ledger.contradiction import verify_contradiction
from ledger.errors import LedgerError
from ledger.standing import conviction_of, quarantine_level, quarantine_of, reputation
from ledger.state_keys import latest_key, manifest_key
from ledger.transition.kinds import decode_body
from protocol.announcement import Announcement, sign_announcement
from protocol.approval import Action
from protocol.contradiction import (
    ConflictingAnchors,
    FalseAnnouncement,
    Offence,
    read_contradiction,
)
from protocol.defence import DefenceRules, QuarantineLevel
from protocol.did import KeyPurpose
from protocol.digest import BlockId, ManifestId, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.transaction import Transaction, sign_transaction
from protocol.version import group_topic, heads_topic
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    HOUR_MS,
    advance,
    make_bench,
    make_lab,
    make_policy,
)

ONE, TWO = sha256(b"1"), sha256(b"2")


def anchor(lab, member, *, size=3, root=ONE, nonce=7, era=0, kind="receipt.anchor", chain=None):
    transaction = Transaction(
        era=era,
        signer=member.did,
        nonce=nonce,
        valid_until_ms=GENESIS_MS + HOUR_MS,
        kind=kind,
        body=AnchorReceipts(size=size, root=root).to_value(),
    )
    key = member.key(KeyPurpose.NODE)
    return sign_transaction(transaction, key, chain or lab.chain_id).signed.raw


def pair(first, second):
    return ConflictingAnchors(*sorted((first, second)))


def judge(lab, evidence, member):
    verify_contradiction(
        evidence, member.did, member.key(KeyPurpose.NODE).public, chain=lab.chain_id, era=0
    )


def refusal(lab, evidence, member):
    with pytest.raises(LedgerError) as caught:
        judge(lab, evidence, member)
    return caught.value.rule


# -- anchors ----------------------------------------------------------------------------------


def test_two_roots_for_one_size_convict_their_signer_alone():
    lab = make_lab()
    culprit, other = lab.gateways
    evidence = pair(anchor(lab, culprit), anchor(lab, culprit, root=TWO))
    judge(lab, evidence, culprit)
    assert refusal(lab, evidence, other) == "contradiction.subject"


def test_anchors_that_may_both_be_honest_convict_nobody():
    lab = make_lab()
    node, other = lab.gateways
    honest = anchor(lab, node)
    cases = {
        "contradiction.consistent": [
            anchor(lab, node, size=4, root=TWO),
            anchor(lab, node, nonce=8),
            anchor(lab, node, root=TWO, kind="report.tamper"),
        ],
        "contradiction.era": [anchor(lab, node, root=TWO, era=1)],
        "contradiction.signature": [anchor(lab, node, root=TWO, chain=sha256(b"another chain"))],
        "contradiction.subject": [anchor(lab, other, root=TWO)],
    }
    for rule, candidates in cases.items():
        for candidate in candidates:
            assert refusal(lab, pair(honest, candidate), node) == rule


def test_a_key_that_was_rotated_away_convicts_nobody():
    lab = make_lab()
    node = lab.gateways[0]
    evidence = pair(anchor(lab, node), anchor(lab, node, root=TWO))
    node.rotation = 1
    assert refusal(lab, evidence, node) == "contradiction.signature"


def test_altered_bytes_convict_nobody():
    lab = make_lab()
    node = lab.gateways[0]
    first, second = anchor(lab, node), anchor(lab, node, root=TWO)
    for position in range(0, len(second), 7):
        altered = bytearray(second)
        altered[position] ^= 1
        if bytes(altered) == first:
            continue
        with pytest.raises(LedgerError):
            judge(lab, pair(first, bytes(altered)), node)


# -- announcements ----------------------------------------------------------------------------


class Story:
    """A chain on which a manifest is proposed at one height and authorised at the next."""

    def __init__(self):
        self.lab = make_lab()
        self.chain = self.lab.open_chain()
        self.manifest = self.lab.manifest()
        advance(self.lab, self.chain, [self.lab.propose(self.manifest)])
        self.before = self.chain.tip
        advance(self.lab, self.chain, [self.lab.approve(self.manifest.manifest_id)])
        self.after = self.chain.tip

    def announce(self, tip, **changes):
        author = self.lab.gateways[0]
        values = {
            "era": 0,
            "author": author.did,
            "topic": group_topic(self.lab.chain_id, FLEET),
            "manifest": self.manifest.manifest_id,
            "height": tip.header.height,
            "block_id": tip.header.block_id,
            **changes,
        }
        key = author.key(KeyPurpose.NODE)
        return sign_announcement(Announcement(**values), key, self.lab.chain_id).signed.raw

    def evidence(self, tip, announcement=None, *, key=None, state=None):
        key = key or manifest_key(self.manifest.manifest_id, FLEET)
        return FalseAnnouncement(
            announcement or self.announce(tip),
            tip.header.encoded,
            (state or tip.state).tree.prove(key).encode(),
        )


@pytest.fixture(scope="module")
def story():
    return Story()


def test_announcing_before_the_owners_decided_convicts(story):
    judge(story.lab, story.evidence(story.before), story.lab.gateways[0])


def test_announcing_what_was_never_proposed_convicts(story):
    unknown = ManifestId(sha256(b"never proposed"))
    announcement = story.announce(story.before, manifest=unknown)
    evidence = story.evidence(story.before, announcement, key=manifest_key(unknown, FLEET))
    judge(story.lab, evidence, story.lab.gateways[0])


def test_an_honest_announcement_convicts_nobody_however_late(story):
    node = story.lab.gateways[0]
    honest = story.announce(story.after)
    assert refusal(story.lab, story.evidence(story.after, honest), node) == (
        "contradiction.consistent"
    )
    # Held against another header than it names, it shows nothing either.
    assert refusal(story.lab, story.evidence(story.before, honest), node) == "contradiction.header"


def test_an_announcement_that_a_revocation_overtook_convicts_nobody():
    story = Story()
    advance(story.lab, story.chain, [story.lab.revoke(story.manifest.manifest_id)])
    tip = story.chain.tip
    assert refusal(story.lab, story.evidence(tip), story.lab.gateways[0]) == (
        "contradiction.consistent"
    )


def test_evidence_with_one_thing_wrong(story):
    lab, tip = story.lab, story.before
    node, other = lab.gateways
    topic = group_topic(sha256(b"other"), FLEET)
    good = story.evidence(tip)
    cases = [
        ("subject", good, other),
        ("era", story.evidence(tip, story.announce(tip, era=1)), node),
        ("chain", story.evidence(tip, story.announce(tip, topic=topic)), node),
        ("chain", story.evidence(tip, story.announce(tip, topic=heads_topic(lab.chain_id))), node),
        ("consistent", story.evidence(tip, story.announce(tip, manifest=None)), node),
        ("header", story.evidence(tip, story.announce(tip, height=9)), node),
        ("header", story.evidence(tip, story.announce(tip, block_id=BlockId(ONE))), node),
        ("proof", story.evidence(tip, key=latest_key(FLEET, "pump")), node),
        ("proof", story.evidence(tip, state=story.after.state), node),
        ("malformed", FalseAnnouncement(b"", good.header, good.proof), node),
        ("malformed", FalseAnnouncement(good.announcement, b"\xa0", good.proof), node),
        ("malformed", FalseAnnouncement(good.announcement, good.header, b"\xa0"), node),
    ]
    for rule, evidence, member in cases:
        assert refusal(lab, evidence, member) == f"contradiction.{rule}"


# -- what a conviction does -------------------------------------------------------------------


def convict(bench, member, root=TWO):
    lab = bench.lab
    evidence = pair(anchor(lab, member), anchor(lab, member, root=root))
    body = ReportContradiction(subject=member.did, evidence=evidence)
    return lab.transaction(lab.gateways[1], body)


def test_a_conviction_takes_exchange_and_word_and_is_given_once_for_each_list_of_keys():
    bench = make_bench(policy=make_policy(defence=DefenceRules()))
    node = bench.lab.gateways[0]
    bench.apply(convict(bench, node))
    record = conviction_of(bench.state, node.did)
    assert (record.offence, record.rotations) == (Offence.CONFLICTING_ANCHORS, 0)
    level = quarantine_level(bench.state, node.did, FLEET, bench.time_ms + 10**12)
    assert level is QuarantineLevel.NO_EXCHANGE
    assert reputation(bench.state, node.did, FLEET, DefenceRules(), bench.time_ms) == 0
    again = convict(bench, node, root=sha256(b"3"))
    assert bench.refusal(again).rule == "contradiction.known"
    bench.lab.nonces[bench.lab.gateways[1].did] -= 1
    bench.apply(bench.lab.transaction(bench.lab.gateways[1], bench.lab.rotation(node)))
    node.rotation = 1
    bench.apply(convict(bench, node))
    assert conviction_of(bench.state, node.did).rotations == 1


def test_owners_release_whom_they_trust_and_the_conviction_stays_on_record():
    bench = make_bench()
    lab, node = bench.lab, bench.lab.gateways[0]
    bench.apply(convict(bench, node))
    sequence = quarantine_of(bench.state, node.did, FLEET).sequence + 1
    approvals = lab.approvals(Action.RELEASE, release_digest(node.did, FLEET, sequence))
    body = ReleaseQuarantine(subject=node.did, group=FLEET, approvals=approvals)
    bench.apply(lab.transaction(lab.gateways[1], body))
    level = quarantine_level(bench.state, node.did, FLEET, bench.time_ms)
    assert level is QuarantineLevel.NONE
    assert conviction_of(bench.state, node.did) is not None
    assert bench.refusal(convict(bench, node)).rule == "contradiction.known"


def test_a_validator_that_contradicts_itself_keeps_its_seat():
    bench = make_bench()
    validator = bench.lab.validators[0]
    bench.apply(convict(bench, validator))
    level = quarantine_level(bench.state, validator.did, FLEET, bench.time_ms)
    assert level is QuarantineLevel.NO_EXCHANGE
    own = bench.lab.transaction(validator, AnchorReceipts(size=1, root=ONE))
    bench.apply(own)  # its transactions, and its votes, count as before


# -- form -------------------------------------------------------------------------------------


def test_evidence_has_one_form():
    evidence = pair(b"a", b"b")
    value = decode_canonical(encode_canonical(evidence.to_value()), bytes_max=100)
    assert read_contradiction(value) == evidence
    claim = FalseAnnouncement(b"a", b"h", b"p")
    assert read_contradiction(claim.to_value()) == claim
    for bad in (
        [],
        {},
        [1, b"a"],
        [1, b"b", b"a"],
        [1, b"a", b"a"],
        [2, b"a", b"h"],
        [3, b"a", b"b"],
        [True, b"a", b"b"],
        [1, b"a", b"b" * 1025],
        [2, b"a" * 1025, b"h", b"p"],
        [2, b"a", b"h" * 4097, b"p"],
        [2, b"a", b"h", b"p" * 12289],
    ):
        with pytest.raises(EncodingError):
            read_contradiction(bad)
        with pytest.raises(EncodingError):
            decode_body("report.contradiction", {0: ONE, 1: bad})

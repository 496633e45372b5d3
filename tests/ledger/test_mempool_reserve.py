"""A group turns its own owners' approvals against the lane that protects; others must pass."""

from __future__ import annotations

import pytest

from ledger import chain_blocks
from ledger import mempool as mempool_module
from ledger.bodies.defence import SetQuarantine, quarantine_digest
from ledger.bodies.subject import CreateSubject
from ledger.errors import LedgerNotYetError
from ledger.transition.kinds import decode_body
from protocol.approval import Action
from protocol.defence import QuarantineLevel
from protocol.did import SubjectKind
from protocol.digest import PolicyId
from protocol.limits import NONCE_WINDOW
from tests.support.ledger import (
    GENESIS_MS,
    HOUR_MS,
    Member,
    advance,
    build_next,
    make_group,
    make_lab,
    make_policy,
    owner_keys,
)

HOSTILE = "hostile"
ALONE = make_policy(enrol_threshold=1, revoke_threshold=1)
"""One key of the hostile group admits members and puts them into quarantine."""
PLACES = 128
"""Of the small mempool: 32 are reserved, a sponsor may have 16 of them."""
BLOCK = 4
"""Transactions that a leader takes."""


class Siege:
    """A chain with a victim's group and a hostile one that has as many members as it wants."""

    def __init__(self, kind=SubjectKind.GATEWAY, members=PLACES // NONCE_WINDOW):
        self.lab = make_lab(groups=[make_group(HOSTILE, ALONE)])
        self.chain = self.lab.open_chain()
        self.manifest = self.lab.manifest()
        self.members = [
            Member(label=f"hostile-{index}", kind=kind, groups=(HOSTILE,))
            for index in range(members)
        ]
        admissions = [self.admit(member) for member in self.members]
        advance(self.lab, self.chain, [self.lab.propose(self.manifest), *admissions])

    def by_owner(self, action, subject):
        policy = PolicyId(ALONE.policy_id)
        key = owner_keys(HOSTILE)[0]
        return (self.lab.approval(action, subject, key, group=HOSTILE, policy=policy),)

    def admit(self, member):
        approvals = (self.by_owner(Action.ENROL, member.did),)
        body = CreateSubject(join=member.join, approvals=approvals)
        return self.lab.transaction(self.lab.gateways[1], body)

    def quarantine(self, signer, subject):
        """Valid, of a protecting kind, about nobody but the hostile group."""
        until_ms = GENESIS_MS + 500 * HOUR_MS
        level = QuarantineLevel.NO_SERVING
        digest = quarantine_digest(subject.did, HOSTILE, level=level, until_ms=until_ms, sequence=1)
        body = SetQuarantine(
            subject=subject.did,
            group=HOSTILE,
            level=level,
            until_ms=until_ms,
            approvals=self.by_owner(Action.QUARANTINE, digest),
        )
        return self.lab.transaction(signer, body)

    def submit(self, signed):
        self.chain.submit(signed.signed.raw, now_ms=self.chain.head.time_ms + 1)

    def flood(self):
        """Every member fills its nonce window, each with transactions about every member."""
        for shift in range(NONCE_WINDOW):
            for index, signer in enumerate(self.members):
                subject = self.members[(index + shift) % len(self.members)]
                try:
                    self.submit(self.quarantine(signer, subject))
                except LedgerNotYetError:
                    self.lab.nonces[signer.did] -= 1

    @property
    def reserved(self):
        return self.chain.mempool.statistics().reserved_count


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(mempool_module, "TRANSACTIONS_MAX", PLACES)
    monkeypatch.setattr(mempool_module, "TENANT_TRANSACTIONS_MAX", 24)
    monkeypatch.setattr(chain_blocks, "BLOCK_TRANSACTIONS_MAX", BLOCK)


@pytest.fixture(name="siege", params=[SubjectKind.GATEWAY, SubjectKind.PUBLISHER])
def _siege(request, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(chain_blocks, "BLOCK_TRANSACTIONS_MAX", 512)
        return Siege(request.param)


def test_a_flood_of_one_groups_protection_leaves_room_for_anothers_revocation(siege):
    siege.flood()
    assert siege.reserved >= BLOCK, "the flood is real: it alone fills blocks"
    revocation = siege.lab.revoke(siege.manifest.manifest_id)
    siege.submit(revocation)
    block = build_next(siege.chain)
    assert len(block.transactions) == BLOCK
    assert revocation.signed.raw in block.transactions


def tallied(siege):
    """What the reserve's counters say of sponsors, once signers' agree."""
    mempool = siege.chain.mempool
    sponsors, signers = mempool._sponsors, mempool._reserved_signers
    for tallies in (sponsors, signers):
        assert sum(tally.count for tally in tallies.values()) == siege.reserved
    sizes = [sum(tally.size_bytes for tally in part.values()) for part in (sponsors, signers)]
    assert sizes[0] == sizes[1] == mempool._all.size_bytes - mempool._ordinary.size_bytes
    return {name: tally.count for name, tally in sponsors.items()}


def test_a_sponsor_holds_its_part_of_the_reserve_and_what_is_beyond_moves_up(siege):
    siege.flood()
    mempool = siege.chain.mempool
    assert tallied(siege) == {HOSTILE: NONCE_WINDOW}
    beyond = len(mempool) - NONCE_WINDOW
    assert beyond > 0, "more waits as ordinary transactions do"
    block = build_next(siege.chain)
    siege.chain.commit(block.block_id, siege.lab.certificate(block))
    assert siege.chain.mempool.pending, "some still wait"
    assert tallied(siege)[HOSTILE] <= NONCE_WINDOW
    while mempool.pending:
        block = build_next(siege.chain)
        siege.chain.commit(block.block_id, siege.lab.certificate(block))
        assert tallied(siege).get(HOSTILE, 0) == min(NONCE_WINDOW, len(mempool))
    assert tallied(siege) == {}


def test_sponsors_take_turns_and_the_oldest_of_each_goes_first():
    siege = Siege(members=2)
    first, second = siege.members
    hostile = [siege.quarantine(*pair) for pair in ((first, first), (second, second))]
    revocations = [siege.lab.revoke(siege.manifest.manifest_id) for _ in range(2)]
    for signed in (*hostile, *revocations):
        siege.submit(signed)
    order = [hostile[0], revocations[0], hostile[1], revocations[1]]
    assert list(siege.chain.mempool.select()) == order


def test_one_signer_fills_its_bytes_of_the_reserve_only(monkeypatch):
    siege = Siege(members=2)
    first, second = siege.members
    one = siege.quarantine(first, first)
    monkeypatch.setattr(mempool_module, "RESERVED_SIGNER_BYTES_MAX", len(one.signed.raw))
    for signed in (one, siege.quarantine(first, second), siege.quarantine(second, second)):
        siege.submit(signed)
    assert siege.reserved == 2
    assert len(siege.chain.mempool) == 3


def test_a_sponsors_bytes_are_bounded_too(monkeypatch):
    siege = Siege(members=2)
    first, second = siege.members
    one = siege.quarantine(first, first)
    monkeypatch.setattr(mempool_module, "BYTES_MAX", 16 * len(one.signed.raw))
    for signed in (one, siege.quarantine(second, second)):
        siege.submit(signed)
    assert siege.reserved == 1
    siege.submit(
        siege.lab.transaction(siege.lab.gateways[0], body_of(siege.quarantine(first, second)))
    )
    assert tallied(siege).keys() == {HOSTILE, "fleet"}, "anybody may bring it for them"


def test_validators_answer_for_themselves():
    siege = Siege(members=1)
    validator = siege.lab.validators[0]
    siege.submit(siege.quarantine(validator, siege.members[0]))
    assert tallied(siege) == {validator.did: 1}


def body_of(signed):
    return decode_body(signed.transaction.kind, signed.transaction.body)

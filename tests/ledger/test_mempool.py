"""Bounds, order and re-validation of waiting transactions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import mempool as mempool_module
from ledger.bodies.manifest import ProposeManifest
from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.subject import SuspendSubject
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.mempool import BYTES_MAX, TRANSACTIONS_MAX, Mempool
from protocol.approval import Action
from protocol.digest import sha256
from protocol.limits import BLOCK_BYTES_MAX, NONCE_WINDOW, TRANSACTION_LIFETIME_MS_MAX
from tests.support.ledger import FLEET, GENESIS_MS, make_bench


class Pool:
    """A mempool beside a bench."""

    def __init__(self, **arguments):
        self.bench = make_bench(**arguments)
        self.lab = self.bench.lab
        self.mempool = Mempool()

    @property
    def context(self):
        return self.lab.context(height=self.bench.height + 1, time_ms=self.bench.time_ms + 1)

    def add(self, signed):
        return self.mempool.add(signed.signed.raw, self.bench.state, self.context)

    def refusal(self, signed):
        before = (self.mempool.pending, self.mempool.statistics())
        with pytest.raises(LedgerError) as caught:
            self.add(signed)
        assert (self.mempool.pending, self.mempool.statistics()) == before
        return caught.value

    def anchor(self, index=0, *, nonce=None, size=1, **arguments):
        body = AnchorReceipts(size=size, root=sha256(b"r"))
        return self.lab.transaction(self.lab.gateways[index], body, nonce=nonce, **arguments)

    def finalize(self, *transactions):
        for signed in transactions:
            self.bench.apply(signed)
        return self.mempool.revalidate(
            [signed.transaction_id for signed in transactions], self.bench.state, self.context
        )


def test_what_is_valid_waits_and_can_be_read_back():
    pool = Pool()
    signed = pool.anchor()
    assert pool.add(signed) == signed
    assert signed.transaction_id in pool.mempool
    assert len(pool.mempool) == 1
    assert pool.mempool.get(signed.transaction_id) == signed.signed.raw
    assert pool.mempool.pending == (signed.transaction_id,)
    assert list(pool.mempool.select()) == [signed]
    pool.mempool.remove(signed.transaction_id)
    pool.mempool.remove(signed.transaction_id)
    assert pool.mempool.get(signed.transaction_id) is None
    assert pool.mempool.statistics() == Mempool().statistics()


def test_one_thing_wrong():
    pool = Pool()
    good = pool.anchor(nonce=0)
    pool.add(good)
    stranger = replace(pool.lab.gateways[0], label="stranger")
    too_far = GENESIS_MS + 2 + TRANSACTION_LIFETIME_MS_MAX
    broken = pool.anchor(nonce=1).signed.raw
    broken = broken[:-1] + bytes((broken[-1] ^ 1,))
    body = AnchorReceipts(size=1, root=sha256(b"r"))
    cases = [
        (good, "mempool.known", LedgerError),
        (pool.anchor(nonce=0, size=2), "mempool.nonce", LedgerError),
        (pool.anchor(nonce=NONCE_WINDOW), "tx.nonce_ahead", LedgerNotYetError),
        (pool.anchor(nonce=1, valid_until_ms=too_far), "tx.lifetime", LedgerNotYetError),
        (pool.anchor(nonce=1, valid_until_ms=GENESIS_MS), "tx.expired", LedgerError),
        (pool.lab.transaction(replace_record(stranger), body), "tx.signer", LedgerNotYetError),
        (
            pool.lab.transaction(pool.lab.publisher, ProposeManifest(manifest=b"junk")),
            "manifest.malformed",
            LedgerError,
        ),
    ]
    for signed, rule, kind in cases:
        error = pool.refusal(signed)
        assert (error.rule, type(error)) == (rule, kind)
    for raw, rule in ((broken, "tx.signature"), (b"", "tx.malformed"), (b"\x80", "tx.malformed")):
        with pytest.raises(LedgerError) as caught:
            pool.mempool.add(raw, pool.bench.state, pool.context)
        assert caught.value.rule == rule


def replace_record(member):
    """A member whose record follows its new label."""
    return type(member)(label=member.label, kind=member.kind, groups=member.groups)


def test_what_waits_for_others_is_let_in_but_has_no_reserved_share():
    pool = Pool()
    manifest = pool.lab.manifest()
    revocation = pool.lab.revoke(manifest.manifest_id)
    pool.add(revocation)
    assert pool.mempool.statistics().reserved_count == 0
    proposal = pool.lab.propose(manifest)
    pool.finalize(proposal)
    assert pool.mempool.statistics().reserved_count == 1, "it protects now"


def test_kinds_that_protect_go_first_then_order_of_arrival():
    pool = Pool()
    manifest = pool.lab.manifest()
    pool.finalize(pool.lab.propose(manifest))
    ordinary = [pool.anchor(1), pool.anchor(1, size=2)]
    for signed in ordinary:
        pool.add(signed)
    suspension = SuspendSubject(
        did=pool.lab.publisher.did,
        group=FLEET,
        approvals=pool.lab.approvals(Action.SUSPEND, pool.lab.publisher.did),
    )
    protecting = [
        pool.lab.revoke(manifest.manifest_id),
        pool.lab.transaction(pool.lab.gateways[0], suspension),
    ]
    for signed in protecting:
        pool.add(signed)
    assert list(pool.mempool.select()) == [*protecting, *ordinary]
    assert pool.mempool.statistics().reserved_count == 2


def test_ordinary_transactions_leave_a_quarter_to_those_that_protect(monkeypatch):
    monkeypatch.setattr(mempool_module, "TRANSACTIONS_MAX", 8)
    pool = Pool()
    manifest = pool.lab.manifest()
    pool.finalize(pool.lab.propose(manifest))
    for _ in range(6):
        pool.add(pool.anchor())
    error = pool.refusal(pool.anchor(1))
    assert (error.rule, type(error)) == ("mempool.full", LedgerNotYetError)
    # A bogus revocation does not reach the reserved quarter, a genuine one does.
    other = pool.lab.manifest(sequence=2)
    pool.lab.nonces[pool.lab.gateways[0].did] = 6
    assert pool.refusal(pool.lab.revoke(other.manifest_id)).rule == "mempool.full"
    pool.add(pool.lab.revoke(manifest.manifest_id))
    assert len(pool.mempool) == 7


def test_bytes_are_bounded_in_all_and_for_each_signer(monkeypatch):
    pool = Pool()
    size = len(pool.anchor(nonce=3).signed.raw)
    monkeypatch.setattr(mempool_module, "SIGNER_BYTES_MAX", 2 * size)
    pool.add(pool.anchor())
    pool.add(pool.anchor())
    error = pool.refusal(pool.anchor())
    assert (error.rule, type(error)) == ("mempool.signer", LedgerNotYetError)
    monkeypatch.setattr(mempool_module, "BYTES_MAX", 4 * size)
    pool.add(pool.anchor(1))
    assert pool.refusal(pool.anchor(1)).rule == "mempool.full"
    assert pool.mempool.statistics().size_bytes == 3 * size


def test_bounds_are_checked_before_signatures(monkeypatch):
    monkeypatch.setattr(mempool_module, "TRANSACTIONS_MAX", 0)
    monkeypatch.setattr(mempool_module, "check_envelope", lambda *_: pytest.fail("verified"))
    pool = Pool()
    manifest = pool.lab.manifest()
    assert pool.refusal(pool.anchor()).rule == "mempool.full"
    assert pool.refusal(pool.lab.revoke(manifest.manifest_id)).rule == "mempool.full"


def test_one_signer_never_holds_more_than_its_window():
    pool = Pool()
    for _ in range(NONCE_WINDOW):
        pool.add(pool.anchor())
    assert pool.refusal(pool.anchor()).rule == "tx.nonce_ahead"


def test_after_a_block_everything_is_looked_at_again():
    pool = Pool()
    included, replaced = pool.anchor(nonce=0), pool.anchor(nonce=1)
    brief = pool.anchor(1, valid_until_ms=GENESIS_MS + 1500)
    shrunk, lasting = pool.anchor(nonce=2, size=1), pool.anchor(nonce=3, size=9)
    for signed in (included, replaced, brief, shrunk, lasting):
        pool.add(signed)
    rival = pool.anchor(nonce=1, size=5)
    dropped = pool.finalize(included, rival)
    assert dropped == (replaced.transaction_id, brief.transaction_id, shrunk.transaction_id)
    assert pool.mempool.pending == (lasting.transaction_id,)


def test_a_suspended_signers_transactions_leave():
    pool = Pool()
    waiting = pool.anchor()
    pool.add(waiting)
    did = pool.lab.gateways[0].did
    body = SuspendSubject(did=did, group=FLEET, approvals=pool.lab.approvals(Action.SUSPEND, did))
    assert pool.finalize(pool.lab.transaction(pool.lab.gateways[1], body)) == (
        waiting.transaction_id,
    )


def test_only_so_many_are_judged_in_full_after_a_block(monkeypatch):
    monkeypatch.setattr(mempool_module, "REJUDGED_MAX", 1)
    pool = Pool()
    manifest = pool.lab.manifest()
    pool.finalize(pool.lab.propose(manifest))
    first = pool.lab.revoke(manifest.manifest_id)
    second = pool.lab.transaction(
        pool.lab.gateways[1],
        first_body(first),  # the same revocation by another submitter
    )
    third = pool.lab.revoke(manifest.manifest_id)
    for signed in (first, second):
        pool.add(signed)
    dropped = pool.finalize(third)
    assert dropped == (first.transaction_id,)
    assert pool.mempool.pending == (second.transaction_id,)
    assert pool.finalize() == (second.transaction_id,), "the next block gets to it"


def first_body(signed):
    from ledger.transition.kinds import decode_body

    return decode_body(signed.transaction.kind, signed.transaction.body)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.booleans()), max_size=12))
@settings(max_examples=20)
@pytest.mark.slow
def test_counters_always_equal_what_waits(steps):
    pool = Pool()
    for index, nonce, is_final in steps:
        signed = pool.anchor(index, nonce=nonce, size=nonce + 1)
        try:
            pool.finalize(signed) if is_final else pool.add(signed)
        except LedgerError:
            continue
        finally:
            waiting = [pool.mempool.get(name) for name in pool.mempool.pending]
            statistics = pool.mempool.statistics()
            assert statistics.count == len(waiting)
            assert statistics.size_bytes == sum(len(raw) for raw in waiting)
            tallies = pool.mempool._signers.values(), pool.mempool._tenants.values()
            for held in tallies:
                assert sum(tally.size_bytes for tally in held) == statistics.size_bytes
                assert sum(tally.count for tally in held) == statistics.count
            assert len(pool.mempool._by_nonce) == len(waiting)
            assert pool.mempool._ordinary.size_bytes == statistics.size_bytes


def test_bounds_have_their_stated_proportions():
    assert BYTES_MAX == 32 * BLOCK_BYTES_MAX
    assert TRANSACTIONS_MAX % mempool_module.RESERVED_DIVISOR == 0


def test_a_tenant_fills_its_own_share_only(monkeypatch):
    monkeypatch.setattr(mempool_module, "TENANT_TRANSACTIONS_MAX", 3)
    pool = Pool()
    manifest = pool.lab.manifest()
    pool.finalize(pool.lab.propose(manifest))
    for index in (0, 1, 1):
        pool.add(pool.anchor(index))
    error = pool.refusal(pool.anchor(0))
    assert (error.rule, type(error)) == ("mempool.tenant", LedgerNotYetError)
    pool.add(pool.lab.propose(pool.lab.manifest(sequence=2)))  # the publisher is its own tenant
    pool.lab.nonces[pool.lab.gateways[0].did] = 1
    pool.add(pool.lab.revoke(manifest.manifest_id))  # counted, never refused
    monkeypatch.setattr(mempool_module, "TENANT_TRANSACTIONS_MAX", 9)
    monkeypatch.setattr(mempool_module, "TENANT_BYTES_MAX", 1000)
    assert pool.refusal(pool.anchor(1)).rule == "mempool.tenant"


def test_what_protects_passes_a_signer_that_has_its_fill(monkeypatch):
    pool = Pool()
    manifest = pool.lab.manifest()
    pool.finalize(pool.lab.propose(manifest))
    monkeypatch.setattr(mempool_module, "SIGNER_BYTES_MAX", 300)
    pool.add(pool.anchor())
    assert pool.refusal(pool.anchor()).rule == "mempool.signer"
    pool.lab.nonces[pool.lab.gateways[0].did] = 1
    bogus = pool.lab.revoke(pool.lab.manifest(sequence=7).manifest_id)
    assert pool.refusal(bogus).rule == "mempool.signer"
    pool.lab.nonces[pool.lab.gateways[0].did] = 1
    pool.add(pool.lab.revoke(manifest.manifest_id))


def test_tenants_take_turns_once_more_waits_than_a_block_takes(monkeypatch):
    pool = Pool()
    spam = [pool.anchor(index % 2) for index in range(6)]
    release = pool.lab.propose(pool.lab.manifest())
    for signed in (*spam, release):
        pool.add(signed)
    assert list(pool.mempool.select()) == [*spam, release], "by arrival while all fit"
    monkeypatch.setattr(mempool_module, "ORDINARY_COUNT_MAX", 6)
    assert list(pool.mempool.select()) == [spam[0], release, *spam[1:]]

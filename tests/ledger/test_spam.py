"""One tenant sends all it can while a revocation must pass: real chains, engines and mempools.

Bounds are a sixteenth of production's and execution sixteen times as slow, so that as many blocks
are full at a sixteenth of the work; `benchmarks/spam.py` runs the production bounds.
"""

from __future__ import annotations

import math
import statistics

import pytest

from ledger import chain_blocks
from ledger import mempool as mempool_module
from ledger.transition import block as block_module
from ledger.transition import shares
from ledger.transition.kind import Lane
from tests.support import spam_cluster
from tests.support.spam_cluster import SpamCluster, revocation_s

SCALE = 16
SPAMMERS = 8
"""Their windows hold 128 transactions; their tenant may have 48 waiting, a block takes 24."""


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(shares, "ORDINARY_COUNT_MAX", shares.ORDINARY_COUNT_MAX // SCALE)
    for name in ("ORDINARY_COUNT_MAX", "TENANT_TRANSACTIONS_MAX", "TRANSACTIONS_MAX"):
        monkeypatch.setattr(mempool_module, name, getattr(mempool_module, name) // SCALE)
    for name in ("EXECUTION_S", "JUDGEMENT_S", "BOUND_S"):
        monkeypatch.setattr(spam_cluster, name, getattr(spam_cluster, name) * SCALE)


@pytest.mark.slow
@pytest.mark.untraced
def test_a_revocation_under_full_spam_is_final_in_twice_the_idle_time():
    idle = statistics.median(revocation_s(seed, spammers=0) for seed in range(5))
    loaded = [revocation_s(seed, spammers=SPAMMERS) for seed in range(5)]
    assert statistics.median(loaded) <= 2 * idle, (idle, loaded)


@pytest.mark.slow
def test_the_spam_fills_every_block_and_its_tenants_share():
    cluster = SpamCluster(1, SPAMMERS)
    cluster.spam()
    cluster.world.run_until(4)
    chain = cluster.validators[0].chain
    sizes = [
        len(chain.block(chain.header_at(height).block_id).transactions)
        for height in range(1, chain.head.height + 1)
    ]
    full = shares.ORDINARY_COUNT_MAX
    assert sum(size == full for size in sizes) >= len(sizes) // 2, sizes
    assert max(sizes) == full


def outcome(seed):
    """Time of the revocation, or infinity if it is not final in five seconds."""
    try:
        return revocation_s(seed, spammers=SPAMMERS, within_s=5)
    except AssertionError:
        return math.inf


@pytest.mark.slow
@pytest.mark.untraced
def test_without_lanes_the_same_revocation_does_not_pass(monkeypatch):
    """The planted fault shows that the other tests can fail: its tenant's share is used up."""
    for module in (mempool_module, chain_blocks, block_module):
        monkeypatch.setattr(module, "lane_of", lambda _kind: Lane.ORDINARY)
    idle = statistics.median(revocation_s(seed, spammers=0) for seed in range(3))
    assert statistics.median(outcome(seed) for seed in range(3)) > 2 * idle

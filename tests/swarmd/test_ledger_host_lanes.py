"""What protects is judged before ordinary transactions that came earlier."""

from __future__ import annotations

import threading

import trio
import trio.testing

from ledger.bodies.receipt import AnchorReceipts
from ledger.errors import LedgerError
from protocol.digest import sha256
from protocol.transaction import SignedTransaction
from swarmd.ledger_host import LedgerHost
from tests.support.ledger import GENESIS_MS, advance, make_lab


async def test_a_revocation_overtakes_a_queue_of_ordinary_transactions() -> None:
    lab = make_lab()
    chain = lab.open_chain()
    manifest = lab.manifest()
    advance(lab, chain, [lab.propose(manifest)])
    host = LedgerHost(chain, lambda: GENESIS_MS + 2000)
    revocation = lab.revoke(manifest.manifest_id)
    ordinary = [
        lab.transaction(lab.gateways[1], AnchorReceipts(size=1, root=sha256(b"x")))
        for _ in range(12)
    ]
    free = threading.Event()

    async def submit(*raws: bytes) -> None:
        assert not [
            x for x in await host.submit_all(raws, is_own=False) if isinstance(x, Exception)
        ]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run, free.wait)  # the worker is busy
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(submit, *(signed.signed.raw for signed in ordinary[:6]))
        await trio.testing.wait_all_tasks_blocked()
        for signed in ordinary[6:]:
            nursery.start_soon(submit, signed.signed.raw)
        nursery.start_soon(submit, revocation.signed.raw)
        await trio.testing.wait_all_tasks_blocked()
        free.set()
    assert chain.mempool.pending.index(revocation.transaction_id) == 1
    assert len(chain.mempool) == 13


async def test_each_transaction_of_a_batch_has_its_own_outcome() -> None:
    lab = make_lab()
    chain = lab.open_chain()
    host = LedgerHost(chain, lambda: GENESIS_MS + 2000)
    heard: list[tuple[SignedTransaction, bool]] = []
    host.listen_submissions(lambda signed, taken: heard.append((signed, taken)))
    first, second = (
        lab.transaction(lab.gateways[1], AnchorReceipts(size=1, root=sha256(b"x")))
        for _ in range(2)
    )
    forged = bytearray(second.signed.raw)
    forged[-1] ^= 1
    raws = (first.signed.raw, b"junk", bytes(forged), first.signed.raw, second.signed.raw)
    outcomes = await host.submit_all(raws, is_own=False)
    rules = [item.rule if isinstance(item, LedgerError) else item for item in outcomes]
    assert rules == [
        first.transaction_id,
        "tx.malformed",
        "tx.signature",
        "mempool.known",
        second.transaction_id,
    ]
    assert [taken for _, taken in heard] == [True, False, False, True]
    assert chain.mempool.pending == (first.transaction_id, second.transaction_id)

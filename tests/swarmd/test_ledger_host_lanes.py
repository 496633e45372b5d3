"""What protects is judged before ordinary transactions that came earlier."""

from __future__ import annotations

import trio
import trio.testing

from ledger.bodies.receipt import AnchorReceipts
from protocol.digest import sha256
from swarmd.ledger_host import LedgerHost, claims_protection
from tests.support.ledger import GENESIS_MS, advance, make_lab


async def test_a_revocation_overtakes_a_queue_of_ordinary_transactions():
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

    async def submit(raw: bytes) -> None:
        await host.submit(raw, is_own=False)

    async with trio.open_nursery() as nursery, host._judging:  # one is being judged
        for signed in ordinary:
            nursery.start_soon(submit, signed.signed.raw)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(submit, revocation.signed.raw)
        await trio.testing.wait_all_tasks_blocked()
    assert chain.mempool.pending.index(revocation.transaction_id) == 1
    assert len(chain.mempool) == 13


def test_what_cannot_be_read_claims_nothing():
    lab = make_lab()
    signed = lab.revoke(lab.manifest().manifest_id)
    assert claims_protection(signed.signed.raw)
    for raw in (b"", signed.signed.raw[:-1], b"\x80"):
        assert not claims_protection(raw)

"""Statements for a bundle: who answers first with lies keeps no honest one out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.catchup import Freshness, FreshnessAnswer, FreshnessRequest, sign_freshness
from protocol.digest import BlockId, sha256
from protocol.keys import PrivateKey
from protocol.merkle import leaf_hash
from swarmd.datadir import KeyName
from swarmd.net.address import PeerKey
from swarmd.net.memory import MemoryWire
from swarmd.services.bundle_desk import BundleDesk
from tests.support.swarm import Swarm, swarm
from tests.swarmd.test_bundle_swarm import CONNECTED, export, have_file, take

pytestmark = pytest.mark.slow


def lie(lab: Swarm, nonce: bytes, key: PrivateKey, seats: range, height: int) -> FreshnessAnswer:
    """Statements about a nonce in the name of some seats, signed by one key."""
    root = leaf_hash(nonce)
    signed = (
        sign_freshness(
            Freshness(
                era=0,
                validator=seat,
                epoch=lab["gateway-1"].ledger.chain.validators.epoch,
                height=height,
                block_id=BlockId(sha256(b"no such block")),
                nonces=root,
                time_ms=0,
            ),
            key,
            lab["gateway-1"].ledger.chain_id,
        )
        for seat in seats
    )
    return FreshnessAnswer(statements=tuple((one.signed.raw, 0, (), 1) for one in signed))


@pytest.mark.parametrize("is_validator", [False, True])
async def test_lies_that_come_first_keep_no_honest_statement_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_validator: bool
) -> None:
    """A stolen member's key speaks for every seat; a stolen validator's of a far block."""
    async with swarm(tmp_path) as lab:
        await lab.start(*CONNECTED)
        await lab.until_met(*CONNECTED)
        await lab.start("gateway-2", wire=MemoryWire())
        await lab.release(b"an image of some bytes" * 1000)
        if is_validator:
            key, name = lab.key("validator-4", KeyName.VALIDATOR), "validator-4"
            members = lab["gateway-1"].ledger.chain.validators.members
            seat = next(i for i, one in enumerate(members) if one.key == key.public)
            seats = range(seat, seat + 1)
        else:
            key, name, seats = lab.key("publisher-1"), "publisher-1", range(4)
        liar, honest = lab.peer(name), BundleDesk._ask_one

        async def ask_one(
            desk: BundleDesk,
            peer: PeerKey,
            request: FreshnessRequest,
            keep: Callable[[FreshnessAnswer], None],
        ) -> None:
            keep(lie(lab, request.nonce, key, seats, 2**40))
            if peer != liar:
                await honest(desk, peer, request, keep)

        monkeypatch.setattr(BundleDesk, "_ask_one", ask_one)
        have = await have_file(lab, "gateway-2")
        bundle = await export(lab, tmp_path / "asked.bundle", have)
        assert bundle.statements >= 3
        assert (await take(lab, "gateway-2", bundle.file))["is_fresh"]

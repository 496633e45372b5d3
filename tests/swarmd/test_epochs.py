"""Daemons across the edges of epochs: keys certified, handed over, deleted; late ones catch up."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.bodies.receipt import AnchorReceipts
from protocol.digest import sha256
from protocol.keys import PublicKey
from swarmd.peers import PeerClass
from tests.support.swarm import VALIDATORS, Swarm, swarm, until

SHORT = {"gateways": 1, "publishers": 0, "heartbeat_ms": 1000, "epoch_ms": 3000}
LATE = "validator-4"


def epoch(lab: Swarm, name: str) -> int:
    """The epoch that a node's copy of the ledger is in."""
    return lab[name].ledger.chain.validators.epoch


def vote_keys(lab: Swarm, name: str) -> dict[str, PublicKey]:
    """The vote keys that lie in a node's folder, by file."""
    directory = lab.directory(name)
    return {
        path.stem: directory.load_key(path.stem).public
        for path in directory.keys.glob("validator*.key")
    }


@pytest.mark.slow
async def test_validators_hand_over_to_new_keys_and_delete_the_old(tmp_path: Path) -> None:
    async with swarm(tmp_path, **SHORT) as lab:
        names = (*VALIDATORS, "gateway-1")
        before = {name: vote_keys(lab, name) for name in VALIDATORS}
        await lab.start(*names)
        await lab.until_met(*names)
        await until(lambda: min(epoch(lab, name) for name in names) >= 3, "two epochs end")
        for name in VALIDATORS:
            consensus = lab[name].consensus
            assert consensus is not None
            await until(lambda c=consensus: c.status.may_vote, "it votes with its new key")
            await until(lambda n=name: "validator" not in vote_keys(lab, n), "the first key goes")
            kept = vote_keys(lab, name)
            assert not set(kept.values()) & set(before[name].values())
            assert f"validator-{epoch(lab, name) - 1}" not in kept
            assert consensus.status.halted is None
            assert consensus.status.convicted == ()
        # Members judge each other by the new set, and its answers make knowledge fresh.
        gateway = lab["gateway-1"]
        assert len(gateway.registry.at_least(PeerClass.VALIDATOR)) == 4
        body = AnchorReceipts(size=1, root=sha256(b"x"))
        await lab.submit(body, by="gateway-1")
        assert all(lab[name].ledger.alarm is None for name in names)


@pytest.mark.slow
async def test_a_validator_that_slept_over_two_edges_joins_again(tmp_path: Path) -> None:
    async with swarm(tmp_path, **SHORT) as lab:
        await lab.start(*VALIDATORS)
        await lab.until_met(*VALIDATORS)
        await until(lambda: epoch(lab, LATE) >= 2, "the first epoch ends")
        slept = epoch(lab, LATE)
        await lab.crash(LATE)
        await until(lambda: epoch(lab, VALIDATORS[0]) >= slept + 2, "three go on")
        await lab.start(LATE)
        consensus = lab[LATE].consensus
        assert consensus is not None
        await until(lambda: epoch(lab, LATE) >= slept + 2, "it catches up")
        await until(lambda: consensus.status.may_vote, "it votes again")
        assert consensus.status.halted is None

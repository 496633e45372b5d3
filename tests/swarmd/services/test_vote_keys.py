"""The life of vote keys: certified ahead, once, again when no block took it, deleted when over."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from ledger.bodies.validators import CertifyKey
from protocol.did import KeyPurpose
from protocol.digest import TransactionId, sha256
from protocol.errors import NotYetError
from swarmd.datadir import DataDir, KeyName
from swarmd.entropy import SeededEntropy
from swarmd.epoch_keys import EpochKeys
from swarmd.keys.key_writer import write_key_file
from swarmd.keys.passphrase import no_passphrase
from swarmd.ledger_host import LedgerHost
from swarmd.services.vote_keys import CERTIFY_AHEAD, RETRY_S, VoteKeys
from tests.support.epochs import VoteKeys as EveryVoteKey
from tests.support.epochs import advance_epochs
from tests.support.ledger import HOUR_MS, Lab, Member, make_lab
from tests.support.swarm import until

DAY_MS = 24 * HOUR_MS


class World:
    """A ledger, one validator's folder, and what it submitted."""

    def __init__(self, path: Path, who: str = "validator") -> None:
        self.lab: Lab = make_lab()
        self.chain = self.lab.open_chain()
        self.member: Member = self.lab.validators[0] if who == "validator" else self.lab.gateways[0]
        data = DataDir(path / "node")
        data.create()
        write_key_file(data.key_path(KeyName.NODE), self.member.key(KeyPurpose.NODE))
        if who == "validator":
            first = self.member.key(KeyPurpose.VALIDATOR)
            write_key_file(data.key_path(KeyName.VALIDATOR), first)
        self.data = data
        self.keys = EpochKeys(data, SeededEntropy(1, "keys"), no_passphrase)
        self.keys.load()
        self.ledger = LedgerHost(self.chain, lambda: self.chain.head.time_ms + 1000)
        self.submitted: list[CertifyKey] = []
        self.refuse = 0
        self.service = VoteKeys(
            keys=self.keys, ledger=self.ledger, own_did=self.member.did, submit=self.submit
        )

    async def submit(self, body: object) -> TransactionId:
        if self.refuse:
            self.refuse -= 1
            raise NotYetError("tx.nonce", "too many wait")
        assert isinstance(body, CertifyKey)
        self.submitted.append(body)
        return TransactionId(sha256(body.key.raw))

    async def block(self, *bodies: CertifyKey, after_ms: int = 1000) -> None:
        """Makes one block final with these bodies."""
        until = self.chain.head.time_ms + 20 * HOUR_MS
        signed = [self.lab.transaction(self.member, body, valid_until_ms=until) for body in bodies]
        keys = EveryVoteKey(self.lab.validators)
        await self.ledger.run_commit(
            lambda: (advance_epochs(self.lab, self.chain, keys, signed, after_ms=after_ms),)
        )


@pytest.mark.slow
async def test_keys_are_certified_two_epochs_ahead_and_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.service.run)
        await until(lambda: len(world.submitted) == CERTIFY_AHEAD, "keys are submitted")
        assert [body.epoch for body in world.submitted] == [2, 3]
        assert all(world.keys.key_of(body.key) is not None for body in world.submitted)
        await world.block()
        await world.block(*world.submitted)
        await world.block()
        assert len(world.submitted) == 2
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_what_no_block_took_in_a_day_is_submitted_again_with_the_same_key(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.service.run)
        await until(lambda: len(world.submitted) == 2, "keys are submitted")
        await world.block(after_ms=DAY_MS + 1000)
        with trio.fail_after(30):
            while len(world.submitted) < 4:  # whatever the service was at when a block came
                await world.block()
        assert [body.epoch for body in world.submitted] == [2, 3, 2, 3]
        assert world.submitted[0].key == world.submitted[2].key
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_refusal_is_tried_again_and_a_gateway_certifies_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    world, other = World(tmp_path / "one"), World(tmp_path / "two", "gateway")
    world.refuse = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.service.run)
        nursery.start_soon(other.service.run)
        begin = trio.current_time()
        await until(lambda: len(world.submitted) == 2, "tried again")
        assert trio.current_time() >= begin + RETRY_S
        await other.block()
        assert other.submitted == []
        nursery.cancel_scope.cancel()

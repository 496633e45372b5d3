"""Validators whose disk or snapshot lied: they follow, never vote, and the chain goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio

from ledger.bodies.receipt import AnchorReceipts
from protocol.digest import sha256
from protocol.errors import StorageError
from swarmd.net.memory import MemoryWire
from tests.support.swarm import VALIDATORS, Swarm, swarm, until

SICK = "validator-4"


async def blocks(lab: Swarm, count: int, *, first: int = 1) -> None:
    """Makes blocks: one for each transaction."""
    for number in range(first, first + count):
        body = AnchorReceipts(size=number, root=sha256(b"%d" % number))
        await lab.submit(body, by="validator-1")


@pytest.mark.slow
async def test_a_restored_snapshot_never_votes_again(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=0, publishers=0) as lab:
        await lab.start(*VALIDATORS)
        await lab.until_met(*VALIDATORS)
        await blocks(lab, 1)
        await lab.stop(SICK)
        copy = tmp_path / "copy"
        shutil.copytree(lab.directory(SICK).ledger, copy)
        await lab.start(SICK)
        consensus = lab[SICK].consensus
        assert consensus is not None
        await until(lambda: consensus.status.may_vote, "it votes")
        await blocks(lab, 6, first=2)
        await until(lambda: lab.height(SICK) >= 7, "it voted on")
        await lab.crash(SICK)
        shutil.rmtree(lab.directory(SICK).ledger)
        shutil.copytree(copy, lab.directory(SICK).ledger)
        await lab.start(SICK)
        restored = lab[SICK].consensus
        assert restored is not None
        await until(lambda: restored.status.halted is not None, "its peers remember its votes")
        assert not restored.status.may_vote
        await blocks(lab, 3, first=8)  # three of four go on
        await until(lambda: lab.height(SICK) >= 10, "it follows")
        assert not restored.status.may_vote
        for name in VALIDATORS:
            consensus = lab[name].consensus
            assert consensus is not None
            assert consensus.status.convicted == ()
            assert lab[name].ledger.alarm is None
        # It stays so after every further start.
        await lab.crash(SICK)
        await lab.start(SICK)
        again = lab[SICK].consensus
        assert again is not None
        await until(lambda: again.status.halted is not None, "it is halted for good")


@pytest.mark.slow
async def test_a_damaged_journal_never_votes_again(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=0, publishers=0) as lab:
        await lab.start(*VALIDATORS)
        await lab.until_met(*VALIDATORS)
        await blocks(lab, 1)
        await lab.stop(SICK)
        journals = [path for path in lab.directory(SICK).ledger.glob("votes-*/*") if path.is_file()]
        assert journals
        for path in journals:
            path.write_bytes(b"damaged" * 100)
        await lab.start(SICK)
        consensus = lab[SICK].consensus
        assert consensus is not None
        await until(lambda: consensus.status.halted is not None, "it notices")
        await blocks(lab, 2, first=2)
        await until(lambda: lab.height(SICK) >= 3, "it follows")
        assert not consensus.status.may_vote
        assert lab.is_alive(SICK)


@pytest.mark.slow
async def test_two_daemons_with_one_key_convict_nobody_and_stop_nothing(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=0, publishers=0) as lab:
        await lab.start(*VALIDATORS)
        await lab.until_met(*VALIDATORS)
        await blocks(lab, 2)
        # A directory cannot be run twice ...
        with pytest.raises(BaseExceptionGroup) as caught:
            async with trio.open_nursery():
                await lab.start(SICK)
        assert caught.group_contains(StorageError, match="in use")
        # ... but a copy of it elsewhere can: its peers know newer votes of the key than it does.
        twin = lab.path / "validator-9"
        shutil.copytree(lab.directory(SICK).path, twin, ignore=shutil.ignore_patterns("*.sock"))
        await lab.start("validator-9", wire=_Elsewhere(lab.wire))
        for number in range(3, 8):
            await blocks(lab, 1, first=number)
        await lab.until_height(7, *VALIDATORS[:3])
        for name in VALIDATORS[:3]:
            assert lab[name].ledger.alarm is None
            assert lab.is_alive(name)


class _Elsewhere:
    """The same wire from another machine: it listens on other ports."""

    def __init__(self, wire: object) -> None:
        self._wire = wire
        self._moved = 20_000

    async def dial(self, host: str, port: int) -> object:
        return await self._wire.dial(host, port)  # type: ignore[attr-defined]

    async def listen(self, host: str, port: int) -> object:
        assert isinstance(self._wire, MemoryWire)
        return await self._wire.listen(host, port + self._moved)

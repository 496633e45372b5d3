"""Strangers, whose keys cost nothing, against slots and disks of members."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from protocol.framing import encode_frame
from protocol.version import ProtocolName, protocol_id
from swarmd.net.wire import TCPWire
from swarmd.peers import PeerClass
from tests.support.network_attacker import attack, attacker_keys
from tests.support.swarm import Swarm, swarm, until

VALIDATORS = ("validator-1", "validator-2", "validator-3", "validator-4")
SLOTS = 16
"""Connections of strangers that a node takes."""


async def _crowd(lab: Swarm, first: int) -> None:
    """Comes back under a new key whenever it is sent away."""
    number = first
    while True:
        number += 100
        try:
            async with attack(lab.address("validator-1"), number=number) as attacker:
                await attacker.mux.accept_stream()  # ends with the connection
        except Exception:  # noqa: BLE001 - refused or cut off: again
            await trio.lowlevel.checkpoint()


@pytest.mark.slow
async def test_a_member_gets_in_however_many_strangers_wait_at_the_door(tmp_path: Path) -> None:
    async with swarm(tmp_path, wire=TCPWire()) as lab:
        lab.isolate("gateway-1", "validator-1")
        await lab.start(*VALIDATORS)
        await lab.until_met(*VALIDATORS)
        victim = lab["validator-1"]
        async with trio.open_nursery() as nursery:
            for number in range(SLOTS + 4):
                nursery.start_soon(_crowd, lab, 1000 + number)
            await until(lambda: victim.registry.statistics().strangers >= SLOTS, "all slots taken")
            await lab.start("gateway-1")
            await until(
                lambda: lab.class_of("validator-1", "gateway-1") is PeerClass.MEMBER,
                "the gateway got in",
            )
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_strangers_that_are_sent_away_write_nothing_to_the_disk(tmp_path: Path) -> None:
    async with swarm(tmp_path, wire=TCPWire()) as lab:
        await lab.start("validator-1")
        victim = lab["validator-1"]
        protocol = protocol_id(lab.chain, ProtocolName.HELLO)
        before = victim.receipts.size

        cut_off: list[Exception] = []

        async def offend(number: int) -> None:
            _, key = attacker_keys(number)
            while not victim.registry.is_banned(key):
                try:
                    async with attack(lab.address("validator-1"), number=number) as attacker:
                        stream = await attacker.select(protocol)
                        await stream.write(encode_frame(b"no hello", bytes_max=64))
                        await stream.read(1)
                except Exception as error:  # noqa: BLE001 - one way or another
                    cut_off.append(error)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(offend, 2000 + number)
        assert cut_off, "they were sent away"
        await victim.receipts.flush()
        assert victim.receipts.size == before

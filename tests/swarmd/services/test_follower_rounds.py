"""When a follower asks by itself: silence, and what counts as a sound."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest
import trio
import trio.testing

from protocol.digest import sha256
from swarmd.clock import ManualClock
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerClass, PeerRegistry
from swarmd.services.follower import SILENCE_FACTOR, FollowerService
from swarmd.services.ledger_service import LedgerService
from tests.support.ledger import advance, make_lab

FEEDER, HONEST = (PeerKey(sha256(name)) for name in (b"feeder", b"honest"))


class Fleet:
    """A follower among two members, and whom it asked when."""

    def __init__(self, **settings: Any) -> None:
        self.lab = make_lab()
        self.chain = self.lab.open_chain()
        self.host = LedgerHost(self.chain, lambda: 0)
        registry = PeerRegistry(self.lab.chain_id, ManualClock(), lambda *_: None)
        for key in (FEEDER, HONEST):
            registry.connected(key).peer_class = PeerClass.MEMBER
        self.asked: list[tuple[float, PeerKey]] = []
        self.follower = FollowerService(
            ledger=self.host,
            registry=registry,
            service=cast(LedgerService, self),
            fetch_state=self.fetch_state,
            **settings,
        )
        heartbeat_ms: int = self.chain.rules.parameters.heartbeat_ms
        self.silence_s = heartbeat_ms / 1000 * SILENCE_FACTOR

    async def fetch_state(self) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    async def catch_up(self, peer: PeerKey, told: int) -> None:
        """The feeder delivers the one block it told of; who is asked in a round has nothing."""
        await trio.lowlevel.checkpoint()
        self.asked.append((trio.current_time(), peer))
        if told:
            advance(self.lab, self.chain)

    async def feed(self, every_s: float, times: int) -> None:
        """Tells of one old block after another, each before a silence is over."""
        for _ in range(times):
            await trio.sleep(every_s)
            self.follower.hear(FEEDER, self.chain.head.height + 1)

    def times_of(self, peer: PeerKey) -> list[float]:
        return [at for at, asked in self.asked if asked == peer]


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work of threads is done at once: mocked time must not jump meanwhile."""

    async def run_sync(call: Callable[[], object], **_options: object) -> object:
        await trio.lowlevel.checkpoint()
        return call()

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


async def run_fed(fleet: Fleet, silences: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.follower.run)
        await fleet.feed(fleet.silence_s / 2, 2 * silences)
        nursery.cancel_scope.cancel()


async def test_old_blocks_of_one_peer_keep_a_metered_node_from_no_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fleet = Fleet(is_metered=True)
    await run_fed(fleet, 5)
    times = fleet.times_of(HONEST)
    assert len(times) >= 4
    rounds = [0.0, *times]
    gaps = [later - before for before, later in pairwise(rounds)]
    assert max(gaps) <= fleet.silence_s + 1, "at its time, whatever was heard between"


async def test_others_are_asked_only_after_a_silence(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fleet = Fleet()
    await run_fed(fleet, 3)
    assert fleet.times_of(HONEST) == []
    fleet = Fleet()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.follower.run)
        await trio.sleep(fleet.silence_s + 3)
        nursery.cancel_scope.cancel()
    assert len(fleet.times_of(HONEST)) == len(fleet.times_of(FEEDER)) == 1


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("has_engine", [True, False])
async def test_blocks_of_the_own_engine_are_heard_of(
    autojump_clock: trio.testing.MockClock, *, has_engine: bool
) -> None:
    fleet = Fleet(has_engine=has_engine)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.follower.run)
        for _ in range(4):
            await trio.sleep(fleet.silence_s * 0.6)
            await fleet.host.run_commit(lambda: (advance(fleet.lab, fleet.chain),))
        asked_while_live = len(fleet.asked)
        await trio.sleep(fleet.silence_s + 3)
        nursery.cancel_scope.cancel()
    assert bool(asked_while_live) is not has_engine
    assert len(fleet.asked) > asked_while_live, "silence is silence for an engine, too"


async def test_looking_asks_all_at_once(autojump_clock: trio.testing.MockClock) -> None:
    fleet = Fleet(is_metered=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fleet.follower.run)
        await trio.sleep(3)
        fleet.follower.look()
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert {peer for _, peer in fleet.asked} == {FEEDER, HONEST}
    assert all(3 <= at < 5 for at, _ in fleet.asked)

"""The service that dials: which address, which peer, when, and how often at most."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from protocol.errors import TransportError
from swarmd.clock import ManualClock
from swarmd.entropy import SeededEntropy
from swarmd.net import dial_plan
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.net.dial_plan import Candidate, Origin
from swarmd.net.memory import MemoryWire
from swarmd.net.network import Network
from swarmd.peers import BAN_S, Offence, PeerClass, PeerRegistry
from swarmd.services.reach import ReachService, Sources
from tests.support.network_nodes import node, seed, until
from tests.support.reach_nodes import CHAIN, Member

LIMIT_S = 20.0


@dataclass
class Dialer:
    """A node whose knowledge a test sets."""

    network: Network
    registry: PeerRegistry
    service: ReachService
    configured: list[PeerAddress] = field(default_factory=list)
    found: dict[PeerKey, list[Candidate]] = field(default_factory=dict)
    proved: list[PeerAddress] = field(default_factory=list)
    detours: list[PeerKey] = field(default_factory=list)
    refuses: set[PeerKey] = field(default_factory=set)


@asynccontextmanager
async def dialer(
    wire: MemoryWire | None = None, *, peers_wanted: int = 0, clock: ManualClock | None = None
) -> AsyncIterator[Dialer]:
    """Runs a node that dials whom it is told to; hello succeeds unless the test says otherwise."""
    async with node(1, wire=wire, dial_s=2.0) as network, trio.open_nursery() as nursery:
        registry = PeerRegistry(CHAIN, clock or ManualClock(), lambda _peer, _offence: None)
        made: list[Dialer] = []

        async def greet(peer: PeerKey) -> PeerClass:
            await trio.lowlevel.checkpoint()
            if peer in made[0].refuses:
                return PeerClass.STRANGER
            registry.connected(peer).peer_class = PeerClass.MEMBER
            return PeerClass.MEMBER

        async def detour(peer: PeerKey) -> bool:
            await trio.lowlevel.checkpoint()
            made[0].detours.append(peer)
            return False

        def found(peer: PeerKey) -> Iterable[Candidate]:
            return made[0].found.get(peer, ())

        def proved(address: PeerAddress) -> None:
            made[0].proved.append(address)

        service = ReachService(
            network=network,
            registry=registry,
            entropy=SeededEntropy(1),
            sources=Sources(
                configured=lambda: made[0].configured,
                found=found,
                wanted=lambda: tuple(made[0].found),
                owner_of=lambda _peer: None,
                has_detour=lambda _peer: False,
                current_key=lambda peer: peer,
                is_current=lambda: True,
                proved=proved,
                member_count=lambda: 1,
            ),
            greet=greet,
            peers_wanted=peers_wanted,
            detour=detour,
        )
        made.append(Dialer(network, registry, service))

        async def watch() -> None:
            async for event in network.events:
                if event.is_connected:
                    registry.connected(event.peer)
                else:
                    registry.disconnected(event.peer)
                    service.peer_disconnected(event.peer)

        nursery.start_soon(watch)
        nursery.start_soon(service.run)
        yield made[0]
        nursery.cancel_scope.cancel()


def at(peer: PeerKey, port: int, host: str = "127.0.0.1") -> PeerAddress:
    return PeerAddress(peer, host, port)


async def test_the_live_address_among_dead_ones_is_found_and_remembered() -> None:
    with trio.fail_after(LIMIT_S):
        async with dialer() as me, node(2) as other:
            live = other.listen_addresses[0]
            me.configured += [at(other.peer, 1), at(other.peer, 2), live]
            me.service.wake()
            await until(lambda: me.network.is_connected(other.peer))
            await until(lambda: me.proved == [live])
            record = me.service.plan.record(at(other.peer, 1))
            assert record is not None
            assert record.error
            assert me.service.plan.choose(other.peer, me.service.candidates(other.peer), 1e9) == (
                live,
                at(other.peer, 1),
                at(other.peer, 2),
            )
            assert me.detours == []


async def test_a_lost_peer_is_dialed_again() -> None:
    with trio.fail_after(LIMIT_S):
        async with dialer() as me, node(2) as other:
            me.configured += other.listen_addresses
            me.service.wake()
            await until(lambda: len(me.proved) == 1)
            await other.disconnect(me.network.peer)
            await until(lambda: len(me.proved) == 2)


async def test_a_detour_is_looked_for_after_every_address_has_failed() -> None:
    with trio.fail_after(LIMIT_S):
        async with dialer() as me:
            peer = Member(2).peer
            me.configured += [at(peer, 1), at(peer, 2)]
            me.service.wake()
            await until(lambda: me.detours == [peer])
            for port in (1, 2):
                record = me.service.plan.record(at(peer, port))
                assert record is not None
                assert record.failures == 1


async def test_found_peers_are_dialed_only_while_members_are_lacking(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wire = MemoryWire()
    async with (
        dialer(wire, peers_wanted=2) as me,
        node(2, wire=wire) as two,
        node(3, wire=wire) as three,
        node(4, wire=wire) as four,
    ):
        for other in (two, three, four):
            candidate = Candidate(other.listen_addresses[0], Origin.STATED)
            me.found[other.peer] = [candidate]
        me.service.wake()
        await trio.sleep(60)
        assert len(me.network.peers()) == 2
        first = me.network.peers()[0]
        me.found.pop(first)
        await me.network.disconnect(first)
        await trio.sleep(60)
        assert len(me.network.peers()) == 2, "another one takes its place"


async def test_a_peer_that_is_sent_away_is_not_dialed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wire, clock = MemoryWire(), ManualClock()
    async with dialer(wire, clock=clock) as me, node(2, wire=wire) as other:
        me.registry.blame(other.peer, Offence.FORGED, "test")
        me.configured += other.listen_addresses
        me.service.wake()
        await trio.sleep(300)
        assert me.network.peers() == ()
        clock.advance(BAN_S + 1)
        await trio.sleep(120)
        assert me.network.peers() == (other.peer,)


async def test_who_does_not_take_us_for_a_member_is_asked_ever_less_often(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wire = MemoryWire()
    async with dialer(wire) as me, node(2, wire=wire) as other:
        me.refuses.add(other.peer)
        me.configured += other.listen_addresses
        me.service.wake()
        await trio.sleep(3600)
        assert len(me.proved) <= 1
        me.refuses.clear()
        await trio.sleep(1.5 * dial_plan.REST_S_MAX)
        assert me.registry.peer_class(other.peer) is PeerClass.MEMBER


class CountingWire(MemoryWire):
    """Counts who is dialed; nobody ever answers at a victim."""

    def __init__(self) -> None:
        super().__init__()
        self.dials: list[tuple[str, int]] = []

    async def dial(self, host: str, port: int) -> object:  # type: ignore[override]
        self.dials.append((host, port))
        await trio.sleep(0.01)
        raise TransportError("nobody there")


@pytest.mark.slow
@pytest.mark.parametrize("liars", [1, 40])
async def test_liars_cannot_make_a_node_a_weapon(
    autojump_clock: trio.testing.MockClock, liars: int
) -> None:
    """For an hour the liars name the same victim, at new ports in every statement."""
    wire, victim = CountingWire(), "198.51.100.7"
    async with dialer(wire, peers_wanted=16) as me:
        peers = [PeerKey(seed(1000 + number)) for number in range(liars)]
        for minute in range(60):
            for number, peer in enumerate(peers):
                ports = range(2000 + minute * 8, 2008 + minute * 8)
                me.found[peer] = [
                    Candidate(at(peer, port + number, victim), Origin.STATED) for port in ports
                ]
                me.service.has_news(peer)
            await trio.sleep(60)
        assert wire.dials, "the liars were believed at first"
        assert len(wire.dials) <= dial_plan.UNPROVEN_PER_HOST_HOUR * 2


async def test_many_dead_peers_do_not_keep_a_live_one_waiting(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wire = MemoryWire()
    async with dialer(wire) as me, node(2, wire=wire) as other:
        me.configured += [at(PeerKey(seed(100 + number)), 9) for number in range(60)]
        me.configured += other.listen_addresses
        me.service.wake()
        with trio.fail_after(30):
            await until(lambda: me.network.is_connected(other.peer))

"""Strangers and slanderers: who wants a node's places, and who wants it to dial a victim."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import trio

from protocol.errors import TransportError
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.net.config import NetworkConfig, PeerClass
from swarmd.net.dial_plan import (
    REST_S_MAX,
    UNPROVEN_PER_HOST_HOUR,
    UNPROVEN_PER_HOUR,
    Candidate,
    DialPlan,
    Origin,
)
from swarmd.net.guards import quiet_logging
from swarmd.net.memory import MemoryWire
from swarmd.net.network import Network, open_network
from swarmd.simulation.attacks.attack import AttackResult, at_least, at_most, never
from swarmd.simulation.daemons.runtime import run_simulated

PLACES: Final = 6
"""Inbound connections of strangers, and of members, at the node under attack."""
STRANGERS: Final = 24
"""Keys that belong to nobody, each connecting again as soon as it is thrown out."""
MEMBERS: Final = 4
"""Members that come when the strangers are there."""
HOLD_S: Final = 8.0
"""How long strangers keep trying, seconds."""


class _Doors:
    """An admission that knows members by key, or takes everybody for one: the control."""

    def __init__(self, *, has_classes: bool) -> None:
        self.members: dict[PeerKey, None] = {}
        self._has_classes = has_classes

    def peer_class(self, peer: PeerKey) -> PeerClass:
        if self._has_classes and peer not in self.members:
            return PeerClass.STRANGER
        return PeerClass.MEMBER

    def may_connect(self, _peer: PeerKey) -> bool:
        return True

    def may_open(self, peer: PeerKey, _protocol: str) -> bool:
        return self.peer_class(peer) is not PeerClass.STRANGER

    def may_gossip(self, _peer: PeerKey) -> bool:
        return False


async def _open(
    stack: AsyncExitStack, wire: MemoryWire, name: str, doors: _Doors, *, listens: bool = False
) -> Network:
    config = NetworkConfig(
        seed=name.encode().ljust(32, b"."),
        listen=(("127.0.0.1", 0),) if listens else (),
        wire=wire,
        stranger_connections_max=PLACES,
        member_connections_max=PLACES,
    )
    return await stack.enter_async_context(open_network(config, admission=doors))


async def _storm(*, has_classes: bool) -> AttackResult:
    quiet_logging()
    doors, everybody = _Doors(has_classes=has_classes), _Doors(has_classes=False)
    wire = MemoryWire()
    tries = [0]
    async with AsyncExitStack() as stack:
        node = await _open(stack, wire, "node", doors, listens=True)
        members = [await _open(stack, wire, f"m {n}", everybody) for n in range(MEMBERS)]
        strangers = [await _open(stack, wire, f"s {n}", everybody) for n in range(STRANGERS)]
        for member in members:
            doors.members[member.peer] = None
        nursery = await stack.enter_async_context(trio.open_nursery())
        for stranger in strangers:
            nursery.start_soon(_insist, stranger, node, tries)
        await trio.sleep(1.0)
        for member in members:
            await _try(member, node)
        most = served = 0
        for _ in range(round(HOLD_S)):
            await trio.sleep(1.0)
            held = [peer for peer in node.peers() if peer not in doors.members]
            most, served = max(most, len(held)), sum(m.peer in node.peers() for m in members)
        nursery.cancel_scope.cancel()
    return AttackResult(
        verdicts=(
            at_most("places that strangers hold", PLACES, most),
            at_least("members connected", MEMBERS, served),
        ),
        attempts=tries[0],
    )


async def _insist(stranger: Network, node: Network, tries: list[int]) -> None:
    while True:
        tries[0] += 1
        await _try(stranger, node)
        await trio.sleep(0.5)


async def _try(network: Network, node: Network) -> None:
    try:
        await network.connect(node.listen_addresses)
    except TransportError:
        await trio.lowlevel.checkpoint()


def run_strangers(seed: int, *, has_classes: bool = True) -> AttackResult:
    """Strangers that come first and never stop, then members.

    Args:
        seed: of the run.
        has_classes: whether strangers have places of their own.
    """
    return run_simulated(partial(_storm, has_classes=has_classes), seed=seed)


# -- dialing ---------------------------------------------------------------------------------------

SLANDERERS: Final = 40
"""Members in one hand whose statements all name ports of one victim."""
HOURS: Final = 3
"""How long a node is led on, simulated."""
TICK_S: Final = 30.0
"""How often it looks whom to dial, seconds."""
CONFIGURED: Final = 2
"""Peers that its operator named; neither answers, which is the worst case."""
_VICTIM: Final = "203.0.113.7"


def run_slander(seed: int, *, origin: Origin = Origin.STATED) -> AttackResult:
    """Signed address statements that lead to a victim, or nowhere.

    Args:
        seed: of the run.
        origin: what the node takes statements for; as configured addresses they have no ration.
    """
    chance = random.Random(f"dials {seed}")  # noqa: S311 - replayed by seed, guards nothing
    plan = DialPlan(uint=chance.randrange)
    own = [(peer, Candidate(address, Origin.CONFIGURED)) for peer, address in _operators()]
    false = [(peer, [Candidate(a, origin) for a in addresses]) for peer, addresses in _false()]
    at_victim: list[float] = []
    late_s = [0.0] * CONFIGURED
    dialed_at = [0.0] * CONFIGURED
    now = 0.0
    while now < HOURS * 3600.0:
        for peer, candidates in false:
            for address in plan.choose(peer, candidates, now):
                at_victim.append(now)
                plan.failed(address, origin, "refused", now)
        for number, (peer, candidate) in enumerate(own):
            for address in plan.choose(peer, [candidate], now):
                late_s[number] = max(late_s[number], now - dialed_at[number])
                dialed_at[number] = now
                plan.failed(address, Origin.CONFIGURED, "refused", now)
        now += TICK_S
    longest_s = 1.5 * REST_S_MAX + TICK_S
    hourly = max(bisect_left(at_victim, at + 3600.0) - n for n, at in enumerate(at_victim))
    return AttackResult(
        verdicts=(
            at_most("dials of the victim in an hour", 2 * UNPROVEN_PER_HOST_HOUR, hourly),
            at_most("dials in all", UNPROVEN_PER_HOUR * (HOURS + 1), len(at_victim)),
            at_most("between dials of a configured peer", longest_s, max(late_s), "s"),
        ),
        attempts=SLANDERERS * 8,
    )


def _operators() -> Iterator[tuple[PeerKey, PeerAddress]]:
    for number in range(CONFIGURED):
        peer = PeerKey(b"configured %d" % number + bytes(20))
        yield peer, PeerAddress(peer, f"192.0.2.{number + 1}", 7001)


def _false() -> Iterator[tuple[PeerKey, list[PeerAddress]]]:
    for number in range(SLANDERERS):
        peer = PeerKey(b"slanderer %04d" % number + bytes(18))
        ports = range(1024 + 8 * number, 1032 + 8 * number)
        yield peer, [PeerAddress(peer, _VICTIM, port) for port in ports]


def run_poison(seed: int) -> AttackResult:
    """Peer exchange that names thousands of addresses; those of the operator must stay.

    Args:
        seed: of the run.
    """
    chance = random.Random(f"poison {seed}")  # noqa: S311 - replayed by seed, guards nothing
    plan = DialPlan(uint=chance.randrange)
    own = [(peer, Candidate(address, Origin.CONFIGURED)) for peer, address in _operators()]
    for _, candidate in own:
        plan.succeeded(candidate.address, 0.0)
    tried, now = 0, 1.0
    for number in range(6000):
        peer = PeerKey(number.to_bytes(32, "big"))
        host = f"198.18.{number % 250}.{number // 250 + 1}"
        address = PeerAddress(peer, host, 1024 + number)
        for each in plan.choose(peer, [Candidate(address, Origin.STATED)], now):
            plan.failed(each, Origin.STATED, "refused", now)
        plan.failed(address, Origin.STATED, "refused", now)
        tried, now = tried + 1, now + 1.0
    lost = sum(plan.record(candidate.address) is None for _, candidate in own)
    first = sum(
        plan.choose(peer, [candidate], now)[:1] == (candidate.address,) for peer, candidate in own
    )
    return AttackResult(
        verdicts=(
            never("addresses of the operator forgotten", lost),
            at_least("peers of the operator dialed at once", len(own), first),
        ),
        attempts=tried,
    )

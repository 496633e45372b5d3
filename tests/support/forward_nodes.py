"""Nodes that pass connections on, over real networks and a directory in place of the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from protocol.forward_messages import (
    FORWARD_FRAME_BYTES_MAX,
    Connect,
    Incoming,
    Reserve,
    decode_forward_answer,
    decode_forward_request,
)
from protocol.version import ProtocolName, protocol_id
from swarmd.clock import ManualClock
from swarmd.entropy import SeededEntropy
from swarmd.net.address import PeerKey
from swarmd.net.network import Network, Stream
from swarmd.peers import Offence, PeerClass, PeerRegistry
from swarmd.services.detours import DetourGrounds, Detours
from swarmd.services.forwarder import Forwarder, ForwarderLimits
from tests.support.network_nodes import Rules, node, until
from tests.support.reach_nodes import CHAIN, Directory, Member

FORWARD = protocol_id(CHAIN, ProtocolName.FORWARD)
LIMITS = ForwarderLimits(streams_max=8, bytes_per_s=1 << 26)


@dataclass
class ForwardNode:
    """One node, as far as forwarding goes."""

    member: Member
    network: Network
    registry: PeerRegistry
    forwarder: Forwarder
    detours: Detours
    rules: Rules
    forwarders: dict[PeerKey, tuple[PeerKey, ...]]
    offences: list[Offence] = field(default_factory=list)
    is_needed: bool = False

    @property
    def peer(self) -> PeerKey:
        return self.network.peer

    async def meet(self, other: ForwardNode) -> None:
        """Connects two nodes directly; each takes the other for a member."""
        await self.network.connect(other.network.listen_addresses)
        await self.greeted(other)

    async def greeted(self, other: ForwardNode) -> None:
        """As if both had said hello."""
        await until(lambda: other.network.is_connected(self.peer))
        self.registry.connected(other.peer).peer_class = PeerClass.MEMBER
        other.registry.connected(self.peer).peer_class = PeerClass.MEMBER

    async def reserve(self, forwarder: ForwardNode) -> None:
        """Waits until this node can be reached through another."""
        self.is_needed = True
        self.detours.wake()
        await until(lambda: forwarder.peer in self.detours.forwarders)

    async def status(self, other: ForwardNode, request: bytes) -> str:
        """What a node answers to a request."""
        stream = await self.network.open_stream(other.peer, FORWARD)
        await stream.send_frame(request)
        frame = await stream.receive_frame()
        await stream.reset()
        return "nothing" if frame is None else decode_forward_answer(frame).status.name


@asynccontextmanager
async def forward_node(
    member: Member,
    directory: Directory,
    *,
    limits: ForwarderLimits = LIMITS,
    willing: tuple[PeerKey, ...] = (),
) -> AsyncIterator[ForwardNode]:
    """Runs one node on loopback; `willing` are those it knows to pass connections on."""
    rules = Rules()
    async with node(member.number, rules, dial_s=4.0) as network:
        registry = PeerRegistry(CHAIN, ManualClock(), lambda _peer, _offence: None)
        forwarder = Forwarder(
            network=network,
            registry=registry,
            keys=directory,  # type: ignore[arg-type]
            protocol=FORWARD,
            limits=limits,
        )
        forwarders: dict[PeerKey, tuple[PeerKey, ...]] = {}

        async def bring_up(_peer: PeerKey) -> bool:
            await trio.lowlevel.checkpoint()
            return False

        made: list[ForwardNode] = []
        detours = Detours(
            DetourGrounds(
                network=network,
                registry=registry,
                entropy=SeededEntropy(member.number),
                protocol=FORWARD,
                forwarders_of=lambda peer: forwarders.get(peer, ()),
                is_forwarder=lambda peer: peer in willing,
                is_acquainted=lambda peer: directory.are_acquainted(member.peer, peer),
                is_needed=lambda: made[0].is_needed,
                bring_up=bring_up,
                changed=lambda _forwarders: None,
            )
        )
        found = ForwardNode(member, network, registry, forwarder, detours, rules, forwarders)
        made.append(found)
        registry.listen(lambda _peer, offence, _detail: found.offences.append(offence))

        async def answer(stream: Stream) -> None:
            frame = await stream.receive_frame()
            if frame is None:
                return
            match decode_forward_request(bytes(frame)):
                case Reserve():
                    await forwarder.hold(stream)
                case Connect() as request:
                    await forwarder.connect(stream, request)
                case Incoming() as request:
                    await detours.accept(stream, request)

        network.handle(
            FORWARD,
            answer,
            streams_per_peer_max=16,
            deadline_s=None,
            frame_bytes_max=FORWARD_FRAME_BYTES_MAX,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(detours.run)
            yield found
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def triangle(
    directory: Directory | None = None, *, limits: ForwarderLimits = LIMITS
) -> AsyncIterator[tuple[ForwardNode, ForwardNode, ForwardNode, Directory]]:
    """Two members that know a third one only, with which the first has reserved.

    Yields:
        The reserved one, the one that will ask for it, the forwarder, and the directory.
    """
    one, two, three = (Member(number) for number in (1, 2, 3))
    directory = directory or Directory()
    directory.add(one, two, three)
    async with (
        forward_node(three, directory, limits=limits) as relay,
        forward_node(one, directory, willing=(three.peer,)) as hidden,
        forward_node(two, directory) as asker,
    ):
        await hidden.meet(relay)
        await asker.meet(relay)
        await hidden.reserve(relay)
        asker.forwarders[hidden.peer] = (relay.peer,)
        yield hidden, asker, relay, directory

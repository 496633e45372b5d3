"""Real networks on loopback or in memory, and attackers that speak to them below libp2p."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from swarmd.net.address import PeerKey
from swarmd.net.config import NetworkConfig, PeerClass
from swarmd.net.network import Network, Stream, open_network
from swarmd.net.wire import TCPWire, Wire

HELLO = "/swarmd/test/hello/1"
ECHO = "/swarmd/test/echo/1"
LIMIT_S = 10.0
"""Every wait in these tests ends by then, seconds."""


@dataclass
class Rules:
    """An admission whose answers a test sets."""

    strangers: set[PeerKey] = field(default_factory=set)
    banned: set[PeerKey] = field(default_factory=set)
    validators: set[PeerKey] = field(default_factory=set)
    everyone_is_stranger: bool = False

    def peer_class(self, peer: PeerKey) -> PeerClass:
        if self.everyone_is_stranger or peer in self.strangers:
            return PeerClass.STRANGER
        return PeerClass.VALIDATOR if peer in self.validators else PeerClass.MEMBER

    def may_connect(self, peer: PeerKey) -> bool:
        return peer not in self.banned

    def may_open(self, peer: PeerKey, protocol: str) -> bool:
        return protocol == HELLO or self.peer_class(peer) is not PeerClass.STRANGER

    def may_gossip(self, peer: PeerKey) -> bool:
        return self.peer_class(peer) is not PeerClass.STRANGER


def seed(number: int) -> bytes:
    """The transport key seed of node `number`."""
    return number.to_bytes(32, "big")


async def echo(stream: Stream) -> None:
    """Answers each frame with itself."""
    while (frame := await stream.receive_frame()) is not None:
        await stream.send_frame(frame)


@asynccontextmanager
async def node(
    number: int,
    rules: Rules | None = None,
    *,
    wire: Wire | None = None,
    host: str = "127.0.0.1",
    **settings: object,
) -> AsyncIterator[Network]:
    """Runs a network that serves echo and hello."""
    config = NetworkConfig(
        seed=seed(number),
        listen=((host, 0),),
        wire=wire or TCPWire(),
        **settings,  # type: ignore[arg-type]
    )
    async with open_network(config, admission=rules or Rules()) as network:
        network.handle(ECHO, echo, streams_per_peer_max=8, deadline_s=30.0)
        network.handle(HELLO, echo, streams_per_peer_max=2, deadline_s=10.0)
        yield network


async def until(condition: Callable[[], bool]) -> None:
    """Lets other tasks run until something holds; the test's own limit ends a vain wait."""
    while not condition():
        await trio.lowlevel.checkpoint()
        await trio.sleep(0.001)


async def assert_echoes(client: Network, server: Network, text: bytes = b"still alive") -> None:
    """Shows that the server serves and the connection works."""
    if not client.is_connected(server.peer):
        await client.connect(server.listen_addresses)
    async with await client.open_stream(server.peer, ECHO) as stream:
        await stream.send_frame(text)
        assert await stream.receive_frame() == text

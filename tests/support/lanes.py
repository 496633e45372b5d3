"""Lanes over real sockets: pairs, servers, and what attackers need to speak to them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from protocol.digest import ChainId
from protocol.keys import PrivateKey
from protocol.lane_offer import LaneKeys, LaneOffer
from swarmd.entropy import SystemEntropy
from swarmd.net.address import PeerKey
from swarmd.net.lane import Lane, LaneWorkers
from swarmd.net.lane_certificate import make_lane_identity
from swarmd.net.lane_cipher import RecordCipher
from swarmd.net.lane_client import LaneClient
from swarmd.net.lane_records import OVERHEAD_BYTES, RecordSealer
from swarmd.net.lane_server import LaneGate, LaneServer
from swarmd.net.lane_tokens import TokenBook

CHAIN = ChainId(bytes(range(32)))
"""The chain of these tests."""
LIMIT_S = 10.0
"""Every wait in these tests ends by then, seconds."""
CLIENT = PrivateKey(bytes([1]) * 32)
"""Transport key of the peer that opens lanes."""
SERVER = PrivateKey(bytes([2]) * 32)
"""Transport key of the peer that accepts them."""
THIEF = PrivateKey(bytes([3]) * 32)
"""Transport key of a member that was given no token."""


def peer_of(key: PrivateKey) -> PeerKey:
    """The peer that holds a transport key."""
    return PeerKey(key.public.raw)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection over loopback, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


KEYS = LaneKeys(client=bytes([0x11]) * 32, server=bytes([0x22]) * 32)
"""The keys of lanes that come about without a handshake here."""


def lane_on(sock: socket.socket, workers: LaneWorkers, *, is_client: bool) -> Lane:
    """One end of a lane."""
    mine, theirs = (KEYS.client, KEYS.server) if is_client else (KEYS.server, KEYS.client)
    cipher = RecordCipher(sock, workers.record_buffers, send_key=mine, receive_key=theirs)
    return Lane(sock, peer_of(SERVER if is_client else CLIENT), workers, cipher)


def lane_pair() -> tuple[Lane, Lane]:
    """Two ends of a lane, the first one the client's."""
    (near, far), workers = socket_pair(), LaneWorkers()
    return lane_on(near, workers, is_client=True), lane_on(far, workers, is_client=False)


class Speaker:
    """The server's end of a lane in an attacker's hands."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._sealer = RecordSealer(KEYS.server)

    def seal(self, plain: bytes) -> bytes:
        """The next record."""
        out = bytearray(len(plain) + OVERHEAD_BYTES)
        self._sealer.seal(plain, memoryview(out))
        return bytes(out)

    def say(self, plain: bytes) -> None:
        """Sends the next record."""
        assert self.sock.send(self.seal(plain)) == len(plain) + OVERHEAD_BYTES


@contextmanager
def lane_and_speaker() -> Iterator[tuple[Lane, Speaker]]:
    """The client's end of a lane, and the hand that speaks to it; both sockets are closed after."""
    near, far = socket_pair()
    with near, far:
        yield lane_on(near, LaneWorkers(), is_client=True), Speaker(far)


async def echo(lane: Lane) -> None:
    """Answers each frame with itself."""
    while (frame := await lane.receive_frame()) is not None:
        await lane.send_frame((memoryview(frame),))


@dataclass
class Port:
    """A lane server with everything a test wants to change."""

    server: LaneServer
    tokens: TokenBook
    offer_base: LaneOffer
    suspended: set[PeerKey] = field(default_factory=set)
    _next: int = 0

    def offer(self, peer: PeerKey | None = None) -> LaneOffer:
        """Gives a token to a peer, by default the client."""
        self._next += 1
        token = self._next.to_bytes(32, "big")
        assert self.tokens.give(peer or peer_of(CLIENT), token, trio.current_time())
        return LaneOffer(
            port=self.offer_base.port, fingerprint=self.offer_base.fingerprint, token=token
        )


@asynccontextmanager
async def lane_port(
    folder: Path,
    serve: Callable[[Lane], Awaitable[None]] = echo,
    *,
    host: str = "127.0.0.1",
) -> AsyncIterator[Port]:
    """Runs a lane server."""
    identity = make_lane_identity(folder)
    suspended: set[PeerKey] = set()
    tokens = TokenBook()
    gate = LaneGate(
        chain=CHAIN,
        era=lambda: 0,
        tokens=tokens,
        entropy=SystemEntropy(),
        may_use=lambda peer: peer not in suspended,
    )
    server = LaneServer(identity, gate, LaneWorkers(), serve)
    server.bind((host,), 0)
    assert server.port is not None
    base = LaneOffer(port=server.port, fingerprint=identity.fingerprint, token=bytes(32))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        yield Port(server, tokens, base, suspended)
        nursery.cancel_scope.cancel()


def lane_client(key: PrivateKey = CLIENT) -> LaneClient:
    """A client that signs claims with a key."""
    return LaneClient(
        key=key, chain=CHAIN, era=lambda: 0, entropy=SystemEntropy(), workers=LaneWorkers()
    )

"""An attacker who owns a key and every layer of the connection, and records what he learns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub.pb import rpc_pb2
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.secure_session import SecureSession
from libp2p.utils import encode_varint_prefixed

from swarmd.net.address import PeerAddress, PeerKey, peer_key
from swarmd.net.guards import RawStream, id_of, key_pair
from swarmd.net.yamux import Mux, MuxStream
from tests.support.network_nodes import seed

LINE = "/multistream/1.0.0"


def line(text: str) -> bytes:
    """One multistream-select line."""
    body = text.encode() + b"\n"
    return bytes([len(body)]) + body


class Recorded(SecureSession):
    """A secured session that keeps every decrypted byte."""

    learned: bytearray

    async def read(self, n: int | None = None) -> bytes:
        data = await super().read(n)
        self.learned += data
        return data


class Attacker:
    """One authenticated connection to a victim."""

    def __init__(self, session: Recorded, mux: Mux, key: PeerKey) -> None:
        self.session = session
        self.mux = mux
        self.key = key

    @property
    def learned(self) -> bytes:
        """Everything the victim has sent, decrypted."""
        return bytes(self.session.learned)

    async def select(self, protocol: str) -> MuxStream:
        """Opens a stream for a protocol; raises when the victim refuses."""
        stream = await self.mux.open_stream()
        try:
            await MultiselectClient().select_one_of([protocol], MultiselectCommunicator(stream), 5)
        except BaseException:
            await stream.reset()
            raise
        return stream

    async def list_protocols(self) -> list[str]:
        """Asks the victim what it offers."""
        stream = await self.mux.open_stream()
        listed = await MultiselectClient().query_multistream_command(
            MultiselectCommunicator(stream), "ls", 5
        )
        await stream.reset()
        return listed

    async def send_raw(self, data: bytes) -> None:
        """Sends bytes below the multiplexer."""
        if not self.mux.event_started.is_set():
            await self.session.write(data)
            return
        await trio.lowlevel.checkpoint()
        self.mux._outgoing.append(data)  # the multiplexer's writer owns the session
        self.mux._outgoing_bytes += len(data)
        self.mux._has_work.set()

    async def wait_ended(self) -> None:
        """Waits until the victim has ended the connection."""
        while not self.mux.is_closed:
            await trio.lowlevel.checkpoint()
            await trio.sleep(0.001)


def attacker_keys(number: int) -> tuple[KeyPair, PeerKey]:
    """The keys of attacker `number`."""
    keys = key_pair(seed(number))
    return keys, peer_key(keys.public_key.to_bytes())


@asynccontextmanager
async def attack(
    victim: PeerAddress, number: int = 666, *, start: bool = True
) -> AsyncIterator[Attacker]:
    """Connects to a victim with the key of `number`.

    Args:
        victim: whom.
        number: names the attacker's key.
        start: whether a multiplexer runs on the connection (else only `send_raw` is of use).
    """
    keys, key = attacker_keys(number)
    raw = RawStream(await trio.open_tcp_stream(victim.host, victim.port), stall_s=30.0)
    connection = RawConnection(raw, initiator=True)
    try:
        client = MultiselectClient()
        await client.select_one_of(["/noise"], MultiselectCommunicator(connection), 5)
        noise = NoiseTransport(keys, noise_privkey=create_new_key_pair().private_key)
        session = await noise.secure_outbound(connection, id_of(victim.peer))
        session.__class__ = Recorded
        assert isinstance(session, Recorded)
        session.learned = bytearray()
        await client.select_one_of(["/yamux/1.0.0"], MultiselectCommunicator(session), 5)
        attacker = Attacker(session, Mux(session, id_of(victim.peer)), key)
        async with trio.open_nursery() as nursery:
            if start:
                nursery.start_soon(attacker.mux.start)
                await attacker.mux.event_started.wait()
            yield attacker
            nursery.cancel_scope.cancel()
    finally:
        await raw.close()


def rpc(message: rpc_pb2.RPC) -> bytes:
    """A pubsub RPC as it goes over a stream."""
    return encode_varint_prefixed(message.SerializeToString())


def subscription(topic: str) -> bytes:
    """The RPC that subscribes to a topic."""
    return rpc(rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic)]))

"""Attackers before and below streams: real sockets against a running network."""

import contextlib
import logging
import os
import struct
import threading
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from libp2p.io.exceptions import IOException
from libp2p.stream_muxer.exceptions import MuxedStreamError

from protocol.errors import TransportError
from swarmd.net.address import PeerAddress
from swarmd.net.config import PeerClass
from swarmd.net.memory import MemoryWire
from swarmd.net.network import Network, Stream
from swarmd.net.wire import ByteStream, TCPWire
from swarmd.net.yamux import Mux
from tests.support.network_attacker import LINE, attack, attacker_keys, line
from tests.support.network_nodes import (
    ECHO,
    HELLO,
    LIMIT_S,
    Rules,
    assert_echoes,
    node,
    until,
)


async def forever(function: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
    while True:
        await function(data)


def address(network: Network) -> PeerAddress:
    return network.listen_addresses[0]


async def read_until(stream: trio.SocketStream, needle: bytes) -> bytes:
    data = b""
    while needle not in data:
        more = await stream.receive_some()
        if not more:
            break
        data += more
    return data


async def test_only_noise_is_offered() -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1) as victim:
            stream = await trio.open_tcp_stream("127.0.0.1", address(victim).port)
            async with stream:
                await stream.send_all(line(LINE))
                assert await read_until(stream, LINE.encode() + b"\n") == line(LINE)
                for protocol in ("/plaintext/2.0.0", "/tls/1.0.0", "/secio/1.0.0", "/noise/2"):
                    await stream.send_all(line(protocol))
                    assert await read_until(stream, b"na\n") == line("na")
                await stream.send_all(line("ls"))
                listed = await read_until(stream, b"/noise\n")
                assert listed.count(b"/") == 1
            await until(lambda: victim.statistics().failed_handshakes == 1)


@pytest.mark.slow
async def test_stock_plaintext_host_is_refused() -> None:
    from libp2p import new_host
    from libp2p.network.exceptions import SwarmException
    from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
    from multiaddr import Multiaddr

    keys, key = attacker_keys(7)
    with trio.fail_after(LIMIT_S):
        async with node(1) as victim:
            host = new_host(
                key_pair=keys,
                sec_opt={PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)},  # type: ignore[dict-item]
            )
            async with host.run(listen_addrs=[]):
                from swarmd.net.guards import id_of

                with pytest.raises(SwarmException):
                    await host.get_network().dial_addr(  # type: ignore[attr-defined]
                        Multiaddr(str(address(victim))), id_of(victim.peer)
                    )
            assert not victim.is_connected(key)


@pytest.mark.slow
async def test_stock_libp2p_host_with_noise_and_yamux_is_understood() -> None:
    """Wire compatibility: libp2p's own host and yamux speak with ours."""
    from libp2p import new_host
    from libp2p.crypto.x25519 import create_new_key_pair
    from libp2p.security.noise.transport import PROTOCOL_ID, Transport
    from multiaddr import Multiaddr

    from swarmd.net.guards import id_of

    keys, key = attacker_keys(7)
    with trio.fail_after(LIMIT_S):
        async with node(1) as victim:
            noise = Transport(keys, noise_privkey=create_new_key_pair().private_key)
            host = new_host(key_pair=keys, sec_opt={PROTOCOL_ID: noise})
            async with host.run(listen_addrs=[]):
                await host.get_network().dial_addr(  # type: ignore[attr-defined]
                    Multiaddr(str(address(victim))), id_of(victim.peer)
                )
                await until(lambda: victim.is_connected(key))
                stream = await host.new_stream(id_of(victim.peer), [ECHO])
                frame = (400_000).to_bytes(4, "big") + bytes(400_000)
                received = b""
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.write, frame)
                    while len(received) < len(frame):
                        received += await stream.read(65536)
                assert received == frame
                await stream.close()
                with trio.CancelScope(shield=True):
                    await host.close()


@pytest.mark.slow
async def test_rsa_peers_are_refused() -> None:
    from libp2p.crypto.rsa import create_new_key_pair as new_rsa
    from libp2p.crypto.x25519 import create_new_key_pair
    from libp2p.network.connection.raw_connection import RawConnection
    from libp2p.protocol_muxer.multiselect_client import MultiselectClient
    from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
    from libp2p.security.noise.transport import Transport

    from swarmd.net.guards import RawStream, id_of

    with trio.fail_after(LIMIT_S):
        async with node(1) as victim:
            raw = RawStream(
                await trio.open_tcp_stream("127.0.0.1", address(victim).port), stall_s=9
            )
            connection = RawConnection(raw, initiator=True)
            await MultiselectClient().select_one_of(
                ["/noise"],
                MultiselectCommunicator(connection),
                5,
            )
            noise = Transport(new_rsa(1024), noise_privkey=create_new_key_pair().private_key)
            session = await noise.secure_outbound(connection, id_of(victim.peer))
            with pytest.raises(Exception, match="connection"):
                await session.read(1)
            await raw.close()
            assert victim.peers() == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0",
        bytes(range(256)),
        b"\xff" * 20,
        b"\x80\x80\x80\x80\x10" + b"x" * 1000,
        line(LINE) + b"\xff\xff\xff\xff\x0f",
        line(LINE) + line("/noise") + b"\xff\xff" + bytes(70_000),
        line(LINE) + line("/noise") + b"\0\x20" + bytes(32) + b"\0\0\0\0",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_garbage_before_the_handshake(
    garbage: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, handshake_s=0.2) as victim, node(2) as honest:
            async with await trio.open_tcp_stream("127.0.0.1", address(victim).port) as stream:
                try:
                    await stream.send_all(garbage)
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
            await until(lambda: victim.statistics().failed_handshakes == 1)
            assert victim.statistics().handshakes == 0
            await assert_echoes(honest, victim)
    assert capfd.readouterr().err == ""
    loud = [r for r in caplog.records if r.levelno >= logging.WARNING and "libp2p" not in r.name]
    assert loud == []


async def test_announced_gigabytes_are_not_buffered() -> None:
    """A multistream line of 2^40 bytes before any proof of a key."""
    with trio.fail_after(LIMIT_S):
        async with node(1) as victim, node(2) as honest:
            async with await trio.open_tcp_stream("127.0.0.1", address(victim).port) as stream:
                await stream.send_all(line(LINE) + b"\x80\x80\x80\x80\x80\x20")
                with pytest.raises(trio.BrokenResourceError):
                    await forever(stream.send_all, bytes(65536))
            assert victim.statistics().bytes_in < 1_000_000
            await assert_echoes(honest, victim)


@pytest.mark.slow
async def test_200_half_open_connections() -> None:
    """Honest peers get in while an attacker holds 200 silent connections."""
    with trio.fail_after(LIMIT_S):
        async with node(1, handshakes_max=16) as victim, node(2) as honest:
            silent = [
                await trio.open_tcp_stream("127.0.0.1", address(victim).port) for _ in range(200)
            ]
            await until(lambda: victim.statistics().failed_handshakes >= 180)
            assert victim.statistics().handshakes <= 16
            await assert_echoes(honest, victim)
            for stream in silent:
                await trio.aclose_forcefully(stream)
            await until(lambda: victim.statistics().handshakes == 0)


async def test_silent_handshake_ends_in_time() -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, handshake_s=0.05) as victim:
            async with await trio.open_tcp_stream("127.0.0.1", address(victim).port) as stream:
                data = await read_until(stream, b"never")
                assert data == line(LINE)
            await until(lambda: victim.statistics().failed_handshakes == 1)


async def test_banned_peer_is_refused_both_ways() -> None:
    rules = Rules()
    with trio.fail_after(LIMIT_S):
        async with node(1, rules) as victim, node(2) as outcast:
            rules.banned.add(outcast.peer)
            with contextlib.suppress(TransportError):
                await outcast.connect(victim.listen_addresses)
            await until(lambda: outcast.peers() == ())
            assert victim.peers() == ()
            assert victim.statistics().refused_connections == 1
            with pytest.raises(TransportError):
                await victim.connect(outcast.listen_addresses)
            rules.banned.clear()
            await assert_echoes(outcast, victim)


async def test_impostor_at_an_address() -> None:
    """The address answers, but with another key."""
    with trio.fail_after(LIMIT_S):
        async with node(1) as real, node(2) as impostor, node(3) as client:
            wrong = PeerAddress(real.peer, "127.0.0.1", address(impostor).port)
            with pytest.raises(TransportError):
                await client.connect([wrong])
            assert client.peers() == ()
            await client.connect([wrong, address(real)])
            assert client.peers() == (real.peer,)


async def test_dead_first_address_costs_milliseconds() -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1) as server, node(2, dial_stagger_s=5.0) as client:
            listener = await TCPWire().listen("127.0.0.1", 0)
            dead = PeerAddress(server.peer, *listener.address)
            await listener.aclose()
            start = trio.current_time()
            await client.connect([dead, address(server)])
            assert trio.current_time() - start < 1.0


async def test_silent_first_address_costs_the_stagger() -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1) as server, node(2, dial_stagger_s=0.05) as client:
            silent = await TCPWire().listen("127.0.0.1", 0)
            start = trio.current_time()
            await client.connect([PeerAddress(server.peer, *silent.address), address(server)])
            assert trio.current_time() - start < 2.0
            await silent.aclose()


async def test_no_answer_anywhere_names_the_reasons() -> None:
    with trio.fail_after(LIMIT_S):
        silent = await TCPWire().listen("127.0.0.1", 0)
        peer = attacker_keys(5)[1]
        nowhere = [PeerAddress(peer, "127.0.0.1", 1), PeerAddress(peer, *silent.address)]
        async with node(1, dial_s=0.1, dial_stagger_s=0.01) as client:
            with pytest.raises(TransportError, match=r"port 1: .*refused.*does not answer"):
                await client.connect(nowhere)
        await silent.aclose()


async def test_stranger_slots_do_not_displace_members() -> None:
    rules = Rules()
    with trio.fail_after(LIMIT_S):
        limits = {"stranger_connections_max": 2, "stranger_grace_s": LIMIT_S}
        async with node(1, rules, **limits) as victim, node(2) as member:
            rules.strangers.update(attacker_keys(number)[1] for number in range(100, 104))
            async with attack(address(victim), 100), attack(address(victim), 101):
                await until(lambda: len(victim.peers()) == 2)
                with pytest.raises(Exception):  # noqa: B017, PT011  (refusals vary)
                    async with attack(address(victim), 102) as third:
                        await third.list_protocols()
                assert victim.statistics().connections[PeerClass.STRANGER] == 2
                await assert_echoes(member, victim)


async def test_the_oldest_stranger_gives_way_to_a_newcomer() -> None:
    rules = Rules()
    limits = {"stranger_connections_max": 2, "stranger_grace_s": 0.0}
    with trio.fail_after(LIMIT_S):
        async with node(1, rules, **limits) as victim:
            keys = [attacker_keys(number)[1] for number in range(100, 104)]
            rules.strangers.update(keys)
            async with attack(address(victim), 100), attack(address(victim), 101):
                await until(lambda: len(victim.peers()) == 2)
                async with attack(address(victim), 102), attack(address(victim), 103):
                    await until(lambda: set(victim.peers()) == set(keys[2:]))
                    assert victim.statistics().connections[PeerClass.STRANGER] == 2


async def test_stranger_is_disconnected_in_time_and_a_promoted_one_is_not() -> None:
    rules = Rules()
    with trio.fail_after(LIMIT_S):
        async with node(1, rules, stranger_s=0.2) as victim:
            for number in (100, 101):
                rules.strangers.add(attacker_keys(number)[1])
            async with attack(address(victim), 100) as lazy, attack(address(victim), 101) as good:
                rules.strangers.discard(good.key)
                await lazy.wait_ended()
                assert victim.peers() == (good.key,)
                assert victim.statistics().violations == 1
                assert not good.mux.is_closed


async def test_stranger_is_cut_off_at_its_byte_budget() -> None:
    rules = Rules(everyone_is_stranger=True)
    with trio.fail_after(LIMIT_S):
        async with node(1, rules) as victim, attack(address(victim)) as attacker:
            stream = await attacker.select(HELLO)
            with contextlib.suppress(MuxedStreamError):
                while True:
                    await stream.write((60_000).to_bytes(4, "big") + bytes(60_000))
                    await stream.read(60_004)
            await attacker.wait_ended()
            assert victim.statistics().bytes_in < 200_000
            assert victim.statistics().violations >= 1


class SlicedStream:
    """Delivers at most 400 bytes at a time, like a link with tiny segments."""

    def __init__(self, inner: ByteStream) -> None:
        self._inner = inner

    async def send_all(self, data: bytes | memoryview) -> None:
        await self._inner.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(min(max_bytes or 400, 400))

    async def aclose(self) -> None:
        await self._inner.aclose()


class SlicedWire(TCPWire):
    async def dial(self, host: str, port: int) -> ByteStream:
        return SlicedStream(await super().dial(host, port))


@pytest.mark.slow
async def test_400_byte_segments() -> None:
    """libp2p gives up after 100 partial reads of one Noise message; ours does not."""
    body = bytes(300_000)
    with trio.fail_after(LIMIT_S):
        async with node(1) as server, node(2, wire=SlicedWire()) as client:
            await client.connect(server.listen_addresses)
            stream = await client.open_stream(server.peer, ECHO)
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_frame, body)
                assert await stream.receive_frame() == body


async def test_reader_busy_for_minutes_is_not_a_broken_stream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """libp2p's yamux resets a writer after 5 s of zero window; a slow disk must not."""
    wire = MemoryWire(latency_s=0.01)

    async def busy(stream: Stream) -> None:
        total = 0
        while data := await stream.receive_some():
            total += len(data)
            await trio.sleep(60)
        await stream.send_frame(total.to_bytes(4, "big"))

    async with node(1, wire=wire) as server, node(2, wire=wire) as client:
        server.handle("/busy/1", busy, streams_per_peer_max=1, deadline_s=None)
        await client.connect(server.listen_addresses)
        async with await client.open_stream(server.peer, "/busy/1") as stream:
            await stream.send_all(bytes(2_000_000))
            await stream.close_write()
            assert await stream.receive_frame() == (2_000_000).to_bytes(4, "big")


async def test_peer_that_stops_reading_loses_the_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A full pipe with no progress for `stall_s` ends the connection, not the node."""
    wire = MemoryWire()
    stopped = False

    class Deaf:
        def __init__(self, inner: ByteStream) -> None:
            self.inner = inner
            self.send_all = inner.send_all
            self.aclose = inner.aclose

        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            if stopped:
                await trio.sleep_forever()
            return await self.inner.receive_some(max_bytes)

    class DeafWire:
        listen = wire.listen

        async def dial(self, host: str, port: int) -> ByteStream:
            return Deaf(await wire.dial(host, port))

    async with node(1, wire=wire, stall_s=30.0) as server, node(2, wire=DeafWire()) as client:
        await client.connect(server.listen_addresses)
        await until(lambda: server.is_connected(client.peer))
        streams = [await server.open_stream(client.peer, ECHO) for _ in range(4)]
        stopped = True
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for stream in streams:

                async def push(stream: Stream = stream) -> None:
                    with pytest.raises(TransportError):
                        await forever(stream.send_all, bytes(200_000))

                nursery.start_soon(push)
        assert 25 < trio.current_time() - start < 40
        await until(lambda: not server.is_connected(client.peer))


HEADER = struct.Struct("!BBHII")


@pytest.mark.parametrize(
    "frames",
    [
        HEADER.pack(1, 0, 0, 1, 0),
        HEADER.pack(0, 9, 0, 1, 0),
        HEADER.pack(0, 0, 1, 1, 0xFFFFFFFF),
        HEADER.pack(0, 1, 1, 2, 0),
        HEADER.pack(0, 1, 1, 3, 0) + HEADER.pack(0, 1, 1, 1, 0),
        HEADER.pack(0, 1, 1, 3, 0) + HEADER.pack(0, 1, 1, 3, 0),
        HEADER.pack(0, 1, 1, 1, 0xFFFFFFFF),
        HEADER.pack(0, 1, 1, 1, 0) + HEADER.pack(0, 1, 4, 1, 0) + HEADER.pack(0, 0, 0, 1, 1) + b"x",
    ],
    ids=["version", "type", "size", "parity", "order", "twice", "credit", "after-end"],
)
async def test_yamux_violation_ends_the_connection(frames: bytes) -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1) as victim, node(2) as honest:
            async with attack(address(victim)) as attacker:
                await until(lambda: victim.is_connected(attacker.key))
                await attacker.send_raw(frames)
                await attacker.wait_ended()
                await until(lambda: not victim.is_connected(attacker.key))
            assert victim.statistics().violations == 1
            await assert_echoes(honest, victim)


async def test_window_overrun_is_not_buffered() -> None:
    """libp2p only logs it and buffers without bound."""

    async def deaf(_: Stream) -> None:
        await trio.sleep_forever()

    with trio.fail_after(LIMIT_S):
        async with node(1) as victim, attack(address(victim)) as attacker:
            victim.handle("/deaf/1", deaf, streams_per_peer_max=1, deadline_s=None)
            stream = await attacker.select("/deaf/1")
            stream._send_window = 2**30
            with pytest.raises(MuxedStreamError):
                await stream.write(bytes(20_000_000))
            await attacker.wait_ended()
            assert victim.statistics().violations == 1
            assert victim.statistics().bytes_in < 2_000_000


async def test_one_byte_frames_do_not_cost_forty_times_their_window() -> None:
    async def deaf(_: Stream) -> None:
        await trio.sleep_forever()

    with trio.fail_after(LIMIT_S):
        async with node(1) as victim, attack(address(victim)) as attacker:
            victim.handle("/deaf/1", deaf, streams_per_peer_max=1, deadline_s=None)
            stream = await attacker.select("/deaf/1")
            await attacker.send_raw((HEADER.pack(0, 0, 0, stream.stream_id, 1) + b"x") * 5000)
            await attacker.list_protocols()
            mux = victim._swarm.get_connections()[0].muxed_conn
            assert isinstance(mux, Mux)
            chunks = mux._streams[stream.stream_id]._chunks
            assert sum(map(len, chunks)) == 5000
            assert len(chunks) <= 2


@pytest.mark.slow
async def test_ping_flood_without_reading_ends_the_connection() -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, stall_s=30.0) as victim, node(2) as honest:
            async with attack(address(victim), start=False) as attacker:
                ping = HEADER.pack(0, 2, 1, 0, 7) * 5000
                with pytest.raises(IOException):
                    await forever(attacker.send_raw, ping)
            await until(lambda: not victim.is_connected(attacker.key))
            await assert_echoes(honest, victim)


async def test_too_many_streams_are_reset_and_the_rest_serve() -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, streams_per_peer_max=4) as victim, attack(address(victim)) as attacker:
            streams = [await attacker.mux.open_stream() for _ in range(50)]
            alive = 0
            for stream in streams:
                with contextlib.suppress(MuxedStreamError):
                    await stream.read(1)
                    alive += 1
            assert alive <= 4
            for stream in streams:
                await stream.reset()
            await until(lambda: victim.statistics().streams == 0)
            stream = await attacker.select(ECHO)
            await stream.write(b"\0\0\0\x01x")
            assert await stream.read(5) == b"\0\0\0\x01x"


@pytest.mark.slow
async def test_a_restarted_peer_replaces_its_old_connection() -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1) as victim, attack(address(victim)) as first:
            await until(lambda: victim.is_connected(first.key))
            async with attack(address(victim)) as second:
                await first.wait_ended()
                assert await second.list_protocols()
                assert victim.peers() == (second.key,)


def open_sockets() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor that lists the folder
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith("socket:"):
                found.add(target)
    return found


async def test_shutdown_leaves_no_thread_and_no_socket() -> None:
    sockets, threads = open_sockets(), set(threading.enumerate())
    with trio.fail_after(LIMIT_S):
        async with node(1) as server, node(2) as client:
            await assert_echoes(client, server)
            held = await client.open_stream(server.peer, ECHO)
            half_open = await trio.open_tcp_stream("127.0.0.1", address(server).port)
            await until(lambda: server.statistics().handshakes == 1)
            assert held.peer == server.peer
    await trio.aclose_forcefully(half_open)
    assert open_sockets() == sockets
    assert set(threading.enumerate()) <= threads, "one of before may have ended, idle"


async def test_cancelled_network_leaves_no_thread_and_no_socket() -> None:
    sockets, threads = open_sockets(), set(threading.enumerate())
    with trio.move_on_after(0.1):
        async with node(1) as server, node(2) as client:
            await assert_echoes(client, server)
            await trio.sleep_forever()
    assert open_sockets() == sockets
    assert set(threading.enumerate()) <= threads, "one of before may have ended, idle"


async def run_until_libp2p_ends() -> None:
    async with node(1) as network:
        network._swarm.get_manager().cancel()
        await trio.sleep_forever()


async def test_libp2p_ending_by_itself_is_a_typed_error() -> None:
    with trio.fail_after(LIMIT_S):
        with pytest.raises(TransportError, match="by itself"):
            await run_until_libp2p_ends()
        async with node(1) as again, node(2) as other:
            await assert_echoes(other, again)


async def test_pings_of_other_implementations_are_answered() -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1) as victim, attack(address(victim), start=False) as peer:
            await peer.send_raw(HEADER.pack(0, 2, 1, 0, 77))
            assert await peer.session.read(12) == HEADER.pack(0, 2, 2, 0, 77)

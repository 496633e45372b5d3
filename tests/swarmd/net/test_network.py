"""The contract of `Network`, the same over TCP and in memory."""

import pytest
import trio

from protocol.errors import (
    ConfigError,
    LocalProtocolError,
    RemoteProtocolError,
    TransportError,
)
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.net.config import GossipConfig, NetworkConfig, PeerClass
from swarmd.net.memory import MemoryWire
from swarmd.net.network import Stream, StreamRefusedError, open_network
from swarmd.net.wire import TCPWire, Wire
from tests.support.network_nodes import (
    ECHO,
    HELLO,
    LIMIT_S,
    Rules,
    assert_echoes,
    node,
    seed,
    until,
)


@pytest.fixture(params=["tcp", "memory"])
def wire(request: pytest.FixtureRequest) -> Wire:
    return TCPWire() if request.param == "tcp" else MemoryWire()


async def test_frames_both_ways(wire: Wire) -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as server, node(2, wire=wire) as client:
            await assert_echoes(client, server)
            assert client.peers() == (server.peer,)
            await until(lambda: server.peers() == (client.peer,))
            async with await server.open_stream(client.peer, ECHO) as stream:
                assert stream.peer == client.peer
                assert stream.protocol == ECHO
                assert ECHO in repr(stream)
                await stream.send_frame(b"back")
                assert await stream.receive_frame() == b"back"


async def test_half_close_is_a_clean_end(wire: Wire) -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as server, node(2, wire=wire) as client:
            await client.connect(server.listen_addresses)
            async with await client.open_stream(server.peer, ECHO) as stream:
                await stream.send_frame(b"one")
                await stream.close_write()
                assert await stream.receive_frame() == b"one"
                assert await stream.receive_frame() is None
                with pytest.raises(TransportError):
                    await stream.send_frame(b"after the end")


async def test_raw_bytes_beyond_every_window(wire: Wire) -> None:
    size = 3_000_000
    received = bytearray()
    done = trio.Event()

    async def sink(stream: Stream) -> None:
        while data := await stream.receive_some():
            received.extend(data)
        await stream.send_all(len(received).to_bytes(4, "big"))
        done.set()

    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as server, node(2, wire=wire) as client:
            server.handle("/sink/1", sink, streams_per_peer_max=1, deadline_s=None)
            await client.connect(server.listen_addresses)
            async with await client.open_stream(server.peer, "/sink/1") as stream:
                await stream.send_all(bytes(range(250)) * (size // 250))
                await stream.close_write()
                assert int.from_bytes(await stream.receive_some(), "big") == size
            await done.wait()
    assert received == bytes(range(250)) * (size // 250)


@pytest.mark.slow
async def test_slow_reader_only_slows_its_own_stream(wire: Wire) -> None:
    """A stream nobody reads fills its window; others on the connection go on; it resumes later."""
    release = trio.Event()
    total = 0

    async def slow(stream: Stream) -> None:
        nonlocal total
        await release.wait()
        while data := await stream.receive_some():
            total += len(data)
        await stream.send_frame(b"done")

    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as server, node(2, wire=wire) as client:
            server.handle("/slow/1", slow, streams_per_peer_max=1, deadline_s=None)
            await client.connect(server.listen_addresses)
            stream = await client.open_stream(server.peer, "/slow/1")
            async with trio.open_nursery() as nursery:

                async def push() -> None:
                    await stream.send_all(bytes(1_000_000))
                    await stream.close_write()

                nursery.start_soon(push)
                for number in range(20):
                    await assert_echoes(client, server, b"meanwhile %d" % number)
                assert total == 0
                release.set()
                assert await stream.receive_frame() == b"done"
            assert total == 1_000_000


async def test_unknown_protocol_is_refused(wire: Wire) -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as server, node(2, wire=wire) as client:
            await client.connect(server.listen_addresses)
            with pytest.raises(StreamRefusedError):
                await client.open_stream(server.peer, "/nothing/1")
            await assert_echoes(client, server)


async def test_open_stream_needs_a_connection() -> None:
    async with node(1) as network:
        with pytest.raises(TransportError):
            await network.open_stream(PeerKey(bytes(32)), ECHO)


async def test_a_protocol_has_one_handler() -> None:
    async def handler(_: Stream) -> None: ...

    async with node(1) as network:
        with pytest.raises(LocalProtocolError):
            network.handle(ECHO, handler, streams_per_peer_max=1, deadline_s=1.0)


async def test_addresses_of_two_peers_are_a_mistake() -> None:
    async with node(1) as network:
        both = [PeerAddress(PeerKey(bytes([n]) * 32), "127.0.0.1", 1) for n in (1, 2)]
        with pytest.raises(LocalProtocolError):
            await network.connect(both)
        with pytest.raises(LocalProtocolError):
            await network.connect([])


async def test_own_address_is_refused(wire: Wire) -> None:
    async with node(1, wire=wire) as network:
        with pytest.raises(TransportError):
            await network.connect(network.listen_addresses)


@pytest.mark.slow
async def test_events_and_disconnect(wire: Wire) -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as server, node(2, wire=wire) as client:
            await client.connect(server.listen_addresses)
            event = await server.events.receive()
            assert (event.peer, event.is_connected) == (client.peer, True)
            assert server.is_connected(client.peer)
            await client.disconnect(server.peer)
            assert client.peers() == ()
            event = await server.events.receive()
            assert (event.peer, event.is_connected) == (client.peer, False)
            await client.disconnect(server.peer)
            await assert_echoes(client, server)


async def test_statistics_count(wire: Wire) -> None:
    rules = Rules()
    with trio.fail_after(LIMIT_S):
        async with node(1, rules, wire=wire) as server, node(2, wire=wire) as client:
            rules.validators.add(client.peer)
            await assert_echoes(client, server, bytes(10_000))
            await until(lambda: server.statistics().streams == 0 or not server.peers())
            statistics = server.statistics()
            assert statistics.connections[PeerClass.VALIDATOR] == 1
            assert statistics.connections[PeerClass.MEMBER] == 0
            assert 10_000 < statistics.bytes_in < 14_000
            assert 10_000 < statistics.bytes_out < 14_000
            assert statistics.handler_faults == 0


async def test_concurrent_connects_share_one_dial(wire: Wire) -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as server, node(2, wire=wire) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(client.connect, server.listen_addresses)
            assert len(client._swarm.get_connections()) == 1


async def test_both_sides_dialing_at_once_keep_one_connection(wire: Wire) -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as one, node(2, wire=wire) as two:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.connect, two.listen_addresses)
                nursery.start_soon(two.connect, one.listen_addresses)
            for side in (one, two):
                await until(lambda side=side: len(side._swarm.get_connections()) == 1)
            await assert_echoes(one, two)
            await assert_echoes(two, one)


async def test_handler_deadline_resets_the_stream(wire: Wire) -> None:
    async def forever(_: Stream) -> None:
        await trio.sleep_forever()

    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as server, node(2, wire=wire) as client:
            server.handle("/forever/1", forever, streams_per_peer_max=1, deadline_s=0.05)
            await client.connect(server.listen_addresses)
            stream = await client.open_stream(server.peer, "/forever/1")
            with pytest.raises(TransportError):
                await stream.receive_frame()
            await assert_echoes(client, server)


@pytest.mark.parametrize("error", [ValueError("defect"), ExceptionGroup("g", [OSError("io")])])
async def test_handler_exception_costs_one_stream(
    wire: Wire, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(stream: Stream) -> None:
        await stream.receive_frame()
        raise error

    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as server, node(2, wire=wire) as client:
            server.handle("/failing/1", failing, streams_per_peer_max=8, deadline_s=None)
            await client.connect(server.listen_addresses)
            stream = await client.open_stream(server.peer, "/failing/1")
            await stream.send_frame(b"go")
            with pytest.raises(TransportError):
                await stream.receive_frame()
            assert server.statistics().handler_faults == 1
            assert "contained" in caplog.text
            await assert_echoes(client, server)


async def test_oversized_frame_is_the_peers_fault(wire: Wire) -> None:
    failures: list[Exception] = []

    async def strict(stream: Stream) -> None:
        try:
            await stream.receive_frame()
        except RemoteProtocolError as error:
            failures.append(error)
            raise

    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as server, node(2, wire=wire) as client:
            server.handle(
                "/strict/1", strict, streams_per_peer_max=1, deadline_s=None, frame_bytes_max=100
            )
            await client.connect(server.listen_addresses)
            stream = await client.open_stream(server.peer, "/strict/1", frame_bytes_max=100)
            with pytest.raises(LocalProtocolError):
                await stream.send_frame(bytes(101))
            await stream.send_all((101).to_bytes(4, "big"))
            with pytest.raises(TransportError):
                await stream.receive_frame()
            assert len(failures) == 1
            await assert_echoes(client, server)


async def test_stream_that_ends_inside_a_frame(wire: Wire) -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as server, node(2, wire=wire) as client:

            async def half(stream: Stream) -> None:
                await stream.send_all(b"\0\0\0\x08half")

            server.handle("/half/1", half, streams_per_peer_max=1, deadline_s=None)
            await client.connect(server.listen_addresses)
            stream = await client.open_stream(server.peer, "/half/1")
            with pytest.raises(RemoteProtocolError):
                await stream.receive_frame()


async def test_streams_per_protocol_and_peer_are_limited(wire: Wire) -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as server, node(2, wire=wire) as client:
            await client.connect(server.listen_addresses)
            held = [await client.open_stream(server.peer, HELLO) for _ in range(2)]
            for stream in held:
                await stream.send_frame(b"x")
                assert await stream.receive_frame() == b"x"
            third = await client.open_stream(server.peer, HELLO)
            with pytest.raises(TransportError):
                await third.receive_frame()
            assert server.statistics().refused_streams == 1
            for stream in held:
                await stream.aclose()
            await until(lambda: server.statistics().streams == 0)
            async with await client.open_stream(server.peer, HELLO) as stream:
                await stream.send_frame(b"again")
                assert await stream.receive_frame() == b"again"


async def test_cancelled_receive_resets_the_stream(wire: Wire) -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as server, node(2, wire=wire) as client:
            await client.connect(server.listen_addresses)
            stream = await client.open_stream(server.peer, ECHO)
            with trio.move_on_after(0.01) as scope:
                await stream.receive_frame()
            assert scope.cancelled_caught
            with pytest.raises(TransportError):
                await stream.send_frame(b"x")
            await until(lambda: server.statistics().streams == 0)


async def test_failing_body_raises_its_own_error(wire: Wire) -> None:
    with pytest.raises(KeyError):
        async with node(1, wire=wire):
            raise KeyError("body")


async def test_port_in_use_is_a_clear_error(wire: Wire) -> None:
    async with node(1, wire=wire) as first:
        config = NetworkConfig(
            seed=seed(2), listen=(("127.0.0.1", first.listen_addresses[0].port),), wire=wire
        )
        with pytest.raises(TransportError, match="in use"):
            async with open_network(config, admission=Rules()):
                raise AssertionError("must not open")


@pytest.mark.parametrize(
    "change",
    [
        {"seed": bytes(31)},
        {"stream_window_bytes": 1000},
        {"handshakes_max": 0},
        {"stall_s": 0.0},
    ],
)
def test_config_refuses(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        NetworkConfig(**{"seed": bytes(32), **change})


def test_config_hides_the_secret() -> None:
    secret = bytes(range(32))
    assert repr(secret)[2:-1] not in repr(NetworkConfig(seed=secret, gossip=GossipConfig()))


async def test_ipv6_loopback() -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, host="::1") as server, node(2, host="::1") as client:
            assert "/ip6/::1/tcp/" in str(server.listen_addresses[0])
            await assert_echoes(client, server)

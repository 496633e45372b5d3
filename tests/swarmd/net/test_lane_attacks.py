"""Attacks on lanes over real loopback connections: tokens, certificates, handshakes, floods."""

from __future__ import annotations

import errno
import hashlib
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from protocol.digest import Digest
from protocol.errors import RemoteProtocolError, TransportError
from protocol.lane_offer import (
    LANE_CLAIM_BYTES,
    LANE_LIFETIME_S,
    LANE_SECRET_BYTES,
    LaneOffer,
    make_lane_claim,
)
from swarmd.net import lane_server
from swarmd.net.lane import FRAME_S, Lane
from swarmd.net.lane_certificate import client_context, make_lane_identity
from swarmd.net.lane_client import WrongCertificateError, candidates
from swarmd.net.lane_handshake import LaneOpening
from swarmd.net.lane_server import CLAIM_S, HALF_OPEN_MAX, HALF_OPEN_PER_NETWORK_MAX
from tests.support.lanes import (
    CHAIN,
    CLIENT,
    LIMIT_S,
    SERVER,
    THIEF,
    Port,
    Speaker,
    echo,
    lane_and_speaker,
    lane_client,
    lane_pair,
    lane_port,
    peer_of,
)
from tests.support.network_nodes import until

HOST = "127.0.0.1"


async def assert_works(port: Port) -> None:
    """Shows that an honest peer still gets its lane."""
    lane = await lane_client().open(peer_of(SERVER), port.offer(), HOST)
    await lane.send_frame((b"still alive",))
    assert await lane.receive_frame() == b"still alive"
    await lane.reset()


async def dial(port: Port) -> trio.SocketStream:
    assert port.server.port is not None
    return await trio.open_tcp_stream(HOST, port.server.port)


async def ended(stream: trio.SocketStream) -> None:
    """Waits until the other side has closed the connection."""
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass
    await stream.aclose()


async def secure_dial(port: Port) -> tuple[socket.socket, LaneOpening]:
    """An attacker's own TLS connection to the lane port."""
    sock = socket.create_connection((HOST, port.server.port or 0))
    sock.setblocking(False)
    opening = LaneOpening(sock, client_context(), server_side=False)
    await opening.shake_hands()
    return sock, opening


# Tokens ------------------------------------------------------------------------------------------


async def test_a_token_cannot_be_replayed(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path) as port:
            offer = port.offer()
            lane = await lane_client().open(peer_of(SERVER), offer, HOST)
            with pytest.raises(TransportError):
                await lane_client().open(peer_of(SERVER), offer, HOST)
            assert port.server.counters.refused == 1
            await lane.reset()
            await assert_works(port)


async def test_a_stolen_token_is_worth_nothing_to_another_peer(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path) as port:
            with pytest.raises(TransportError):
                await lane_client(THIEF).open(peer_of(SERVER), port.offer(), HOST)
            assert (port.server.counters.refused, port.server.counters.accepted) == (1, 0)
            await assert_works(port)


async def test_a_claim_for_another_lane_or_chain_or_era_is_refused(tmp_path: Path) -> None:
    other = Digest(hashlib.sha256(b"another certificate").digest())
    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path) as port:
            for fingerprint, era in ((other, 0), (port.offer_base.fingerprint, 1)):
                offer = port.offer()
                sock, opening = await secure_dial(port)
                claim = make_lane_claim(
                    offer.token,
                    fingerprint,
                    CLIENT,
                    client_secret=bytes(LANE_SECRET_BYTES),
                    chain=CHAIN,
                    era=era,
                )
                await opening.send(claim)
                await until(lambda: port.server.half_open_count == 0)
                sock.close()
            assert port.server.counters.refused == 2
            await assert_works(port)


async def test_guessed_and_expired_tokens_are_refused(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with lane_port(tmp_path) as port:
        late = port.offer()
        await trio.sleep(LANE_LIFETIME_S)
        guessed = replace(late, token=b"g" * 32)
        autojump_clock.autojump_threshold = float("inf")  # sockets are slower than a virtual clock
        autojump_clock.rate = 1.0
        for offer in (late, guessed):
            with pytest.raises(TransportError):
                await lane_client().open(peer_of(SERVER), offer, HOST)
        assert port.server.counters.refused == 2
        await assert_works(port)


async def test_a_peer_suspended_after_the_offer_gets_no_lane(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path) as port:
            offer = port.offer()
            port.suspended.add(peer_of(CLIENT))
            with pytest.raises(TransportError):
                await lane_client().open(peer_of(SERVER), offer, HOST)
            assert not port.server.lanes


# Certificates ------------------------------------------------------------------------------------


async def test_a_man_in_the_middle_never_sees_the_token(tmp_path: Path) -> None:
    seen = bytearray()
    middle = trio.SSLListener(
        (await trio.open_tcp_listeners(0, host=HOST))[0],
        make_lane_identity(tmp_path).context,
    )

    async def intercept() -> None:
        stream = await middle.accept()
        try:
            while data := await stream.receive_some():
                seen.extend(data)
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(stream)
        await trio.aclose_forcefully(middle)

    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path) as port, trio.open_nursery() as nursery:
            nursery.start_soon(intercept)
            diverted = replace(port.offer(), port=middle.transport_listener.socket.getsockname()[1])
            with pytest.raises(WrongCertificateError):
                await lane_client().open(peer_of(SERVER), diverted, HOST)
            await assert_works(port)
    assert not seen


def test_an_offer_cannot_have_us_dial_anywhere() -> None:
    offered = ("127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.1.1", "::1", "ff02::1", "198.51.100.7")
    assert list(candidates("192.0.2.1", offered)) == ["192.0.2.1", "198.51.100.7"]
    offered = ("10.0.0.1", "127.0.0.1", "198.51.100.7")
    assert list(candidates("192.168.0.1", offered)) == ["192.168.0.1", "10.0.0.1", "198.51.100.7"]
    assert list(candidates("198.51.100.1", offered)) == ["198.51.100.1", "198.51.100.7"]
    assert list(candidates("127.0.0.1", ("127.0.0.1", "::1"))) == ["127.0.0.1", "::1"]


# Handshakes and floods ---------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [b"\x13/multistream/1.0.0\n", b"GET / HTTP/1.1\r\n\r\n", b"\0"])
async def test_garbage_before_tls_costs_its_own_connection(tmp_path: Path, garbage: bytes) -> None:
    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path) as port:
            stream = await dial(port)
            await stream.send_all(garbage + bytes(600))
            await ended(stream)
            await until(lambda: port.server.counters.failed == 1)
            await assert_works(port)


async def test_an_old_protocol_version_is_refused(tmp_path: Path) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path) as port:
            stream = trio.SSLStream(await dial(port), old)
            with pytest.raises(trio.BrokenResourceError):
                await stream.do_handshake()
            await trio.aclose_forcefully(stream)
            await assert_works(port)


@pytest.mark.parametrize("said", [b"", b"\x16", b"\x16\x03\x01\x02"])
async def test_a_silent_or_creeping_client_is_sent_away_in_time(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, said: bytes
) -> None:
    """One byte a second is no better than none: the limit is on the whole claim."""
    async with lane_port(tmp_path) as port:
        stream = await dial(port)
        await until(lambda: port.server.half_open_count == 1)
        started = trio.current_time()
        for byte in said:
            await stream.send_all(bytes([byte]))
            await trio.sleep(1)
        await ended(stream)
        assert trio.current_time() - started <= CLAIM_S + 0.1
        assert port.server.half_open_count == 0


async def test_a_client_that_never_claims_is_sent_away(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path) as port:
            sock, opening = await secure_dial(port)
            await opening.send(bytes(LANE_CLAIM_BYTES - 1))
            sock.shutdown(socket.SHUT_WR)
            await until(lambda: port.server.counters.failed == 1)
            sock.close()
            await assert_works(port)


async def test_a_flood_of_half_open_connections_keeps_nobody_out(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path) as port:
            flood = [await dial(port) for _ in range(3 * HALF_OPEN_PER_NETWORK_MAX)]
            await until(lambda: port.server.half_open_count == HALF_OPEN_PER_NETWORK_MAX)
            await assert_works(port)
            assert port.server.half_open_count <= HALF_OPEN_PER_NETWORK_MAX
            for stream in flood:
                await stream.aclose()


async def test_the_greediest_network_pays_for_a_flood(tmp_path: Path) -> None:
    """With places taken from everywhere, the oldest of whoever has most gives way."""
    async with lane_port(tmp_path) as port:
        half_open = port.server._half_open  # many addresses cannot be had here
        scopes, sockets = {}, []
        for number in range(HALF_OPEN_MAX):
            network = "greedy" if number in (3, 9) else f"network {number}"
            held = socket.socket()
            scopes[number] = trio.CancelScope()
            half_open[held] = (network, scopes[number])
            sockets.append(held)
        port.server._make_place("newcomer")
        cancelled = [number for number, scope in scopes.items() if scope.cancel_called]
        half_open.clear()
        for held in sockets:
            held.close()
        assert cancelled == [3]


def test_an_ipv6_network_is_one_place() -> None:
    network_of = lane_server._network_of
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1")
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
    assert network_of("192.0.2.1") != network_of("192.0.2.2")
    assert network_of("fe80::1%eth0") == network_of("fe80::2%eth0")


# Open lanes --------------------------------------------------------------------------------------


async def test_a_forged_end_is_never_an_end() -> None:
    """Whoever sits on the path can close TCP, but not the stream inside."""
    near, far = lane_pair()
    with trio.fail_after(LIMIT_S):
        await far.send_frame((b"whole",))
        far._sock.shutdown(socket.SHUT_WR)  # what a forger does
        assert await near.receive_frame() == b"whole"
        with pytest.raises(TransportError):
            await near.receive_frame()
        await near.reset()
        await far.reset()


async def test_an_end_of_the_peer_itself_is_an_end() -> None:
    with trio.fail_after(LIMIT_S), lane_and_speaker() as (lane, speaker):
        speaker.say(b"\0\0\0\x01x")
        speaker.say(b"")
        assert await lane.receive_frame() == b"x"
        assert await lane.receive_frame() is None
        await lane.reset()


@pytest.mark.parametrize("prefix", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\x20\0\0"])
async def test_a_frame_out_of_bounds_ends_the_lane(prefix: bytes) -> None:
    with trio.fail_after(LIMIT_S), lane_and_speaker() as (lane, speaker):
        speaker.say(prefix)
        with pytest.raises(RemoteProtocolError):
            await lane.receive_frame()
        assert lane.is_broken_off
        await lane.reset()


@pytest.mark.slow
@pytest.mark.parametrize("is_record", [False, True])
async def test_a_frame_or_record_that_creeps_in_ends_the_lane(
    autojump_clock: trio.testing.MockClock, *, is_record: bool
) -> None:
    """One byte a second never completes it, and does not hold its memory for ever."""
    autojump_clock.autojump_threshold = 0.03  # what a thread does takes none of the clock's time
    failed = trio.Event()

    async def receive(lane: Lane) -> None:
        # No offence: an honest peer whose link or rate is thin looks like this, too.
        with pytest.raises(TransportError):
            await lane.receive_frame()
        failed.set()

    with lane_and_speaker() as (lane, speaker):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, lane)
            if is_record:
                speaker.sock.send((1000).to_bytes(4, "big"))
            else:
                speaker.say((1000).to_bytes(4, "big"))
            started = trio.current_time()
            while not failed.is_set():
                if is_record:
                    speaker.sock.send(b"x")
                else:
                    speaker.say(b"x")
                await trio.sleep(1)
        assert FRAME_S <= trio.current_time() - started <= FRAME_S + 5
        await lane.reset()


@pytest.mark.slow
async def test_a_large_frame_of_a_peer_that_shares_the_least_rate_arrives(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """16 KiB/s among ten peers: 256 KiB take longer than a small frame is ever waited for."""
    autojump_clock.autojump_threshold = 0.03  # the kernel moves windows in its own time
    size, piece = 256 * 1024, 16 * 1024

    async def send(speaker: Speaker) -> None:
        speaker.say(size.to_bytes(4, "big"))
        for _ in range(size // piece):
            await trio.sleep(10)
            speaker.say(bytes(piece))

    with lane_and_speaker() as (lane, speaker):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, speaker)
            frame = await lane.receive_frame()
        assert frame is not None
        assert len(frame) == size
        assert trio.current_time() > FRAME_S
        await lane.reset()


async def swallow(lane: Lane) -> None:
    while await lane.receive_frame() is not None:
        pass


async def test_a_suspended_peer_loses_its_lane_in_full_transfer(tmp_path: Path) -> None:
    served_frames = 0
    over = trio.Event()

    async def serve(lane: Lane) -> None:
        nonlocal served_frames
        try:
            while True:
                await lane.send_frame((bytes(1_000_000),))
                served_frames += 1
        finally:
            over.set()

    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path, serve) as port:
            lane = await lane_client().open(peer_of(SERVER), port.offer(), HOST)
            for _ in range(3):
                await lane.receive_frame()
            assert port.server.lanes
            started = trio.current_time()
            port.server.peer_gone(peer_of(THIEF))
            assert await lane.receive_frame() is not None, "somebody else's suspension"
            port.server.peer_gone(peer_of(CLIENT))
            with pytest.raises(TransportError):
                await swallow(lane)
            await over.wait()
            assert trio.current_time() - started <= 1.0
            await until(lambda: not port.server.lanes)
            await lane.reset()


async def test_a_peer_has_few_lanes_and_the_newest_stay(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path) as port:
            lanes = [
                await lane_client().open(peer_of(SERVER), port.offer(), HOST) for _ in range(3)
            ]
            with pytest.raises(TransportError):
                await lanes[0].receive_frame()
            for lane in lanes[1:]:
                await lane.send_frame((b"alive",))
                assert await lane.receive_frame() == b"alive"
            for lane in lanes:
                await lane.reset()


async def test_a_defect_of_who_uses_a_lane_is_contained(tmp_path: Path) -> None:
    async def serve(lane: Lane) -> None:
        if await lane.receive_frame() == b"fail":
            raise ZeroDivisionError
        await echo(lane)

    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path, serve) as port:
            lane = await lane_client().open(peer_of(SERVER), port.offer(), HOST)
            await lane.send_frame((b"fail",))
            with pytest.raises(TransportError):
                await lane.receive_frame()
            assert port.server.counters.faults == 1
            await lane.reset()


# Opening in vain ---------------------------------------------------------------------------------


async def test_a_closed_port_fails_at_once_and_a_silent_one_within_two_seconds(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with lane_port(tmp_path) as port:
        offer = port.offer()
    with pytest.raises(TransportError, match=r"refused|silent"):
        await lane_client().open(peer_of(SERVER), offer, HOST)
    with socket.socket() as full:
        full.bind((HOST, 0))
        full.listen(0)
        backlog = [fill(full.getsockname()) for _ in range(3)]
        started = trio.current_time()
        silent = LaneOffer(
            port=full.getsockname()[1], fingerprint=offer.fingerprint, token=offer.token
        )
        with pytest.raises(TransportError):
            await lane_client().open(peer_of(SERVER), silent, HOST)
        assert trio.current_time() - started <= 6.1
        for sock in backlog:
            sock.close()


def fill(address: tuple[str, int]) -> socket.socket:
    """Begins a connection that nobody accepts."""
    sock = socket.socket()
    sock.setblocking(False)
    assert sock.connect_ex(address) in (0, errno.EINPROGRESS)
    return sock

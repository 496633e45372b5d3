"""How TLS is left: where exactly, with what behind it, and after how much at most."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from protocol.errors import TransportError
from protocol.lane_offer import (
    LANE_CLAIM_BYTES,
    LANE_SECRET_BYTES,
    LANE_TOKEN_BYTES,
    LANE_WELCOME,
    LaneKeys,
    LaneOffer,
    check_lane_claim,
    derive_lane_keys,
    make_lane_claim,
)
from swarmd.net.lane import Lane
from swarmd.net.lane_certificate import LaneIdentity, client_context, make_lane_identity
from swarmd.net.lane_handshake import OPENING_BYTES_MAX, LaneOpening
from swarmd.net.lane_records import OVERHEAD_BYTES, RecordSealer
from swarmd.net.lane_server import (
    HANDSHAKES_BURST,
    HANDSHAKES_PER_NETWORK_BURST,
    HANDSHAKES_PER_NETWORK_PER_S,
    HANDSHAKES_PER_S,
)
from swarmd.token_bucket import TokenBuckets
from tests.support.lanes import (
    CHAIN,
    CLIENT,
    LIMIT_S,
    SERVER,
    Port,
    lane_client,
    lane_port,
    peer_of,
    socket_pair,
)
from tests.support.network_nodes import until

HOST = "127.0.0.1"
TOKEN = b"t" * LANE_TOKEN_BYTES
SECRET = b"s" * LANE_SECRET_BYTES
FRAME = b"\0\0\0\x05early"


def sealed(key: bytes, *plains: bytes) -> bytes:
    sealer, out = RecordSealer(key), memoryview(bytearray(99 + sum(map(len, plains)) * 2))
    end = 0
    for plain in plains:
        end += sealer.seal(plain, out[end:])
    return bytes(out[:end])


Answer = Callable[[LaneOpening, socket.socket, LaneKeys], Awaitable[None]]


async def open_at(folder: Path, answer: Answer) -> Lane:
    """Opens a lane at a server that does as it likes once it has seen a claim.

    The client is the real one. `answer` gets TLS, the socket below it, and the lane's keys.
    """
    identity = make_lane_identity(folder)
    listener = trio.socket.socket()
    await listener.bind((HOST, 0))
    listener.listen(1)
    lanes: list[Lane] = []

    async def serve() -> None:
        accepted, _ = await listener.accept()
        sock = socket.socket(fileno=accepted.detach())
        sock.setblocking(False)
        opening = LaneOpening(sock, identity.context, server_side=True)
        with sock:
            await opening.shake_hands()
            claim = await opening.receive_exactly(LANE_CLAIM_BYTES)
            await answer(opening, sock, keys_of(claim, identity))
            await done.wait()

    offer = LaneOffer(port=listener.getsockname()[1], fingerprint=identity.fingerprint, token=TOKEN)
    done = trio.Event()
    with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            try:
                lanes.append(await lane_client().open(peer_of(SERVER), offer, HOST))
                await read_early(lanes[0])
            finally:
                for lane in lanes:
                    await lane.reset()
                done.set()
    return lanes[0]


async def read_early(lane: Lane) -> None:
    """Takes two frames and the end."""
    assert await lane.receive_frame() == b"early"
    assert await lane.receive_frame() == b"early"
    assert await lane.receive_frame() is None


def keys_of(claim: bytes, identity: LaneIdentity) -> LaneKeys:
    client_secret = check_lane_claim(claim, identity.fingerprint, CLIENT.public, chain=CHAIN, era=0)
    return derive_lane_keys(
        TOKEN, identity.fingerprint, client_secret=client_secret, server_secret=SECRET
    )


def welcome_record(opening: LaneOpening, *said: bytes) -> bytes:
    """The welcome as TLS puts it on the wire, kept back; each piece is a record of TLS."""
    for piece in said or (LANE_WELCOME + SECRET,):
        opening._tls.write(piece)
    return opening._outgoing.read()


# Where TLS ends ----------------------------------------------------------------------------------


async def test_bytes_in_the_same_segment_as_the_welcome_are_not_lost(tmp_path: Path) -> None:
    async def answer(opening: LaneOpening, sock: socket.socket, keys: LaneKeys) -> None:
        data = welcome_record(opening) + sealed(keys.server, FRAME + FRAME, b"")
        assert sock.send(data) == len(data)

    with trio.fail_after(LIMIT_S):
        await open_at(tmp_path, answer)


async def test_the_border_may_lie_anywhere_in_a_segment(tmp_path: Path) -> None:
    """One byte a segment: the client looks between any two."""

    async def answer(opening: LaneOpening, sock: socket.socket, keys: LaneKeys) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in welcome_record(opening) + sealed(keys.server, FRAME, FRAME, b""):
            sock.send(bytes([byte]))
            await trio.lowlevel.checkpoint()

    with trio.fail_after(LIMIT_S):
        await open_at(tmp_path, answer)


@pytest.mark.parametrize(
    "said",
    [
        (LANE_WELCOME + SECRET + b"x",),
        (LANE_WELCOME + SECRET, b"x"),
        (b"\2" + SECRET,),
        (LANE_WELCOME + SECRET[:-1],),
    ],
)
async def test_anything_but_a_welcome_under_tls_ends_the_connection(
    tmp_path: Path, said: tuple[bytes, ...]
) -> None:
    async def answer(opening: LaneOpening, sock: socket.socket, keys: LaneKeys) -> None:
        sock.send(welcome_record(opening, *said) + sealed(keys.server, FRAME, FRAME, b""))
        if len(said[0]) <= LANE_SECRET_BYTES:
            sock.shutdown(socket.SHUT_WR)

    with (
        trio.fail_after(LIMIT_S),
        pytest.RaisesGroup(pytest.RaisesExc((TransportError, OSError)), flatten_subgroups=True),
    ):
        await open_at(tmp_path, answer)


async def test_a_wrong_secret_makes_no_lane(tmp_path: Path) -> None:
    """Whoever has the certificate's key but hears another claim cannot speak."""

    async def answer(opening: LaneOpening, sock: socket.socket, keys: LaneKeys) -> None:
        other = bytes(byte ^ 1 for byte in keys.server)
        sock.send(welcome_record(opening) + sealed(other, FRAME, FRAME, b""))

    with trio.fail_after(LIMIT_S), pytest.RaisesGroup(pytest.RaisesExc(TransportError)):
        await open_at(tmp_path, answer)


# What a server puts up with ----------------------------------------------------------------------


async def dial(port: Port) -> socket.socket:
    sock = socket.create_connection((HOST, port.offer_base.port))
    sock.setblocking(False)
    return sock


def claim_for(offer: LaneOffer) -> bytes:
    return make_lane_claim(
        offer.token,
        offer.fingerprint,
        CLIENT,
        client_secret=SECRET,
        chain=CHAIN,
        era=0,
    )


@pytest.mark.parametrize("how", ["same record", "another record", "plain"])
async def test_whoever_speaks_before_the_welcome_gets_no_answers(tmp_path: Path, how: str) -> None:
    """Records before the welcome cannot be authentic: the server's secret was not said yet."""
    frames: list[object] = []

    async def serve(lane: Lane) -> None:
        frames.append(await lane.receive_frame())

    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path, serve) as port:
            with await dial(port) as sock:
                opening = LaneOpening(sock, client_context(), server_side=False)
                await opening.shake_hands()
                said = claim_for(port.offer())
                early = FRAME + bytes(OVERHEAD_BYTES)
                opening._tls.write(said + early if how == "same record" else said)
                if how == "another record":
                    opening._tls.write(early)
                tls = opening._outgoing.read()
                sock.send(tls + early if how == "plain" else tls)
                await until(
                    lambda: port.server.counters.failed + port.server.counters.accepted == 1
                )
                await until(lambda: not port.server.lanes)
    assert not frames


async def test_a_claim_of_the_old_format_is_no_claim(tmp_path: Path) -> None:
    """It has no secret, so it ends too early."""
    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path) as port:
            with await dial(port) as sock:
                opening = LaneOpening(sock, client_context(), server_side=False)
                await opening.shake_hands()
                await opening.send(claim_for(port.offer())[:-LANE_SECRET_BYTES])
                sock.shutdown(socket.SHUT_WR)
                await until(lambda: port.server.counters.failed == 1)
            assert port.server.counters.accepted == 0


async def test_tls_that_goes_on_for_ever_is_cut_off(tmp_path: Path) -> None:
    """A hello of 64 KiB, which OpenSSL would wait for: what it is fed is bounded."""
    hello = b"\x01\x01\x00\x00" + bytes(1 << 16)
    data = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
        for part in (hello[at : at + 16_000] for at in range(0, len(hello), 16_000))
    )
    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path) as port:
            with await dial(port) as sock:
                sock.send(data[: OPENING_BYTES_MAX - 1])
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert port.server.half_open_count == 1
                sock.send(data[OPENING_BYTES_MAX - 1 :])
                await until(lambda: port.server.counters.failed == 1)


async def test_what_a_client_takes_is_bounded_too(tmp_path: Path) -> None:
    near, far = socket_pair()
    with near, far, trio.fail_after(LIMIT_S):
        client = LaneOpening(near, client_context(), server_side=False)
        server = LaneOpening(far, make_lane_identity(tmp_path).context, server_side=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.shake_hands)
            nursery.start_soon(server.shake_hands)
        for _ in range(OPENING_BYTES_MAX):
            server._tls.write(b"x")  # 23 bytes a record
        flood = server._outgoing.read()
        sent_bytes = far.send(flood[: 2 * OPENING_BYTES_MAX])
        with pytest.raises(TransportError, match="within"):
            await client.receive_exactly(OPENING_BYTES_MAX)
        left_bytes = len(near.recv(len(flood)))
        assert sent_bytes - left_bytes <= OPENING_BYTES_MAX, "the rest was never taken"


async def test_a_flood_of_handshakes_costs_little_and_its_own_network_most(tmp_path: Path) -> None:
    """Each costs a signature. The ones on top are sent away before they cost one."""
    shown = 0

    async def knock(port: Port) -> None:
        nonlocal shown
        with await dial(port) as sock, contextlib.suppress(TransportError, OSError):
            await LaneOpening(sock, client_context(), server_side=False).shake_hands()
            shown += 1

    burst = int(HANDSHAKES_PER_NETWORK_BURST)
    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path) as port:
            offer = port.offer()
            started = trio.current_time()
            for _ in range(burst + 20):
                await knock(port)
            # It goes on until the end of a handshake that could still begin.
            most = burst + HANDSHAKES_PER_NETWORK_PER_S * (trio.current_time() - started) + 1
            assert burst <= shown <= most
            port.server._begin_handshake("another network")  # is not shut out
            port.server._handshakes_of_network = TokenBuckets(burst=1, per_s=0)  # time passes
            lane = await lane_client().open(peer_of(SERVER), offer, HOST)
            await lane.reset()
            with pytest.raises(TransportError):
                await lane_client().open(peer_of(SERVER), port.offer(), HOST)


async def test_handshakes_of_all_networks_together_are_bounded(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with lane_port(tmp_path) as port:
        for number in range(int(HANDSHAKES_BURST)):
            port.server._begin_handshake(f"network {number}")
        with pytest.raises(TransportError, match="too many"):
            port.server._begin_handshake("one more")
        await trio.sleep(1.001)
        for number in range(int(HANDSHAKES_PER_S)):
            port.server._begin_handshake(f"later network {number}")
        with pytest.raises(TransportError, match="too many"):
            port.server._begin_handshake("one more")

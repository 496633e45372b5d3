"""Lanes beside a real network: offers over control streams, and falling back to streams."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from protocol.digest import Digest
from protocol.errors import EncodingError, TransportError
from protocol.keys import PrivateKey
from protocol.lane_offer import (
    LANE_MESSAGE_BYTES_MAX,
    LaneOffer,
    LaneStatus,
    check_lane_question,
    decode_lane_answer,
    encode_lane_answer,
    encode_lane_question,
)
from protocol.version import ProtocolName, protocol_id
from swarmd.entropy import SeededEntropy
from swarmd.net.address import PeerKey
from swarmd.net.lane import Lane
from swarmd.net.lane_backoff import PAUSE_S_START
from swarmd.net.lane_service import LaneService, LaneSettings, LaneSurroundings
from swarmd.net.memory import MemoryWire
from swarmd.net.network import Network, Stream
from swarmd.net.wire import Wire
from tests.support.lanes import CHAIN, LIMIT_S, echo
from tests.support.network_nodes import ECHO, Rules, node, seed, until

LANE = protocol_id(CHAIN, ProtocolName.LANE)


@dataclass
class Member:
    """A network with lanes."""

    network: Network
    lanes: LaneService
    suspended: set[PeerKey] = field(default_factory=set)

    async def open(self, peer: PeerKey) -> Lane | Stream:
        async def fall_back(peer: PeerKey) -> Stream:
            return await self.network.open_stream(peer, ECHO)

        return await self.lanes.open_or(peer, fall_back)


@asynccontextmanager
async def member(
    number: int,
    folder: Path,
    *,
    wire: Wire | None = None,
    host: str = "127.0.0.1",
    port: int | None = 0,
    is_old: bool = False,
) -> AsyncIterator[Member]:
    """Runs a member; `port` None: no lanes; `is_old`: one that has never heard of them."""
    async with node(number, Rules(), wire=wire, host=host) as network:
        suspended: set[PeerKey] = set()
        has_lanes = port is not None and network.is_on_tcp
        lanes = LaneService(
            LaneSettings(hosts=(host,), port=port or 0, folder=folder) if has_lanes else None,
            LaneSurroundings(
                network=network,
                chain=CHAIN,
                era=lambda: 0,
                key=PrivateKey(seed(number)),
                entropy=SeededEntropy(number),
                may_use=lambda peer: peer not in suspended,
            ),
            echo,
        )
        if not is_old:
            lanes.serve_protocol()
            await lanes.bind()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lanes.run)
            yield Member(network, lanes, suspended)
            nursery.cancel_scope.cancel()


async def assert_echoes(stream: Lane | Stream) -> None:
    await stream.send_frame((b"there and ", b"back"))
    assert await stream.receive_frame() == b"there and back"


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_lane_between_members(tmp_path: Path, host: str) -> None:
    with trio.fail_after(LIMIT_S):
        async with (
            member(1, tmp_path, host=host) as server,
            member(2, tmp_path, host=host) as client,
        ):
            await client.network.connect(server.network.listen_addresses)
            stream = await client.open(server.network.peer)
            assert isinstance(stream, Lane)
            assert stream.peer == server.network.peer
            await assert_echoes(stream)
            assert client.lanes.statistics().open == server.lanes.statistics().open == 1
            await stream.reset()
            await until(lambda: server.lanes.statistics().open == 0)
            assert client.lanes.statistics().open == 0
            # The one that was called may call back: its peer's lane port is known from the offer.
            back = await server.open(client.network.peer)
            assert isinstance(back, Lane)
            await assert_echoes(back)
            await back.reset()


@pytest.mark.parametrize(
    "missing", ["server is old", "server has none", "client has none", "memory"]
)
async def test_without_a_lane_there_is_a_stream(tmp_path: Path, missing: str) -> None:
    wire = MemoryWire() if missing == "memory" else None
    with trio.fail_after(LIMIT_S):
        async with (
            member(
                1,
                tmp_path,
                wire=wire,
                is_old=missing == "server is old",
                port=None if missing == "server has none" else 0,
            ) as server,
            member(
                2, tmp_path, wire=wire, port=None if missing == "client has none" else 0
            ) as client,
        ):
            await client.network.connect(server.network.listen_addresses)
            stream = await client.open(server.network.peer)
            assert isinstance(stream, Stream)
            await assert_echoes(stream)
            assert client.lanes.statistics().fallbacks == 1
            await stream.aclose()


async def test_a_peer_that_knows_lanes_of_tls_records_only_is_served_over_a_stream(
    tmp_path: Path,
) -> None:
    """The protocol's id decides: nothing is asked, nothing dialed, nothing negotiated."""
    assert LANE.endswith("/lane/2")
    questions: list[bytes | None] = []

    async def offer(stream: Stream) -> None:
        questions.append(await stream.receive_frame())

    with trio.fail_after(LIMIT_S):
        async with member(1, tmp_path, is_old=True) as old, member(2, tmp_path) as client:
            before = LANE.removesuffix("2") + "1"
            old.network.handle(before, offer, streams_per_peer_max=1, deadline_s=5.0)
            await client.network.connect(old.network.listen_addresses)
            stream = await client.open(old.network.peer)
            assert isinstance(stream, Stream)
            await assert_echoes(stream)
            await stream.aclose()
            with pytest.raises(TransportError):
                await old.network.open_stream(client.network.peer, before)
    assert not questions


async def test_a_blocked_port_is_paid_for_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="swarmd.net.lane_service")
    with trio.fail_after(LIMIT_S):
        async with member(1, tmp_path) as server, member(2, tmp_path) as client:
            await client.network.connect(server.network.listen_addresses)
            assert server.lanes._server is not None
            # Still offered, and whoever connects is refused.
            server.lanes._server._listeners[0].shutdown(socket.SHUT_RDWR)
            for _ in range(3):
                stream = await client.open(server.network.peer)
                assert isinstance(stream, Stream)
                await stream.aclose()
    told = [record for record in caplog.records if record.name.endswith("lane_service")]
    assert len(told) == 1
    assert f"next try in {PAUSE_S_START:.0f} s" in caplog.text


@pytest.mark.slow
async def test_a_suspension_ends_lanes_of_both_sides_and_revokes_tokens(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S):
        async with member(1, tmp_path) as server, member(2, tmp_path) as client:
            await client.network.connect(server.network.listen_addresses)
            for side in (server, client):
                other = client if side is server else server
                stream = await client.open(server.network.peer)
                assert isinstance(stream, Lane)
                await assert_echoes(stream)
                side.lanes.peer_gone(other.network.peer)
                with pytest.raises(TransportError):
                    await stream.receive_frame()
                await stream.reset()
            asked = await client.network.open_stream(server.network.peer, LANE)
            await asked.send_frame(encode_lane_question())
            answer = decode_lane_answer(bytes(await asked.receive_frame() or b""))
            assert isinstance(answer, LaneOffer)
            server.lanes.peer_gone(client.network.peer)
            with pytest.raises(TransportError):
                await client.lanes._client.open(server.network.peer, answer, "127.0.0.1")
            await until(lambda: server.lanes.statistics().refused_claims == 1)


async def test_a_lane_to_a_peer_suspended_meanwhile_is_not_used(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S):
        async with member(1, tmp_path) as server, member(2, tmp_path) as client:
            await client.network.connect(server.network.listen_addresses)
            client.suspended.add(server.network.peer)
            with pytest.raises(TransportError):
                await client.open(server.network.peer)
            assert client.lanes.statistics().open == 0


async def test_a_lane_to_a_peer_gone_meanwhile_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would end it later: its peer is told of as gone once."""
    with trio.fail_after(LIMIT_S):
        async with member(1, tmp_path) as server, member(2, tmp_path) as client:
            await client.network.connect(server.network.listen_addresses)
            open_lane = client.lanes._open

            async def open_and_lose(peer: PeerKey) -> Lane:
                lane = await open_lane(peer)
                await client.network.disconnect(peer)
                client.lanes.peer_gone(peer)
                return lane

            monkeypatch.setattr(client.lanes, "_open", open_and_lose)
            with pytest.raises(TransportError):
                await client.open(server.network.peer)
            assert client.lanes.statistics().open == 0


async def test_a_taken_port_is_replaced_by_a_free_one(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S), socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        async with member(1, tmp_path, port=number) as server, member(2, tmp_path) as client:
            assert server.lanes.statistics().port not in (None, number)
            await client.network.connect(server.network.listen_addresses)
            stream = await client.open(server.network.peer)
            assert isinstance(stream, Lane)
            await stream.reset()


@pytest.mark.slow
async def test_nonsense_instead_of_a_question_or_an_answer(tmp_path: Path) -> None:
    async def lie(stream: Stream) -> None:
        await stream.receive_frame()
        await stream.send_frame(b"\xa0")

    with trio.fail_after(LIMIT_S):
        async with (
            member(1, tmp_path) as server,
            member(2, tmp_path) as client,
            member(3, tmp_path, is_old=True) as liar,
        ):
            liar.network.handle(LANE, lie, streams_per_peer_max=1, deadline_s=5.0)
            await client.network.connect(server.network.listen_addresses)
            await client.network.connect(liar.network.listen_addresses)
            asked = await client.network.open_stream(server.network.peer, LANE)
            await asked.send_frame(b"\xa0")
            with pytest.raises(TransportError):
                await asked.receive_frame()
            assert isinstance(await client.open(liar.network.peer), Stream)
            lane = await client.open(server.network.peer)
            assert isinstance(lane, Lane)
            await lane.reset()


# Messages ----------------------------------------------------------------------------------------


def offer(**changes: object) -> LaneOffer:
    parts: dict[str, object] = {
        "port": 7002,
        "fingerprint": Digest(bytes(32)),
        "token": bytes(32),
        "addresses": ("192.0.2.1", "2001:db8::1"),
        **changes,
    }
    return LaneOffer(**parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [offer(), offer(addresses=()), LaneStatus.NONE, LaneStatus.BUSY])
def test_answers_are_read_as_written(answer: LaneOffer | LaneStatus) -> None:
    raw = encode_lane_answer(answer)
    assert decode_lane_answer(raw) == answer
    assert len(raw) <= LANE_MESSAGE_BYTES_MAX
    for size in range(len(raw)):
        with pytest.raises(EncodingError):
            decode_lane_answer(raw[:size])
    check_lane_question(encode_lane_question())


@pytest.mark.parametrize(
    "changes",
    [
        {"port": 0},
        {"port": 65536},
        {"token": bytes(31)},
        {"addresses": ("192.0.2.1",) * 5},
    ],
)
def test_offers_out_of_bounds_do_not_exist(changes: dict[str, object]) -> None:
    with pytest.raises(EncodingError):
        offer(**changes)


def test_an_offer_never_prints_its_token() -> None:
    assert "token" not in repr(offer(token=b"secret!!" * 4))

"""Who probes an idle connection, and when: who called keeps the way open, and pays for it."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from swarmd.config import KEEPALIVE_S_MIN, NetworkSection
from swarmd.net.keepalive import (
    KEEPALIVE_ACCEPTED_IDLE_S,
    KEEPALIVE_IDLE_S,
    KEEPALIVE_METERED_IDLE_S,
    UNANSWERED_S,
)
from swarmd.net.lane import Lane
from swarmd.net.wire import ByteStream, TCPWire
from tests.support.lanes import SERVER, echo, lane_client, lane_port, peer_of
from tests.support.network_nodes import LIMIT_S

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the options are Linux's"
)


def option(stream: ByteStream, name: str) -> int:
    assert isinstance(stream, trio.SocketStream)
    return int(stream.socket.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)))


@pytest.mark.parametrize("is_metered", [False, True])
async def test_who_called_probes_and_who_was_called_hardly_does(*, is_metered: bool) -> None:
    section = NetworkSection(metered=is_metered)
    wire = TCPWire(idle_s=section.probe_after_s, is_metered=is_metered)
    with trio.fail_after(LIMIT_S):
        listener = await wire.listen("127.0.0.1", 0)
        caller = await wire.dial(*listener.address)
        called = await listener.accept()
        expected = KEEPALIVE_METERED_IDLE_S if is_metered else KEEPALIVE_IDLE_S
        assert option(caller, "TCP_KEEPIDLE") == expected
        assert option(called, "TCP_KEEPIDLE") == KEEPALIVE_ACCEPTED_IDLE_S
        assert option(caller, "TCP_USER_TIMEOUT") == (UNANSWERED_S * 1000 if is_metered else 0)
        assert option(called, "TCP_USER_TIMEOUT") == 0
        for stream in (caller, called):
            await stream.aclose()
        await listener.aclose()


def test_an_operator_has_the_last_word() -> None:
    for is_metered in (False, True):
        section = NetworkSection(metered=is_metered, keepalive_s=KEEPALIVE_S_MIN)
        assert section.effective().probe_after_s == KEEPALIVE_S_MIN


async def test_lanes_are_probed_as_their_connections_are(tmp_path: Path) -> None:
    accepted: list[Lane] = []

    async def serve(lane: Lane) -> None:
        accepted.append(lane)
        await echo(lane)

    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path, serve) as port:
            client = replace(lane_client(), idle_s=KEEPALIVE_METERED_IDLE_S)
            lane = await client.open(peer_of(SERVER), port.offer(), "127.0.0.1")
            await lane.send_frame([b"here"])
            assert await lane.receive_frame() == b"here"
            for one, expected in (
                (lane, KEEPALIVE_METERED_IDLE_S),
                (accepted[0], KEEPALIVE_ACCEPTED_IDLE_S),
            ):
                found = one._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                assert found == expected
            await lane.reset()

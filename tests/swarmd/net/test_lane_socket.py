"""What a lane asks of its socket, by a real one."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from swarmd.net.lane_socket import LaneSocket

SO_MAX_PACING_RATE = 47
UNLIMITED = 0xFFFFFFFF

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture
def connected() -> Iterator[socket.socket]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        yield client


def pace_of(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE) & UNLIMITED


def test_a_pace_holds_until_it_is_lifted(connected: socket.socket) -> None:
    options = LaneSocket(connected)
    assert pace_of(connected) == UNLIMITED
    for pace in (100_000, 100_000, 70_000):
        options.pace(pace)
        assert pace_of(connected) == pace
    options.pace(None)
    assert pace_of(connected) == UNLIMITED


def test_no_pace_is_mistaken_for_none(connected: socket.socket) -> None:
    options = LaneSocket(connected)
    options.pace(10 * UNLIMITED)
    assert pace_of(connected) == UNLIMITED - 1

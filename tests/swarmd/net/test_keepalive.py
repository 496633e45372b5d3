"""Who probes an idle connection, and when: who called keeps the way open, and pays for it."""

from __future__ import annotations

import socket

import pytest
import trio

from swarmd.config import KEEPALIVE_S_MIN, NetworkSection
from swarmd.net.wire import (
    KEEPALIVE_ACCEPTED_IDLE_S,
    KEEPALIVE_IDLE_S,
    KEEPALIVE_METERED_IDLE_S,
    UNANSWERED_S,
    ByteStream,
    TCPWire,
)
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

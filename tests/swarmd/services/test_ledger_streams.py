"""Streams for questions: kept while they are used, ended when they were not, opened anew."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from protocol.errors import TransportError
from swarmd.net.address import PeerKey
from swarmd.net.memory import MemoryWire
from swarmd.net.network import Network, Stream
from swarmd.services.ledger_streams import IDLE_S, KEEP_S, LedgerStreams
from tests.support.network_nodes import ECHO, node


def count_opened(network: Network, monkeypatch: pytest.MonkeyPatch) -> list[PeerKey]:
    """Notes to whom a network opens streams from now on."""
    opened: list[PeerKey] = []
    open_stream = network.open_stream

    async def noted(peer: PeerKey, protocol: str, **settings: Any) -> Stream:
        opened.append(peer)
        return await open_stream(peer, protocol, **settings)

    monkeypatch.setattr(network, "open_stream", noted)
    return opened


async def test_questions_share_a_stream_until_it_rested_too_long(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = MemoryWire()
    async with node(1, wire=wire) as asker, node(2, wire=wire) as other:
        await asker.connect(other.listen_addresses)
        opened = count_opened(asker, monkeypatch)
        streams = LedgerStreams(asker, ECHO, 1024)
        for number in range(5):
            text = b"question %d" % number
            assert await streams.ask(other.peer, text) == text
            await trio.sleep(1)
        assert len(opened) == 1
        assert other.statistics().streams == 1
        streams._kept[other.peer] = (streams._kept[other.peer][0], trio.current_time() - KEEP_S - 1)
        assert await streams.ask(other.peer, b"later") == b"later"
        await trio.sleep(1)
        assert len(opened) == 2
        assert other.statistics().streams == 1, "the first one was ended, not left behind"


async def test_a_stream_that_the_other_side_ended_is_replaced(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = MemoryWire()
    async with node(1, wire=wire) as asker, node(2, wire=wire) as other:
        await asker.connect(other.listen_addresses)
        opened = count_opened(asker, monkeypatch)
        streams = LedgerStreams(asker, ECHO, 1024)
        assert await streams.ask(other.peer, b"one") == b"one"
        await trio.sleep(31)  # the deadline of this protocol there
        assert other.statistics().streams == 0
        assert await streams.ask(other.peer, b"two") == b"two"
        assert len(opened) == 2
        await asker.disconnect(other.peer)
        with pytest.raises(TransportError):
            await streams.ask(other.peer, b"three")


def test_who_asks_ends_a_stream_before_who_answers() -> None:
    assert KEEP_S < IDLE_S

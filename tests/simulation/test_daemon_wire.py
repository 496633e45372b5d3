"""The network between simulated daemons."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import TransportError
from swarmd.simulation.daemons.runtime import run_simulated
from swarmd.simulation.daemons.wire import (
    PIPE_BYTES_MAX,
    SEGMENT_BYTES,
    Carried,
    DaemonLink,
    DaemonNetwork,
    DaemonStream,
)

PORT = 7000
LATENCY_S = 0.02


def link(**fields: float) -> DaemonLink:
    return DaemonLink(latency_s=LATENCY_S, **fields)


async def connected(
    network: DaemonNetwork, near: DaemonLink, far: DaemonLink
) -> tuple[DaemonStream, DaemonStream]:
    listener = await network.wire_of("far", far).listen("far", PORT)
    stream = await network.wire_of("near", near).dial("far", PORT)
    return stream, await listener.accept()


def run(main: Callable[[], Awaitable[object]], seed: int = 1) -> object:
    return run_simulated(main, seed=seed)


async def read_exactly(stream: DaemonStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await stream.receive_some()
        assert piece, f"ended after {len(data)} of {size} bytes"
        data += piece
    return data


@pytest.mark.parametrize(
    ("near", "far", "expected_s"),
    [
        (link(), link(), 2 * LATENCY_S),
        (link(uplink_bytes_per_s=1_000), link(), 2 * LATENCY_S + 100),
        (link(), link(downlink_bytes_per_s=500), 2 * LATENCY_S + 200),
        (
            link(uplink_bytes_per_s=1_000),
            link(downlink_bytes_per_s=500),
            2 * LATENCY_S + 300,
        ),
    ],
)
def test_bytes_take_the_time_of_both_links(
    near: DaemonLink, far: DaemonLink, expected_s: float
) -> None:
    async def main() -> None:
        stream, other = await connected(DaemonNetwork(seed=1), near, far)
        before = trio.current_time()
        await stream.send_all(bytes(100_000))
        assert await read_exactly(other, 100_000) == bytes(100_000)
        assert trio.current_time() - before == pytest.approx(expected_s)

    run(main)


def test_both_ends_count_what_was_carried() -> None:
    async def main() -> None:
        network = DaemonNetwork(seed=1)
        near, far = await connected(network, link(), link())
        await near.send_all(bytes(10))
        await far.send_all(bytes(5))
        assert network.carried("near") == network.carried("far") == Carried(15, 2)
        assert (network.sent_by("near"), network.sent_by("far"), network.sent_bytes) == (10, 5, 15)
        assert network.sent_by("nobody") == 0
        with pytest.raises(KeyError):
            network.carried("nobody")

    run(main)


def test_connections_share_an_uplink() -> None:
    async def main() -> None:
        network = DaemonNetwork(seed=1)
        one, there = await connected(network, link(uplink_bytes_per_s=1_000), link())
        two = await network.wire_of("near").dial("far", PORT)
        before = trio.current_time()
        await two.send_all(bytes(5_000))
        await one.send_all(bytes(1_000))
        await read_exactly(there, 1_000)
        assert trio.current_time() - before == pytest.approx(6 + 2 * LATENCY_S)

    run(main)


def test_who_sends_more_than_fits_waits() -> None:
    async def main() -> None:
        near, far = await connected(DaemonNetwork(seed=1), link(), link())
        with trio.move_on_after(1_000) as scope:
            await near.send_all(bytes(PIPE_BYTES_MAX + 1))
        assert scope.cancelled_caught
        assert len(await far.receive_some()) == PIPE_BYTES_MAX

    run(main)


@given(st.lists(st.binary(min_size=1, max_size=5_000), max_size=20), st.integers(0, 2**16))
@pytest.mark.slow
def test_bytes_stay_in_order_whatever_happens_to_them(pieces: list[bytes], seed: int) -> None:
    async def main() -> None:
        bad = DaemonLink(latency_s=0.01, jitter_s=0.5, loss=0.4, uplink_bytes_per_s=10_000)
        near, far = await connected(DaemonNetwork(seed=seed), bad, bad)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for piece in pieces:
                    await near.send_all(piece)
                await near.aclose()

            nursery.start_soon(send)
            got = b""
            while piece := await far.receive_some(700):
                got += piece
            assert got == b"".join(pieces)

    run(main, seed)


def test_lost_segments_come_later() -> None:
    async def arrival(loss: float) -> float:
        near, far = await connected(DaemonNetwork(seed=3), link(loss=loss), link())
        before = trio.current_time()
        await near.send_all(bytes(100 * SEGMENT_BYTES))
        await read_exactly(far, 100 * SEGMENT_BYTES)
        return trio.current_time() - before

    clean, lossy = (run(lambda loss=loss: arrival(loss)) for loss in (0.0, 0.2))
    assert isinstance(clean, float)
    assert isinstance(lossy, float)
    assert lossy >= clean + 0.2


def test_a_partition_holds_back_and_heals() -> None:
    async def main() -> None:
        network = DaemonNetwork(seed=1)
        near, far = await connected(network, link(), link())
        network.partition({"near"}, {"far"})
        await near.send_all(b"held")
        with trio.move_on_after(60) as scope:
            await far.receive_some()
        assert scope.cancelled_caught, "nothing passes"
        with trio.move_on_after(60) as scope:
            await network.wire_of("near").dial("far", PORT)
        assert scope.cancelled_caught, "nobody connects"
        network.heal()
        assert await far.receive_some() == b"held"
        await network.wire_of("near").dial("far", PORT)

    run(main)


def test_a_cut_may_be_of_one_direction() -> None:
    async def main() -> None:
        network = DaemonNetwork(seed=1)
        near, far = await connected(network, link(), link())
        network.cut({"near"}, {"far"})
        await far.send_all(b"passes")
        assert await near.receive_some() == b"passes"
        await near.send_all(b"held")
        with trio.move_on_after(60) as scope:
            await far.receive_some()
        assert scope.cancelled_caught

    run(main)


def test_ends_and_refusals() -> None:
    async def main() -> None:
        network = DaemonNetwork(seed=1)
        with pytest.raises(TransportError, match="nobody listens"):
            await network.wire_of("near", link()).dial("far", PORT)
        near, far = await connected(network, link(), link())
        with pytest.raises(TransportError, match="in use"):
            await network.wire_of("far").listen("far", PORT)
        await near.send_all(b"last")
        await near.aclose()
        assert [await far.receive_some(), await far.receive_some()] == [b"last", b""]
        with pytest.raises(trio.BrokenResourceError):
            await far.send_all(b"too late")
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"too late")
        with pytest.raises(trio.ClosedResourceError):
            await near.receive_some()

    run(main)


def trace(seed: int) -> object:
    async def main() -> str:
        network = DaemonNetwork(seed=seed)
        near, far = await connected(network, link(jitter_s=0.1), link())
        for size in (10, 2_000):
            await near.send_all(bytes(size))
            await read_exactly(far, size)
        return network.trace_hash

    return run(main, seed)


def test_the_trace_tells_runs_apart() -> None:
    assert trace(1) == trace(1) != trace(2)


@pytest.mark.parametrize(
    "fields",
    [
        {"uplink_bytes_per_s": 0},
        {"downlink_bytes_per_s": -1},
        {"latency_s": -0.1},
        {"jitter_s": -0.1},
        {"loss": 1.0},
        {"loss": -0.1},
    ],
)
def test_links_that_cannot_be_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="link"):
        DaemonLink(**fields)

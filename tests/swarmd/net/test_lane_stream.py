"""A lane as a stream of frames, over real loopback connections."""

import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from protocol.errors import LocalProtocolError, TransportError
from protocol.exchange_messages import EXCHANGE_FRAME_BYTES_MAX
from swarmd.net import lane as lane_module
from swarmd.net.lane import Lane
from tests.support.lanes import (
    CLIENT,
    LIMIT_S,
    SERVER,
    echo,
    lane_and_speaker,
    lane_client,
    lane_pair,
    lane_port,
    peer_of,
)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_lane_is_opened_with_an_offer(tmp_path: Path, host: str) -> None:
    seen: list[Lane] = []

    async def serve(lane: Lane) -> None:
        seen.append(lane)
        await echo(lane)

    with trio.fail_after(LIMIT_S):
        async with lane_port(tmp_path, serve, host=host) as port:
            lane = await lane_client().open(peer_of(SERVER), port.offer(), host)
            await lane.send_frame((b"one", memoryview(b"two")))
            assert await lane.receive_frame() == b"onetwo"
            assert (lane.peer, seen[0].peer) == (peer_of(SERVER), peer_of(CLIENT))
            await lane.reset()


@pytest.mark.parametrize("is_costly", [False, True])
async def test_large_frames_both_ways_at_once(
    monkeypatch: pytest.MonkeyPatch, *, is_costly: bool
) -> None:
    """On the trio thread, or in threads where steps take long, as without AES instructions."""
    if is_costly:
        monkeypatch.setattr(lane_module, "INLINE_S", -1.0)
    bodies = [os.urandom(size) for size in (1, 70_000, EXCHANGE_FRAME_BYTES_MAX, 16_384, 32_768)]
    near, far = lane_pair()

    async def send(lane: Lane) -> None:
        for body in bodies:
            view = memoryview(body)
            await lane.send_frame([view[:100], view[100:40_000], view[40_000:]])

    async def receive(lane: Lane) -> None:
        for body in bodies:
            assert await lane.receive_frame() == body

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for lane in (near, far):
                nursery.start_soon(send, lane)
                nursery.start_soon(receive, lane)
    assert near.sent_bytes == far.received_bytes
    assert set(near._is_costly.values()) == {is_costly}
    await near.reset()
    await far.reset()


@pytest.mark.parametrize("parts", [[], [b""], [bytes(EXCHANGE_FRAME_BYTES_MAX), b"x"]])
async def test_a_frame_out_of_bounds_is_our_own_defect(parts: list[bytes]) -> None:
    near, far = lane_pair()
    with trio.fail_after(LIMIT_S):
        with pytest.raises(LocalProtocolError):
            await near.send_frame(parts)
        await near.reset()
        await far.reset()


async def test_a_reset_in_full_transfer_leaves_no_thread_and_no_descriptor() -> None:
    before = descriptors(), threading.active_count()
    with trio.fail_after(LIMIT_S):
        for _ in range(3):
            near, far = lane_pair()
            received = trio.Event()

            async def send(lane: Lane = near) -> None:
                while True:
                    await lane.send_frame((bytes(1_000_000),))

            async def receive(lane: Lane = far, event: trio.Event = received) -> None:
                with contextlib.suppress(TransportError):  # what the sender's end looks like here
                    while True:
                        await lane.receive_frame()
                        event.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                nursery.start_soon(receive)
                await received.wait()
                nursery.cancel_scope.cancel()
            await near.reset()
            await far.reset()
    assert descriptors() <= before[0] + 2, "trio may keep a descriptor or two of its own"
    assert threading.active_count() <= before[1] + (os.cpu_count() or 1), "trio caches threads"


async def test_whoever_waits_is_told_of_a_reset() -> None:
    near, far = lane_pair()
    failed = trio.Event()

    async def receive() -> None:
        with pytest.raises(TransportError):
            await near.receive_frame()
        failed.set()

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            near.break_off()
            await failed.wait()
        with pytest.raises(TransportError):
            await near.send_frame((b"x",))
        with pytest.raises(TransportError):
            await far.receive_frame()
        await near.reset()
        await near.reset()
        await far.reset()


class Ration:
    """A gate that lets a few bytes go at a time."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.admitted: list[int] = []

    async def admit(self, wanted_bytes: int) -> int:
        await trio.lowlevel.checkpoint()
        self.admitted.append(min(wanted_bytes, self.bytes_max))
        return self.admitted[-1]


@pytest.mark.parametrize("ration", [1000, 70_000, 10**9])
async def test_a_gate_decides_how_much_goes(ration: int) -> None:
    near, far = lane_pair()
    gate = near.gate = Ration(ration)
    body = os.urandom(300_000)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_frame, (body[:50], memoryview(body)[50:]))
            assert await far.receive_frame() == body
        assert max(gate.admitted) <= ration
        assert near.sent_bytes == sum(gate.admitted) == len(body) + 4
        await near.reset()
        await far.reset()


async def test_what_was_not_sent_when_a_lane_is_broken_off_never_leaves() -> None:
    """A suspended peer gets what the link has already, and not what the kernel still holds."""
    with trio.fail_after(LIMIT_S), lane_and_speaker() as (lane, speaker):
        speaker.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        async def send() -> None:
            with pytest.raises(TransportError):
                await lane.send_frame((bytes(EXCHANGE_FRAME_BYTES_MAX),))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked(0.01)
            held_bytes = lane._options.unsent_bytes
            at_peer_bytes = len(speaker.sock.recv(1 << 20, socket.MSG_PEEK))
            lane.break_off()  # whoever uses the lane may take longer to let go of it
        received_bytes = 0
        with contextlib.suppress(ConnectionResetError):
            while data := speaker.sock.recv(1 << 20):
                received_bytes += len(data)
        assert held_bytes > 0
        assert at_peer_bytes <= received_bytes < at_peer_bytes + held_bytes
        await lane.reset()


async def test_a_lane_tells_what_is_not_acknowledged() -> None:
    near, far = lane_pair()
    with trio.fail_after(LIMIT_S):
        before = near.path()
        assert before is not None
        assert before.unacked_bytes == 0
        await near.send_frame((bytes(100_000),))
        assert await far.receive_frame() == bytes(100_000)
        after = near.path()
        assert after is not None
        assert 0 <= after.round_trip_s < LIMIT_S
        await near.reset()
        await far.reset()
        assert near.path() is None

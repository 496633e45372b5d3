"""The step machines of a lane over a cipher that a test drives by hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError, TransportError
from swarmd.net.lane_buffers import BUFFER_BYTES, POOL_BYTES_MAX, SMALL_BYTES, FrameBuffers
from swarmd.net.lane_frames import (
    GATHER_BELOW_BYTES,
    READY_FRAMES_MAX,
    SEND_BYTES,
    FrameReceiver,
    FrameSender,
    Step,
)

BOUND = 1 << 20


class Wire:
    """A cipher that passes bytes on in pieces of given sizes; 0 means: nothing now."""

    def __init__(self, pieces: list[int] | None = None) -> None:
        self.pieces = deque(pieces or [])
        self.data = bytearray()
        self.calls: list[list[int]] = []
        self.is_ended = False
        self.is_broken = False

    def _piece(self, wanted: int) -> int:
        return min(wanted, self.pieces.popleft()) if self.pieces else wanted

    def send(self, pieces: Sequence[memoryview]) -> int | None:
        """All or nothing, as a cipher does that has to encrypt before it can send."""
        if self.is_broken:
            raise TransportError("broken")
        if self.pieces and self.pieces.popleft() == 0:
            return None
        self.calls.append([len(piece) for piece in pieces])
        self.data += b"".join(pieces)
        return sum(map(len, pieces))

    def certain_bytes(self, missing_bytes: int) -> int:
        return missing_bytes

    def recv_into(self, view: memoryview) -> int | None:
        if self.is_broken:
            raise TransportError("broken")
        count = min(len(self.data), self._piece(len(view)))
        if count == 0:
            return 0 if self.is_ended and not self.data else None
        view[:count] = self.data[:count]
        del self.data[:count]
        return count


def receiver(wire: Wire) -> FrameReceiver:
    return FrameReceiver(wire, FrameBuffers(), frame_bytes_max=BOUND)


@pytest.mark.slow
@given(
    bodies=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8),
    pieces=st.lists(st.integers(0, 40), max_size=60),
    budget=st.integers(1, 200),
)
def test_frames_arrive_as_they_were_sent_however_the_bytes_come(
    bodies: list[bytes], pieces: list[int], budget: int
) -> None:
    wire = Wire(pieces)
    sender, incoming = FrameSender(wire, frame_bytes_max=BOUND), receiver(wire)
    received = []
    for body in bodies:
        sender.put((body[: len(body) // 2], memoryview(body)[len(body) // 2 :]))
        while sender.step(budget) is not Step.DONE:
            incoming.step(budget)
        assert sender.queued_bytes == 0
    while True:
        step = incoming.step(budget)
        while (frame := incoming.take()) is not None:
            received.append(bytes(frame))
        if step is Step.READ and not wire.pieces and not wire.data:
            break
    assert received == bodies
    assert incoming.missing_bytes == 0
    assert sender.sent_bytes == incoming.received_bytes == sum(4 + len(body) for body in bodies)


def test_a_step_keeps_to_its_budget() -> None:
    wire = Wire()
    sender = FrameSender(wire, frame_bytes_max=BOUND)
    sender.put((bytes(5000),))
    assert sender.step(250) is Step.MORE
    assert sender.sent_bytes == 250
    incoming = receiver(wire)
    assert incoming.step(1) is Step.MORE
    assert incoming.received_bytes == 4


def test_what_was_not_taken_is_tried_again_as_it_was() -> None:
    """It is encrypted already, and part of it may have left."""
    tried: list[int] = []

    class Stubborn(Wire):
        def send(self, pieces: Sequence[memoryview]) -> int | None:
            tried.append(sum(map(len, pieces)))
            return super().send(pieces)

    sender = FrameSender(Stubborn([0, 0, 1]), frame_bytes_max=BOUND)
    sender.put((bytes(5000),))
    assert sender.step(1000) is Step.WRITE
    assert sender.step(10) is Step.WRITE
    assert sender.step(3000) is Step.MORE
    assert tried == [1000, 1000, 1000, 2000]


def test_what_is_missing_is_certain() -> None:
    wire = Wire()
    incoming = receiver(wire)
    assert (incoming.step(99), incoming.missing_bytes) == (Step.READ, 0)
    wire.data += b"\0\0"
    assert (incoming.step(99), incoming.missing_bytes) == (Step.READ, 2)
    wire.data += b"\0\x07abc"
    assert (incoming.step(99), incoming.missing_bytes) == (Step.READ, 4)
    wire.data += b"defg"
    assert (incoming.step(99), incoming.missing_bytes) == (Step.READ, 0)
    assert incoming.take() == b"abcdefg"


@pytest.mark.parametrize("size", [0, BOUND + 1, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_before_any_memory_is_had(size: int) -> None:
    wire = Wire()
    wire.data += size.to_bytes(4, "big")
    incoming = receiver(wire)
    assert incoming.step(99) is Step.DONE
    assert isinstance(incoming.failure, RemoteProtocolError)
    assert incoming.step(99) is Step.DONE
    assert incoming.take() is None


@pytest.mark.parametrize("cut", [1, 3, 4, 6])
def test_an_end_inside_a_frame_is_an_offence_and_between_frames_an_end(cut: int) -> None:
    wire = Wire()
    wire.data += b"\0\0\0\x01x" + b"\0\0\0\x04abcd"[:cut]
    wire.is_ended = True
    incoming = receiver(wire)
    assert incoming.step(99) is Step.DONE
    assert incoming.take() == b"x", "what was complete before stays"
    assert isinstance(incoming.failure, RemoteProtocolError)
    clean = Wire()
    clean.is_ended = True
    incoming = receiver(clean)
    assert incoming.step(99) is Step.DONE
    assert (incoming.is_ended, incoming.failure) == (True, None)


def test_a_broken_connection_is_no_end() -> None:
    wire = Wire()
    wire.is_broken = True
    incoming, sender = receiver(wire), FrameSender(wire, frame_bytes_max=BOUND)
    sender.put((b"x",))
    assert (incoming.step(9), sender.step(9)) == (Step.DONE, Step.DONE)
    assert isinstance(incoming.failure, TransportError)
    assert isinstance(sender.failure, TransportError)


def test_one_frame_at_a_time_and_within_bounds() -> None:
    sender = FrameSender(Wire([0]), frame_bytes_max=BOUND)
    for parts in ([], [b""], [bytes(BOUND), b"x"]):
        with pytest.raises(LocalProtocolError):
            sender.put(parts)
    sender.put((b"x",))
    with pytest.raises(LocalProtocolError):
        sender.put((b"y",))


def test_small_parts_are_sent_together_and_large_ones_from_where_they_are() -> None:
    wire = Wire()
    sender = FrameSender(wire, frame_bytes_max=BOUND)
    sender.put([bytes(100)] * 300)
    sender.step(BOUND)
    assert wire.calls == [[30_004]], "300 small parts as one record"
    wire.calls.clear()
    large = memoryview(bytes(4 * SEND_BYTES))
    sender.put((b"head", large, bytes(GATHER_BELOW_BYTES - 1), b"tail"))
    sender.step(BOUND)
    assert wire.calls == [[8, 4 * SEND_BYTES], [GATHER_BELOW_BYTES + 3]]


def test_records_of_a_large_frame_lie_within_its_body() -> None:
    """So they are opened where they belong; one with the length in it would have to be moved."""
    wire = Wire()
    sender = FrameSender(wire, frame_bytes_max=BOUND)
    part = GATHER_BELOW_BYTES - 1
    sender.put([bytes(part)] * 4)
    sender.step(BOUND)
    assert wire.calls == [[4, part], [2 * part], [part]]


@pytest.mark.parametrize("record", [1, 16_384, 100_000])
def test_no_record_is_longer_than_the_lane_allows_now(record: int) -> None:
    wire, size = Wire(), 3 * record + 5
    sender = FrameSender(wire, frame_bytes_max=BOUND)
    sender.record_bytes_max = record
    sender.put((bytes(size), bytes(7)))
    while sender.step(BOUND) is not Step.DONE:
        pass
    assert max(piece for call in wire.calls for piece in call) <= record
    assert len(wire.data) == size + 7 + 4


def test_a_frame_never_changes_while_somebody_has_it() -> None:
    buffers = FrameBuffers()
    kept = buffers.make(SMALL_BYTES)
    kept[:] = b"k" * SMALL_BYTES
    slice_of_it = kept[10:20].toreadonly()
    del kept
    for _ in range(100):
        other = buffers.make(SMALL_BYTES)
        other[:] = b"o" * SMALL_BYTES
        del other
    assert slice_of_it == b"k" * 10
    assert len(buffers) == 2, "one that is kept, one that is used again and again"


def test_buffers_that_are_kept_are_bounded() -> None:
    buffers = FrameBuffers()
    views = [buffers.make(BUFFER_BYTES) for _ in range(100)]
    assert len({id(view.obj) for view in views}) == 100
    assert len(buffers) == POOL_BYTES_MAX // BUFFER_BYTES
    assert len(buffers.make(BUFFER_BYTES + 1)) == BUFFER_BYTES + 1
    assert len(buffers.make(1)) == 1
    buffers.clear()
    assert len(buffers) == 0


def test_a_flood_of_tiny_frames_is_cut_a_few_at_a_time() -> None:
    """A frame of one byte costs its receiver some hundred bytes of objects."""
    wire, count = Wire(), 5000
    wire.data += b"\0\0\0\1x" * count
    incoming, received = receiver(wire), 0
    while received < count:
        incoming.step(1 << 21)
        at_once = 0
        while incoming.take() is not None:
            at_once += 1
        assert 0 < at_once <= READY_FRAMES_MAX
        received += at_once

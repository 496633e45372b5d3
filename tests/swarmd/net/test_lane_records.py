"""Attacks on the records of lanes by whoever sits on the path, and by the peer itself."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import Digest
from protocol.errors import LocalProtocolError, RemoteProtocolError, TransportError
from protocol.lane_offer import LANE_TOKEN_BYTES, derive_lane_keys
from swarmd.net.lane_buffers import (
    RECORD_BUFFER_BYTES,
    RECORD_BUFFERS_MAX,
    SMALL_BYTES,
    FrameBuffers,
    RecordBuffers,
)
from swarmd.net.lane_cipher import RecordCipher
from swarmd.net.lane_frames import FrameReceiver, FrameSender, Step
from swarmd.net.lane_records import (
    HEAD_BYTES,
    OVERHEAD_BYTES,
    RECORD_BYTES_MAX,
    RECORDS_MAX,
    RecordOpener,
    RecordSealer,
)

KEY, OTHER_KEY = bytes([1]) * 32, bytes([2]) * 32
FRAME_BYTES_MAX = 1 << 20
FRAME = b"\0\0\0\x05hello"


class Incoming(socket.socket):
    """A socket that gives bytes in pieces of given sizes, then nothing, or the end of TCP."""

    def __init__(
        self, data: bytes, cuts: list[int] | None = None, *, is_ended: bool = False
    ) -> None:
        super().__init__()
        self.close()  # nothing of the system's is used
        self.data, self.cuts, self.is_ended = memoryview(data), cuts or [], is_ended

    def recv_into(self, view: memoryview) -> int:  # type: ignore[override]
        if not self.data:
            if self.is_ended:
                return 0
            raise BlockingIOError
        count = min(len(view), len(self.data), self.cuts.pop(0) if self.cuts else len(self.data))
        if count == 0:
            raise BlockingIOError
        view[:count], self.data = self.data[:count], self.data[count:]
        return count


class Outgoing(socket.socket):
    """A socket that takes bytes in pieces of given sizes; 0: it is full."""

    def __init__(self, cuts: list[int] | None = None) -> None:
        super().__init__()
        self.close()
        self.data, self.cuts = bytearray(), cuts or []

    def send(self, view: memoryview) -> int:  # type: ignore[override]
        count = min(len(view), self.cuts.pop(0)) if self.cuts else len(view)
        if count == 0:
            raise BlockingIOError
        self.data += view[:count]
        return count


def cipher(sock: socket.socket, early: bytes = b"") -> RecordCipher:
    return RecordCipher(sock, RecordBuffers(), send_key=KEY, receive_key=KEY, early=early)


def sealed(*plains: bytes, key: bytes = KEY) -> list[bytes]:
    """Records of one direction, from its first."""
    sealer, records = RecordSealer(key), []
    for plain in plains:
        out = bytearray(len(plain) + OVERHEAD_BYTES)
        assert sealer.seal(plain, memoryview(out)) == len(out)
        records.append(bytes(out))
    return records


def receive(sock: Incoming, early: bytes = b"") -> tuple[list[bytes], FrameReceiver]:
    """What a lane makes of what comes, until nothing does."""
    receiver = FrameReceiver(cipher(sock, early), FrameBuffers(), frame_bytes_max=FRAME_BYTES_MAX)
    frames = []
    while (step := receiver.step(1 << 21)) is not Step.DONE:
        if step is Step.READ and not sock.data and not sock.is_ended:
            break
    while (frame := receiver.take()) is not None:
        frames.append(bytes(frame))
    return frames, receiver


def assert_broken(data: bytes, frames: list[bytes] | None = None) -> None:
    """Shows that the lane ends, that this blames nobody, and that only these frames came of it."""
    received, receiver = receive(Incoming(data, is_ended=True))
    assert isinstance(receiver.failure, TransportError)
    assert received == (frames or [])


# Forging -----------------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_ends_the_lane() -> None:
    first, second = sealed(FRAME, FRAME)
    for position in range(8 * len(second)):
        forged = bytearray(second)
        forged[position // 8] ^= 1 << position % 8
        assert_broken(first + bytes(forged), [b"hello"])


def test_a_lane_that_is_cut_off_anywhere_has_not_ended() -> None:
    records = sealed(FRAME, FRAME, b"")
    whole = b"".join(records)
    for size in range(len(whole)):
        complete = [b"hello"] * min(2, size // len(records[0]))
        assert_broken(whole[:size], complete)
    received, receiver = receive(Incoming(whole))
    assert (received, receiver.failure, receiver.is_ended) == ([b"hello"] * 2, None, True)


def replayed(records: list[bytes]) -> Iterator[bytes]:
    yield from (records[0], records[0])


def reordered(records: list[bytes]) -> Iterator[bytes]:
    yield from (records[0], records[2], records[1])


def left_out(records: list[bytes]) -> Iterator[bytes]:
    yield from (records[0], records[2])


def without_the_first(records: list[bytes]) -> Iterator[bytes]:
    yield from records[1:]


def with_a_record_of_the_other_direction(records: list[bytes]) -> Iterator[bytes]:
    yield from (records[0], sealed(FRAME, FRAME, key=OTHER_KEY)[1])


def with_a_forged_end(records: list[bytes]) -> Iterator[bytes]:
    yield from (records[0], bytes(OVERHEAD_BYTES))


def with_a_head_of_nothing(records: list[bytes]) -> Iterator[bytes]:
    """The head says that it is the end, the rest is a record."""
    yield from (records[0], bytes(HEAD_BYTES) + records[1][HEAD_BYTES:])


def with_a_shorter_head(records: list[bytes]) -> Iterator[bytes]:
    yield from (records[0], (1).to_bytes(4, "big") + records[1][HEAD_BYTES:])


def with_an_end_of_another_lane(records: list[bytes]) -> Iterator[bytes]:
    yield from (records[0], sealed(FRAME, b"", key=OTHER_KEY)[1])


@pytest.mark.parametrize(
    "attack",
    [
        replayed,
        reordered,
        left_out,
        with_a_record_of_the_other_direction,
        with_a_forged_end,
        with_a_head_of_nothing,
        with_a_shorter_head,
        with_an_end_of_another_lane,
    ],
)
def test_records_count_in_their_place_only(
    attack: Callable[[list[bytes]], Iterator[bytes]],
) -> None:
    records = sealed(FRAME, FRAME, FRAME)
    assert_broken(b"".join(attack(records)), [b"hello"])


def test_the_first_record_cannot_be_left_out() -> None:
    assert_broken(b"".join(without_the_first(sealed(FRAME, FRAME))))


@pytest.mark.parametrize("size", [RECORD_BYTES_MAX + 1, 1 << 31, (1 << 32) - 1])
def test_an_oversized_record_is_refused_by_its_head(size: int) -> None:
    """Nobody vouches for a head before the tag was checked: no memory is had for it."""
    buffers = RecordBuffers()
    sock = Incoming(size.to_bytes(4, "big"))
    receiving = RecordCipher(sock, buffers, send_key=KEY, receive_key=OTHER_KEY)
    with pytest.raises(TransportError, match="at most"):
        receiving.recv_into(memoryview(bytearray(9)))
    assert len(buffers) == 0


def test_what_came_before_a_forgery_in_the_same_frame_is_not_handed_over() -> None:
    first, second = sealed(FRAME[:6], FRAME[6:])
    forged = second[:-1] + bytes([second[-1] ^ 1])
    assert_broken(first + forged)


# The peer itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 4, 6, 8])
def test_an_end_inside_a_frame_is_an_offence(size: int) -> None:
    received, receiver = receive(Incoming(b"".join(sealed(FRAME, FRAME[:size], b"", FRAME))))
    assert received == [b"hello"]
    assert isinstance(receiver.failure, RemoteProtocolError)


def test_nothing_behind_an_end_is_looked_at() -> None:
    data = b"".join(sealed(FRAME, b"", FRAME)) + b"\xff" * 99
    received, receiver = receive(Incoming(data))
    assert (received, receiver.failure, receiver.is_ended) == ([b"hello"], None, True)


def test_the_largest_record_is_taken_and_one_byte_more_is_our_own_defect() -> None:
    body = bytes(RECORD_BYTES_MAX)
    frame = len(body).to_bytes(4, "big")
    received, receiver = receive(Incoming(b"".join(sealed(frame, body))))
    assert (received, receiver.failure) == ([body], None)
    with pytest.raises(LocalProtocolError):
        RecordSealer(KEY).seal(body + b"x", memoryview(bytearray(RECORD_BYTES_MAX + 99)))


# Keys --------------------------------------------------------------------------------------------

CLIENT_KEY = "91cc170e03d2cb08900ad395c312dea5d596c01e4c172a8d1c6e2f91ef344d45"
SERVER_KEY = "1a71dfd14a07dc4c9a814a41d54c42eb8838ff700f163c2468092f3a38475edd"
"""By RFC 5869 with an HMAC of another library."""
RECORD = "00000006c9bff3e8ae5a11b2860c7a2407c718d6263f1b0181db"
"""Number 1 under `KEY`."""
TOKEN, FINGERPRINT = bytes(LANE_TOKEN_BYTES), Digest(bytes(32))
ONE, TWO = bytes([1]) * 32, bytes([2]) * 32


def test_no_two_lanes_and_no_two_directions_share_a_key() -> None:
    """Even if every random number of both ends repeats: the token serves once."""
    lanes = [
        derive_lane_keys(token, fingerprint, client_secret=client, server_secret=server)
        for token in (TOKEN, ONE)
        for fingerprint in (FINGERPRINT, Digest(TWO))
        for client in (ONE, TWO)
        for server in (ONE, TWO)
    ]
    keys = [key for lane in lanes for key in (lane.client, lane.server)]
    assert len(set(keys)) == len(keys) == 32
    assert {len(key) for key in keys} == {32}
    assert lanes[0].client.hex() not in repr(lanes[0])
    assert repr(lanes[0].client) not in repr(lanes[0])


def test_keys_are_derived_as_ever() -> None:
    keys = derive_lane_keys(TOKEN, FINGERPRINT, client_secret=ONE, server_secret=TWO)
    assert keys.client.hex() == CLIENT_KEY
    assert keys.server.hex() == SERVER_KEY


def test_no_number_serves_twice_and_numbers_end() -> None:
    sealer, out = RecordSealer(KEY), memoryview(bytearray(64))
    with pytest.raises(ValueError):  # noqa: PT011 - the cipher's own, for a buffer too short
        sealer.seal(b"secret", out[:10])
    sealer.seal(b"secret", out)
    opener = RecordOpener(KEY)
    with pytest.raises(TransportError):
        opener.open(out[:26], memoryview(bytearray(6)))
    sealer._number = RECORDS_MAX - 1
    sealer.seal(b"last", out)
    with pytest.raises(TransportError, match="records"):
        sealer.seal(b"", out)


def test_a_record_is_as_ever() -> None:
    assert sealed(b"", b"record")[1].hex() == RECORD


# Any cut -----------------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    frames=st.lists(
        st.lists(st.integers(1, 120_000) | st.integers(1, 200), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    ),
    record=st.sampled_from([16, 700, 16_384, RECORD_BYTES_MAX]),
    budget=st.sampled_from([50, 5_000, 1 << 21]),
    sent=st.lists(st.integers(0, 90_000) | st.integers(0, 30), max_size=30),
    received=st.lists(st.integers(0, 90_000) | st.integers(0, 30), max_size=30),
)
def test_any_parts_in_any_cut_arrive_equal(
    frames: list[list[int]], record: int, budget: int, sent: list[int], received: list[int]
) -> None:
    record = max(record, max(map(sum, frames)) // 100)
    budget = max(budget, max(map(sum, frames)) // 50)
    out = Outgoing(sent)
    sending = cipher(out)
    sender = FrameSender(sending, frame_bytes_max=FRAME_BYTES_MAX)
    sender.record_bytes_max = record
    bodies = []
    for number, sizes in enumerate(frames):
        parts = [bytes([number + 3 * at & 255]) * size for at, size in enumerate(sizes)]
        bodies.append(b"".join(parts))
        sender.put(parts)
        while (step := sender.step(budget)) is not Step.DONE:
            assert step in (Step.WRITE, Step.MORE)
        assert (sender.failure, sender.queued_bytes) == (None, 0)
    sock = Incoming(bytes(out.data), received)
    receiver = FrameReceiver(cipher(sock), FrameBuffers(), frame_bytes_max=FRAME_BYTES_MAX)
    taken = []
    while True:
        step = receiver.step(budget)
        while (frame := receiver.take()) is not None:
            taken.append(bytes(frame))
        assert receiver.failure is None
        if step is Step.READ:
            # What is said to be certain is: a host waits for that much before it looks again.
            assert receiver.certain_bytes <= len(sock.data)
            if not sock.data:
                break
            assert receiver.certain_bytes > 0 or not receiver.missing_bytes
    assert taken == bodies
    assert receiver.certain_bytes == 0


def test_records_cut_at_every_byte_arrive_whole() -> None:
    wire = b"".join(sealed(FRAME[:3], FRAME[3:] + FRAME, b""))
    for cut in range(len(wire) + 1):
        early = Incoming(wire[cut:])
        received, receiver = receive(early, wire[:cut])
        assert (received, receiver.failure, receiver.is_ended) == ([b"hello"] * 2, None, True)
        received, receiver = receive(Incoming(wire, [cut, 0]))
        assert (received, receiver.failure, receiver.is_ended) == ([b"hello"] * 2, None, True)


# Buffers -----------------------------------------------------------------------------------------


def test_a_lane_at_rest_holds_no_buffer() -> None:
    buffers = RecordBuffers()
    large = 100_000
    frame = large.to_bytes(4, "big") + bytes(large)
    out = Outgoing()
    sending = RecordCipher(out, buffers, send_key=KEY, receive_key=OTHER_KEY)
    assert sending.send([memoryview(frame)]) == len(frame)
    assert len(buffers) == 1, "given back as soon as the socket took it all"
    receiving = RecordCipher(
        Incoming(bytes(out.data)), buffers, send_key=OTHER_KEY, receive_key=KEY
    )
    view = memoryview(bytearray(FRAME_BYTES_MAX))
    assert receiving.recv_into(view) == len(frame)
    assert receiving.recv_into(view) is None
    assert len(buffers) == 1


def test_buffers_that_are_kept_are_bounded() -> None:
    buffers = RecordBuffers()
    taken = [buffers.take(SMALL_BYTES + 1) for _ in range(3 * RECORD_BUFFERS_MAX)]
    assert len({id(buffer) for buffer in taken}) == len(taken)
    taken += [bytearray(RECORD_BUFFER_BYTES + 1), buffers.take(SMALL_BYTES)]
    for buffer in taken:
        buffers.give(buffer)
    assert len(buffers) == RECORD_BUFFERS_MAX
    assert len(buffers.take(1)) == 1

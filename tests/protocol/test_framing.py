"""Frames: any split of the stream gives the same frames, and bad lengths end it at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.framing import PREFIX_BYTES, FrameBuffer, encode_frame

BYTES_MAX = 64
bodies = st.lists(st.binary(min_size=1, max_size=BYTES_MAX), max_size=8)


def stream_of(frames: list[bytes]) -> bytes:
    return b"".join(encode_frame(body, bytes_max=BYTES_MAX) for body in frames)


@given(frames=bodies, data=st.data())
def test_any_split_gives_the_same_frames(frames: list[bytes], data: st.DataObject) -> None:
    stream = stream_of(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    buffer = FrameBuffer(BYTES_MAX)
    received: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += buffer.feed(stream[start:end])
    assert received == frames
    assert buffer.is_empty


def test_a_stream_split_at_every_byte() -> None:
    frames = [b"a", b"bc" * 20, b"d" * BYTES_MAX]
    buffer = FrameBuffer(BYTES_MAX)
    received = [frame for byte in stream_of(frames) for frame in buffer.feed(bytes((byte,)))]
    assert received == frames


@pytest.mark.parametrize("cut", range(1, PREFIX_BYTES + 3))
def test_an_end_inside_a_frame_is_seen(cut: int) -> None:
    buffer = FrameBuffer(BYTES_MAX)
    assert buffer.feed(encode_frame(b"abc", bytes_max=BYTES_MAX)[:cut]) == []
    assert not buffer.is_empty


@pytest.mark.parametrize("size", [0, BYTES_MAX + 1, 2**31, 2**32 - 1])
def test_a_bad_length_is_refused_before_its_body_comes(size: int) -> None:
    buffer = FrameBuffer(BYTES_MAX)
    assert buffer.feed(encode_frame(b"good", bytes_max=BYTES_MAX)) == [b"good"]
    assert buffer.feed(size.to_bytes(PREFIX_BYTES, "big")[:-1]) == []
    with pytest.raises(RemoteProtocolError, match=str(size)):
        buffer.feed(size.to_bytes(PREFIX_BYTES, "big")[-1:])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_buffer_type_is_taken(kind: type) -> None:
    frame = encode_frame(b"abc", bytes_max=BYTES_MAX)
    (received,) = FrameBuffer(BYTES_MAX).feed(kind(frame))
    assert received == b"abc"
    assert type(received) is bytes


@pytest.mark.parametrize("body", [b"", b"x" * (BYTES_MAX + 1)])
def test_we_never_send_a_frame_that_would_be_refused(body: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        encode_frame(body, bytes_max=BYTES_MAX)

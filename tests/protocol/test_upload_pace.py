"""Frames grow while the transport takes them at once, and shrink where they hold it up."""

from __future__ import annotations

from protocol.exchange_messages import CHUNKS_PAYLOAD_BYTES_MAX
from protocol.upload_pace import FRAME_BYTES_MIN, FRAME_BYTES_START, FramePace


def send(pace: FramePace, seconds: float, now: float = 0.0) -> None:
    size = pace.frame_bytes
    pace.handed_over(size, now)
    pace.flushed(size, now + seconds)


def test_a_fast_link_gets_frames_of_the_largest_size() -> None:
    pace = FramePace()
    assert pace.frame_bytes == FRAME_BYTES_START
    for number in range(4):
        send(pace, 0.01, now=float(number))
    assert pace.frame_bytes == CHUNKS_PAYLOAD_BYTES_MAX
    assert pace.unsent_bytes_max == 2 * CHUNKS_PAYLOAD_BYTES_MAX


def test_a_slow_link_gets_frames_of_the_smallest_size() -> None:
    pace = FramePace()
    for number in range(4):
        send(pace, 0.4, now=float(number))
    assert pace.frame_bytes == FRAME_BYTES_MIN


def test_between_the_two_the_size_stays() -> None:
    pace = FramePace()
    send(pace, 0.2)
    assert pace.frame_bytes == FRAME_BYTES_START


def test_a_small_frame_that_left_at_once_says_nothing_about_large_ones() -> None:
    pace = FramePace()
    pace.handed_over(1000, 0.0)
    pace.flushed(1000, 0.001)
    assert pace.frame_bytes == FRAME_BYTES_START


def test_what_is_no_chunk_frame_is_not_measured() -> None:
    pace = FramePace()
    pace.flushed(37_000, 9.0)
    pace.handed_over(FRAME_BYTES_START, 9.0)
    pace.flushed(37_000, 19.0)
    assert pace.frame_bytes == FRAME_BYTES_START
    pace.flushed(FRAME_BYTES_START, 9.01)
    assert pace.frame_bytes == 2 * FRAME_BYTES_START


def test_waiting_for_the_frame_before_does_not_count() -> None:
    pace = FramePace()
    for _ in range(3):
        pace.handed_over(FRAME_BYTES_START, 0.0)
    for number in range(3):
        pace.flushed(FRAME_BYTES_START, 0.2 * (number + 1))
    assert pace.frame_bytes == FRAME_BYTES_START
    pace.handed_over(FRAME_BYTES_START, 5.0)
    pace.flushed(FRAME_BYTES_START, 5.4)
    assert pace.frame_bytes == FRAME_BYTES_START // 2

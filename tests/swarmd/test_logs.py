"""The diagnostic log: what passes, what is limited, and that set-up can be repeated."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from swarmd.config import LogLevel
from swarmd.logs import BURST, KINDS_MAX, WINDOW_S, RateLimit, configure_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


def record(
    at: float, message: str = "peer %s failed", name: str = "swarmd.peers"
) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, __file__, 1, message, ("x",), None)
    made.created = at
    return made


def test_our_records_pass_from_the_level_up(stream: io.StringIO) -> None:
    configure_logging(LogLevel.INFO, stream)
    logging.getLogger("swarmd.somewhere").info("height %d", 7)
    logging.getLogger("swarmd.somewhere").debug("not this")
    assert "INFO" in stream.getvalue()
    assert stream.getvalue().endswith("swarmd.somewhere: height 7\n")


def test_libraries_are_heard_from_warning_up(stream: io.StringIO) -> None:
    configure_logging(LogLevel.DEBUG, stream)
    logging.getLogger("hypercorn.error").info("chatter")
    logging.getLogger("swarmdish").info("not ours")
    logging.getLogger("hypercorn.error").warning("trouble")
    assert stream.getvalue().count("\n") == 1


def test_setting_up_again_replaces_the_handler(stream: io.StringIO) -> None:
    configure_logging(LogLevel.INFO, io.StringIO())
    configure_logging(LogLevel.INFO, stream)
    logging.getLogger("swarmd").info("once")
    assert stream.getvalue().count("once") == 1


def test_a_flood_is_cut_and_counted() -> None:
    limit = RateLimit()
    passed = [limit.filter(record(at=100 + number / 10)) for number in range(3 * BURST)]
    assert sum(passed) == BURST
    late = record(at=100 + WINDOW_S)
    assert limit.filter(late)
    assert late.getMessage() == f"peer x failed (and {2 * BURST} more like it before)"
    assert limit.filter(record(at=101 + WINDOW_S))


def test_one_flood_does_not_silence_another_kind() -> None:
    limit = RateLimit()
    for _ in range(2 * BURST):
        limit.filter(record(at=1))
    assert limit.filter(record(at=1, message="something else %s"))
    assert limit.filter(record(at=1, name="swarmd.other"))


def test_a_clock_that_jumps_back_opens_a_new_window() -> None:
    limit = RateLimit()
    for _ in range(2 * BURST):
        limit.filter(record(at=1_000_000))
    assert limit.filter(record(at=5))


def test_invented_kinds_do_not_grow_memory() -> None:
    limit = RateLimit()
    for number in range(3 * KINDS_MAX):
        assert limit.filter(record(at=1, message=f"unique {number} %s"))
    assert len(limit._windows) <= KINDS_MAX

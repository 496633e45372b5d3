"""Asking for large pages changes nothing but where memory lies."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from swarmd.simulation import large_pages


def test_what_is_in_memory_is_the_same_afterwards() -> None:
    kept = [bytes([number % 256]) * 1000 for number in range(8000)]
    large_pages.ask_for_large_pages()
    large_pages.ask_for_large_pages()
    assert all(data == bytes([number % 256]) * 1000 for number, data in enumerate(kept))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_only_private_memory_that_may_be_written_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[int, int, int]] = []

    class Advice:
        argtypes: object = None

        def __call__(self, start: int, size: int, advice: int) -> None:
            asked.append((start, size, advice))

    class Library:
        madvise = Advice()

    maps = tmp_path / "maps"
    mib = 1 << 20
    lines = (
        (0x10000000, 1 * mib, "rw-p 00000000 00:00 0"),
        (0x20100000, 5 * mib, "rw-p 00000000 00:00 0"),
        (0x30000000, 4 * mib, "r--p 00000000 00:00 0"),
        (0x40000000, 4 * mib, "rw-p 00000000 08:01 77 /lib/some.so"),
        (0x50000000, 4 * mib, "rw-p 00000000 00:00 0 [stack]"),
        (0x60000000, 2 * mib, "rw-p 00000000 00:00 0 [heap]"),
    )
    maps.write_text("".join(f"{at:x}-{at + size:x} {rest}\n" for at, size, rest in lines))
    monkeypatch.setattr(large_pages, "_MAPS", maps)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library)
    large_pages.ask_for_large_pages()
    assert asked == [
        (0x20100000, 5 * mib, 14),
        (0x20200000, 2 * mib, 25),
        (0x20400000, 2 * mib, 25),
        (0x60000000, 2 * mib, 14),
        (0x60000000, 2 * mib, 25),
    ]


def test_elsewhere_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(large_pages, "_MAPS", tmp_path / "none")
    monkeypatch.delattr(ctypes, "CDLL")
    large_pages.ask_for_large_pages()

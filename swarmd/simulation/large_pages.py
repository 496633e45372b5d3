"""Large pages for a process of many small objects: a hint to Linux, without which all is as before.

What thousands of simulated nodes take, some hundred mebibytes used all over, is more than the
processor's table of small pages covers, so that every other access looks a page up first.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

_LARGE_BYTES: Final = 2 * 1024 * 1024
"""A large page on most machines."""
_USE: Final = 14
"""MADV_HUGEPAGE: large pages for what is to come in a range."""
_COLLAPSE: Final = 25
"""MADV_COLLAPSE, since Linux 6.1: large pages for what is in a range, now."""
_MAPS: Final = Path("/proc/self/maps")


def ask_for_large_pages() -> None:
    """Asks for large pages under all private memory; to be repeated, since more comes."""
    if not _MAPS.exists():
        return
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in _MAPS.read_text("ascii", "replace").splitlines():
        span, rights, _, _, inode, *name = line.split()
        if inode != "0" or not rights.startswith("rw") or (name and name[0] != "[heap]"):
            continue
        start, end = (int(part, 16) for part in span.split("-"))
        if end - start < _LARGE_BYTES:
            continue
        advise(start, end - start, _USE)
        first = -(-start // _LARGE_BYTES) * _LARGE_BYTES
        for block in range(first, end - _LARGE_BYTES + 1, _LARGE_BYTES):
            advise(block, _LARGE_BYTES, _COLLAPSE)

"""Patch liar: a publisher, or a member with its keys, whose patches make something else.

Owners authorised the manifest that names the patch; none of them saw what it makes.
"""

from __future__ import annotations

import random

import zstandard

from chunks.patch import Segment, encode_patch
from swarmd.simulation.byzantine.bomb_maker import BombMaker

_BOMB_BYTES = 2**22


class PatchLiar:
    """Makes patches from one image to another."""

    def __init__(self, chance: random.Random) -> None:
        """Lies as `chance` has it."""
        self._chance = chance

    def patches(self, base: bytes, target: bytes) -> dict[str, bytes]:
        """Patch objects by what is wrong with them."""
        place = self._chance.randrange(len(target))
        wrong = bytearray(target)
        wrong[place] ^= 1 << self._chance.randrange(8)
        bombs = BombMaker(len(target), bomb_bytes=_BOMB_BYTES).frames(target)
        size, base_size = len(target), len(base)
        made = {
            "another image": _framed(self._chance.randbytes(size), base_size),
            "one wrong bit": _framed(bytes(wrong), base_size),
            "the base again": _copied(size, base_size),
            "another target size": _framed(target + b"\0", base_size),
            "another base size": _framed(target, base_size + 1),
            "garbage": self._chance.randbytes(size),
            "nothing": b"\0",
            "cut off": _framed(target, base_size)[:-7],
            "bytes behind": _framed(target, base_size) + b"\0",
        }
        for name, frame in bombs.items():
            if len(frame) <= size + 128:
                made[name] = _head(size, base_size, len(frame)) + frame
        return made


def _head(size: int, base_size: int, frame_bytes: int) -> bytes:
    segment = Segment(length=size, ranges=(), frame=(0, 0))
    return encode_patch(target_bytes=size, base_bytes=base_size, segments=[(segment, frame_bytes)])


def _framed(content: bytes, base_size: int) -> bytes:
    """A patch that is one frame."""
    frame = zstandard.ZstdCompressor(level=3, write_checksum=False).compress(content)
    return _head(len(content), base_size, len(frame)) + frame


def _copied(size: int, base_size: int) -> bytes:
    """A patch that copies the beginning of the base."""
    segment = Segment(length=size, ranges=((0, size),), frame=None)
    return encode_patch(target_bytes=size, base_bytes=base_size, segments=[(segment, 0)])

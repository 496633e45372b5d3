"""Writes `tests/vectors/patch/patches.json`: patch objects, with what they apply to and make.

`python -m tests.support.patch_vectors` writes it anew; a test compares. The zstd frames are given
as bytes, because another version of the library may find other ones; their meaning is what counts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from protocol.digest import sha256
from tests.chunks.chunk_images import generated
from tests.chunks.patches import COPY, FRAME, RANGE, copy, framed, patch_of, raw_patch

PATH = Path(__file__).parents[1] / "vectors" / "patch" / "patches.json"
BASE = generated("patch base", 600)
FRAMES = tuple(
    map(
        bytes.fromhex,
        (
            "28b52ffd20c59d000048b8616c7465726564990200a6b789413f356c",
            "28b52ffd20785d0000286e6577206e0100507ab5",
            "28b52ffd206e6500001099670200c89824de227305",
        ),
    )
)
ALTERED = BASE[200:300] + b"altered" + BASE[310:400]
BOTH_ENDS = BASE[:50] + BASE[500:560]


def _made() -> list[dict[str, Any]]:
    cases = {
        "a copy": (BASE, patch_of(600, 600, (copy(600, 0), b""))),
        "copies in another order": (
            BASE[300:] + BASE[:300],
            patch_of(600, 600, (copy(300, 300), b""), (copy(300, 0), b"")),
        ),
        "a frame whose dictionary is one range": (
            ALTERED,
            patch_of(len(ALTERED), 600, (framed(len(ALTERED), (150, 300)), FRAMES[0])),
        ),
        "a frame without a dictionary": (
            b"new " * 30,
            patch_of(120, 600, (framed(120), FRAMES[1])),
        ),
        "a frame whose dictionary is two ranges": (
            BOTH_ENDS,
            patch_of(110, 600, (framed(110, (0, 60), (480, 120)), FRAMES[2])),
        ),
        "everything": (
            BASE[:100] + ALTERED + b"new " * 30 + BASE[400:] + BOTH_ENDS,
            patch_of(
                100 + len(ALTERED) + 120 + 200 + 110,
                600,
                (copy(100, 0), b""),
                (framed(len(ALTERED), (150, 300)), FRAMES[0]),
                (framed(120), FRAMES[1]),
                (copy(200, 400), b""),
                (framed(110, (0, 60), (480, 120)), FRAMES[2]),
            ),
        ),
    }
    return [
        {"name": name, "patch": patch.hex(), "target": target.hex(), "sha256": sha256(target).hex()}
        for name, (target, patch) in cases.items()
    ]


def _refused() -> list[dict[str, Any]]:
    good = patch_of(197, 600, (framed(197, (150, 300)), FRAMES[0]))
    sizes = {"target_bytes": 197, "base_bytes": 600}
    cases = {
        "W11: another magic number": b"SWPATCH2" + good[8:],
        "W12: a byte too many": good + b"\0",
        "W12: a byte too few": good[:-1],
        "W12: another number of segments": good[:31] + b"\2" + good[32:],
        "W12: segments short of the target": raw_patch([COPY.pack(1, 196, 0)], **sizes),
        "W12: a range that ends behind the base": raw_patch([COPY.pack(1, 197, 404)], **sizes),
        "W13: ranges that touch": patch_with_ranges((150, 100), (250, 200)),
        "W13: ranges out of order": patch_with_ranges((250, 200), (10, 100)),
        "W15: a frame of another size": good.replace(b"\x20\xc5", b"\x20\xc4"),
        "W15: a frame with a checksum": good.replace(b"\xfd\x20\xc5", b"\xfd\x24\xc5"),
        "W15: a frame without a size": good.replace(b"\xfd\x20\xc5", b"\xfd\x00\x00"),
    }
    return [{"name": name, "patch": patch.hex()} for name, patch in cases.items()]


def patch_with_ranges(*ranges: tuple[int, int]) -> bytes:
    """A patch like the good one with other ranges."""
    entry = FRAME.pack(2, 197, len(FRAMES[0]), len(ranges))
    entry += b"".join(RANGE.pack(*each) for each in ranges)
    return raw_patch([entry], target_bytes=197, base_bytes=600, frames=FRAMES[0])


def render() -> str:
    """The file's text."""
    document = {"base": BASE.hex(), "made": _made(), "refused": _refused()}
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(render(), encoding="ascii")

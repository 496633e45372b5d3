"""Intel HEX to the flash image that a programmer would write.

The text form spells every byte as two digits and breaks the lines at record boundaries, which makes
two releases look different even where the flash content is the same; chunks are therefore cut from
the binary. Universal Hex, the format for one file that serves several boards, interleaves nothing:
each board's section follows a block-start record (type 0x0A) that names the board.

Source: Intel Hexadecimal Object File Format Specification, revision A (1988), and the micro:bit
Universal Hex specification 0.4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from protocol.errors import EncodingError

GAP_BYTES_MAX: Final = 64 * 1024
"""Holes up to this size are erased flash (0xFF); behind a larger one another memory begins."""
IMAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bound on one converted image, bytes; microcontrollers have far less flash."""
_ERASED: Final = b"\xff"

_DATA: Final = 0x00
_END: Final = 0x01
_SEGMENT_ADDRESS: Final = 0x02
_START_SEGMENT: Final = 0x03
_LINEAR_ADDRESS: Final = 0x04
_START_LINEAR: Final = 0x05
_BLOCK_START: Final = 0x0A
_BLOCK_END: Final = 0x0B
_PADDING: Final = 0x0C
_CUSTOM_DATA: Final = 0x0D
_IGNORED: Final = (_START_SEGMENT, _START_LINEAR, _BLOCK_END, _PADDING)
_RECORD_OVERHEAD_BYTES: Final = 5
"""Length, address (2), type and checksum."""


@dataclass(slots=True)
class _Sections:
    """Memory content found so far, one map of address to bytes for each board."""

    boards: dict[int, dict[int, bytes]] = field(default_factory=lambda: {0: {}})
    board: int = 0
    base: int = 0
    byte_count: int = 0

    def add_data(self, address: int, data: bytes) -> None:
        self.byte_count += len(data)
        if self.byte_count > IMAGE_BYTES_MAX:
            raise EncodingError(f"Intel HEX: more than {IMAGE_BYTES_MAX} bytes of data")
        memory = self.boards[self.board]
        if memory.setdefault(self.base + address, data) is not data:
            raise EncodingError(f"Intel HEX: two records for address {self.base + address:#x}")

    def start_board(self, data: bytes) -> None:
        if len(data) < 2:
            raise EncodingError("Intel HEX: block start names no board")
        self.board = int.from_bytes(data[:2], "big")
        self.boards.setdefault(self.board, {})


def flash_image(text: str) -> bytes:
    """Converts a HEX file into one binary image.

    Args:
        text: the file; blank lines are skipped.

    Returns:
        For each board in order of appearance, its memory in order of addresses, small holes filled
        with 0xFF, large ones left out.

    Raises:
        EncodingError: malformed, a wrong checksum, an unknown record, overlapping data, no
            end or no data.
    """
    sections = _Sections()
    is_ended = False
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        if is_ended:
            raise EncodingError(f"Intel HEX line {number}: text after the end record")
        kind, address, data = _parse_record(line.strip(), number)
        is_ended = _apply(sections, kind, address, data, number)
    if not is_ended:
        raise EncodingError("Intel HEX: the end record is missing")
    if not sections.byte_count:
        raise EncodingError("Intel HEX: no data")
    return b"".join(_flatten(memory) for memory in sections.boards.values())


def _parse_record(line: str, number: int) -> tuple[int, int, bytes]:
    """Checks one record and returns its type, address and data."""
    if not line.startswith(":"):
        raise EncodingError(f"Intel HEX line {number}: does not start with a colon")
    try:
        raw = bytes.fromhex(line[1:])
    except ValueError as error:
        raise EncodingError(f"Intel HEX line {number}: {error}") from error
    if len(raw) < _RECORD_OVERHEAD_BYTES or len(raw) != raw[0] + _RECORD_OVERHEAD_BYTES:
        raise EncodingError(f"Intel HEX line {number}: length does not match")
    if sum(raw) & 0xFF:
        raise EncodingError(f"Intel HEX line {number}: wrong checksum")
    return raw[3], int.from_bytes(raw[1:3], "big"), raw[4:-1]


def _apply(sections: _Sections, kind: int, address: int, data: bytes, number: int) -> bool:
    """Carries out one record; returns whether it ends the file."""
    if kind in (_DATA, _CUSTOM_DATA):
        sections.add_data(address, data)
    elif kind == _LINEAR_ADDRESS:
        sections.base = int.from_bytes(data, "big") << 16
    elif kind == _SEGMENT_ADDRESS:
        sections.base = int.from_bytes(data, "big") << 4
    elif kind == _BLOCK_START:
        sections.start_board(data)
    elif kind not in (_END, *_IGNORED):
        raise EncodingError(f"Intel HEX line {number}: record type {kind:#04x} is unknown")
    return kind == _END


def _flatten(memory: dict[int, bytes]) -> bytes:
    """Joins the pieces of one board's memory in order of addresses."""
    image = bytearray()
    end: int | None = None
    for address in sorted(memory):
        gap = 0 if end is None else address - end
        if gap < 0:
            raise EncodingError(f"Intel HEX: records overlap at address {address:#x}")
        if gap <= GAP_BYTES_MAX:
            image += _ERASED * gap
        image += memory[address]
        end = address + len(memory[address])
    return bytes(image)

"""The records of a lane: a length, that many bytes of AES-256-GCM, a tag (docs/spec/lane.md, B32).

Pure machines, one for each direction: bytes in, bytes out. The nonce is the record's number, so a
record opens only in its place, once, in its direction, on its lane.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.errors import LocalProtocolError, TransportError
from protocol.limits import KIB

HEAD_BYTES: Final = 4
"""The length, big-endian; associated data of the record."""
TAG_BYTES: Final = 16
"""A whole tag of GCM."""
OVERHEAD_BYTES: Final = HEAD_BYTES + TAG_BYTES
"""What a record adds to what it carries."""
RECORD_BYTES_MAX: Final = 256 * KIB
"""What a record carries at most: beyond, AES-GCM gets no cheaper, and it must be there whole before
anything of it can be used."""
RECORDS_MAX: Final = 1 << 32
"""Records under one key (B24); NIST SP 800-38D, section 8.3."""
_NONCE_BYTES: Final = 12


def read_length(head: bytes | bytearray | memoryview) -> int:
    """What a record carries, bytes, by its first four.

    Raises:
        TransportError: more than a record may carry; nobody vouches for the number.
    """
    size = int.from_bytes(head, "big")
    if size > RECORD_BYTES_MAX:
        raise TransportError(f"lane broke: record of {size} bytes, at most {RECORD_BYTES_MAX}")
    return size


class RecordSealer:
    """Makes the records of one direction."""

    def __init__(self, key: bytes) -> None:
        """`key`: 32 bytes that nothing else was or will be sealed with."""
        self._cipher = AESGCM(key)
        self._number = 0

    def seal(self, plain: bytes | memoryview, out: memoryview) -> int:
        """Writes the next record to the beginning of `out`; returns its bytes.

        Raises:
            LocalProtocolError: a record cannot carry as much.
            TransportError: the key has served as many records as it may.
        """
        size = len(plain)
        if size > RECORD_BYTES_MAX:
            raise LocalProtocolError(f"record of {size} bytes, at most {RECORD_BYTES_MAX}")
        if self._number >= RECORDS_MAX:
            raise TransportError(f"lane ended after {RECORDS_MAX} records")
        # Counted first: whatever happens below, no second record has this number.
        nonce = self._number.to_bytes(_NONCE_BYTES, "big")
        self._number += 1
        head = size.to_bytes(HEAD_BYTES, "big")
        end = size + OVERHEAD_BYTES
        out[:HEAD_BYTES] = head
        self._cipher.encrypt_into(nonce, plain, head, out[HEAD_BYTES:end])
        return end


class RecordOpener:
    """Opens the records of one direction."""

    def __init__(self, key: bytes) -> None:
        """`key`: the sealer's."""
        self._cipher = AESGCM(key)
        self._number = 0

    def open(self, record: memoryview, out: memoryview) -> None:
        """Writes what a whole record carries to `out`, which is exactly as long.

        Raises:
            TransportError: it is not the next record as it was sealed; `out` is to be thrown away.
        """
        nonce = self._number.to_bytes(_NONCE_BYTES, "big")
        try:
            self._cipher.decrypt_into(nonce, record[HEAD_BYTES:], record[:HEAD_BYTES], out)
        except InvalidTag:
            raise TransportError(f"lane broke: record {self._number} is not authentic") from None
        self._number += 1

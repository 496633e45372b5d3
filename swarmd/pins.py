"""Releases that an operator wants kept: a small file in the data directory.

A pin names a manifest, whether it is here or not yet; it keeps the manifest's images from
retention. It does not fetch them, and it does not keep what the ledger took back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from protocol.digest import DIGEST_BYTES, ManifestId
from protocol.encoding import Fields, Value, decode_canonical, encode_canonical
from protocol.errors import PolicyError, StorageError, VerificationError
from swarmd.datadir import PRIVATE_FILE_MODE, read_bounded, write_atomic

PINS_NAME: Final = "pins.cbor"
"""File name in the data directory."""
PINS_MAX: Final = 256
"""Pins of one node; each keeps disk for good, so a person should have chosen it."""
_SCHEMA: Final = 1
_FILE_BYTES_MAX: Final = 64 + PINS_MAX * (DIGEST_BYTES + 2)


class Pins:
    """The pins and their file; calls touch the disk, and are made one at a time."""

    def __init__(self, path: Path) -> None:
        """Reads the file at `path`; a missing one holds no pins.

        Raises:
            StorageError: it cannot be read, or is damaged.
        """
        self._path = path
        self._pinned: dict[ManifestId, None] = {}
        if path.exists():
            try:
                self._pinned = _decode(read_bounded(path, bytes_max=_FILE_BYTES_MAX))
            except VerificationError as error:
                raise StorageError(f"{path}: {error}; remove it and pin again") from error

    def __contains__(self, manifest: ManifestId) -> bool:
        """Whether a manifest is pinned."""
        return manifest in self._pinned

    def __iter__(self) -> Iterator[ManifestId]:
        """All pins, oldest first."""
        return iter(tuple(self._pinned))

    def add(self, manifest: ManifestId) -> bool:
        """Pins a manifest; returns whether it was not pinned before.

        Raises:
            PolicyError: there are too many pins.
            StorageError: it could not be kept.
        """
        if manifest in self._pinned:
            return False
        if len(self._pinned) >= PINS_MAX:
            raise PolicyError("pins.many", f"{PINS_MAX} releases are pinned already: unpin one")
        self._write({**self._pinned, manifest: None})
        return True

    def remove(self, manifest: ManifestId) -> bool:
        """Ends a pin; returns whether there was one.

        Raises:
            StorageError: that could not be kept.
        """
        if manifest not in self._pinned:
            return False
        self._write({one: None for one in self._pinned if one != manifest})
        return True

    def _write(self, pinned: dict[ManifestId, None]) -> None:
        value: list[Value] = [bytes(one) for one in pinned]
        write_atomic(self._path, encode_canonical({0: _SCHEMA, 1: value}), mode=PRIVATE_FILE_MODE)
        self._pinned = pinned


def _decode(data: bytes) -> dict[ManifestId, None]:
    fields = Fields(decode_canonical(data, bytes_max=_FILE_BYTES_MAX), "pins")
    fields.constant(0, _SCHEMA)
    pinned = fields.digests(1, maximum=PINS_MAX)
    fields.finish()
    return {ManifestId(one): None for one in pinned}

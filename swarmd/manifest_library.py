"""The manifests of the ledger as a mapping: read from the database, parsed when asked for.

A ledger holds every manifest that was ever proposed, so neither a start nor the memory may grow
with their number: a look-up is one row of an index, and the parsed ones of late are kept at hand.
Reading is for any thread and short enough for the event loop. Walking through all of them is for
tests and for work that lets others have a turn in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ledger.manifest_store import ManifestStore
from protocol.digest import Digest, ManifestId
from protocol.errors import EncodingError, StorageError
from protocol.limits import MIB
from protocol.manifest import SignedManifest, parse_manifest
from swarmd.recent_map import RecentMap

PARSED_BYTES_MAX: Final = MIB
"""Signed bytes of the parsed manifests in each generation at hand. A manifest of 1 KiB takes some
four times as much once parsed: 8 MiB in all, of some 2,000."""


class ManifestLibrary(Mapping[ManifestId, SignedManifest]):
    """Every manifest that this copy of the ledger knows, in the order in which it came to know."""

    def __init__(self, store: ManifestStore) -> None:
        """Reads from a store of the ledger's database; every method may raise StorageError."""
        self._store = store
        self._parsed: RecentMap[ManifestId, SignedManifest] = RecentMap(PARSED_BYTES_MAX)

    def __getitem__(self, manifest: ManifestId) -> SignedManifest:
        """A manifest, not verified but by whoever let it into the ledger."""
        found = self._parsed.get(manifest)
        if found is None:
            raw = self._store.raw(manifest)
            if raw is None:
                raise KeyError(manifest)
            found = _parsed(manifest, raw)
            self._parsed.put(manifest, found, len(raw))
        return found

    def __contains__(self, manifest: object) -> bool:
        """Whether the ledger knows a manifest; reads an index only."""
        if not isinstance(manifest, bytes):
            return False
        name = ManifestId(Digest(manifest))
        return self._parsed.get(name) is not None or name in self._store

    def __iter__(self) -> Iterator[ManifestId]:
        """All ids; those of manifests that come meanwhile are among them."""
        count = 0
        while page := self._store.page(count):
            yield from page
            count += len(page)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._store)

    def naming(self, image: Digest) -> tuple[ManifestId, ...]:
        """Manifests that name an image, in this mapping's order."""
        return self._store.naming(image)

    def newest(self, count_max: int) -> tuple[ManifestId, ...]:
        """The last ones of this mapping's order, the newest first."""
        return self._store.newest(count_max)


def _parsed(manifest: ManifestId, raw: bytes) -> SignedManifest:
    try:
        signed = parse_manifest(raw)
    except EncodingError as error:
        raise StorageError(f"damaged manifest {manifest.hex()[:8]}: {error}") from error
    if signed.manifest_id != manifest:
        raise StorageError(f"damaged manifest {manifest.hex()[:8]}: other bytes")
    return signed

"""Manifests in the ledger's database: their bytes by id, and which of them name an image.

An image is whatever a manifest has peers exchange: its components and the patches for them.

A manifest is at most 16 KiB and stays for ever, so a ledger may hold more of them than memory
should: nothing here grows with their number but the tables. What a fetch of the state brings enters
the same tables before the fetched state holds; a manifest that the state does not know yet has no
standing in any group.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ledger.database import Database
from ledger.disk import Connection
from protocol.digest import Digest, ManifestId
from protocol.manifest import parse_manifest

MANIFEST_TABLES: Final = """
CREATE TABLE manifests (
    number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, manifest BLOB NOT NULL
);
CREATE TABLE manifest_images (
    image BLOB NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (image, number)
) WITHOUT ROWID;
"""
"""`number` counts from 1 in the order in which this copy came to know them, without gaps."""
PAGE_ROWS: Final = 256
"""Ids read at a time, so that no reader holds back the log's checkpoint."""


class ManifestStore:
    """The tables of manifests within a ledger's database; reading is for any thread."""

    def __init__(self, database: Database) -> None:
        """Works on the tables of an open database."""
        self._database = database

    @staticmethod
    def insert(database: Connection, manifests: Iterable[tuple[ManifestId, bytes]]) -> None:
        """Adds manifests that are not here yet, within a transaction.

        Args:
            database: the connection.
            manifests: id and original bytes; the caller checked that they belong together.

        Raises:
            EncodingError: one is malformed.
        """
        for manifest, raw in manifests:
            objects = parse_manifest(raw).manifest.objects
            database.execute(
                "INSERT OR IGNORE INTO manifests (id, manifest) VALUES (?, ?)", (manifest, raw)
            )
            database.executemany(
                "INSERT OR IGNORE INTO manifest_images "
                "SELECT ?, number FROM manifests WHERE id = ?",
                [(one.digest, manifest) for one in objects],
            )

    def raw(self, manifest: ManifestId) -> bytes | None:
        """The original bytes of a manifest, or None."""
        rows = self._database.shared_rows("SELECT manifest FROM manifests WHERE id = ?", manifest)
        return self._database.bytes_of(rows[0][0]) if rows else None

    def __contains__(self, manifest: ManifestId) -> bool:
        """Whether a manifest is here; reads an index only."""
        return bool(self._database.shared_rows("SELECT 1 FROM manifests WHERE id = ?", manifest))

    def __len__(self) -> int:
        """How many there are."""
        newest = self._database.shared_rows("SELECT max(number) FROM manifests")[0][0]
        return 0 if newest is None else self._database.integer_of(newest)

    def naming(self, image: Digest) -> tuple[ManifestId, ...]:
        """Manifests that name an image, in the order in which this copy came to know them."""
        rows = self._database.shared_rows(
            "SELECT id FROM manifest_images JOIN manifests USING (number) WHERE image = ? "
            "ORDER BY number",
            image,
        )
        return self._ids(rows)

    def page(self, after: int, count_max: int = PAGE_ROWS) -> tuple[ManifestId, ...]:
        """Ids of the manifests numbered `after` + 1 and up."""
        rows = self._database.shared_rows(
            "SELECT id FROM manifests WHERE number > ? ORDER BY number LIMIT ?", after, count_max
        )
        return self._ids(rows)

    def newest(self, count_max: int) -> tuple[ManifestId, ...]:
        """Ids of the manifests this copy came to know last, the newest first."""
        rows = self._database.shared_rows(
            "SELECT id FROM manifests ORDER BY number DESC LIMIT ?", count_max
        )
        return self._ids(rows)

    def _ids(self, rows: Iterable[tuple[object, ...]]) -> tuple[ManifestId, ...]:
        return tuple(ManifestId(Digest(self._database.bytes_of(row[0]))) for row in rows)

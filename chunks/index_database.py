"""The store's index: which images there are, their recipes, have-bitmaps and where chunks lie.

SQLite in WAL mode with `synchronous=FULL`: a transaction that returned survives power failure. Not
thread-safe; the store calls it under its catalogue lock. The database is held exclusively, so a
second process cannot open the same store.
"""

from __future__ import annotations

import hashlib
import sqlite3
import sys
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Final

from chunks.bitmap import Bitmap
from chunks.file_backend import FileBackend
from chunks.recipe import Recipe
from chunks.store import DiskFullError, ImageState, StoreOpenError
from protocol.digest import ChunkId, Digest
from protocol.errors import StorageError, VerificationError

APPLICATION_ID: Final = 0x73776D63
"""Marks the database as ours (`swmc`), in the header field SQLite reserves for that."""
SCHEMA_VERSION: Final = 1
"""Raised with every change of the tables; a store of a newer version is refused."""
_WAL_BYTES_MAX: Final = 4 * 1024 * 1024
"""The log is cut back to this after a checkpoint, bytes (SQLite's own 1,000 pages)."""
_SCHEMA: Final = (
    """CREATE TABLE image (
        row INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL, staged INTEGER NOT NULL,
        state INTEGER NOT NULL, locked INTEGER NOT NULL, size INTEGER NOT NULL,
        chunk_count INTEGER NOT NULL, recipe_root BLOB NOT NULL, have BLOB NOT NULL,
        UNIQUE (digest, staged)) STRICT""",
    """CREATE TABLE recipe (
        row INTEGER PRIMARY KEY, lengths BLOB NOT NULL, digests BLOB NOT NULL,
        checksum BLOB NOT NULL) STRICT""",
    """CREATE TABLE chunk (
        digest BLOB NOT NULL, row INTEGER NOT NULL, offset INTEGER NOT NULL,
        length INTEGER NOT NULL, PRIMARY KEY (digest, row)) STRICT, WITHOUT ROWID""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedImage:
    """One image as the index knows it."""

    row: int
    """Key in the index, ascending by arrival."""
    image: Digest
    """Digest of the whole."""
    state: ImageState
    """PARTIAL, COMPLETE or STAGED."""
    locked: bool
    """Whether it is kept without being served."""
    size_bytes: int
    """Bytes of the whole."""
    recipe_root: Digest
    """Merkle root of its recipe."""
    have: Bitmap
    """Chunks that were durable when the index last heard of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkPlace:
    """Where an image that was once complete holds a chunk."""

    image: Digest
    """The image."""
    offset: int
    """First byte in it."""
    length: int
    """Bytes."""


class IndexDatabase:
    """The index in one SQLite file."""

    def __init__(self, path: Path, backend: FileBackend, *, create: bool) -> None:
        """Opens the index, making its tables if the file is new.

        Raises:
            StoreOpenError: absent and not to be created, in use, foreign, newer or damaged.
        """
        if not create and backend.file_size(path) is None:
            raise StoreOpenError(f"no chunk store at {path.parent}")
        try:
            self._connection = backend.connect(path)
        except sqlite3.Error as error:
            raise StoreOpenError(f"{path}: {error}") from error
        self._failed = False
        try:
            self._prepare(path)
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                raise StoreOpenError(f"{path}: {error}") from error
            raise

    def _prepare(self, path: Path) -> None:
        run = self._connection.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA trusted_schema = OFF")
        identity = run("PRAGMA application_id").fetchone()[0]
        version = run("PRAGMA user_version").fetchone()[0]
        tables = run("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        is_new = identity == 0 and version == 0 and tables == 0
        if not is_new and identity != APPLICATION_ID:
            raise StoreOpenError(f"{path} is a database of another program")
        if version > SCHEMA_VERSION:
            raise StoreOpenError(
                f"{path} has schema {version}, this program knows {SCHEMA_VERSION}: it is newer"
            )
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run(f"PRAGMA journal_size_limit = {_WAL_BYTES_MAX}")
        # Takes the exclusive lock now, so that a second opener fails here and not later.
        run("BEGIN IMMEDIATE")
        for statement in _SCHEMA if is_new else ():
            run(statement)
        run("COMMIT")

    def close(self) -> None:
        """Closes the database."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction; after any failure but a full disk the index takes no more.

        A failed sync may have lost pages that a repeated one would not report, so only opening the
        store again (SQLite then recovers from its log) makes it usable.
        """
        if self._failed:
            raise StorageError("the chunk index failed before: open the store again")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            if not isinstance(error, sqlite3.Error):
                raise
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise DiskFullError(f"chunk index: {error}") from error
            self._failed = True
            raise StorageError(f"chunk index: {error}") from error

    def images(self) -> list[IndexedImage]:
        """Reads all images, in order of arrival.

        Raises:
            StorageError: an entry makes no sense.
        """
        try:
            return [
                IndexedImage(
                    row=row,
                    image=Digest(digest),
                    state=ImageState(state),
                    locked=bool(locked),
                    size_bytes=size,
                    recipe_root=Digest(root),
                    have=Bitmap.decode(have, count),
                )
                for row, digest, state, locked, size, count, root, have in self._connection.execute(
                    "SELECT row, digest, state, locked, size, chunk_count, recipe_root, have"
                    " FROM image ORDER BY row"
                )
            ]
        except (sqlite3.Error, ValueError, VerificationError) as error:
            raise StorageError(f"chunk index is damaged: {error}") from error

    def recipe(self, row: int) -> Recipe:
        """Reads an image's recipe.

        Raises:
            StorageError: missing or damaged.
        """
        try:
            found = self._connection.execute(
                "SELECT lengths, digests, checksum FROM recipe WHERE row = ?", (row,)
            ).fetchone()
            if found is None or _checksum(found[0], found[1]) != found[2]:
                raise StorageError(f"chunk index is damaged: recipe of row {row}")
            return Recipe(_unpack(found[0]), found[1])
        except (sqlite3.Error, VerificationError) as error:
            raise StorageError(f"chunk index is damaged: {error}") from error

    def insert(self, image: Digest, recipe: Recipe, state: ImageState) -> int:
        """Adds an image and its recipe; a staged one replaces an earlier staged one.

        Returns:
            Its row.
        """
        staged = state is ImageState.STAGED
        count = recipe.chunk_count
        have = Bitmap.full(count) if staged else Bitmap(count)
        lengths = _pack(recipe)
        root = recipe.root
        with self._transaction() as connection:
            for (old,) in connection.execute(
                "SELECT row FROM image WHERE digest = ? AND staged = ?", (image, staged)
            ).fetchall():
                _delete(connection, old)
            row = connection.execute(
                "INSERT INTO image (digest, staged, state, locked, size, chunk_count, recipe_root,"
                " have) VALUES (?, ?, ?, 0, ?, ?, ?, ?)",
                (image, staged, state, recipe.size_bytes, count, root, have.encode()),
            ).lastrowid
            connection.execute(
                "INSERT INTO recipe VALUES (?, ?, ?, ?)",
                (row, lengths, recipe.digests, _checksum(lengths, recipe.digests)),
            )
        assert row is not None, "an INSERT into a rowid table gives its row"
        return row

    def set_have(self, row: int, have: Bitmap) -> None:
        """Records which chunks are durable."""
        with self._transaction() as connection:
            connection.execute("UPDATE image SET have = ? WHERE row = ?", (have.encode(), row))

    def set_complete(self, row: int, recipe: Recipe) -> None:
        """Records that an image is complete, in the images area, and a source for others."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE image SET staged = 0, state = ?, have = ? WHERE row = ?",
                (ImageState.COMPLETE, Bitmap.full(recipe.chunk_count).encode(), row),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO chunk VALUES (?, ?, ?, ?)",
                zip(
                    recipe.each_digest(),
                    repeat(row, recipe.chunk_count),
                    recipe.offsets[:-1],
                    recipe.lengths,
                    strict=True,
                ),
            )

    def set_partial(self, row: int, have: Bitmap, dropped: Iterable[ChunkId]) -> None:
        """Records that chunks were lost: what is held, and that `dropped` have no source here."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE image SET state = ?, have = ? WHERE row = ?",
                (ImageState.PARTIAL, have.encode(), row),
            )
            connection.executemany(
                "DELETE FROM chunk WHERE digest = ? AND row = ?",
                ((chunk, row) for chunk in dropped),
            )

    def set_locked(self, row: int, *, locked: bool) -> None:
        """Records whether an image is kept without being served."""
        with self._transaction() as connection:
            connection.execute("UPDATE image SET locked = ? WHERE row = ?", (locked, row))

    def delete(self, row: int) -> None:
        """Forgets an image, its recipe and its places."""
        with self._transaction() as connection:
            _delete(connection, row)

    def has_places(self, *, except_row: int) -> bool:
        """Whether other images hold any chunk at all."""
        try:
            found = self._connection.execute(
                "SELECT 1 FROM chunk WHERE row <> ? LIMIT 1", (except_row,)
            ).fetchone()
        except sqlite3.Error as error:
            raise StorageError(f"chunk index: {error}") from error
        return found is not None

    def places(self, chunks: Iterable[ChunkId], *, except_row: int) -> dict[ChunkId, ChunkPlace]:
        """Finds one place for each chunk in other images that are neither staged nor locked."""
        found: dict[ChunkId, ChunkPlace] = {}
        try:
            for chunk in chunks:
                place = self._connection.execute(
                    "SELECT image.digest, chunk.offset, chunk.length FROM chunk JOIN image"
                    " USING (row) WHERE chunk.digest = ? AND row <> ? AND staged = 0"
                    " AND locked = 0 ORDER BY row DESC LIMIT 1",
                    (chunk, except_row),
                ).fetchone()
                if place is not None:
                    found[chunk] = ChunkPlace(
                        image=Digest(place[0]), offset=place[1], length=place[2]
                    )
        except sqlite3.Error as error:
            raise StorageError(f"chunk index: {error}") from error
        return found


def _delete(connection: sqlite3.Connection, row: int) -> None:
    """Deletes a row everywhere; its places are found by the recipe, which saves a second index."""
    found = connection.execute("SELECT digests FROM recipe WHERE row = ?", (row,)).fetchone()
    digests: bytes = found[0] if found is not None else b""
    connection.executemany(
        "DELETE FROM chunk WHERE digest = ? AND row = ?",
        ((digests[start : start + 32], row) for start in range(0, len(digests), 32)),
    )
    connection.execute("DELETE FROM recipe WHERE row = ?", (row,))
    connection.execute("DELETE FROM image WHERE row = ?", (row,))


def _pack(recipe: Recipe) -> bytes:
    lengths = array("I", recipe.lengths)
    if sys.byteorder == "big":
        lengths.byteswap()
    return lengths.tobytes()


def _unpack(packed: bytes) -> array[int]:
    lengths = array("I")
    lengths.frombytes(packed)
    if sys.byteorder == "big":
        lengths.byteswap()
    return lengths


def _checksum(lengths: bytes, digests: bytes) -> bytes:
    """SQLite pages carry no checksum of their own."""
    return hashlib.sha256(lengths + digests).digest()

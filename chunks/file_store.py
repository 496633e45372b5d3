"""The crash-safe chunk store: whole image files beside an SQLite index.

Layout under the root (docs/spec/chunks.md, section 4): `chunks.db`, `images/<hex>` complete,
`images/<hex>.part` growing, `staging/<hex>` staged, `staging/incoming-<n>.part` being staged.

Thread-safe; `chunks.image_table` describes the locks. Why a crash does no harm is argued in
docs/spec/chunks.md, section 5. In short: the index is the truth and file names follow it, and a bit
becomes durable only after a data sync that began after the chunk's write had ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

from chunks.batch_io import BatchIO, Written
from chunks.bitmap import Bitmap
from chunks.catalogue import Catalogue
from chunks.chunk_batches import ReadOutcome, RunBytes, VerifiedRun, WriteOutcome, verify_runs
from chunks.file_backend import FileBackend, OSFileBackend, read_exactly, storage_errors
from chunks.held_image import HeldImage, OpenFile
from chunks.image_reader import ImageReader, held_repeats
from chunks.image_table import ImageTable
from chunks.index_database import IndexDatabase
from chunks.layout import check_image_size
from chunks.recipe import Recipe
from chunks.room import StoreLimits
from chunks.salvage import find_written
from chunks.staging import Origin, copy_and_cut, sealing_bytes_max
from chunks.store import (
    CHECKPOINT_BYTES,
    UNSYNCED_BYTES_MAX,
    ChunkMissingError,
    ChunkRottenError,
    ChunkSealer,
    ChunkStore,
    DiskFullError,
    Download,
    ImageMissingError,
    ImageRecord,
    ImageState,
    IncompleteImageError,
    RecipeConflictError,
    StagedImage,
    StoreOpenError,
    StoreStatistics,
)
from chunks.store_recovery import IMAGES, INCOMING_PREFIX, PART_SUFFIX, STAGING, recover
from protocol.digest import ChunkId, Digest, sha256, short
from protocol.errors import (
    DigestMismatchError,
    LocalProtocolError,
    StorageError,
    SwarmError,
)
from protocol.limits import MIB
from protocol.manifest import ChunkerParameters
from protocol.runs import Runs

DATABASE: Final = "chunks.db"
"""File name of the index."""
HASH_AHEAD_BYTES: Final = 16 * MIB
"""Bytes that one call hashes ahead: about 10 ms."""
_LOOKUP_CHUNKS: Final = 256
"""Chunks looked up in the index at once, so that others are not kept waiting."""


class FileStore(ChunkStore):
    """A `ChunkStore` on a disk; its contract and errors are described there."""

    def __init__(
        self, root: Path, backend: FileBackend, table: ImageTable, limits: StoreLimits
    ) -> None:
        """For `open`, which callers use."""
        self._root = root
        self._backend = backend
        self._table = table
        self._index = table.index
        self._catalogue = Catalogue(root, backend, table, limits)
        self._reader = ImageReader(backend, table, self._catalogue)
        self._batches = BatchIO(backend, table, self._catalogue)
        self._incoming = 0

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        create: bool = True,
        backend: FileBackend | None = None,
        limits: StoreLimits | None = None,
    ) -> FileStore:
        """Opens a store and mends what a crash left.

        Args:
            root: the store's own directory.
            create: whether to make a store where there is none.
            backend: the file operations; the operating system's by default.
            limits: what it may take; None leaves it to the disk.

        Raises:
            StoreOpenError: absent, not writable, in use, damaged, foreign or of a newer version.
        """
        files = OSFileBackend() if backend is None else backend
        try:
            if create:
                for directory in (root, root / IMAGES, root / STAGING):
                    files.make_directory(directory)
                # A store whose own name is lost takes everything that was synced in it along.
                files.sync_directory(root.parent)
            index = IndexDatabase(root / DATABASE, files, create=create)
            try:
                files.sync_directory(root)
                images = recover(root, files, index)
            except BaseException:
                index.close()
                raise
        except StoreOpenError:
            raise
        except (OSError, StorageError) as error:
            raise StoreOpenError(f"chunk store {root}: {error}") from error
        return cls(root, files, ImageTable(files, index, images), limits or StoreLimits())

    # --- staging ---

    def stage(
        self, source: Path, parameters: ChunkerParameters, sealer: ChunkSealer | None = None
    ) -> StagedImage:
        """See `ChunkStore.stage`."""
        size = self._backend.file_size(source)
        if size is None:
            raise StorageError(f"reading {source}: no such file")
        check_image_size(size)
        with self._table.state:
            self._incoming += 1
            number = self._incoming
        incoming = self._root / STAGING / f"{INCOMING_PREFIX}{number}{PART_SUFFIX}"
        with self._catalogue.staging(size + sealing_bytes_max(size, parameters, sealer)):
            try:
                origin = Origin(path=source, size_bytes=size)
                staged = copy_and_cut(self._backend, origin, incoming, parameters, sealer)
                with self._table.catalogue:
                    self._catalogue.take_staged(staged, incoming)
            except (SwarmError, OSError):
                with suppress(OSError):
                    self._backend.unlink(incoming)
                raise
        return staged

    def promote(self, image: Digest) -> None:
        """See `ChunkStore.promote`."""
        with self._table.lease(image, staged=True) as (held, opened), self._table.catalogue:
            with self._table.state:
                if not self._table.is_current(held, opened):
                    raise ImageMissingError(f"no image {short(image)} in staging")
                other = self._table.find_optional(image)
            if other is not None:
                with self._table.state:
                    other.check_served()
                if other.state is ImageState.COMPLETE:
                    if other.recipe_root != held.recipe_root:
                        raise RecipeConflictError(f"image {short(image)} has another recipe")
                    self._catalogue.delete(held)
                    return
                self._catalogue.delete(other)
            self._catalogue.complete(held, opened.recipe, verified=False)

    def staged_images(self) -> tuple[ImageRecord, ...]:
        """See `ChunkStore.staged_images`."""
        with self._table.state:
            return tuple(held.record() for held in self._table.all() if held.is_staged)

    # --- downloading ---

    def begin(self, image: Digest, size_bytes: int, recipe: Recipe) -> Download:
        """See `ChunkStore.begin`."""
        if size_bytes != recipe.size_bytes:
            raise LocalProtocolError(f"{size_bytes} bytes, the recipe has {recipe.size_bytes}")
        root = recipe.root
        with self._table.catalogue:
            with self._table.state:
                held = self._table.find_optional(image)
            if held is None:
                held = self._catalogue.reserve(image, recipe)
            with self._table.state:
                held.check_served()
                if held.recipe_root != root:
                    raise RecipeConflictError(f"image {short(image)} has another recipe")
                if held.state is ImageState.COMPLETE:
                    raise LocalProtocolError(f"image {short(image)} is complete")
                opened = held.opened
            if opened is None:
                opened = self._table.open_file(held, recipe)
                with self._table.state:
                    self._table.attach(held, opened)
            with self._table.state:
                if held.generation is None:
                    held.generation = self._table.next_generation()
                return Download(image=image, recipe=recipe, generation=held.generation)

    def reuse(self, download: Download) -> int:
        """See `ChunkStore.reuse`."""
        gained = 0
        with self._table.lease(download.image) as (held, opened):
            gained += self._salvage(download, held, opened)
            with self._table.state:
                held.check_download(download)
                missing = list(held.have.missing())
                own = held_repeats(held.have, opened.recipe)
            with self._table.catalogue:
                is_hopeless = not own and not self._index.has_places(except_row=held.row)
            remaining = iter(() if is_hopeless else missing)
            while batch := list(islice(remaining, _LOOKUP_CHUNKS)):
                digests = {opened.recipe.digest(index): None for index in batch}
                with self._table.catalogue:
                    places = self._index.places(digests, except_row=held.row)
                for index in batch:
                    chunk = opened.recipe.digest(index)
                    data = self._reader.read_own(held, opened, own.get(chunk))
                    if data is None and chunk in places:
                        data = self._reader.read_place(places[chunk], chunk)
                    if data is not None and len(data) == opened.recipe.length(index):
                        written = self._put(download, held, opened, index, data)
                        gained += written.own_bytes + written.repeat_bytes
        with self._table.state:
            self._table.counters.reused_bytes += gained
        return gained

    def _salvage(self, download: Download, held: HeldImage, opened: OpenFile) -> int:
        """Takes up what was written and not noted before an earlier process ended; bytes gained."""
        with self._table.state:
            held.check_download(download)
            missing = list(held.have.missing()) if held.may_hold_more else []
        gained = 0
        with storage_errors(f"searching {held.path.name}"):
            for index, data in find_written(self._backend, opened, missing):
                written = self._put(download, held, opened, index, data)
                gained += written.own_bytes + written.repeat_bytes
        with self._table.state:
            held.may_hold_more = False
        return gained

    def write_chunk(self, download: Download, index: int, data: bytes) -> tuple[int, ...]:
        """See `ChunkStore.write_chunk`."""
        expected = download.recipe.digest(index)
        actual = ChunkId(sha256(data))
        # The length counts too: a longer chunk would run over its neighbours.
        if actual != expected or len(data) != download.recipe.length(index):
            with self._table.state:
                self._table.counters.chunks_refused += 1
            raise DigestMismatchError(f"chunk {index}", expected=expected, actual=actual)
        with self._table.lease(download.image) as (held, opened):
            written = self._put(download, held, opened, index, data)
        with self._table.state:
            self._table.counters.reused_bytes += written.repeat_bytes
        return (*(first for first, _ in written.own), *written.repeats)

    def write_chunks(self, download: Download, runs: Sequence[RunBytes]) -> WriteOutcome:
        """See `ChunkStore.write_chunks`."""
        verified, refused = verify_runs(download.recipe, runs)
        with self._table.lease(download.image) as (held, opened):
            written = self._batches.write(download, held, opened, verified)
            for run in verified if not written.full else ():
                opened.prefix.feed(run.first, run.count, run.data)
            next_index = opened.prefix.next_index
            with self._table.state:
                self._table.counters.chunks_refused += len(refused)
                self._table.counters.reused_bytes += written.repeat_bytes
                unsynced_bytes = held.unsynced_bytes
                is_hash_due = next_index < len(held.have) and next_index in held.have
            if unsynced_bytes >= UNSYNCED_BYTES_MAX:
                self._checkpoint(download, held, opened)
        full = Runs.merged(written.full)
        given = Runs.merged((run.first, run.count) for run in verified)
        return WriteOutcome(
            stored=Runs.of_bits(given.bits & ~full.bits) if full else given,
            gained=Runs.merged(written.own + [(index, 1) for index in written.repeats]),
            refused=tuple(refused),
            full=full,
            stored_bytes=written.own_bytes,
            is_hash_due=is_hash_due,
            is_checkpoint_due=CHECKPOINT_BYTES <= unsynced_bytes < UNSYNCED_BYTES_MAX,
        )

    def hash_ahead(self, download: Download) -> int:
        """See `ChunkStore.hash_ahead`."""
        with self._table.lease(download.image) as (held, opened):
            with self._table.state:
                held.check_download(download)
            with storage_errors(f"reading {held.path.name}"):
                return self._advance_prefix(held, opened)

    def _advance_prefix(self, held: HeldImage, opened: OpenFile) -> int:
        def held_from(index: int, maximum: int) -> int:
            with self._table.state:
                return held.have.run_length(index, maximum)

        def read(size_bytes: int, offset: int) -> bytes:
            return read_exactly(self._backend, opened.descriptor, size_bytes, offset)

        return opened.prefix.advance(opened.recipe, held_from, read, bytes_max=HASH_AHEAD_BYTES)

    def _put(
        self, download: Download, held: HeldImage, opened: OpenFile, index: int, data: bytes
    ) -> Written:
        """Writes one chunk known to match, here and where it repeats, and a checkpoint if due."""
        run = VerifiedRun(index, 1, memoryview(data))
        written = self._batches.write(download, held, opened, (run,))
        if written.full:
            raise DiskFullError(f"writing chunk {index}: no room")
        with self._table.state:
            is_due = held.unsynced_bytes >= CHECKPOINT_BYTES
        if is_due:
            self._checkpoint(download, held, opened)
        return written

    def checkpoint(self, download: Download) -> None:
        """See `ChunkStore.checkpoint`."""
        with self._table.lease(download.image) as (held, opened):
            self._checkpoint(download, held, opened)

    def _checkpoint(self, download: Download, held: HeldImage, opened: OpenFile) -> None:
        with self._table.state:
            held.check_download(download)
            # Every bit of this was set after its write returned, so the sync covers it.
            written = held.have.copy()
            covered = held.unsynced_bytes
            held.unsynced_bytes = 0
        if not covered and written == held.durable:
            return
        self._sync(download, held, opened)
        with self._table.catalogue:
            with self._table.state:
                held.check_download(download)
                # A chunk found rotten meanwhile must not come back.
                durable = (held.durable | written) & held.have
            self._index.set_have(held.row, durable)
            with self._table.state:
                held.durable = durable
                self._table.counters.checkpoints += 1

    def _sync(self, download: Download, held: HeldImage, opened: OpenFile) -> None:
        """Syncs a download's file, one thread at a time.

        The system reports a lost write to one sync only: were two under way, the other could
        return success for bytes that are gone before the first has closed the download.
        """
        with opened.sync_lock:
            with self._table.state:
                held.check_download(download)
            try:
                with storage_errors("syncing chunks"):
                    self._backend.sync_data(opened.descriptor)
            except StorageError:
                with self._table.state:
                    if self._table.is_current(held, opened):
                        self._table.fail_download(held)
                raise

    def finish(self, download: Download) -> None:
        """See `ChunkStore.finish`."""
        image = download.image
        with self._table.lease(image) as (held, opened):
            self._require_full(download, held)
            self._checkpoint(download, held, opened)
            actual = self._whole_digest(held, opened)
            if actual != image:
                self._reader.explain_mismatch(held, opened, actual)
            with self._table.catalogue:
                self._require_full(download, held)
                self._catalogue.complete(held, opened.recipe, verified=True)

    def _whole_digest(self, held: HeldImage, opened: OpenFile) -> bytes:
        """The digest of a full image: what was taken while it arrived, unless that is not right.

        Only what the disk holds now may be called a contradiction (or rot).
        """
        with suppress(OSError):
            before, reached = -1, 0
            while before < reached < opened.recipe.chunk_count:
                before, reached = reached, self._advance_prefix(held, opened)
        if opened.prefix.digest(opened.recipe.chunk_count) == held.image:
            return held.image
        return self._reader.hash_whole(held, opened, lambda _: None)

    def _require_full(self, download: Download, held: HeldImage) -> None:
        with self._table.state:
            held.check_download(download)
            if not held.have.is_full:
                missing = len(held.have) - held.have.count
                raise IncompleteImageError(f"{missing} chunks of {short(held.image)} are missing")

    def abandon(self, download: Download) -> None:
        """See `ChunkStore.abandon`."""
        with self._table.catalogue:
            with self._table.state:
                held = self._table.find_download(download)
            self._catalogue.delete(held)

    # --- reading ---

    def read_chunk(self, image: Digest, index: int, *, staged: bool = False) -> bytes:
        """See `ChunkStore.read_chunk`."""
        with self._table.lease(image, staged=staged) as (held, opened):
            with self._table.state:
                held.check_served()
                if index not in held.have:
                    raise ChunkMissingError(f"chunk {index} of {short(image)} is not held")
                verified = index in held.verified
            read = opened.read if verified else opened.read_verified
            data = read(self._backend, index)
            if data is None:
                self._catalogue.drop(held, opened.recipe, (index,))
                raise ChunkRottenError(image, (index,))
            with self._table.state:
                held.check_served()
                if self._table.is_current(held, opened) and index in held.have:
                    held.verified.add(index)
                self._table.counters.read_bytes += len(data)
            return data

    def read_chunks(
        self, image: Digest, indices: Runs, *, bytes_max: int, staged: bool = False
    ) -> ReadOutcome:
        """See `ChunkStore.read_chunks`."""
        with self._table.lease(image, staged=staged) as (held, opened):
            return self._batches.read(held, opened, indices, bytes_max=bytes_max)

    def have(self, image: Digest) -> bytes:
        """See `ChunkStore.have`."""
        with self._table.state:
            held = self._table.find(image)
            held.check_served()
            return held.have.encode()

    def images(self) -> tuple[ImageRecord, ...]:
        """See `ChunkStore.images`."""
        with self._table.state:
            return tuple(held.record() for held in self._table.all() if not held.is_staged)

    def record(self, image: Digest, *, staged: bool = False) -> ImageRecord:
        """See `ChunkStore.record`."""
        with self._table.state:
            return self._table.find(image, staged=staged).record()

    def recipe(self, image: Digest, *, staged: bool = False) -> Recipe:
        """See `ChunkStore.recipe`."""
        with self._table.lease(image, staged=staged) as (_, opened):
            return opened.recipe

    def verify_image(self, image: Digest, *, staged: bool = False) -> tuple[int, ...]:
        """See `ChunkStore.verify_image`."""
        with self._table.lease(image, staged=staged) as (held, opened):
            return self._reader.verify(held, opened)

    def verify_range(self, image: Digest, start: int, stop: int) -> tuple[int, ...]:
        """See `ChunkStore.verify_range`."""
        with self._table.lease(image) as (held, opened):
            return self._reader.verify(held, opened, start, stop)

    def distrust(self) -> None:
        """See `ChunkStore.distrust`."""
        with self._table.state:
            for held in self._table.all():
                held.verified = Bitmap(len(held.have))

    def export(self, image: Digest, target: Path) -> None:
        """See `ChunkStore.export`."""
        part = target.with_name(f".{target.name}{PART_SUFFIX}")
        with self._table.lease(image) as (held, opened):
            with self._table.state:
                held.check_served()
                if held.state is not ImageState.COMPLETE:
                    raise ChunkMissingError(f"image {short(image)} is not complete")
            try:
                with storage_errors(f"exporting to {target}"):
                    self._backend.unlink(part)
                    actual = self._reader.copy_out(held, opened, part)
                if actual != image:
                    self._reader.explain_mismatch(held, opened, actual)
                with storage_errors(f"exporting to {target}"):
                    self._backend.rename(part, target)
                    self._backend.sync_directory(target.parent)
            except (SwarmError, OSError):
                with suppress(OSError):
                    self._backend.unlink(part)
                raise

    # --- ending ---

    def remove(self, image: Digest, *, staged: bool = False) -> None:
        """See `ChunkStore.remove`."""
        with self._table.catalogue:
            with self._table.state:
                held = self._table.find(image, staged=staged)
            self._catalogue.delete(held)

    def collect(self, image: Digest) -> bool:
        """See `ChunkStore.collect`."""
        with self._table.catalogue:
            with self._table.state:
                held = self._table.find_optional(image)
                if held is None or (held.opened is not None and held.opened.leases):
                    return False
                # From here on nobody begins to read it.
                held.locked = True
            self._catalogue.delete(held)
            return True

    def withdraw(self, image: Digest, *, keep: bool = False) -> None:
        """See `ChunkStore.withdraw`."""
        with self._table.catalogue:
            with self._table.state:
                held = self._table.find_optional(image)
                if held is None:
                    return
                # Serving ends here, before anything that can fail or take time.
                held.locked = True
                held.generation = None
            if keep:
                self._index.set_locked(held.row, locked=True)
            else:
                self._catalogue.delete(held)

    def unlock(self, image: Digest) -> None:
        """See `ChunkStore.unlock`."""
        with self._table.catalogue:
            with self._table.state:
                held = self._table.find(image)
            self._index.set_locked(held.row, locked=False)
            with self._table.state:
                held.locked = False

    def missing_room(self, more_bytes: int, more_files: int = 1) -> tuple[int, int]:
        """See `ChunkStore.missing_room`."""
        return self._catalogue.missing_room(more_bytes, more_files)

    def statistics(self) -> StoreStatistics:
        """See `ChunkStore.statistics`."""
        with self._table.state:
            states = [held.record().state for held in self._table.all()]
            counters = self._table.counters
            return StoreStatistics(
                images_partial=states.count(ImageState.PARTIAL),
                images_complete=states.count(ImageState.COMPLETE),
                images_staged=states.count(ImageState.STAGED),
                images_locked=states.count(ImageState.LOCKED),
                reserved_bytes=self._catalogue.reserved_bytes(),
                quota_bytes=self._catalogue.limits.quota_bytes,
                written_bytes=counters.written_bytes,
                reused_bytes=counters.reused_bytes,
                read_bytes=counters.read_bytes,
                checkpoints=counters.checkpoints,
                chunks_refused=counters.chunks_refused,
                chunks_rotten=counters.chunks_rotten,
            )

    def close(self) -> None:
        """See `ChunkStore.close`."""
        self._table.close()

"""Changes of which images a file store has, each safe against a crash between its steps.

The index is the truth and file names follow it (docs/spec/chunks.md, section 5): new files are
synced before the index names them, old ones are deleted after it forgot them, and what a crash
leaves between is mended by `chunks.store_recovery`. Except where a method says otherwise, the
caller holds the table's catalogue lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chunks.bitmap import Bitmap
from chunks.file_backend import FileBackend, storage_errors
from chunks.held_image import HeldImage
from chunks.image_table import ImageTable
from chunks.recipe import Recipe
from chunks.room import (
    StoreLimits,
    Usage,
    check_limits,
    check_reserve,
    missing_bytes,
    missing_files,
)
from chunks.store import ImageState, StagedImage
from chunks.store_recovery import image_path
from protocol.digest import Digest
from protocol.errors import StorageError


class Catalogue:
    """Adds, moves and deletes images: table, index and files together."""

    def __init__(
        self, root: Path, backend: FileBackend, table: ImageTable, limits: StoreLimits
    ) -> None:
        """Works on the store at `root`.

        Args:
            root: the store's directory.
            backend: the file operations.
            table: the images in memory, with the index.
            limits: what it may take.
        """
        self.limits = limits
        self._staging_bytes = 0
        self._staging_count = 0
        self._root = root
        self._backend = backend
        self._table = table
        self._index = table.index

    @contextmanager
    def staging(self, size_bytes: int) -> Iterator[None]:
        """Keeps room for an image that is about to be staged; takes both locks itself.

        Raises:
            DiskFullError: there is none.
        """
        # The catalogue lock, too: a download that is beginning has looked for room already.
        with self._table.catalogue:
            free_bytes = self._free_bytes()
            with self._table.state:
                self._check_room(size_bytes, free_bytes)
                self._staging_bytes += size_bytes
                self._staging_count += 1
        try:
            yield
        finally:
            with self._table.state:
                self._staging_bytes -= size_bytes
                self._staging_count -= 1

    def take_staged(self, staged: StagedImage, incoming: Path) -> None:
        """Gives a staged file its name and enters it; an earlier copy is replaced."""
        path = image_path(self._root, staged.image, ImageState.STAGED)
        with self._table.state:
            earlier = self._table.find_optional(staged.image, staged=True)
        try:
            with storage_errors("staging"):
                self._backend.rename(incoming, path)
                self._backend.sync_directory(path.parent)
            row = self._index.insert(staged.image, staged.recipe, ImageState.STAGED)
        except StorageError:
            if earlier is None:
                with suppress(OSError):
                    self._backend.unlink(path)
            raise
        held = self._new_image(row, staged.image, staged.recipe, ImageState.STAGED)
        with self._table.state:
            if earlier is not None:
                self._table.take_out(earlier)
            self._table.add(held)

    def reserve(self, image: Digest, recipe: Recipe) -> HeldImage:
        """Allocates a partial image's file and enters it."""
        free_bytes = self._free_bytes()
        with self._table.state:
            self._check_room(recipe.size_bytes, free_bytes)
        path = image_path(self._root, image, ImageState.PARTIAL)
        try:
            with storage_errors(f"reserving {recipe.size_bytes} bytes"):
                self._backend.unlink(path)
                descriptor = self._backend.create(path)
                try:
                    self._backend.allocate(descriptor, recipe.size_bytes)
                    self._backend.sync_data(descriptor)
                finally:
                    self._backend.close(descriptor)
                self._backend.sync_directory(path.parent)
            row = self._index.insert(image, recipe, ImageState.PARTIAL)
        except StorageError:
            with suppress(OSError):
                self._backend.unlink(path)
            raise
        held = self._new_image(row, image, recipe, ImageState.PARTIAL)
        with self._table.state:
            self._table.add(held)
        return held

    def complete(self, held: HeldImage, recipe: Recipe, *, verified: bool) -> None:
        """Makes an image complete: its file takes the final name, then the index says so.

        Args:
            held: a full partial image, or a staged one.
            recipe: its recipe.
            verified: whether every byte was just hashed, so that reads need not do it again.
        """
        origin = held.path
        try:
            self._move(held, image_path(self._root, held.image, ImageState.COMPLETE))
            self._index.set_complete(held.row, recipe)
        except StorageError:
            # If this fails too, opening the store again puts the name right.
            with suppress(StorageError):
                self._move(held, origin)
            raise
        with self._table.state:
            self._table.complete(held, verified=verified)

    def delete(self, held: HeldImage) -> None:
        """Deletes an image; it is locked first, and stays so if something fails on the way."""
        with self._table.state:
            held.locked = True
            held.generation = None
        self._index.delete(held.row)
        with storage_errors(f"deleting {held.path.name}"):
            self._backend.unlink(held.path)
        with self._table.state:
            self._table.take_out(held)
        with storage_errors(f"deleting {held.path.name}"):
            self._backend.sync_directory(held.path.parent)

    def drop(self, held: HeldImage, recipe: Recipe, indices: Iterable[int]) -> None:
        """Takes rotten chunks out of the have-set, durably; takes the catalogue lock itself."""
        with self._table.catalogue:
            with self._table.state:
                current = self._table.find_optional(held.image, staged=held.is_staged) is held
                dropped = [i for i in indices if i in held.have] if current else []
                self._table.counters.chunks_rotten += len(dropped)
                # A staged image is whole or worthless; its owner stages it again.
                if not dropped or held.is_staged:
                    return
                for index in dropped:
                    for bitmap in (held.have, held.durable, held.verified):
                        bitmap.discard(index)
                held.state = ImageState.PARTIAL
                durable = held.durable.copy()
            self._index.set_partial(held.row, durable, [recipe.digest(i) for i in dropped])
            self._move(held, image_path(self._root, held.image, ImageState.PARTIAL))

    def reserved_bytes(self) -> int:
        """Sum of all images' sizes; the state lock is held, the catalogue lock need not be."""
        return sum(held.size_bytes for held in self._table.all())

    def missing_room(self, more_bytes: int, more_files: int) -> tuple[int, int]:
        """Bytes and files of images that would have to go for so many more to fit."""
        free_bytes = self._free_bytes()
        with self._table.state:
            usage = self._usage()
        return (
            missing_bytes(self.limits, usage, more_bytes, free_bytes),
            missing_files(self.limits, usage, more_files),
        )

    def _usage(self) -> Usage:
        return Usage(
            image_bytes=self.reserved_bytes(),
            image_count=len(self._table.all()),
            staging_bytes=self._staging_bytes,
            staging_count=self._staging_count,
        )

    def _check_room(self, more_bytes: int, free_bytes: int) -> None:
        """Refuses what would pass a limit; the state lock is held."""
        usage = self._usage()
        check_limits(self.limits, usage, more_bytes)
        check_reserve(self.limits, usage, more_bytes, free_bytes)

    def _free_bytes(self) -> int:
        with storage_errors("asking for free space"):
            return self._backend.free_bytes(self._root)

    def _new_image(self, row: int, image: Digest, recipe: Recipe, state: ImageState) -> HeldImage:
        count = recipe.chunk_count
        have = Bitmap.full(count) if state is ImageState.STAGED else Bitmap(count)
        return HeldImage(
            row=row,
            image=image,
            size_bytes=recipe.size_bytes,
            recipe_root=recipe.root,
            state=state,
            path=image_path(self._root, image, state),
            have=have,
            durable=have.copy(),
        )

    def _move(self, held: HeldImage, target: Path) -> None:
        origin = held.path
        if origin == target:
            return
        with storage_errors(f"renaming {origin.name}"):
            self._backend.rename(origin, target)
            held.path = target
            self._backend.sync_directory(target.parent)
            if origin.parent != target.parent:
                self._backend.sync_directory(origin.parent)

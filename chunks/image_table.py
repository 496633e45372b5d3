"""The file store's images in memory, its open files, and the two locks that guard them.

Locks, always taken in this order, for any number of calling threads:

- `catalogue` serialises the index and every change of which images exist, what state they are in
  and where their files lie. It is held across transactions and renames (milliseconds).
- `state` guards what is in memory: images, their bits, open files, counters. It is held for
  microseconds and never across input or output other than closing a file. Who holds it never asks
  for `catalogue`.

Chunk bytes are read, hashed, written and synced under neither, only with a *lease* on the open
file: deletion unlinks at once, the descriptor closes when the last lease ends.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from chunks.bitmap import Bitmap
from chunks.file_backend import FileBackend, storage_errors
from chunks.held_image import HeldImage, OpenFile
from chunks.index_database import IndexDatabase
from chunks.recipe import Recipe
from chunks.store import Download, ImageMissingError, ImageState
from protocol.digest import Digest, short
from protocol.errors import StorageError

OPEN_FILES_MAX: Final = 64
"""Idle files kept open; a daemon's default descriptor limit is 1,024."""
OPEN_CHUNKS_MAX: Final = 2**19
"""Recipe entries kept in memory for idle files: 22 MiB at 44 bytes each."""

Key = tuple[Digest, bool]
"""An image's digest, and whether its copy in staging is meant."""


@dataclass(slots=True)
class StoreCounters:
    """What the store did since it was opened; fields as in `StoreStatistics`."""

    written_bytes: int = 0
    """Chunk bytes written by downloads."""
    reused_bytes: int = 0
    """Of these, bytes copied from images already held, or from equal chunks."""
    read_bytes: int = 0
    """Chunk bytes returned to readers."""
    checkpoints: int = 0
    """Durable have-bitmaps."""
    chunks_refused: int = 0
    """Chunks that did not match their digest and were not written."""
    chunks_rotten: int = 0
    """Chunks that no longer matched their digest and were dropped."""


class ImageTable:
    """Which images there are; see the module's docstring for the locks."""

    def __init__(
        self, backend: FileBackend, index: IndexDatabase, images: Iterable[HeldImage]
    ) -> None:
        """Takes over the images found at opening."""
        self.catalogue = threading.Lock()
        self.state = threading.Lock()
        self.counters = StoreCounters()
        self.index = index
        self._backend = backend
        self._images: dict[Key, HeldImage] = {(i.image, i.is_staged): i for i in images}
        self._open: OrderedDict[Key, OpenFile] = OrderedDict()
        self._generations = 0
        self._closed = False

    # --- under the state lock, which the caller holds ---

    def find(self, image: Digest, *, staged: bool = False) -> HeldImage:
        """Finds an image.

        Raises:
            ImageMissingError: there is none in this area.
            StorageError: the store is closed.
        """
        held = self.find_optional(image, staged=staged)
        if held is None:
            where = "staging" if staged else "the store"
            raise ImageMissingError(f"no image {short(image)} in {where}")
        return held

    def find_optional(self, image: Digest, *, staged: bool = False) -> HeldImage | None:
        """Finds an image; None if there is none."""
        self._check_open()
        return self._images.get((image, staged))

    def find_download(self, download: Download) -> HeldImage:
        """Finds the image of a download that is current.

        Raises:
            DownloadClosedError: it is not.
        """
        held = self.find(download.image)
        held.check_download(download)
        return held

    def all(self) -> list[HeldImage]:
        """All images, in order of arrival; `StorageError` if the store is closed."""
        self._check_open()
        return sorted(self._images.values(), key=lambda held: held.row)

    def is_current(self, held: HeldImage, opened: OpenFile) -> bool:
        """Whether `opened` is still the file of an image that is still here."""
        return held.opened is opened and not opened.retired

    def next_generation(self) -> int:
        """Numbers a new download."""
        self._generations += 1
        return self._generations

    def add(self, held: HeldImage) -> None:
        """Adds an image."""
        self._images[held.image, held.is_staged] = held

    def take_out(self, held: HeldImage) -> None:
        """Takes an image out and gives its file up; readers under way finish."""
        self.give_up_file(held)
        self._images.pop((held.image, held.is_staged), None)

    def complete(self, held: HeldImage, *, verified: bool) -> None:
        """Makes a partial or staged image a complete one, under the key that goes with it."""
        origin = (held.image, held.is_staged)
        del self._images[origin]
        opened = self._open.pop(origin, None)
        held.state = ImageState.COMPLETE
        held.generation = None
        held.unsynced_bytes = 0
        held.have = Bitmap.full(len(held.have))
        held.durable = held.have.copy()
        if verified:
            held.verified = held.have.copy()
        self._images[held.image, False] = held
        if opened is not None:
            self._open[held.image, False] = opened

    def attach(self, held: HeldImage, opened: OpenFile) -> None:
        """Makes `opened` the image's file."""
        held.opened = opened
        self._open[held.image, held.is_staged] = opened
        self._close_idle()

    def give_up_file(self, held: HeldImage) -> None:
        """Retires the image's open file, to be closed by its last lease."""
        opened, held.opened = held.opened, None
        if opened is not None:
            self._open.pop((held.image, held.is_staged), None)
            opened.retired = True
            if opened.leases == 0:
                self._close(opened)

    def fail_download(self, held: HeldImage) -> None:
        """After a failed sync: only what is durable counts, and the descriptor is never reused."""
        self.give_up_file(held)
        held.have = held.durable.copy()
        held.verified = Bitmap(len(held.have))
        held.may_hold_more = True
        held.generation = None
        held.unsynced_bytes = 0

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError("the chunk store is closed")

    def _close_idle(self) -> None:
        chunks = sum(opened.recipe.chunk_count for opened in self._open.values())
        for key, opened in list(self._open.items()):
            if len(self._open) <= OPEN_FILES_MAX and chunks <= OPEN_CHUNKS_MAX:
                return
            held = self._images[key]
            # A file with unsynced bytes stays: its descriptor is the one that reports their loss.
            if opened.leases == 0 and held.generation is None:
                chunks -= opened.recipe.chunk_count
                self.give_up_file(held)

    def _close(self, opened: OpenFile) -> None:
        # Whatever counts as held was synced before; a late error of close() says nothing new.
        with suppress(OSError):
            self._backend.close(opened.descriptor)

    # --- taking the locks themselves ---

    @contextmanager
    def lease(self, image: Digest, *, staged: bool = False) -> Iterator[tuple[HeldImage, OpenFile]]:
        """Keeps an image's file open while the caller reads or writes it.

        Raises:
            ImageMissingError: there is no such image.
            StorageError: its file cannot be opened, or its recipe is damaged.
        """
        held, opened = self._acquire(image, staged=staged)
        try:
            yield held, opened
        finally:
            with self.state:
                opened.leases -= 1
                if opened.retired and opened.leases == 0:
                    self._close(opened)

    def _acquire(self, image: Digest, *, staged: bool) -> tuple[HeldImage, OpenFile]:
        found = self._acquire_open(image, staged=staged)
        if found is not None:
            return found
        with self.catalogue:
            found = self._acquire_open(image, staged=staged)
            if found is not None:
                return found
            with self.state:
                held = self.find(image, staged=staged)
            opened = self.open_file(held, self.index.recipe(held.row))
            opened.leases = 1
            with self.state:
                self.attach(held, opened)
            return held, opened

    def _acquire_open(self, image: Digest, *, staged: bool) -> tuple[HeldImage, OpenFile] | None:
        with self.state:
            held = self.find(image, staged=staged)
            opened = held.opened
            if opened is None:
                return None
            opened.leases += 1
            self._open.move_to_end((image, staged))
            return held, opened

    def open_file(self, held: HeldImage, recipe: Recipe) -> OpenFile:
        """Opens an image's file; the caller holds the catalogue lock and attaches it."""
        with storage_errors(f"opening {held.path.name}"):
            descriptor = self._backend.open_existing(held.path, writable=True)
        return OpenFile(
            descriptor=descriptor,
            recipe=recipe,
            repeats=(
                {chunk: list(indices) for chunk, indices in recipe.repeats.items()}
                if held.state is ImageState.PARTIAL
                else {}
            ),
        )

    def close(self) -> None:
        """Closes all files and the index; downloads keep what their last checkpoint has."""
        with self.catalogue:
            with self.state:
                if self._closed:
                    return
                self._closed = True
                for held in list(self._images.values()):
                    self.give_up_file(held)
            self.index.close()

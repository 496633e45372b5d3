"""Opens sealed images for those whom they may be offered to: as a file, or chunk by chunk.

Nothing of an image is handed out before the whole of it was opened once and found to make the
salted plain digest of the manifest (Z30). After that, single chunks may be opened again: the store
hashes each against the recipe that was checked. A plain file exists only between `hand_out` and
`take_back`; it lies under a name of this service's own, and what a crash left is deleted at start.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from chunks.file_backend import storage_errors
from chunks.sealing import ChunkOpener, OpeningPass, PlainLayout
from chunks.store import ChunkStore, DiskFullError, ImageState
from protocol.digest import Digest, short
from protocol.errors import PolicyError, StorageError, SwarmError, VerificationError
from protocol.limits import MIB
from protocol.manifest import Component
from protocol.sealing import ContentKey
from swarmd.datadir import DIRECTORY_MODE, PRIVATE_FILE_MODE
from swarmd.ledger_host import LedgerHost
from swarmd.sealing_rings import FOLDER

logger = logging.getLogger(__name__)

PLAIN_FOLDER: Final = "plain"
"""Under `<data>/sealing/`: plain files while they are handed out."""
BATCH_BYTES: Final = 4 * MIB
"""Bytes opened before the caller's right to them is asked again."""
COPIES_MAX: Final = 4
"""Plain files at a time."""
COPY_S: Final = 3600.0
"""A plain file that was not taken back is deleted after this long, seconds."""
REVIEW_S: Final = 60.0
"""Pause between two looks for images to verify, if nothing is told meanwhile, seconds."""

Check = Callable[[], None]
"""Raises what ends the caller's right to the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainImage:
    """A sealed image that was opened whole, and found right, since this process started."""

    component: Component
    """What it is."""
    layout: PlainLayout
    """Where its plain bytes stand."""
    opener: ChunkOpener
    """Opens its chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainCopy:
    """A plain file that was handed out."""

    ticket: str
    """Names it for `take_back`."""
    path: Path
    """Where it is."""
    digest: Digest
    """SHA-256 of the plain bytes."""
    size_bytes: int
    """Its bytes."""


class PlainService:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        data: Path,
        store: ChunkStore,
        ledger: LedgerHost,
        content_key: Callable[[Component], ContentKey | None],
        quota_bytes: int,
    ) -> None:
        """Wires the service and deletes what a crash left.

        Args:
            data: the data directory.
            store: the images.
            ledger: names the manifests of an image.
            content_key: opens rings.
            quota_bytes: what images and plain files may take together.

        Raises:
            StorageError: the folder cannot be used.
        """
        self._folder = data / FOLDER / PLAIN_FOLDER
        self._store = store
        self._ledger = ledger
        self._content_key = content_key
        self._quota_bytes = quota_bytes
        self._verified: dict[Digest, PlainImage] = {}
        self._failed: dict[tuple[Digest, Digest], str] = {}
        self._copies: dict[str, tuple[PlainCopy, float]] = {}
        self._reserved = 0
        self._writing = 0
        self._count = 0
        self._changed = trio.Event()
        with storage_errors(f"cannot use {self._folder}"):
            self._folder.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            for left in self._folder.iterdir():
                left.unlink()

    # -- whole files ---------------------------------------------------------------------------

    async def hand_out(self, component: Component, check: Check) -> PlainCopy:
        """Opens a complete sealed image into a file of its own, checked as a whole.

        Raises:
            PolicyError: no key (`sealing.key`), too many copies, or what `check` raises.
            VerificationError: the opened bytes are not the plain image of the manifest.
            DiskFullError: no room, on the disk or in the quota.
            StorageError: reading or writing failed.
        """
        key = self._key(component)
        with self._reserve(component.plain_size):
            self._count += 1
            ticket = f"{self._count}-{component.digest.hex()[:16]}"
            path = self._folder / ticket
            digest = await self._write(component, key, path, check)
            copy = PlainCopy(
                ticket=ticket, path=path, digest=digest, size_bytes=component.plain_size
            )
            self._copies[ticket] = (copy, trio.current_time() + COPY_S)
        return copy

    async def take_back(self, ticket: str) -> None:
        """Deletes a plain file; one that is gone already is no error."""
        held = self._copies.pop(ticket, None)
        if held is not None:
            # Nobody counts it any more: it goes, whether or not somebody waits for that.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_discard, held[0].path)

    @contextlib.contextmanager
    def _reserve(self, size: int) -> Iterator[None]:
        """Counts a file that is being written against the bounds."""
        if len(self._copies) + self._writing >= COPIES_MAX:
            raise PolicyError("sealing.copies", f"{COPIES_MAX} plain copies are handed out already")
        lying = sum(copy.size_bytes for copy, _ in self._copies.values()) + self._reserved
        if self._store.statistics().reserved_bytes + lying + size > self._quota_bytes:
            raise DiskFullError(f"no room for {size} plain bytes within the quota")
        self._reserved += size
        self._writing += 1
        try:
            yield
        finally:
            self._reserved -= size
            self._writing -= 1

    async def _write(
        self, component: Component, key: ContentKey, path: Path, check: Check
    ) -> Digest:
        descriptor = await trio.to_thread.run_sync(_create, path, component.plain_size)
        is_done = False
        try:
            digest = await self._open_all(component, key, check, partial(_append, descriptor))
            await trio.to_thread.run_sync(_sync, descriptor)
            is_done = True
            return digest
        finally:
            os.close(descriptor)
            if not is_done:
                _discard(path)

    # -- checking ------------------------------------------------------------------------------

    def _key(self, component: Component) -> ContentKey:
        key = self._content_key(component)
        if component.sealing is None or key is None:
            raise PolicyError(
                "sealing.key", f"this node holds no key to {component.name!r}: it stays sealed"
            )
        return key

    async def _open_all(
        self,
        component: Component,
        key: ContentKey,
        check: Check,
        take: Callable[[bytes, int], None],
    ) -> Digest:
        """Opens every chunk in order; the SHA-256 of the plain bytes once all were right."""
        assert component.sealing is not None, "only sealed components are opened"
        assert component.plain_digest is not None, "a sealed component has one (P65)"
        opening = OpeningPass(key, component.sealing, component.plain_digest)
        index = offset = 0
        while index < component.chunk_count:
            check()
            step = partial(self._open_some, component, opening, take, index, offset)
            index, offset = await trio.to_thread.run_sync(step)
        check()
        return opening.finish()

    def _open_some(
        self,
        component: Component,
        opening: OpeningPass,
        take: Callable[[bytes, int], None],
        index: int,
        offset: int,
    ) -> tuple[int, int]:
        """Opens a batch from chunk `index` on; where to go on. For a worker thread."""
        until = offset + BATCH_BYTES
        while index < component.chunk_count and offset < until:
            plain = opening.open(self._store.read_chunk(component.digest, index))
            take(plain, offset)
            index, offset = index + 1, offset + len(plain)
        return index, offset

    async def verify(self, component: Component, check: Check) -> PlainImage:
        """Opens an image as a whole, without keeping the bytes, and remembers that it is right.

        Raises:
            As `hand_out`, but for what concerns files.
        """
        assert component.plain_digest is not None, "a sealed component has one (P65)"
        key = self._key(component)
        layout = PlainLayout(await trio.to_thread.run_sync(self._store.recipe, component.digest))
        await self._open_all(component, key, check, lambda _plain, _offset: None)
        image = PlainImage(component=component, layout=layout, opener=ChunkOpener(key))
        self._verified[component.plain_digest] = image
        return image

    # -- for devices ---------------------------------------------------------------------------

    def find(self, plain_digest: Digest) -> PlainImage | None:
        """An image by its salted plain digest, if it was verified."""
        return self._verified.get(plain_digest)

    def wake(self) -> None:
        """Has the images looked at again soon."""
        self._changed.set()

    async def run(self, *, serve_plain: bool) -> None:
        """Verifies what is complete, if devices are served plain, and deletes old copies."""
        while True:
            self._changed = trio.Event()
            now = trio.current_time()
            for ticket, (_, until) in tuple(self._copies.items()):
                if until <= now:
                    await self.take_back(ticket)
            if serve_plain:
                await self._verify_held()
            with trio.move_on_after(REVIEW_S):
                await self._changed.wait()

    async def _verify_held(self) -> None:
        records = await trio.to_thread.run_sync(self._store.images)
        held = {item.image for item in records if item.state is ImageState.COMPLETE}
        for plain_digest, image in tuple(self._verified.items()):
            if image.component.digest not in held:
                del self._verified[plain_digest]
        for named in tuple(self._failed):
            if named[0] not in held:
                del self._failed[named]
        for digest in sorted(held):
            for component in self._sealed_under(digest):
                await self._verify_quietly(component)

    def _sealed_under(self, digest: Digest) -> Iterator[Component]:
        for manifest in self._ledger.manifests_of(digest):
            for component in self._ledger.manifests[manifest].manifest.components:
                plain_digest = component.plain_digest
                if component.digest != digest or plain_digest is None:
                    continue
                is_known = plain_digest in self._verified or (digest, plain_digest) in self._failed
                if not is_known and self._content_key(component):
                    yield component

    async def _verify_quietly(self, component: Component) -> None:
        assert component.plain_digest is not None, "a sealed component has one (P65)"
        try:
            await self.verify(component, lambda: None)
            logger.info("image %s opens", short(component.digest))
        except VerificationError as error:
            # The same bytes under the same key: no use in trying again.
            self._failed[component.digest, component.plain_digest] = str(error)
            logger.error(  # noqa: TRY400 - no defect of ours
                "sealed image %s contradicts its manifest: %s", short(component.digest), error
            )
        except (StorageError, SwarmError) as error:
            logger.warning("sealed image %s is not opened: %s", short(component.digest), error)


def _create(path: Path, size: int) -> int:
    with storage_errors(f"cannot write {path}"):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE_MODE)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
    return descriptor


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _append(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    with storage_errors("writing a plain copy"):
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written


def _sync(descriptor: int) -> None:
    with storage_errors("writing a plain copy"):
        os.fdatasync(descriptor)

"""Scrubbing: reads and hashes everything stored again, slowly, and has what rotted fetched anew.

A pass goes through all images by their digests, a megabyte at a time, so fast that it ends within
the days that the operator set, never faster than the rate allowed, and not while peers are busy
with this node. Where it is, is kept in a file: a restart goes on there. Rot found here is repaired
by the exchange before a peer or a device asks for it. Besides, chunks that were verified once are
hashed again at their first read after ten minutes, so that a bad sector is found before its bytes
leave: a node with a failing disk asks others, it does not look like one that lies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import trio

from chunks.store import ChunkStore, ImageMissingError, ImageRecord
from protocol.digest import DIGEST_BYTES, Digest, short
from protocol.encoding import Fields, decode_canonical, encode_canonical
from protocol.errors import StorageError, VerificationError
from protocol.limits import CHUNKS_PER_COMPONENT_MAX, KIB, MIB
from swarmd.datadir import PRIVATE_FILE_MODE, read_bounded, write_atomic
from swarmd.receipts import ReceiptKind
from swarmd.services.exchange_ports import BlockingRunner

logger = logging.getLogger(__name__)

SCRUB_NAME: Final = "scrub.cbor"
"""File name in the data directory."""
STEP_BYTES: Final = 1 * MIB
"""Read and hashed at once: 3 ms of a processor, and of a slow disk 20."""
RATE_BYTES_MIN: Final = 16 * KIB
"""A small store is read at least so fast, bytes a second."""
BUSY_BYTES: Final = 256 * KIB
"""Exchanged bytes a second above which scrubbing waits."""
BUSY_S: Final = 5.0
"""How long it waits then before it looks again, seconds."""
BUSY_S_MAX: Final = 6 * 3600.0
"""After so long a wait it goes on although peers are busy, seconds: some are busy for weeks."""
IDLE_S: Final = 60.0
"""Pause where nothing is stored, or the store fails, seconds."""
SAVE_S: Final = 300.0
"""The position is written at least this often, seconds."""
TRUST_S: Final = 600.0
"""What was verified counts as that for so long, seconds: the system's cache hides a sector that
went bad meanwhile for about as long as the chunk is in use."""
DAY_S: Final = 86_400.0
_SCHEMA: Final = 1
_FILE_BYTES_MAX: Final = 256


class Noted(Protocol):
    """Takes receipts."""

    async def note(
        self, kind: ReceiptKind, *, manifest: bytes = b"", subject: str = "", detail: str = ""
    ) -> None:
        """Notes an outcome."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubPosition:
    """Where a pass is, and what passes found."""

    image: bytes = b""
    """Digest of the image that is being read; empty: a pass begins."""
    chunk: int = 0
    """Its next chunk."""
    passes: int = 0
    """Passes completed."""
    checked_bytes: int = 0
    """Bytes hashed, over all restarts."""
    rotten_chunks: int = 0
    """Chunks that did not match."""

    def encode(self) -> bytes:
        """The stored form."""
        return encode_canonical(
            {
                0: _SCHEMA,
                1: self.image,
                2: self.chunk,
                3: self.passes,
                4: self.checked_bytes,
                5: self.rotten_chunks,
            }
        )


def load_position(path: Path) -> ScrubPosition:
    """Reads where the last run was; a missing or damaged file begins a pass."""
    try:
        data = read_bounded(path, bytes_max=_FILE_BYTES_MAX)
        fields = Fields(decode_canonical(data, bytes_max=_FILE_BYTES_MAX), "scrub")
        fields.constant(0, _SCHEMA)
        position = ScrubPosition(
            image=fields.bytes(1, maximum=DIGEST_BYTES),
            chunk=fields.uint(2, maximum=CHUNKS_PER_COMPONENT_MAX),
            passes=fields.uint(3),
            checked_bytes=fields.uint(4),
            rotten_chunks=fields.uint(5),
        )
        fields.finish()
    except (StorageError, VerificationError):
        return ScrubPosition()
    return position


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubStatistics:
    """What operators see."""

    passes: int
    """Passes completed, over all restarts."""
    checked_bytes: int
    """Bytes hashed."""
    rotten_chunks: int
    """Chunks that did not match and were dropped."""
    rate_bytes_per_s: int
    """How fast it reads now."""
    is_waiting: bool
    """Whether it waits because peers are busy with this node."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What one step found; filled in a worker thread."""

    image: Digest
    next_chunk: int
    chunk_count: int
    size_bytes: int
    rotten: tuple[int, ...]


class ScrubService:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        store: ChunkStore,
        receipts: Noted,
        path: Path,
        days: int,
        bytes_per_s_max: int,
        exchanged_bytes: Callable[[], int],
        on_rot: Callable[[Digest, Sequence[int]], bytes],
        run_blocking: BlockingRunner,
    ) -> None:
        """Wires the service.

        Args:
            store: what is read.
            receipts: where rot is noted.
            path: where the position is kept.
            days: within how many a pass ends; 0: nothing is read.
            bytes_per_s_max: how fast at most.
            exchanged_bytes: bytes to and from peers so far; tells whether they are busy.
            on_rot: has chunks that were dropped fetched again; returns the manifest that names
                them, or nothing.
            run_blocking: runs store calls.
        """
        self._store = store
        self._receipts = receipts
        self._path = path
        self._days = days
        self._bytes_per_s_max = bytes_per_s_max
        self._exchanged_bytes = exchanged_bytes
        self._on_rot = on_rot
        self._run_blocking = run_blocking
        self._position = load_position(path)
        self._saved_at = trio.current_time()
        self._waiting_since: float | None = None
        self._looked: tuple[float, int] = (trio.current_time(), exchanged_bytes())
        self._rate = 0.0

    async def run(self) -> None:
        """Works until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_distrusting)
            if self._days:
                nursery.start_soon(self._keep_scrubbing)

    async def _keep_distrusting(self) -> None:
        while True:
            await trio.sleep(TRUST_S)
            await self._run_blocking(self._store.distrust)

    async def _keep_scrubbing(self) -> None:
        while True:
            try:
                pause_s = await self.step()
            except StorageError as error:
                logger.error(  # noqa: TRY400 - no defect
                    "re-reading stored images: %s", error
                )
                pause_s = IDLE_S
            await trio.sleep(pause_s)

    async def step(self) -> float:
        """Does the next step, or finds that it is not the time for one.

        Returns:
            Seconds until the next.

        Raises:
            StorageError: the store, or the file of the position, failed.
        """
        if self._is_busy():
            return BUSY_S
        records = await self._run_blocking(self._store.images)
        ordered = sorted((item for item in records if item.have_count), key=lambda one: one.image)
        total = sum(item.size_bytes for item in ordered)
        if not ordered:
            return IDLE_S
        wanted = max(RATE_BYTES_MIN, total / (self._days * DAY_S))
        self._rate = min(wanted, self._bytes_per_s_max)
        begun = trio.current_time()
        try:
            step = await self._run_blocking(partial(self._verify, *self._next(ordered)))
        except ImageMissingError:
            return 0.0  # it was deleted a moment ago
        await self._take(step, is_last=step.image == ordered[-1].image)
        return max(0.0, begun + step.size_bytes / self._rate - trio.current_time())

    def _next(self, ordered: Sequence[ImageRecord]) -> tuple[Digest, int]:
        """Image and chunk to go on with; images that came or went meanwhile do not matter."""
        at = self._position
        for record in ordered:
            if record.image == at.image and at.chunk < record.chunk_count:
                return record.image, at.chunk
            if record.image > at.image:
                return record.image, 0
        return ordered[0].image, 0

    def _verify(self, image: Digest, start: int) -> _Step:
        """Hashes the next chunks of an image; for a worker thread."""
        recipe = self._store.recipe(image)
        stop, size_bytes = start, 0
        while stop < recipe.chunk_count and size_bytes < STEP_BYTES:
            size_bytes += recipe.length(stop)
            stop += 1
        rotten = self._store.verify_range(image, start, stop)
        return _Step(image, stop, recipe.chunk_count, size_bytes, rotten)

    async def _take(self, step: _Step, *, is_last: bool) -> None:
        is_through = step.next_chunk >= step.chunk_count
        has_passed = is_through and is_last
        self._position = replace(
            self._position,
            image=b"" if has_passed else step.image,
            chunk=0 if has_passed else step.next_chunk,
            passes=self._position.passes + has_passed,
            checked_bytes=self._position.checked_bytes + step.size_bytes,
            rotten_chunks=self._position.rotten_chunks + len(step.rotten),
        )
        if step.rotten:
            await self._report(step)
        if has_passed or step.rotten or trio.current_time() - self._saved_at >= SAVE_S:
            self._saved_at = trio.current_time()
            await self._run_blocking(self._save)

    async def _report(self, step: _Step) -> None:
        count = len(step.rotten)
        logger.warning("image %s: %d chunks rotted, fetched again", short(step.image), count)
        manifest = self._on_rot(step.image, step.rotten)
        await self._receipts.note(
            ReceiptKind.ROTTED,
            manifest=manifest,
            subject=step.image.hex()[:16],
            detail=f"chunks: {count}",
        )

    def _save(self) -> None:
        write_atomic(self._path, self._position.encode(), mode=PRIVATE_FILE_MODE)

    def _is_busy(self) -> bool:
        """Whether peers move so much that the disk is theirs; judged over whole `BUSY_S`."""
        now = trio.current_time()
        since, moved_before = self._looked
        if now - since >= BUSY_S:
            moved = self._exchanged_bytes()
            is_busy = moved - moved_before > BUSY_BYTES * (now - since)
            self._looked = (now, moved)
            if not is_busy:
                self._waiting_since = None
            elif self._waiting_since is None:
                self._waiting_since = now
        return self._waiting_since is not None and now - self._waiting_since < BUSY_S_MAX

    def statistics(self) -> ScrubStatistics:
        """Counts what was read and found."""
        return ScrubStatistics(
            passes=self._position.passes,
            checked_bytes=self._position.checked_bytes,
            rotten_chunks=self._position.rotten_chunks,
            rate_bytes_per_s=round(self._rate),
            is_waiting=self._waiting_since is not None,
        )

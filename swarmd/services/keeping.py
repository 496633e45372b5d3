"""Decides which images stay, deletes the others, and makes room for what is wanted.

The rule is `chunks.retention`. This service gathers the facts (ledger, store, devices, pins, what
is fetched or was read a moment ago), carries the decisions out one image at a time, and notes each.
Serving of an image ends before its deletion begins, readers within a call finish first, and what is
being fetched is left alone, however the facts looked a moment ago. Under an alarm nothing goes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import trio

from chunks.retention import HeldImage, HeldRelease, Need, Verdict, decide
from chunks.store import ChunkStore, ImageState
from ledger.records.manifest import LatestRecord
from ledger.state_keys import latest_key
from protocol.digest import Digest, ManifestId, short
from protocol.errors import StorageError
from protocol.manifest import SignedManifest
from swarmd.ledger_host import LedgerHost
from swarmd.pins import Pins
from swarmd.receipts import ReceiptKind
from swarmd.services.exchange import ExchangeService
from swarmd.services.images import ImageService
from swarmd.services.receipts import ReceiptService

logger = logging.getLogger(__name__)

REVIEW_S: Final = 300.0
"""Everything is judged this often even if nothing happened: expiry, devices that moved on, a disk
that others fill; seconds."""
USE_S: Final = 600.0
"""An image that was read for a device or an operator stays this long after the last read, seconds:
a device on a thin link may pause between two ranges."""
USES_MAX: Final = 1024
"""Images whose last use is remembered; the store holds few more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptImage:
    """What an operator sees of one decision."""

    verdict: Verdict
    """The decision."""
    names: tuple[str, ...]
    """`product version` of each release that names the image, newest sequence first."""
    is_gone: bool = False
    """Whether it was deleted now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepingStatistics:
    """What the service did since it began."""

    collected_images: int
    """Images deleted."""
    collected_bytes: int
    """Their sizes together."""
    pins: int
    """Releases pinned."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the store and the ledger said."""

    images: list[HeldImage]
    """All but staged ones, in order of arrival."""
    releases: list[HeldRelease]
    """Releases that name them, and the newest of each line."""
    signed: dict[ManifestId, SignedManifest]
    """Their manifests."""


class KeepingService:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        store: ChunkStore,
        exchange: ExchangeService,
        images: ImageService,
        receipts: ReceiptService,
        pins: Pins,
        groups: Callable[[], tuple[str, ...]],
        running: Callable[[], frozenset[ManifestId]],
        keep: int,
    ) -> None:
        """Wires the service.

        Args:
            ledger: own copy of the chain.
            store: the images.
            exchange: serves them; told before one goes.
            images: fetches them.
            receipts: where decisions are noted.
            pins: what an operator wants kept.
            groups: groups whose releases concern this node.
            running: releases that devices behind this node run.
            keep: newest whole releases kept of each line.
        """
        self._ledger = ledger
        self._store = store
        self._exchange = exchange
        self._images = images
        self._receipts = receipts
        self._groups = groups
        self._running = running
        self._keep = keep
        self._uses: dict[Digest, float] = {}
        self._collecting = trio.Lock()
        self._collected_images = self._collected_bytes = 0
        self.pins: Final = pins
        """What an operator wants kept."""

    # -- the loop ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Collects after every change and every few minutes until cancelled."""
        while True:
            try:
                await self._images.make_room_again()
                await self.collect()
            except StorageError as error:
                logger.error(  # noqa: TRY400 - no defect
                    "collecting images: %s", error
                )
            with trio.move_on_after(REVIEW_S):
                await self._images.wait_progress()

    def note_use(self, image: Digest) -> None:
        """Notes that an image is being handed out."""
        self._uses.pop(image, None)
        self._uses[image] = trio.current_time()
        while len(self._uses) > USES_MAX:
            self._uses.pop(next(iter(self._uses)))

    async def make_room(self, more_bytes: int, more_files: int = 1) -> None:
        """Deletes what may go, oldest first, until so much more fits or nothing more may go.

        Raises:
            StorageError: the store failed.
        """
        need = await self._need(more_bytes, more_files)
        if need.size_bytes or need.files:
            await self.collect(more_bytes=more_bytes, more_files=more_files)

    async def collect(
        self, *, more_bytes: int = 0, more_files: int = 0, is_dry: bool = False
    ) -> tuple[KeptImage, ...]:
        """Judges every image and deletes those that go.

        Args:
            more_bytes: room to make beyond what the limits ask for as it stands.
            more_files: as many more images.
            is_dry: only judge.

        Returns:
            One decision for each image, in order of arrival.

        Raises:
            StorageError: the store failed.
        """
        async with self._collecting:
            need = await self._need(more_bytes, more_files)
            facts = await trio.to_thread.run_sync(self._read_facts)
            images = [replace(held, is_in_use=self._is_in_use(held.image)) for held in facts.images]
            verdicts = decide(images, facts.releases, keep=self._keep, need=need)
            kept = []
            for verdict in verdicts:
                is_gone = verdict.goes and not is_dry and await self._delete(verdict)
                names = _names(verdict.image, facts)
                kept.append(KeptImage(verdict=verdict, names=names, is_gone=is_gone))
            return tuple(kept)

    async def _need(self, more_bytes: int, more_files: int) -> Need:
        missing = partial(self._store.missing_room, more_bytes, more_files)
        size_bytes, files = await trio.to_thread.run_sync(missing)
        return Need(size_bytes=size_bytes, files=files)

    # -- facts ---------------------------------------------------------------------------------

    def _read_facts(self) -> _Facts:
        """Asks store and ledger; for a worker thread."""
        records = self._store.images()
        complete = {item.image for item in records if item.state is ImageState.COMPLETE}
        images = [
            HeldImage(
                image=item.image,
                size_bytes=item.size_bytes,
                arrival=number,
                is_complete=item.have_count == item.chunk_count,
                is_locked=item.state is ImageState.LOCKED,
            )
            for number, item in enumerate(records)
        ]
        named: dict[ManifestId, None] = {}
        for item in records:
            named.update(dict.fromkeys(self._ledger.manifests_of(item.image)))
        groups = self._groups()
        state = self._ledger.chain.state
        for group in groups:
            newest = state.scan(latest_key(group, ""))
            named.update({LatestRecord.decode(raw).manifest: None for _, raw in newest})
        running = self._running()
        signed = {one: found for one in named if (found := self._ledger.manifests.get(one))}
        releases = [
            self._release(one, found, groups, complete, is_running=one in running)
            for one, found in signed.items()
        ]
        return _Facts(images, releases, signed)

    def _release(
        self,
        manifest: ManifestId,
        signed: SignedManifest,
        groups: Sequence[str],
        complete: set[Digest],
        *,
        is_running: bool,
    ) -> HeldRelease:
        content = signed.manifest
        state, time_ms = self._ledger.chain.state, self._ledger.chain.head.time_ms
        records = ((group, state.manifest(manifest, group)) for group in groups)
        return HeldRelease(
            manifest=manifest,
            lines=frozenset(
                (content.product, group)
                for group, record in records
                if record is not None and record.is_authorised(time_ms)
            ),
            sequence=content.sequence,
            images=frozenset(one.digest for one in content.objects),
            patches=frozenset(one.digest for one in content.objects[len(content.components) :]),
            is_whole=all(one.digest in complete for one in content.components),
            is_pinned=manifest in self.pins,
            is_running=is_running,
            stepping_stones=frozenset(content.stepping_stones),
        )

    def _is_in_use(self, image: Digest) -> bool:
        """Whether an image is fetched, or was handed out a moment ago."""
        used = self._uses.get(image)
        if used is not None and trio.current_time() - used < USE_S:
            return True
        return any(
            self._images.is_busy(manifest) or self._exchange.is_fetching(manifest)
            for manifest in self._ledger.manifests_of(image)
        )

    # -- deleting ------------------------------------------------------------------------------

    async def _delete(self, verdict: Verdict) -> bool:
        """Ends the serving of one image and deletes it, unless it came into use meanwhile."""
        image = verdict.image
        if self._ledger.alarm is not None or self._is_in_use(image):
            return False
        manifests = self._ledger.manifests_of(image)
        try:
            with self._images.holding_back(image):
                for manifest in manifests:
                    self._exchange.stop(manifest)
                is_gone = await trio.to_thread.run_sync(self._store.collect, image)
        finally:  # also if the disk refuses: else they were served no more until a restart
            self._images.offer_again(manifests)
        if is_gone:
            self._collected_images += 1
            self._collected_bytes += verdict.size_bytes
            logger.info("image %s deleted: %s", short(image), verdict.reason.value)
            for manifest in manifests[-1:] or (ManifestId(b""),):
                await self._receipts.note(
                    ReceiptKind.COLLECTED,
                    manifest=manifest,
                    subject=image.hex()[:16],
                    detail=verdict.reason.value,
                )
        return is_gone

    def statistics(self) -> KeepingStatistics:
        """Counts what was done."""
        return KeepingStatistics(
            collected_images=self._collected_images,
            collected_bytes=self._collected_bytes,
            pins=len(tuple(self.pins)),
        )


def _names(image: Digest, facts: _Facts) -> tuple[str, ...]:
    naming = [release for release in facts.releases if image in release.images]
    naming.sort(key=lambda release: (-release.sequence, release.manifest))
    contents = (facts.signed[release.manifest].manifest for release in naming)
    return tuple(f"{content.product} {content.version}" for content in contents)

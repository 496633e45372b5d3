"""The image service: what this node wants, holds, promotes and gives up, after every final block.

A node wants the newest authorised release of each product in its groups, and goes on with whatever
it has begun. A publisher's staged images become servable when their manifest is authorised. What
is revoked or expired is no longer served from the moment the block is final; its bytes go unless
another authorised manifest covers them. Under an alarm nothing is fetched, served or offered, and
all bytes stay. A store that fails is asked again later. Verdicts come from the authority alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import trio

from chunks.store import ChunkStore, DiskFullError, ImageRecord, ImageState
from ledger.chain_blocks import CommitResult
from ledger.offer import UNKNOWN_DEVICE, Device
from ledger.records.manifest import LatestRecord
from ledger.state_keys import latest_key
from protocol.authorised import AuthorisedManifest
from protocol.digest import Digest, ManifestId
from protocol.errors import StorageError, SwarmError, VerificationError
from swarmd.authority import REFUSALS, Authority
from swarmd.ledger_host import LedgerHost
from swarmd.questions import Denial, Permit
from swarmd.receipts import ReceiptKind
from swarmd.services.exchange import ExchangeService
from swarmd.services.exchange_fetch import FetchStoppedError
from swarmd.services.receipts import ReceiptService

logger = logging.getLogger(__name__)

REVIEWED_AT_ONCE: Final = 64
"""Manifests looked at before others get a turn: a millisecond once their verdicts are known."""
SETTLED_MAX: Final = 1024
"""Manifests whose standing is remembered, and looked at again, although nothing of them is held,
wanted or new."""
OVERVIEW_MAX: Final = 1024
"""The newest manifests shown to an operator beside those of which something is held."""
RETRY_S: Final = 10.0
"""Pause before a fetch without room or a failing store is tried again, seconds."""
REVIEW_S: Final = 60.0
"""Everything is looked at again this often, because expiry and freshness change without blocks,
seconds."""


@dataclass(frozen=True, slots=True)
class _Holdings:
    """What there is to look at."""

    staged: frozenset[Digest]
    """Images that wait for their manifest."""
    held: frozenset[Digest]
    """Images of which there is something, staged ones too."""
    locked: frozenset[Digest]
    """Images that are kept and not served."""
    lasting: dict[ManifestId, None]
    """Manifests that concern this node whatever happened lately."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldManifest:
    """What an operator sees of a manifest on this node."""

    manifest: ManifestId
    """Which."""
    product: str
    """What for."""
    version: str
    """For people."""
    sequence: int
    """Its sequence."""
    groups: tuple[str, ...]
    """Target groups of this node."""
    standing: str
    """`authorised`, or the rule that refuses it."""
    components: tuple[tuple[str, Digest, int, int, int], ...]
    """(name, digest, size, chunks held, chunks) of each component."""

    @property
    def is_complete(self) -> bool:
        """Whether every chunk of every component is held."""
        return all(held == count for *_, held, count in self.components)


class ImageKeeping(Protocol):
    """What the service asks of whoever decides what is kept."""

    async def make_room(self, more_bytes: int, more_files: int = 1) -> None:
        """Deletes what may go until so much more fits, or nothing more may go."""
        ...

    def is_run(self, image: Digest) -> bool:
        """Whether a device behind this node runs an image."""
        ...


class ImageService:
    """Keeps the store in step with the ledger."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        authority: Authority,
        store: ChunkStore,
        exchange: ExchangeService,
        receipts: ReceiptService,
        fetches: bool,
        keeping: ImageKeeping,
    ) -> None:
        """Wires the service.

        Args:
            ledger: own copy of the chain.
            authority: the verdicts.
            store: the images.
            exchange: fetches and serves chunks.
            receipts: where outcomes are noted.
            fetches: whether this node fetches at all; validators do not.
            keeping: makes room for what is wanted, and knows what devices run.
        """
        self._ledger = ledger
        self._authority = authority
        self._store = store
        self._exchange = exchange
        self._receipts = receipts
        self._fetches = fetches
        self._keeping = keeping
        self._held_back: dict[Digest, None] = {}
        self._fetching: dict[ManifestId, AuthorisedManifest] = {}
        self._tasks: dict[ManifestId, trio.CancelScope] = {}
        self._requested: dict[ManifestId, None] = {}
        self._offered: dict[ManifestId, None] = {}
        self._settled: dict[ManifestId, str] = {}
        self._contradictory: dict[ManifestId, None] = {}
        self._news: dict[ManifestId, None] = {}
        self._changed = trio.Event()
        self._progress = trio.Event()

    # -- the loop ------------------------------------------------------------------------------

    def on_commit(self, result: CommitResult) -> None:
        """Commit listener: stops what is refused at once, then wakes the review."""
        for change in result.manifests:
            manifest = change.manifest_id
            self._news[manifest] = None
            if self._is_open(manifest) and self._is_refused(manifest):
                self._exchange.stop(manifest)
                if (scope := self._tasks.get(manifest)) is not None:
                    scope.cancel()
        self._exchange.reevaluate()
        self.wake()

    def on_alarm(self, alarm: str) -> None:
        """Alarm listener: ends all serving and fetching at once."""
        self._exchange.reevaluate()
        for scope in tuple(self._tasks.values()):
            scope.cancel()
        self._receipts.note_once(ReceiptKind.ALARM, subject="", detail=alarm)
        self.wake()

    def request(self, manifest: ManifestId) -> None:
        """Has a manifest fetched although this node would not want it by itself."""
        self._contradictory.pop(manifest, None)
        self._requested[manifest] = None
        self.wake()

    def wake(self) -> None:
        """Has everything looked at again soon."""
        self._changed.set()

    async def run(self) -> None:
        """Reviews after every change until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                pause_s = REVIEW_S
                self._exchange.reevaluate()
                try:
                    await self._review(nursery)
                except StorageError as error:
                    logger.error(  # noqa: TRY400 - no defect
                        "the image store fails: %s", error
                    )
                    pause_s = RETRY_S
                with trio.move_on_after(pause_s):
                    await self._changed.wait()

    async def _review(self, nursery: trio.Nursery) -> None:
        news, self._news = self._news, {}
        try:
            holdings = await trio.to_thread.run_sync(self._read_holdings)
        except StorageError:
            self._news = news | self._news
            raise
        begun = (*self._tasks, *self._requested, *self._offered, *self._settled)
        due = dict.fromkeys((*holdings.lasting, *begun, *news))
        for number, manifest in enumerate(due):
            if number % REVIEWED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            if manifest in self._ledger.manifests:
                await self._look_at(manifest, holdings, nursery)
        surplus = len(self._settled) - SETTLED_MAX
        for manifest in tuple(self._settled)[: max(0, surplus)]:
            if manifest not in holdings.lasting:
                del self._settled[manifest]

    def _read_holdings(self) -> _Holdings:
        """What the store holds, and which manifests that concerns; for a worker thread."""
        staged = frozenset(record.image for record in self._store.staged_images())
        records = self._store.images()
        held = staged.union(record.image for record in records)
        locked = frozenset(item.image for item in records if item.state is ImageState.LOCKED)
        lasting: dict[ManifestId, None] = {}
        for image in sorted(held):
            lasting.update(dict.fromkeys(self._ledger.manifests_of(image)))
        if self._fetches:
            state = self._ledger.chain.state
            for group in self._authority.fetching_groups:
                newest = state.scan(latest_key(group, ""))
                lasting.update({LatestRecord.decode(raw).manifest: None for _, raw in newest})
        return _Holdings(staged, held, locked, lasting)

    async def _look_at(
        self, manifest: ManifestId, holdings: _Holdings, nursery: trio.Nursery
    ) -> None:
        """Does what the verdict about one manifest asks for."""
        verdict = self._authority.verdict(manifest)
        match verdict:
            case Permit(authorised):
                await self._note(manifest, "authorised", ReceiptKind.AUTHORISED, "")
                await self._promote(authorised, holdings.staged)
                await self._unlock(authorised, holdings.locked)
                if manifest in self._tasks or self._is_held_back(authorised):
                    return
                if self._wants(authorised):
                    scope = self._tasks[manifest] = trio.CancelScope()
                    nursery.start_soon(self._fetch, authorised, scope)
                elif manifest not in self._offered and _names(authorised, holdings.held):
                    self._offered[manifest] = None
                    await self._exchange.offer(authorised)
            case Denial(rule, message):
                if self._settled.get(manifest) == rule:
                    return
                if rule in REFUSALS:
                    is_revoked = rule == "manifest.revoked"
                    kind = ReceiptKind.REVOKED if is_revoked else ReceiptKind.REFUSED
                    await self._give_up(manifest)
                    await self._note(manifest, rule, kind, message)
                elif rule == "manifest.expired":
                    self._stop(manifest)
                    await self._note(manifest, rule, ReceiptKind.REFUSED, message)

    async def _note(
        self, manifest: ManifestId, standing: str, kind: ReceiptKind, detail: str
    ) -> None:
        """Writes a receipt when a manifest's standing changed since the last look."""
        if self._settled.get(manifest) != standing:
            self._settled[manifest] = standing
            await self._receipts.note(kind, manifest=manifest, detail=detail)

    # -- wanting and fetching ------------------------------------------------------------------

    def _wants(self, authorised: AuthorisedManifest) -> bool:
        if authorised.manifest_id in self._contradictory:
            return False  # its chunks do not make its image: no peer can mend that
        if authorised.manifest_id in self._requested:
            return not self.is_complete(authorised)
        if not self._fetches:
            return False
        content = authorised.manifest
        state = self._ledger.chain.state
        for group in authorised.groups:
            latest = state.latest(group, content.product)
            if latest is not None and latest.manifest == authorised.manifest_id:
                return not self.is_complete(authorised)
        return False

    def is_complete(self, authorised: AuthorisedManifest) -> bool:
        """Whether every component of a manifest is complete in the store."""
        held = {
            record.image for record in self._store.images() if record.state is ImageState.COMPLETE
        }
        return all(component.digest in held for component in authorised.manifest.components)

    async def _promote(self, authorised: AuthorisedManifest, staged: frozenset[Digest]) -> None:
        for item in authorised.manifest.objects:
            if item.digest in staged:
                digest = item.digest
                await trio.to_thread.run_sync(self._store.promote, digest)
                logger.info("image %s is served now", digest.hex()[:8])
                self._offered.pop(authorised.manifest_id, None)
                self._tell()

    async def _unlock(self, authorised: AuthorisedManifest, locked: frozenset[Digest]) -> None:
        """Serves again what was only kept because devices run it."""
        for component in authorised.manifest.components:
            if component.digest in locked:
                await trio.to_thread.run_sync(self._store.unlock, component.digest)
                logger.info("image %s is authorised again", component.digest.hex()[:8])
                self._offered.pop(authorised.manifest_id, None)

    async def make_room_again(self) -> None:
        """Tries again to make room for what is being fetched: more may go by now."""
        for authorised in tuple(self._fetching.values()):
            await self._make_room(authorised)

    async def _make_room(self, authorised: AuthorisedManifest) -> None:
        """Has older images deleted if what is missing would not fit."""
        held = {record.image for record in self._store.images()}
        missing = [one for one in authorised.manifest.components if one.digest not in held]
        if missing:
            size_bytes = sum(component.size for component in missing)
            await self._keeping.make_room(size_bytes, len(missing))

    async def _fetch(self, authorised: AuthorisedManifest, scope: trio.CancelScope) -> None:
        manifest = authorised.manifest_id
        content = authorised.manifest
        self._fetching[manifest] = authorised
        logger.info("fetching %s %s (%s)", content.product, content.version, manifest.hex()[:8])
        try:
            with scope:
                while True:
                    try:
                        await self._make_room(authorised)
                        await self._exchange.fetch(authorised)
                    except DiskFullError as error:
                        logger.error(  # noqa: TRY400 - no defect
                            "no room for %s: %s", content.version, error
                        )
                    else:
                        await self._receipts.note(ReceiptKind.FETCHED, manifest=manifest)
                        logger.info("%s %s is complete", content.product, content.version)
                        break
                    await trio.sleep(RETRY_S)
        except FetchStoppedError:
            logger.info("fetching %s was stopped", content.version)
        except (StorageError, VerificationError) as error:
            logger.error(  # noqa: TRY400 - no defect
                "fetching %s failed: %s", content.version, error
            )
            if isinstance(error, VerificationError):
                self._contradictory[manifest] = None
            self._receipts.note_once(
                ReceiptKind.FAILED, subject="", manifest=manifest, detail=str(error)
            )
        finally:
            self._tasks.pop(manifest, None)
            self._fetching.pop(manifest, None)
            self._requested.pop(manifest, None)
            self._tell()

    # -- giving up -----------------------------------------------------------------------------

    def _is_open(self, manifest: ManifestId) -> bool:
        """Whether something of a manifest is being fetched or may be served."""
        return manifest in self._tasks or self._exchange.is_open(manifest)

    def _is_refused(self, manifest: ManifestId) -> bool:
        verdict = self._authority.verdict(manifest)
        return isinstance(verdict, Denial) and verdict.rule in REFUSALS

    def _stop(self, manifest: ManifestId) -> None:
        """Ends fetching and serving of a manifest; what is held stays."""
        self._exchange.stop(manifest)
        if (scope := self._tasks.get(manifest)) is not None:
            scope.cancel()
        self._offered.pop(manifest, None)

    async def _give_up(self, manifest: ManifestId) -> None:
        """Ends it and deletes what no other authorised manifest covers."""
        signed = self._ledger.manifests[manifest]
        self._stop(manifest)
        held = {record.image for record in self._store.images()}
        named = [item.digest for item in signed.manifest.objects if item.digest in held]
        components = [component.digest for component in signed.manifest.components]
        if not named:
            return
        covered = frozenset(digest for digest in named if self.is_covered(digest))
        if self._ledger.alarm is not None:
            return  # raised by one of these verdicts: nothing may be deleted on this ground
        for digest in named:
            if digest not in covered:
                # What a device runs is kept for it alone, so that it can be put back to it.
                keep = digest in components and self._keeping.is_run(digest)
                await trio.to_thread.run_sync(partial(self._store.withdraw, digest, keep=keep))
                logger.info("image %s %s", digest.hex()[:8], "locked" if keep else "withdrawn")
        self._tell()

    def is_covered(self, digest: Digest) -> bool:
        """Whether an authorised manifest names an image."""
        names = self._ledger.manifests_of(digest)
        return any(isinstance(self._authority.verdict(manifest), Permit) for manifest in names)

    # -- what is kept --------------------------------------------------------------------------

    def is_busy(self, manifest: ManifestId) -> bool:
        """Whether a manifest is being fetched, or is about to be."""
        return manifest in self._tasks or manifest in self._requested

    @contextmanager
    def holding_back(self, image: Digest) -> Iterator[None]:
        """Begins no fetch and no offer of a manifest that names an image meanwhile."""
        self._held_back[image] = None
        try:
            yield
        finally:
            del self._held_back[image]

    def offer_again(self, manifests: Sequence[ManifestId]) -> None:
        """Has manifests offered with what is left of them."""
        for manifest in manifests:
            self._offered.pop(manifest, None)
        self.wake()

    def _is_held_back(self, authorised: AuthorisedManifest) -> bool:
        return any(one.digest in self._held_back for one in authorised.manifest.objects)

    # -- telling -------------------------------------------------------------------------------

    def _tell(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    async def wait_progress(self) -> None:
        """Waits until an image was completed, promoted or withdrawn."""
        await self._progress.wait()

    def permit_for_digest(
        self, digest: Digest, device: Device = UNKNOWN_DEVICE
    ) -> AuthorisedManifest | Denial:
        """The authorisation under which an image may be offered to a device, or why not."""
        denial = Denial("image.unknown", "no authorised manifest names this image")
        for manifest in self._ledger.manifests_of(digest):
            components = self._ledger.manifests[manifest].manifest.components
            if all(component.digest != digest for component in components):
                continue  # a patch: for gateways, nothing a device could run (updates.md, W20)
            verdict = self._authority.may_offer(manifest, device)
            if isinstance(verdict, Permit):
                return verdict.authorised
            denial = verdict
        return denial

    def overview(self) -> tuple[HeldManifest, ...]:
        """Manifests of this node's groups with what is held of each, by product and sequence.

        The newest ones, and all of which anything is held.
        """
        try:
            held: dict[Digest, ImageRecord] = {item.image: item for item in self._store.images()}
        except SwarmError:
            held = {}
        rows: list[HeldManifest] = []
        shown = dict.fromkeys(self._ledger.manifests.newest(OVERVIEW_MAX))
        for image in held:
            shown.update(dict.fromkeys(self._ledger.manifests_of(image)))
        for manifest in shown:
            signed = self._ledger.manifests[manifest]
            verdict = self._authority.verdict(manifest)
            if isinstance(verdict, Denial) and verdict.rule == "manifest.group":
                continue
            content = signed.manifest
            rows.append(
                HeldManifest(
                    manifest=manifest,
                    product=content.product,
                    version=content.version,
                    sequence=content.sequence,
                    groups=content.groups,
                    standing="authorised" if isinstance(verdict, Permit) else verdict.rule,
                    components=tuple(
                        (
                            component.name,
                            component.digest,
                            component.size,
                            held[component.digest].have_count if component.digest in held else 0,
                            component.chunk_count,
                        )
                        for component in content.components
                    ),
                )
            )
        return tuple(sorted(rows, key=lambda row: (row.product, row.sequence, row.manifest)))


def _names(authorised: AuthorisedManifest, images: frozenset[Digest]) -> bool:
    return any(item.digest in images for item in authorised.manifest.objects)

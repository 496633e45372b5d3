"""Takes an offline bundle in, by the same checks as what comes from peers.

Blocks go through the chain, statements through the freshness clock, rings through the ledger's word
about their publisher, pages under the manifest's root, chunks under their digest, images under
theirs; and whether a manifest's images may be stored at all is asked of the authority, after the
blocks and again between batches. What was verified stays when a bundle turns out to be cut off or
altered: importing again, the same file or a whole one, goes on from there.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import trio

from chunks.recipe import Recipe
from chunks.recipe_page import RecipeAssembler, decode_recipe_page
from chunks.store import ChunkStore, Download, ImageMissingError, ImageState
from ledger.block import decode_block
from ledger.certificate import decode_certificate
from ledger.chain_blocks import CommitResult
from ledger.errors import BlockNotReadyError, ForkAlarmError
from ledger.light import EpochForkError
from ledger.proof_verify import verify_authorisation
from protocol.catchup import BlocksAnswer, FreshnessAnswer, decode_ledger_message
from protocol.digest import Digest, ManifestId, short
from protocol.errors import PolicyError
from protocol.genesis import Genesis
from protocol.governance import decode_checkpoint
from protocol.limits import MIB
from protocol.manifest import Component
from swarmd.authority import Authority
from swarmd.bundle_format import (
    RINGS_MAX,
    BundleError,
    BundleHead,
    BundleObject,
    Section,
    SectionKind,
    SectionReader,
    chunk_index,
    decode_head,
    decode_object,
)
from swarmd.ledger_host import LedgerHost
from swarmd.proof_file import decode_proof_file
from swarmd.questions import Denial

logger = logging.getLogger(__name__)

BATCH_BYTES: Final = 4 * MIB
"""Bytes of sections handled in a worker thread before the right to store is asked again."""
T = TypeVar("T")

TakeRing = Callable[[bytes], Awaitable[object]]
"""Keeps a ring file; raises PolicyError or VerificationError."""
Confirm = Callable[[FreshnessAnswer], bool]
"""Takes statements about a nonce this node drew; tells whether its copy is known to be current."""
Progress = Callable[[int], Awaitable[None]]
"""Told how many bytes of the file were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What an import speaks to."""

    ledger: LedgerHost
    """Own copy of the chain."""
    genesis: Genesis
    """What proofs start from."""
    authority: Authority
    """Whether something may be stored."""
    store: ChunkStore
    """The images."""
    take_ring: TakeRing
    """Keeps rings."""
    confirm: Confirm
    """Judges statements of freshness."""
    wake: Callable[[], None]
    """Has the images looked at."""
    note_use: Callable[[Digest], None]
    """Keeps an image from collection for some minutes: what is half here looks superseded."""


@dataclass(slots=True)
class Outcome:
    """What an import did."""

    blocks: int = 0
    """Blocks that became final here."""
    is_fresh: bool = False
    """Whether this node's copy was shown to be current."""
    proofs: int = 0
    """Proofs of authorisation that verified."""
    rings: int = 0
    """Rings that were taken."""
    chunks: int = 0
    """Chunks that were stored."""
    bytes_stored: int = 0
    """Their bytes."""
    complete: list[str] = field(default_factory=list)
    """Manifests, in hex, of which every component is complete now."""
    stored: list[str] = field(default_factory=list)
    """Those of them that this import completed."""
    partial: list[str] = field(default_factory=list)
    """Manifests of which chunks, or whole components, are missing still."""
    refused: dict[str, str] = field(default_factory=dict)
    """Manifests whose images may not be stored here, with the rule."""
    notes: list[str] = field(default_factory=list)
    """What else was not taken, and why."""


class BundleImport:
    """One import; `run` once."""

    def __init__(
        self, around: Surroundings, reader: SectionReader, limiter: trio.CapacityLimiter
    ) -> None:
        """Starts behind the magic number; `limiter` bounds worker threads."""
        self._around = around
        self._reader = reader
        self._limiter = limiter
        self._outcome = Outcome()
        self._last_kind = SectionKind.HEAD
        self._begun: dict[tuple[ManifestId, int], None] = {}
        self._gained: dict[ManifestId, None] = {}
        self._rings = 0

    async def run(self, progress: Progress) -> Outcome:
        """Takes everything in.

        Raises:
            VerificationError: something in the bundle is not what it should be; what came before
                stays.
            PolicyError: it is of another chain or era, or does not fit this copy of the ledger.
            StorageError: this node's disk refuses.
        """
        section = await self._next()
        if section.kind is not SectionKind.HEAD:
            raise BundleError("the bundle does not begin with its head")
        head = decode_head(section.body)
        self._check_head(head)
        section = await self._next()
        while section.kind is not SectionKind.END:
            self._check_order(section.kind)
            if section.kind is SectionKind.OBJECT:
                section = await self._object(head, decode_object(section.body), progress)
            else:
                await self._small(section)
                await progress(section.end)
                section = await self._next()
        self._around.wake()
        return self._outcome

    async def _thread(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call, limiter=self._limiter)

    async def _next(self) -> Section:
        return await self._thread(self._reader.next)

    def _check_head(self, head: BundleHead) -> None:
        chain = self._around.ledger.chain
        if head.chain != self._around.ledger.chain_id:
            raise PolicyError("bundle.chain", f"a bundle of chain {short(head.chain)}")
        if head.era != chain.rules.era:
            raise PolicyError("bundle.era", f"a bundle of era {head.era}, here is another one")
        if head.from_height > chain.head.height + 1:
            raise PolicyError(
                "bundle.gap",
                f"its blocks begin at {head.from_height}, this node is at {chain.head.height}: "
                "have one made for a have-file of this node",
            )

    def _check_order(self, kind: SectionKind) -> None:
        """Sections come in the order of their kinds; what may come once comes once."""
        once = (SectionKind.CHECKPOINT, SectionKind.FRESHNESS)
        is_twice = kind is SectionKind.HEAD or (kind is self._last_kind and kind in once)
        is_stray = kind in (SectionKind.PAGE, SectionKind.CHUNK)
        if kind < self._last_kind or is_twice or is_stray:
            raise BundleError(f"section {kind.name} behind {self._last_kind.name}")
        self._last_kind = kind

    async def _small(self, section: Section) -> None:
        match section.kind:
            case SectionKind.CHECKPOINT:
                self._checkpoint(section.body)
            case SectionKind.BLOCKS:
                await self._blocks(section.body)
            case SectionKind.FRESHNESS:
                self._freshness(section.body)
            case SectionKind.PROOF:
                await self._thread(partial(self._proof, section.body))
            case SectionKind.RING:
                await self._ring(section.body)
            case _:
                raise BundleError(f"section {section.kind.name} is out of place")

    # -- the ledger ----------------------------------------------------------------------------

    def _checkpoint(self, body: bytes) -> None:
        try:
            self._around.ledger.learn_checkpoint(decode_checkpoint(body))
        except EpochForkError as error:
            self._around.ledger.raise_alarm(error)
            raise

    async def _blocks(self, body: bytes) -> None:
        answer = decode_ledger_message(body)
        if not isinstance(answer, BlocksAnswer) or not answer.blocks:
            raise BundleError("a section of blocks without blocks")
        ledger = self._around.ledger
        if ledger.alarm is not None:
            raise PolicyError("node.alarm", "this node raised an alarm and accepts nothing")

        def follow() -> tuple[CommitResult, ...]:
            blocks = tuple(decode_block(raw) for raw in answer.blocks)
            if blocks[-1].header.height <= ledger.chain.head.height:
                return ()
            ledger.trust.require(ledger.chain.validators.epoch)
            return ledger.chain.follow(blocks, decode_certificate(answer.certificate))

        try:
            self._outcome.blocks += len(await ledger.run_commit(follow))
        except ForkAlarmError as error:
            ledger.raise_alarm(error)
            raise
        except BlockNotReadyError as error:
            raise BundleError(f"blocks that do not follow each other: {error}") from error

    def _freshness(self, body: bytes) -> None:
        answer = decode_ledger_message(body)
        if not isinstance(answer, FreshnessAnswer):
            raise BundleError("a section of freshness without statements")
        self._outcome.is_fresh = self._around.confirm(answer)
        if not self._outcome.is_fresh:
            self._outcome.notes.append("the statements do not show that this copy is current")

    def _proof(self, body: bytes) -> None:
        file = decode_proof_file(body)
        file.genesis_of(self._around.ledger.chain_id)
        verify_authorisation(file.proof, self._around.genesis, None)
        self._outcome.proofs += 1

    async def _ring(self, body: bytes) -> None:
        self._rings += 1
        if self._rings > RINGS_MAX:
            raise BundleError(f"more than {RINGS_MAX} rings")
        try:
            await self._around.take_ring(body)
            self._outcome.rings += 1
        except PolicyError as error:  # by my ledger; the images it is for may be refused, too
            self._outcome.notes.append(f"a ring was not taken: {error}")

    # -- images --------------------------------------------------------------------------------

    async def _object(self, head: BundleHead, named: BundleObject, progress: Progress) -> Section:
        """Takes one component in; returns the section behind it."""
        key = (named.manifest, named.component)
        if named.manifest not in head.manifests or key in self._begun:
            raise BundleError("an object that the head does not name, or one twice")
        self._begun[key] = None
        component = self._component(named)
        if component is None:
            return await self._skip(progress)
        recipe, section = await self._recipe(component)
        # Each await may have brought a revocation: nothing is begun, stored or finished unasked.
        if self._refusal(named.manifest) is not None:
            return await self._skip(progress, section)
        self._around.note_use(component.digest)
        download = await self._thread(partial(self._begin, component, recipe))
        last = -1
        while section.kind is SectionKind.CHUNK:
            if self._refusal(named.manifest) is not None:
                return await self._skip(progress, section)
            self._around.note_use(component.digest)
            section, last = await self._thread(
                partial(self._store_some, recipe, download, section, last)
            )
            await progress(section.end)
        if self._refusal(named.manifest) is None:
            await self._finish(named, component, download)
        return section

    def _component(self, named: BundleObject) -> Component | None:
        """The component, if its manifest may be stored here by my own ledger."""
        refusal = self._refusal(named.manifest)
        if refusal is not None:
            return None
        components = self._around.ledger.manifests[named.manifest].manifest.components
        if named.component >= len(components):
            raise BundleError(f"the manifest has no component {named.component}")
        return components[named.component]

    def _refusal(self, manifest: ManifestId) -> Denial | None:
        verdict = self._around.authority.may_fetch(manifest)
        if not isinstance(verdict, Denial):
            return None
        self._outcome.refused[manifest.hex()] = verdict.rule
        return verdict

    async def _skip(self, progress: Progress, section: Section | None = None) -> Section:
        """Reads over what may not be stored; `section` was read already, if given."""

        def read() -> Section:
            section = self._reader.next()
            start = section.end
            while section.kind in (SectionKind.PAGE, SectionKind.CHUNK):
                if section.end - start > BATCH_BYTES:
                    break
                section = self._reader.next()
            return section

        if section is None:
            section = await self._thread(read)
        while section.kind in (SectionKind.PAGE, SectionKind.CHUNK):
            await progress(section.end)
            section = await self._thread(read)
        return section

    async def _recipe(self, component: Component) -> tuple[Recipe, Section]:
        """Reads the recipe's pages, each checked under the manifest's root before it is kept."""
        assembler = RecipeAssembler(
            root=component.recipe_root,
            chunk_count=component.chunk_count,
            size_bytes=component.size,
            chunk_bytes_max=component.chunk_bytes_max,
        )

        def read() -> Section:
            section = self._reader.next()
            while section.kind is SectionKind.PAGE:
                if not assembler.add(decode_recipe_page(section.body)):
                    raise BundleError("a page of a recipe comes twice")
                section = self._reader.next()
            return section

        section = await self._thread(read)
        if not assembler.is_complete:
            raise BundleError("pages of a recipe are missing")
        return await self._thread(assembler.recipe), section

    def _begin(self, component: Component, recipe: Recipe) -> Download | None:
        """The download, with what the store has of it already; None if it is complete."""
        store = self._around.store
        try:
            if store.record(component.digest).state is ImageState.COMPLETE:
                return None
        except ImageMissingError:
            pass
        download = store.begin(component.digest, component.size, recipe)
        store.reuse(download)
        return download

    def _store_some(
        self, recipe: Recipe, download: Download | None, section: Section, last: int
    ) -> tuple[Section, int]:
        """Stores chunks until a batch is full; returns the next section and the last index."""
        start = section.end
        while section.kind is SectionKind.CHUNK and section.end - start <= BATCH_BYTES:
            index = chunk_index(section.body)
            if not last < index < recipe.chunk_count:
                raise BundleError(f"chunk {index} behind chunk {last} of {recipe.chunk_count}")
            data = section.body[4:]
            if len(data) != recipe.length(index):
                raise BundleError(f"chunk {index} of {len(data)} bytes")
            if download is not None and self._around.store.write_chunk(download, index, data):
                self._outcome.chunks += 1
                self._outcome.bytes_stored += len(data)
            last = index
            section = self._reader.next()
        return section, last

    async def _finish(
        self, named: BundleObject, component: Component, download: Download | None
    ) -> None:
        """Fills repeats, and completes the image if nothing is missing."""
        store = self._around.store

        def finish() -> bool:
            if download is None:
                return True
            store.reuse(download)
            record = store.record(component.digest)
            if record.have_count == record.chunk_count:
                store.finish(download)
                return True
            store.checkpoint(download)
            return False

        if await self._thread(finish) and download is not None:
            self._gained[named.manifest] = None
        await self._note(named.manifest)
        logger.info("bundle: %s of %s", component.name, short(named.manifest))
        self._around.wake()

    async def _note(self, manifest: ManifestId) -> None:
        """Says where a release stands: whole only if no component is missing (N22)."""
        outcome, name = self._outcome, manifest.hex()
        is_whole = await self._thread(partial(self._is_whole, manifest))
        if name in outcome.partial:
            outcome.partial.remove(name)
        where = outcome.complete if is_whole else outcome.partial
        if name not in where:
            where.append(name)
        if is_whole and manifest in self._gained and name not in outcome.stored:
            outcome.stored.append(name)

    def _is_whole(self, manifest: ManifestId) -> bool:
        """Whether the store holds every component of a manifest."""
        components = self._around.ledger.manifests[manifest].manifest.components
        try:
            records = [self._around.store.record(each.digest) for each in components]
        except ImageMissingError:
            return False
        return all(record.state is ImageState.COMPLETE for record in records)

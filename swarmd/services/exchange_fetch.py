"""Runs one download: executes the machine's effects on the store, and feeds the answers back.

One task works off storage jobs in order, one worker thread at a time, so blocking never touches the
event loop; writes that queued up meanwhile go to the thread together, which spares thread switches.
Beside it run the machine's timer, and for each component what need not hold up the next write:
checkpoints, and the digest of what has arrived so far.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar, assert_never

import trio

from chunks.chunk_batches import WriteOutcome
from chunks.compression import ChunkUnpacker
from chunks.recipe import Recipe
from chunks.recipe_page import (
    RecipeAssembler,
    RecipeContradictionError,
    decode_recipe_page,
)
from chunks.store import (
    ChunkRottenError,
    ChunkStore,
    DiskFullError,
    DownloadClosedError,
    ImageMissingError,
    ImageState,
)
from chunks.store import Download as StoreDownload
from protocol.authorised import AuthorisedManifest
from protocol.bitfield import Bitfield
from protocol.download import Download
from protocol.download_rate import IntakeRate
from protocol.download_state import DownloadState
from protocol.errors import (
    DigestMismatchError,
    LocalProtocolError,
    PolicyError,
    StorageError,
    VerificationError,
)
from protocol.exchange_events import (
    Blame,
    ChunkRefused,
    ChunksLost,
    ChunksStored,
    ComponentComplete,
    ComponentPrepared,
    ComponentVerified,
    DownloadEffect,
    DownloadInput,
    Finished,
    ObjectDropped,
    PageRefused,
    PageVerified,
    PrepareComponent,
    RecipeKnown,
    Send,
    Stalled,
    Stop,
    StorageFull,
    StorageReady,
    TimerFired,
    VerifyPage,
    WriteChunks,
)
from protocol.limits import MIB
from protocol.manifest import ContentObject
from protocol.relay_events import PullFreed, PullGated, PullOpened, TakePush
from protocol.runs import NO_CHUNKS, Runs
from swarmd.services.exchange_fetch_tail import FetchTail
from swarmd.services.exchange_patch import BadPatches
from swarmd.services.exchange_patching import ApplyPatch, Patching
from swarmd.services.exchange_payload import received_runs
from swarmd.services.exchange_ports import FetchProgress
from swarmd.services.exchange_pushed import PushOutcome, store_pushes
from swarmd.services.exchange_repeats import Filled, fill_repeats, with_repeats

logger = logging.getLogger(__name__)

T = TypeVar("T")

WRITE_BATCH_BYTES: Final = 2 * MIB
"""Most bytes handed to a worker thread at once: about 3 ms of hashing and writing."""
PUSHED_BYTES_PER_S_MAX: Final = 12 * MIB
"""What links of 100 Mbit/s cannot give, bytes per second: from there on pushes are not welcome,
since links are not what bounds the transfer, and asking costs less for each byte."""
DISK_FULL_RETRY_S: Final = 30.0
"""How often a paused download looks whether there is space again, seconds."""


class FetchStoppedError(PolicyError):
    """The fetch was given up because the manifest may not be fetched any more."""


class FetchOwner(Protocol):
    """The service, as a fetch sees it."""

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Runs blocking work in a worker thread of the service's limiter."""
        ...

    async def in_sync_thread(self, call: Callable[[], T]) -> T:
        """Runs work that mostly waits for the disk in a thread outside that limiter."""
        ...

    def fetch_effect(self, fetch: Fetch, effect: Send | Blame | Stalled) -> None:
        """Executes an effect that concerns peers."""
        ...

    def fetch_gained(self, fetch: Fetch, component: int, indices: Runs) -> None:
        """Makes chunks servable and tells interested peers."""
        ...

    def fetch_lost(self, fetch: Fetch, component: int, indices: Sequence[int]) -> None:
        """Takes back rotten chunks."""
        ...

    def fetch_lacks(self, fetch: Fetch, component: int, indices: Runs) -> bool:
        """Whether any of these chunks is not stored."""
        ...

    def fetch_prepared(self, fetch: Fetch, event: ComponentPrepared, recipe: Recipe) -> None:
        """Welcomes pushes of an object."""
        ...

    def fetch_dropped(self, fetch: Fetch, component: int) -> None:
        """Welcomes no more pushes of an object."""
        ...

    def fetch_is_fast(self, fetch: Fetch) -> None:
        """Welcomes no more pushes at all."""
        ...

    def fetch_pushed(self, fetch: Fetch, outcome: PushOutcome) -> None:
        """Takes note of a push, before its chunks are told of as gained."""
        ...


StorageJob = VerifyPage | PrepareComponent | WriteChunks | ComponentComplete | ApplyPatch | TakePush


@dataclass(slots=True)
class _Batch:
    """Outcomes of one batch of writes, filled by the worker thread."""

    outcomes: list[tuple[int, WriteOutcome]] = field(default_factory=list)
    """(component, what became of one message's chunks)."""
    spoilt: list[ChunkRefused] = field(default_factory=list)
    """Chunks that could not be unpacked."""
    full: dict[int, list[Runs]] = field(default_factory=dict)
    """Component to the chunks that found no space."""


class Fetch:
    """One manifest being fetched."""

    def __init__(
        self,
        authorised: AuthorisedManifest,
        *,
        machine: Download,
        store: ChunkStore,
        owner: FetchOwner,
        bad_patches: BadPatches,
    ) -> None:
        """Wires a new machine to the store; patches among `bad_patches` are not used."""
        self.authorised: Final = authorised
        """What is being fetched."""
        self.machine: Final = machine
        """The logic."""
        self.fetched_bytes = 0
        """Chunk bytes from peers that were stored."""
        self.takes_pushes = True
        """Whether pushes are worth their price: not once much comes in."""
        self._rate = IntakeRate()
        self.reused_bytes = 0
        """Bytes taken from images held already."""
        self._objects: Final = authorised.manifest.objects
        self._needed: Final = len(authorised.manifest.components)
        self._store = store
        self._owner = owner
        self._patching = Patching(self, authorised.manifest, store, bad_patches)
        self._assemblers = [_assembler(item) for item in self._objects]
        self._recipes: list[Recipe | None] = [None] * len(self._objects)
        self._downloads: list[StoreDownload | None] = [None] * len(self._objects)
        self._tails = tuple(FetchTail(store, owner) for _ in self._objects)
        self._jobs: deque[StorageJob] = deque()
        self._job_added = trio.Event()
        self._timer_changed = trio.Event()
        self._timer_at: float | None = None
        self._ended = trio.Event()
        self._error: Exception | None = None

    # Interface to the service --------------------------------------------------------------------

    async def run(self) -> None:
        """Works until the download is finished, stopped or failed.

        Raises:
            FetchStoppedError: it was stopped.
            VerificationError: the manifest contradicts itself: no peer can mend that.
            StorageError: the store failed for good.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_timer)
            nursery.start_soon(self._run_jobs)
            nursery.start_soon(self._patching.watch)
            for tail in self._tails:
                nursery.start_soon(tail.run_checkpoints)
                nursery.start_soon(tail.run_hashing)
            await self._ended.wait()
            nursery.cancel_scope.cancel()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Gives the fetch up, at once: no further request, no further write is started."""
        self._jobs.clear()
        self.feed(Stop())
        self._end(FetchStoppedError("exchange.stopped", "the manifest may not be fetched any more"))

    def feed(self, event: DownloadInput | PullGated | PullOpened | PullFreed) -> None:
        """Feeds the machine and executes its effects.

        Raises:
            ExchangeOffenceError: the event is a peer's message that breaks the protocol.
        """
        if isinstance(event, ObjectDropped):
            self._owner.fetch_dropped(self, event.component)
        if isinstance(event, ComponentPrepared):
            recipe = self._recipes[event.component]
            assert recipe is not None, "the recipe is complete before space is prepared"
            # Before the download asks for anything: what will be pushed is not to be asked for.
            self._owner.fetch_prepared(self, event, recipe)
        for effect in self.machine.handle(event, trio.current_time()):
            self._execute(effect)
        deadline = self.machine.deadline
        if deadline is not None and (self._timer_at is None or deadline < self._timer_at):
            self._timer_changed.set()

    def lost_chunks(self, component: int, indices: Sequence[int]) -> None:
        """Has chunks fetched again that were found rotten while being served."""
        self.feed(ChunksLost(component=component, indices=indices))

    @property
    def patched_bytes(self) -> int:
        """Bytes that patches made from images held already."""
        return self._patching.made_bytes

    def progress(self) -> FetchProgress:
        """Tells how far the fetch is."""
        statistics = self.machine.statistics()
        return FetchProgress(
            manifest_id=self.authorised.manifest_id,
            total_bytes=self.authorised.manifest.size,
            chunks_total=statistics.chunks_total,
            chunks_missing=statistics.chunks_missing,
            fetched_bytes=self.fetched_bytes,
            reused_bytes=self.reused_bytes,
            patched_bytes=self.patched_bytes,
            wasted_bytes=statistics.wasted_bytes,
            is_paused=statistics.state is DownloadState.PAUSED,
            peers=len(statistics.peers),
        )

    # Effects -------------------------------------------------------------------------------------

    def _execute(self, effect: DownloadEffect) -> None:
        match effect:
            case WriteChunks() | VerifyPage() | PrepareComponent() | ComponentComplete():
                self._jobs.append(effect)
                self._job_added.set()
            case Send() | Blame() | Stalled():
                self._owner.fetch_effect(self, effect)
            case Finished():
                self._end(None)
            case _:
                assert_never(effect)

    def _end(self, error: Exception | None) -> None:
        if not self._ended.is_set():
            self._error = error
            self._ended.set()

    async def _run_timer(self) -> None:
        while True:
            self._timer_changed = trio.Event()
            self._timer_at = self.machine.deadline
            if self._timer_at is None:
                await self._timer_changed.wait()
                continue
            with trio.move_on_at(self._timer_at):
                await self._timer_changed.wait()
            deadline = self.machine.deadline
            if deadline is not None and trio.current_time() >= deadline:
                self.feed(TimerFired())

    async def _run_jobs(self) -> None:
        try:
            await self._resume()
            while True:
                while self._jobs:
                    await self._work()
                self._job_added = trio.Event()
                await self._job_added.wait()
        except (VerificationError, StorageError) as error:
            self._jobs.clear()
            self.feed(Stop())
            self._end(error)

    # Storage -------------------------------------------------------------------------------------

    async def _resume(self) -> None:
        """Tells the machine which recipes the store knows already."""
        found: list[tuple[int, Recipe]] = []

        def look() -> None:
            for number, component in enumerate(self._objects[: self._needed]):
                try:
                    recipe = self._store.recipe(component.digest)
                except ImageMissingError:
                    continue
                if recipe.root == component.recipe_root:
                    found.append((number, recipe))

        await self._owner.in_thread(look)
        for number, recipe in found:
            self.know_recipe(number, recipe)

    async def _work(self) -> None:
        """Does the next job, or the next run of writes as one.

        A patch that cannot be prepared, verified or finished is given up; its component is not.
        """
        job = self._jobs.popleft()
        try:
            await self._do(job)
        except (VerificationError, StorageError) as error:
            if isinstance(job, WriteChunks | TakePush) or job.component < self._needed:
                raise
            await self._patching.failed(job.component, error)

    async def _do(self, job: StorageJob) -> None:
        match job:
            case WriteChunks():
                await self._write(job)
            case TakePush():
                await store_pushes(self, self._store, job)
            case VerifyPage():
                await self._verify_page(job)
            case PrepareComponent():
                await self._prepare(job.component)
            case ComponentComplete():
                await self._finish(job.component)
            case ApplyPatch():
                if not await self._patching.apply(job.component):
                    await self._pause(job.component, ())
            case _:
                assert_never(job)

    async def _write(self, first: WriteChunks) -> None:
        messages = [first]
        size_bytes = sum(first.lengths)
        while self._jobs and size_bytes < WRITE_BATCH_BYTES:
            job = self._jobs[0]
            if not isinstance(job, WriteChunks):
                break
            messages.append(job)
            size_bytes += sum(job.lengths)
            self._jobs.popleft()
        batch = _Batch()
        await self._owner.in_thread(lambda: self._write_batch(messages, batch))
        for component, outcome in batch.outcomes:
            self._take_outcome(component, outcome)
            self._patching.got_on(component)
        for refused in batch.spoilt:
            self.feed(refused)
        for component, full in batch.full.items():
            await self._pause(component, [index for runs in full for index in runs])

    def _take_outcome(self, component: int, outcome: WriteOutcome) -> None:
        if outcome.stored:
            gained = outcome.gained
            self.gained(component, gained)
            others = Runs.of_bits(gained.bits & ~outcome.stored.bits)
            self.feed(ChunksStored(component=component, indices=outcome.stored, gained=others))
            if outcome.is_checkpoint_due:
                self._tails[component].checkpoint_soon()
            if outcome.is_hash_due:
                self._tails[component].hash_soon()
        for index, error in outcome.refused:
            self.feed(ChunkRefused(component=component, index=index, detail=str(error)))
        self._came(outcome.stored_bytes)

    def _came(self, size_bytes: int) -> None:
        """Counts stored bytes that a peer sent, and how fast they come."""
        self.fetched_bytes += size_bytes
        self._rate.note(size_bytes, trio.current_time())
        if self.takes_pushes and self._rate.bytes_per_s >= PUSHED_BYTES_PER_S_MAX:
            self.takes_pushes = False
            self._owner.fetch_is_fast(self)

    def _write_batch(self, messages: Sequence[WriteChunks], batch: _Batch) -> None:
        unpacker: ChunkUnpacker | None = None
        for message in messages:
            component = message.component
            download = self._downloads[component]
            assert download is not None, "a component is prepared before its chunks are asked for"
            if component in batch.full:
                batch.full[component].append(message.indices)
                continue
            recipe = download.recipe
            if message.packed and unpacker is None:
                unpacker = ChunkUnpacker()
            runs, spoilt = received_runs(message, recipe, unpacker)
            batch.spoilt += spoilt
            if not runs:
                continue
            outcome = self._store.write_chunks(download, runs)
            batch.outcomes.append((component, outcome))
            if outcome.full:
                batch.full[component] = [outcome.full]

    async def _pause(self, component: int, indices: Iterable[int]) -> None:
        """Stops intake; it goes on by itself when there is space."""
        logger.error("no space for manifest %s", self.authorised.manifest_id.hex()[:8])
        self.feed(StorageFull(component=component, indices=indices))
        pending = [job for job in self._jobs if isinstance(job, WriteChunks)]
        for job in pending:
            self._jobs.remove(job)
            self.feed(StorageFull(component=job.component, indices=job.indices))
        await trio.sleep(DISK_FULL_RETRY_S)
        self.feed(StorageReady())

    async def _verify_page(self, job: VerifyPage) -> None:
        assembler = self._assemblers[job.component]
        verdict: list[PageVerified | PageRefused] = []

        def verify() -> None:
            try:
                page = decode_recipe_page(job.body)
                if page.page_index != job.page:
                    raise VerificationError(f"page {page.page_index} instead of {job.page}")
                assembler.add(page)
            except RecipeContradictionError:
                raise
            except VerificationError as error:
                verdict.append(
                    PageRefused(component=job.component, page=job.page, detail=str(error))
                )
                return
            verdict.append(
                PageVerified(component=job.component, page=job.page, lengths=page.lengths)
            )
            if assembler.is_complete:
                self._recipes[job.component] = assembler.recipe()

        await self._owner.in_thread(verify)
        self._patching.got_on(job.component)
        self.feed(verdict[0])

    async def _prepare(self, number: int) -> None:
        component = self._objects[number]
        recipe = self._recipes[number]
        if self._patching.is_over(number):
            return
        assert recipe is not None, "the recipe is complete before space is prepared"
        held: list[Bitfield] = []

        def prepare() -> None:
            try:
                download = self._store.begin(component.digest, component.size, recipe)
            except LocalProtocolError:
                # Complete already, perhaps since a moment by another manifest's fetch.
                if not self._is_complete(component):
                    raise
            else:
                self._downloads[number] = self._tails[number].download = download
                self.reused_bytes += self._store.reuse(download)
            bits = self._store.have(component.digest)
            held.append(Bitfield.decode(bits, component.chunk_count))

        try:
            await self._owner.in_thread(prepare)
        except DiskFullError:
            if number >= self._needed:
                raise
            await self._pause(number, ())
            return
        gained = Runs.of_bits(held[0].bits)
        self.gained(number, gained)
        self._tails[number].hash_soon()
        is_begun = number < self._needed and self._downloads[number] is not None
        if not (is_begun and await self._patching.begin(number)):
            self.feed(ComponentPrepared(component=number, held=with_repeats(recipe, held[0])))

    def _is_complete(self, component: ContentObject) -> bool:
        """Whether the store has the image already, under this very recipe. Blocks."""
        try:
            record = self._store.record(component.digest)
        except ImageMissingError:
            return False
        return record.state is ImageState.COMPLETE and record.recipe_root == component.recipe_root

    async def _finish(self, number: int) -> None:
        component = self._objects[number]
        download = self._downloads[number]
        self._patching.got_on(number)
        filled: list[Filled | None] = []

        def finish() -> None:
            if download is None:
                return
            try:
                filled.append(fill_repeats(self._store, download))
                if filled[0] is None or not filled[0].missing:
                    self._store.finish(download)
            except DownloadClosedError:
                # Another manifest with the same image may have finished it.
                if not self._is_complete(component):
                    raise
            except DigestMismatchError:
                # Every chunk is what the recipe says and the whole is not: the manifest lies.
                self._store.abandon(download)
                raise

        try:
            await self._owner.in_thread(finish)
        except ChunkRottenError as error:
            self._owner.fetch_lost(self, number, error.indices)
            self.feed(ChunksLost(component=number, indices=error.indices))
            return
        if filled and filled[0] is not None:
            self.gained(number, filled[0].gained)
            if filled[0].missing:
                self.feed(ChunksLost(component=number, indices=tuple(filled[0].missing)))
                return
        self.feed(ComponentVerified(component=number))
        self._patching.completed(number)

    # What pushes need ----------------------------------------------------------------------------

    def take_push(self, job: TakePush) -> None:
        """Has a push verified and stored after the jobs that wait already."""
        self._jobs.append(job)
        self._job_added.set()

    def next_push(self) -> TakePush | None:
        """Takes the next job if it is a push."""
        if self._jobs and isinstance(job := self._jobs[0], TakePush):
            self._jobs.popleft()
            return job
        return None

    def is_lacking(self, number: int, indices: Runs) -> bool:
        """Whether any of these chunks is not stored."""
        return self._owner.fetch_lacks(self, number, indices)

    def pushed(self, outcome: PushOutcome) -> None:
        """Takes note of what became of a push: whom it is passed on to comes first."""
        self._owner.fetch_pushed(self, outcome)
        written = outcome.written
        if written is None or not written.stored:
            return
        number = outcome.taken.push.object_number
        stored = Runs.of_bits(written.stored.bits | written.gained.bits)
        self.gained(number, stored)
        self.feed(ChunksStored(component=number, indices=NO_CHUNKS, gained=stored))
        self._patching.got_on(number)
        if written.is_checkpoint_due:
            self._tails[number].checkpoint_soon()
        self._came(written.stored_bytes)

    # What patches need ---------------------------------------------------------------------------

    async def in_thread(self, call: Callable[[], object]) -> None:
        """Runs blocking work in a worker thread."""
        await self._owner.in_thread(call)

    def gained(self, number: int, indices: Iterable[int]) -> None:
        """Makes chunks servable and tells interested peers."""
        self._owner.fetch_gained(self, number, Runs.of(indices))

    def know_recipe(self, number: int, recipe: Recipe) -> None:
        """Takes an object's recipe, and tells the download."""
        self._recipes[number] = recipe
        self.feed(RecipeKnown(component=number, lengths=recipe.lengths))

    def add_job(self, job: ApplyPatch) -> None:
        """Has a step done after the jobs that wait already."""
        self._jobs.append(job)
        self._job_added.set()

    def begun(self, component: int) -> StoreDownload | None:
        """The right to write into a component that was begun."""
        return self._downloads[component]

    def is_alone(self) -> bool:
        """Whether there is no peer to ask."""
        return not self.machine.statistics().peers


def _assembler(component: ContentObject) -> RecipeAssembler:
    return RecipeAssembler(
        root=component.recipe_root,
        chunk_count=component.chunk_count,
        size_bytes=component.size,
        chunk_bytes_max=component.chunk_bytes_max,
    )

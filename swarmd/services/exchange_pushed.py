"""Pushes that a fetch takes: verified and stored like chunks that were asked for.

They are jobs of the fetch, in its order of work; several that wait go to a worker thread together.
Chunks are told to the relay before the download, so that they leave again without delay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from chunks.chunk_batches import WriteOutcome
from chunks.compression import ChunkUnpacker
from chunks.store import ChunkStore, Download, DownloadClosedError
from protocol.exchange_events import WriteChunks
from protocol.limits import MIB
from protocol.relay_events import TakePush
from protocol.runs import Runs
from swarmd.services.exchange_payload import received_runs

BATCH_BYTES: Final = 1 * MIB
"""Most bytes handed to a worker thread at once, give or take one push."""


@dataclass(slots=True)
class PushOutcome:
    """What became of one push."""

    taken: TakePush
    """The push."""
    refused: list[tuple[int, str]]
    """Chunks that did not match: index, and what was found."""
    written: WriteOutcome | None = None
    """What the store says; None: it does not take the object any more."""


class PushHost(Protocol):
    """The fetch, as its pushes see it."""

    async def in_thread(self, call: Callable[[], object]) -> None:
        """Runs blocking work in a worker thread."""
        ...

    def begun(self, component: int) -> Download | None:
        """The right to write into an object that was begun."""
        ...

    def next_push(self) -> TakePush | None:
        """Takes the next job if it is a push."""
        ...

    def is_lacking(self, number: int, indices: Runs) -> bool:
        """Whether any of these chunks is not stored."""
        ...

    def pushed(self, outcome: PushOutcome) -> None:
        """Takes note of what became of a push."""
        ...


async def store_pushes(host: PushHost, store: ChunkStore, first: TakePush) -> None:
    """Stores a push, and those behind it."""
    outcomes: list[PushOutcome] = []
    size_bytes = 0
    job: TakePush | None = first
    while job is not None:
        # Some may have been pulled while they waited.
        if host.is_lacking(job.push.object_number, indices_of(job)):
            outcomes.append(PushOutcome(job, []))
            size_bytes += sum(len(chunk.data) for chunk in job.push.chunks)
        job = host.next_push() if size_bytes < BATCH_BYTES else None
    if outcomes:
        await host.in_thread(lambda: _store_all(host, store, outcomes))
        for outcome in outcomes:
            host.pushed(outcome)


def indices_of(job: TakePush) -> Runs:
    """The chunks of a push."""
    chunks = job.push.chunks
    return Runs(((chunks[0].index, len(chunks)),))


def _store_all(host: PushHost, store: ChunkStore, outcomes: Sequence[PushOutcome]) -> None:
    unpacker: ChunkUnpacker | None = None
    for outcome in outcomes:
        download = host.begun(outcome.taken.push.object_number)
        if download is None:
            continue
        effect = _as_written(outcome.taken)
        if effect.packed and unpacker is None:
            unpacker = ChunkUnpacker()
        runs, spoilt = received_runs(effect, download.recipe, unpacker)
        outcome.refused = [(refused.index, refused.detail) for refused in spoilt]
        try:
            outcome.written = store.write_chunks(download, runs)
        except DownloadClosedError:
            # Another manifest with the same image finished it.
            continue
        outcome.refused += [(index, str(error)) for index, error in outcome.written.refused]


def _as_written(job: TakePush) -> WriteChunks:
    """A push as the store's side knows answers to requests."""
    chunks = job.push.chunks
    return WriteChunks(
        component=job.push.object_number,
        indices=indices_of(job),
        lengths=tuple(len(chunk.data) for chunk in chunks),
        payload=tuple(chunk.data for chunk in chunks),
        packed=frozenset(chunk.index for chunk in chunks if chunk.is_compressed),
    )

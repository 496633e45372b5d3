"""Writes and reads batches of chunks in image files that the caller leases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from chunks.catalogue import Catalogue
from chunks.chunk_batches import ReadOutcome, VerifiedRun, verify_runs
from chunks.file_backend import FileBackend, read_exactly, storage_errors, write_exactly
from chunks.held_image import HeldImage, OpenFile
from chunks.image_table import ImageTable
from chunks.store import REPEAT_BYTES_MAX, DiskFullError, Download
from protocol.limits import MIB
from protocol.runs import Pair, Runs

BATCH_REPEAT_BYTES_MAX: Final = 8 * MIB
"""Bytes of equal chunks that one batch fills in besides its own, so that it stays short."""


@dataclass(slots=True)
class Written:
    """What writing verified chunks gained."""

    own: list[Pair] = field(default_factory=list)
    """Given chunks that were not held before."""
    repeats: list[int] = field(default_factory=list)
    """Other chunks with the same bytes, not held before."""
    own_bytes: int = 0
    """Bytes of `own`."""
    repeat_bytes: int = 0
    """Bytes of `repeats`."""
    full: list[Pair] = field(default_factory=list)
    """Given chunks for which there was no room."""


class BatchIO:
    """See the module's docstring. Takes the store's state lock itself, twice a batch."""

    def __init__(self, backend: FileBackend, table: ImageTable, catalogue: Catalogue) -> None:
        """Works on what `table` holds; `catalogue` drops what is rotten."""
        self._backend = backend
        self._table = table
        self._catalogue = catalogue

    def write(
        self, download: Download, held: HeldImage, opened: OpenFile, runs: Sequence[VerifiedRun]
    ) -> Written:
        """Writes chunks known to match, here and where they repeat.

        Chunks held already are not written again. Once there is no room the rest is not tried.

        Raises:
            DownloadClosedError: the download is not current.
            StorageError: a write failed otherwise; nothing of the batch counts as held.
        """
        with self._table.state:
            held.check_download(download)
            plan = [
                run if pair == (run.first, run.count) else run.part(opened.recipe, *pair)
                for run in runs
                for pair in held.have.missing_runs(run.first, run.count)
            ]
            copies = self._repeats(held, opened, plan) if opened.repeats else []
        done, full = self._write_all(opened, plan + copies)
        written = Written(full=[(run.first, run.count) for run in plan if run in full])
        with self._table.state:
            held.check_download(download)
            for number, run in enumerate(done):
                fresh = held.have.add_run(run.first, run.count)
                held.verified.add_run(run.first, run.count)
                held.unsynced_bytes += len(run.data)
                gained = sum(opened.recipe.span_bytes(*pair) for pair in fresh)
                if number < len(plan):
                    written.own += fresh
                    written.own_bytes += gained
                else:
                    written.repeats += [first for first, _ in fresh]
                    written.repeat_bytes += gained
            self._table.counters.written_bytes += written.own_bytes + written.repeat_bytes
        return written

    def _write_all(
        self, opened: OpenFile, runs: Sequence[VerifiedRun]
    ) -> tuple[list[VerifiedRun], list[VerifiedRun]]:
        """Writes runs until there is no room: (written, not written)."""
        for number, run in enumerate(runs):
            try:
                with storage_errors(f"writing chunk {run.first}"):
                    offset = opened.recipe.offset(run.first)
                    write_exactly(self._backend, opened.descriptor, run.data, offset)
            except DiskFullError:
                return list(runs[:number]), list(runs[number:])
        return list(runs), []

    def _repeats(
        self, held: HeldImage, opened: OpenFile, plan: Sequence[VerifiedRun]
    ) -> list[VerifiedRun]:
        """Equal chunks to be filled in with what is about to be written."""
        copies: list[VerifiedRun] = []
        left_bytes = BATCH_REPEAT_BYTES_MAX
        for run in plan:
            for index in range(run.first, run.first + run.count):
                others = opened.repeats.get(opened.recipe.digest(index))
                if not others:
                    continue
                length = opened.recipe.length(index)
                room = max(1, min(REPEAT_BYTES_MAX, left_bytes) // length)
                data = run.part(opened.recipe, index, 1).data
                while others and room:
                    other = others.pop()
                    if other != index and other not in held.have:
                        copies.append(VerifiedRun(other, 1, data))
                        room -= 1
                        left_bytes -= length
        return copies

    def read(
        self, held: HeldImage, opened: OpenFile, indices: Runs, *, bytes_max: int
    ) -> ReadOutcome:
        """Reads chunks in order, as many as fit, at least one; verifies what was not yet.

        Raises:
            ImageLockedError: the image is locked.
            LocalProtocolError: there is no such chunk.
        """
        pairs = _prefix(opened, indices, bytes_max)
        with self._table.state:
            held.check_served()
            present = [run for pair in pairs for run in held.have.held_runs(*pair)]
            verified = [held.verified.covers(*run) for run in present]
        found: list[tuple[Pair, bytes]] = []
        rotten: list[int] = []
        for pair, is_verified in zip(present, verified, strict=True):
            good, bad = self._read_run(opened, pair, is_verified=is_verified)
            found += good
            rotten += bad
        if rotten:
            self._catalogue.drop(held, opened.recipe, rotten)
        with self._table.state:
            held.check_served()
            if self._table.is_current(held, opened):
                for pair, _ in found:
                    for kept in held.have.held_runs(*pair):
                        held.verified.add_run(*kept)
            self._table.counters.read_bytes += sum(len(data) for _, data in found)
        runs = Runs.merged(pair for pair, _ in found)
        lengths = opened.recipe.lengths
        return ReadOutcome(
            found=runs,
            lengths=tuple(chain.from_iterable(lengths[i : i + n] for i, n in runs.pairs)),
            payload=tuple(data for _, data in found),
            absent=Runs.of_bits(Runs(pairs).bits & ~runs.bits),
            rotten=Runs.of(rotten),
        )

    def _read_run(
        self, opened: OpenFile, pair: Pair, *, is_verified: bool
    ) -> tuple[list[tuple[Pair, bytes]], list[int]]:
        """Reads neighbouring chunks: (runs that match with their bytes, indices that do not)."""
        recipe = opened.recipe
        size_bytes = recipe.span_bytes(*pair)
        try:
            offset = recipe.offset(pair[0])
            data = read_exactly(self._backend, opened.descriptor, size_bytes, offset)
        except OSError:
            data = b""
        is_whole = len(data) == size_bytes
        if is_whole and (is_verified or not verify_runs(recipe, ((pair[0], data),))[1]):
            return [(pair, data)], []
        # Chunk by chunk: a bad sector, like any rot, costs the chunks it hits and no other.
        good: list[tuple[Pair, bytes]] = []
        bad: list[int] = []
        for index in range(pair[0], sum(pair)):
            chunk = opened.read_verified(self._backend, index)
            if chunk is None:
                bad.append(index)
            else:
                good.append(((index, 1), chunk))
        return good, bad


def _prefix(opened: OpenFile, indices: Runs, bytes_max: int) -> list[Pair]:
    """The runs, or parts of them, that fit; at least one chunk."""
    pairs: list[Pair] = []
    left_bytes = bytes_max
    for first, count in indices.pairs:
        fitting = opened.recipe.prefix_count(first, count, max(left_bytes, 0))
        if not pairs:
            fitting = max(fitting, 1)
        if fitting:
            pairs.append((first, fitting))
            left_bytes -= opened.recipe.span_bytes(first, fitting)
        if fitting < count:
            break
    return pairs

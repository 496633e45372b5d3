"""Chunks by the batch: what many chunks at once are verified, written and read as.

Chunks that follow one another in an image lie behind one another on the disk and in the frames they
travel in. A batch is therefore a few runs of bytes; only hashing works chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from chunks.recipe import Recipe
from protocol.digest import DIGEST_BYTES
from protocol.errors import DigestMismatchError
from protocol.runs import NO_CHUNKS, Runs

RunBytes = tuple[int, bytes | memoryview]
"""(first index, bytes of that chunk and of those that follow it)."""


@dataclass(frozen=True, slots=True)
class VerifiedRun:
    """Neighbouring chunks whose bytes match their digests."""

    first: int
    """Index of the first."""
    count: int
    """How many."""
    data: memoryview
    """The bytes of all."""

    def part(self, recipe: Recipe, first: int, count: int) -> VerifiedRun:
        """Some of them."""
        start = recipe.offset(first) - recipe.offset(self.first)
        return VerifiedRun(first, count, self.data[start : start + recipe.span_bytes(first, count)])


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOutcome:
    """What became of the chunks of a batch; every one is in `stored`, `refused` or `full`."""

    stored: Runs = NO_CHUNKS
    """Chunks given that are held now."""
    gained: Runs = NO_CHUNKS
    """Chunks held now that were not before: given ones, and others with the same bytes."""
    refused: tuple[tuple[int, DigestMismatchError], ...] = ()
    """(index, why) of chunks that did not match; nothing of them was written."""
    full: Runs = NO_CHUNKS
    """Chunks for which there was no room."""
    stored_bytes: int = 0
    """Bytes of the given chunks among `gained`."""
    is_hash_due: bool = False
    """Whether `hash_ahead` has something to do: chunks that came too early are next now."""
    is_checkpoint_due: bool = False
    """Whether so much is not durable yet that the caller should have a checkpoint made soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOutcome:
    """Chunks that were read; `found` and `absent` together are a prefix of what was asked for."""

    found: Runs = NO_CHUNKS
    """Chunks read."""
    lengths: tuple[int, ...] = ()
    """Bytes of each."""
    payload: tuple[bytes, ...] = ()
    """Parts whose concatenation is all of them, in order."""
    absent: Runs = NO_CHUNKS
    """Chunks that are not held."""
    rotten: Runs = NO_CHUNKS
    """Of these, chunks that were dropped by this very call because they no longer match."""


def verify_runs(
    recipe: Recipe, runs: Iterable[RunBytes]
) -> tuple[list[VerifiedRun], list[tuple[int, DigestMismatchError]]]:
    """Hashes every chunk of some runs.

    Returns:
        (runs that match, (index, why) of each chunk that does not).

    Raises:
        LocalProtocolError: a run leaves the image, or does not end where a chunk does.
    """
    good: list[VerifiedRun] = []
    refused: list[tuple[int, DigestMismatchError]] = []
    digests, lengths = recipe.digests, recipe.lengths
    for first, data in runs:
        view = memoryview(data)
        end = first + recipe.run_count(first, len(view))
        start, begin, position = first, 0, 0
        for index in range(first, end):
            behind = position + lengths[index]
            actual = sha256(view[position:behind]).digest()
            place = index * DIGEST_BYTES
            if actual != digests[place : place + DIGEST_BYTES]:
                expected = recipe.digest(index)
                error = DigestMismatchError(f"chunk {index}", expected=expected, actual=actual)
                refused.append((index, error))
                if index > start:
                    good.append(VerifiedRun(start, index - start, view[begin:position]))
                start, begin = index + 1, behind
            position = behind
        if end > start:
            good.append(VerifiedRun(start, end - start, view[begin:]))
    return good, refused

"""Chunks that stand in an image more than once: fetched once, copied to the other places.

A download asks for chunks in any order and does not know which are equal. So it is told that all
but the first missing one of equal chunks are there; the store writes them when that one comes. What
it did not (it copies a bounded number of bytes with each write) is copied before the image is
finished, and what is missing even then is asked for after all.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from chunks.bitmap import Bitmap
from chunks.recipe import Recipe
from chunks.store import ChunkStore, Download
from protocol.bitfield import Bitfield, bits_of
from protocol.runs import Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What copying within an image did."""

    gained: Runs
    """Chunks held now that were not before."""
    missing: Runs
    """Chunks that are still missing."""


def with_repeats(recipe: Recipe, held: Bitfield) -> Bitfield:
    """What need not be asked for: chunks held, and repetitions of those that will be."""
    more = bits_of(index for indices in recipe.repeats.values() for index in _others(indices, held))
    return Bitfield(held.size, held.bits | more) if more else held


def _others(indices: array[int], held: Bitfield) -> array[int]:
    """All but the first of those of equal chunks that are not held."""
    return array(indices.typecode, (index for index in indices if index not in held))[1:]


def fill_repeats(store: ChunkStore, download: Download) -> Filled | None:
    """Copies what is held elsewhere in an image to where it is missing; blocks.

    Returns:
        None if nothing was missing.

    Raises:
        DownloadClosedError: the download is over.
        DiskFullError: no room.
    """
    count = download.recipe.chunk_count
    before = Bitmap.decode(store.have(download.image), count)
    if before.is_full:
        return None
    store.reuse(download)
    after = Bitmap.decode(store.have(download.image), count)
    was_missing = list(before.missing())
    return Filled(
        gained=Runs.of(index for index in was_missing if index in after),
        missing=Runs.of(after.missing()),
    )

"""Chunk corrupter: answers every request in time and in full, with one bit wrong in each chunk.

`ChunkCorrupter` lives in the simulated world. `CorruptingStore` wraps a real store, so that a real
daemon, in a process of its own, serves spoilt chunks over the real network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import cast

from chunks.chunk_batches import ReadOutcome
from chunks.store import ChunkStore
from protocol.digest import Digest
from protocol.exchange_messages import Chunks, ExchangeMessage
from protocol.runs import Runs
from swarmd.simulation.exchange_host import ExchangeHost


def corrupt(data: bytes | memoryview) -> bytes:
    """The same bytes with the lowest bit of the first one flipped."""
    return bytes((data[0] ^ 1,)) + bytes(data[1:])


class ChunkCorrupter(ExchangeHost):
    """Spoils every chunk it sends."""

    def outgoing(self, target: int, message: ExchangeMessage) -> Iterable[ExchangeMessage]:
        """Flips a bit in each chunk."""
        if isinstance(message, Chunks):
            spoilt = [(index, corrupt(data)) for index, data in message.chunks]
            return (Chunks.of(message.request_id, spoilt),)
        return super().outgoing(target, message)


class CorruptingStore:
    """A store whose readers get spoilt chunks; everything else is the real store's doing."""

    def __init__(self, store: ChunkStore) -> None:
        """Wraps a store."""
        self._store = store

    def __getattr__(self, name: str) -> object:
        """Passes on everything but reads."""
        return getattr(self._store, name)

    def read_chunk(self, image: Digest, index: int, *, staged: bool = False) -> bytes:
        """Reads a chunk and spoils it."""
        return corrupt(self._store.read_chunk(image, index, staged=staged))

    def read_chunks(
        self, image: Digest, indices: Runs, *, bytes_max: int, staged: bool = False
    ) -> ReadOutcome:
        """Reads chunks and spoils every one of them."""
        outcome = self._store.read_chunks(image, indices, bytes_max=bytes_max, staged=staged)
        payload = memoryview(b"".join(outcome.payload))
        ends = tuple(accumulate(outcome.lengths))
        spoilt = (corrupt(payload[start:end]) for start, end in pairwise((0, *ends)))
        return replace(outcome, payload=tuple(spoilt))


def corrupting(store: ChunkStore) -> ChunkStore:
    """Wraps a store so that its readers get spoilt chunks."""
    return cast("ChunkStore", CorruptingStore(store))

"""What is pushed: from memory where it was verified lately, else read from the store and packed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final

from protocol.digest import Digest
from protocol.exchange_events import PeerId, ReadChunks
from protocol.exchange_messages import split_payload
from protocol.limits import CHUNK_BYTES_MAX
from protocol.relay_events import SendPush
from protocol.relay_messages import Push, PushedChunk
from protocol.runs import NO_CHUNKS, Runs
from swarmd.services.exchange_library import ServedLibrary
from swarmd.services.exchange_packing import Packing, SendMeter
from swarmd.services.exchange_ports import BlockingRunner
from swarmd.services.exchange_relay_cache import ChunkCache
from swarmd.services.exchange_relay_seat import RelaySeat

BLOCKED_S: Final = 0.05
"""A push that the transport has not taken after this time holds no slot any more, seconds."""


class PushSender:
    """See the module's docstring."""

    def __init__(
        self, library: ServedLibrary, packing: Packing, run_blocking: BlockingRunner
    ) -> None:
        """Reads by `library`, in threads of `run_blocking`."""
        self._library = library
        self._packing = packing
        self._run_blocking = run_blocking
        self._cache = ChunkCache()
        self._under_way: dict[PeerId, float] = {}
        self.pushed_bytes = 0
        """Payload bytes made ready to be pushed, since the start."""

    # Content -------------------------------------------------------------------------------------

    def keep(self, image: Digest, push: Push) -> None:
        """Keeps a push that was verified."""
        for chunk in push.chunks:
            self._cache.put(image, chunk.index, bytes(chunk.data), is_packed=chunk.is_compressed)

    def forget(self, images: Iterable[Digest]) -> None:
        """Drops what is kept of images."""
        for image in images:
            self._cache.forget(image)

    def from_memory(self, seat: RelaySeat, effect: SendPush) -> Push | None:
        """The push, if all of it is kept."""
        indices = range(effect.first_index, effect.first_index + effect.count)
        chunks = self._cache.find(seat.images[effect.object_number], indices)
        return None if chunks is None else self._made(effect, chunks)

    async def read(
        self, seat: RelaySeat, effect: SendPush, meter: SendMeter
    ) -> tuple[Push | None, Runs]:
        """Reads a push from the store.

        Returns:
            The push, or None if some of it is not there; and chunks that rotted.
        """
        image = seat.images[effect.object_number]
        wanted = ReadChunks(
            request_id=0,
            manifest_id=seat.manifest_id,
            component=effect.object_number,
            indices=Runs(((effect.first_index, effect.count),)),
            bytes_max=CHUNK_BYTES_MAX,
        )
        packer = self._packing.packer_for(meter)
        outcome = await self._run_blocking(
            partial(self._library.read_chunks, wanted, image, packer)
        )
        answer = outcome.answer
        if len(answer.found) != effect.count:
            return None, outcome.rotten or NO_CHUNKS
        chunks = tuple(
            PushedChunk(index=index, data=data, is_compressed=index in answer.packed)
            for index, data in split_payload(answer.found, answer.lengths, answer.payload)
        )
        return self._made(effect, chunks), NO_CHUNKS

    def _made(self, effect: SendPush, chunks: tuple[PushedChunk, ...]) -> Push:
        self.pushed_bytes += sum(len(chunk.data) for chunk in chunks)
        return Push(
            manifest_id=effect.manifest_id,
            object_number=effect.object_number,
            flags=effect.flags,
            delegates=effect.delegates,
            chunks=chunks,
        )

    # Pushes under way ----------------------------------------------------------------------------

    def begins(self, peer: PeerId, now: float) -> None:
        """Notes that a push was given to a link."""
        self._under_way[peer] = now + BLOCKED_S

    def left(self, peer: PeerId) -> None:
        """Notes that it left, or never will."""
        self._under_way.pop(peer, None)

    @property
    def blocked_at(self) -> float | None:
        """When the oldest push is to be looked at, seconds."""
        return next(iter(self._under_way.values()), None)

    def take_blocked(self, now: float) -> list[PeerId]:
        """Takes out the peers whose push the transport has not taken in time."""
        blocked = [peer for peer, until in self._under_way.items() if until <= now]
        for peer in blocked:
            del self._under_way[peer]
        return blocked

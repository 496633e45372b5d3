"""The bytes between the wire and the store: the one place where payloads are packed and unpacked.

Both directions run in worker threads: unpacking before a chunk is hashed, packing after it was
read.
"""

from __future__ import annotations

from collections.abc import Callable

from chunks.chunk_batches import ReadOutcome, RunBytes
from chunks.compression import ChunkPacker, ChunkUnpacker
from chunks.recipe import Recipe
from chunks.zstd_frame import FrameError
from protocol.digest import Digest
from protocol.exchange_events import ChunkRefused, ChunksRead, WriteChunks
from protocol.exchange_messages import split_payload


def received_runs(
    effect: WriteChunks, recipe: Recipe, unpacker: ChunkUnpacker | None
) -> tuple[list[RunBytes], list[ChunkRefused]]:
    """The chunks of a message as the runs of bytes that the store takes.

    Args:
        effect: the message's chunks.
        recipe: says how long they are.
        unpacker: needed if some are packed.

    Returns:
        (runs, chunks that could not be unpacked).
    """
    if effect.packed:
        assert unpacker is not None, "who passes packed chunks passes what unpacks them"
        return _unpacked(effect, recipe, unpacker)
    payload = effect.payload
    whole = memoryview(payload[0] if len(payload) == 1 else b"".join(payload))
    runs: list[RunBytes] = []
    position = taken = 0
    for first, count in effect.indices.pairs:
        end = position + sum(effect.lengths[taken : taken + count])
        runs.append((first, whole[position:end]))
        position, taken = end, taken + count
    return runs, []


def _unpacked(
    effect: WriteChunks, recipe: Recipe, unpacker: ChunkUnpacker
) -> tuple[list[RunBytes], list[ChunkRefused]]:
    runs: list[RunBytes] = []
    spoilt: list[ChunkRefused] = []
    for index, data in effect.chunks:
        if index not in effect.packed:
            runs.append((index, data))
            continue
        try:
            runs.append((index, unpacker.unpack(data, recipe.length(index))))
        except FrameError as error:
            spoilt.append(ChunkRefused(component=effect.component, index=index, detail=str(error)))
    return runs, spoilt


def read_answer(
    request_id: int,
    outcome: ReadOutcome,
    *,
    image: Digest,
    recipe: Callable[[], Recipe],
    packer: ChunkPacker | None,
) -> ChunksRead:
    """What was read as the upload takes it; packed where a packer is given and it pays.

    Args:
        request_id: what it answers.
        outcome: what the store gave.
        image: whose chunks they are.
        recipe: gives the image's recipe; asked only if something may be packed.
        packer: packs; None: nothing is packed.
    """
    lengths, payload = outcome.lengths, outcome.payload
    packed: list[int] = []
    if packer is not None and outcome.found:
        known = recipe()
        parts: list[bytes | memoryview] = []
        for index, data in split_payload(outcome.found, lengths, payload):
            frame = packer.pack(data, image=image, chunk=Digest(known.digest(index)))
            if frame is not None:
                packed.append(index)
            parts.append(data if frame is None else frame)
        if packed:
            return ChunksRead(
                request_id=request_id,
                found=outcome.found,
                lengths=tuple(map(len, parts)),
                payload=tuple(parts),
                packed=frozenset(packed),
                absent=outcome.absent,
            )
    return ChunksRead(
        request_id=request_id,
        found=outcome.found,
        lengths=lengths,
        payload=payload,
        absent=outcome.absent,
    )

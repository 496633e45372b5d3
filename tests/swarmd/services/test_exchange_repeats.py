"""Equal chunks within an image: fetched once, copied to the other places."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chunks.file_store import FileStore
from chunks.memory_store import MemoryStore
from chunks.recipe import Recipe
from chunks.store import REPEAT_BYTES_MAX, ChunkStore, ImageState
from protocol.bitfield import Bitfield, bits_of
from protocol.digest import sha256
from swarmd.services.exchange_repeats import with_repeats
from tests.support.exchange_nodes import Network, Node, open_memory_network
from tests.support.exchange_release import Image, Release, release_of
from tests.support.strategies import many

NOISE = random.Random(4).randbytes(20_000)


async def seeded(network: Network, release: Release) -> Node:
    store = MemoryStore()
    release.hold_all(store)
    node = await network.add("seeder", store)
    await node.service.offer(release.authorised)
    return node


def state(store: ChunkStore, data: bytes) -> ImageState:
    return store.record(sha256(data)).state


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_what_repeats_is_fetched_once(
    tmp_path: Path, autojump_clock: trio.abc.Clock, kind: str
) -> None:
    # Empty space in four places, one piece of content in two, the rest once.
    data = bytes(9000) + NOISE + bytes(4000) + NOISE[:5000] + bytes(7000) + NOISE[::-1]
    release = release_of(1, (Image(data, 1000),))
    unique = {bytes(chunk) for chunk in release.images[0].chunks}
    store = MemoryStore() if kind == "memory" else FileStore.open(tmp_path / "store")
    async with open_memory_network() as network:
        seeder = await seeded(network, release)
        leecher = await network.add("leecher", store)
        network.connect_all()
        await leecher.service.fetch(release.authorised)
        assert state(store, data) is ImageState.COMPLETE
        assert seeder.service.statistics().sent_bytes <= sum(map(len, unique))
        assert leecher.service.statistics().fetched_bytes == sum(map(len, unique))
        # What was copied is served like the rest.
        third = await network.add("third", MemoryStore())
        network.connect(leecher, third)
        seeder.service.stop(release.manifest_id)
        await third.service.fetch(release.authorised)
        assert state(third.store, data) is ImageState.COMPLETE


async def test_more_repetitions_than_one_write_copies(autojump_clock: trio.abc.Clock) -> None:
    data = bytes(5 * REPEAT_BYTES_MAX) + NOISE
    release = release_of(1, (Image(data, 100_000),))
    async with open_memory_network() as network:
        await seeded(network, release)
        leecher = await network.add("leecher", MemoryStore())
        network.connect_all()
        await leecher.service.fetch(release.authorised)
        assert state(leecher.store, data) is ImageState.COMPLETE
        assert leecher.service.statistics().fetched_bytes < 400_000


class ForgetfulStore:
    """A store that never copies within an image."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.reused = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def reuse(self, download: object) -> int:
        self.reused += 1
        return 0


async def test_what_cannot_be_copied_is_fetched_after_all(autojump_clock: trio.abc.Clock) -> None:
    data = bytes(5 * REPEAT_BYTES_MAX)
    release = release_of(1, (Image(data, 100_000),))
    async with open_memory_network() as network:
        await seeded(network, release)
        store = ForgetfulStore(MemoryStore())
        leecher = await network.add("leecher", store)  # type: ignore[arg-type]  # all but one call
        network.connect_all()
        await leecher.service.fetch(release.authorised)
        assert leecher.store.record(sha256(data)).state is ImageState.COMPLETE
        assert store.reused >= 2


@many
@given(
    chunks=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    held=st.sets(st.integers(0, 19)),
)
def test_one_of_equal_chunks_is_always_asked_for(chunks: list[int], held: set[int]) -> None:
    recipe = Recipe([100] * len(chunks), b"".join(sha256(b"%d" % kind) for kind in chunks))
    have = Bitfield(len(chunks), bits_of(index for index in held if index < len(chunks)))
    told = with_repeats(recipe, have)
    assert have.bits & ~told.bits == 0
    asked = [kind for index, kind in enumerate(chunks) if index not in told]
    present = {chunks[index] for index in have}
    assert len(asked) == len(set(asked))
    assert present.union(asked) == set(chunks)

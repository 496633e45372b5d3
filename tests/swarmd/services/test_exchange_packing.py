"""Chunks packed on the wire: bytes saved, frames that lie, and when packing is left off."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import trio
import zstandard

from chunks.compression import ChunkPacker
from chunks.memory_store import MemoryStore
from protocol.digest import sha256
from protocol.exchange_events import Offence
from protocol.exchange_messages import Chunks, Request, decode_exchange
from swarmd.services.exchange_packing import (
    FAST_BYTES_PER_S,
    GAP_S,
    SPAN_S,
    Packing,
    PackingMode,
    SendMeter,
)
from tests.support.exchange_nodes import Network, Node, open_memory_network
from tests.support.exchange_release import Image, Release, make_release, release_of
from tests.swarmd.services.test_exchange_hostile_peers import PlayedSeeder

SIZE = 60_000


def textual(seed: int = 1) -> Release:
    """An image that compresses to about a half."""
    data = bytes(random.Random(seed).choices(b"abcdefghijklmnop", k=SIZE))
    return release_of(1, (Image(data, 4096),))


async def seeded(network: Network, release: Release) -> Node:
    store = MemoryStore()
    release.hold_all(store)
    node = await network.add("seeder", store)
    await node.service.offer(release.authorised)
    return node


def held(node: Node, release: Release) -> bool:
    digest = sha256(release.images[0].data)
    return bool(node.store.record(digest).have_count == len(release.images[0].chunks))


async def test_an_image_that_compresses_travels_packed(autojump_clock: trio.abc.Clock) -> None:
    release = textual()
    async with open_memory_network() as network:
        seeder = await seeded(network, release)
        leecher = await network.add("leecher", MemoryStore())
        network.connect_all()
        await leecher.service.fetch(release.authorised)
        assert held(leecher, release)
        assert leecher.service.statistics().fetched_bytes == SIZE
        assert seeder.service.statistics().sent_bytes < 0.6 * SIZE


async def test_an_image_that_does_not_travels_as_it_is(autojump_clock: trio.abc.Clock) -> None:
    release = make_release(3, (SIZE,), chunk_bytes=4096)
    async with open_memory_network() as network:
        seeder = await seeded(network, release)
        leecher = await network.add("leecher", MemoryStore())
        network.connect_all()
        await leecher.service.fetch(release.authorised)
        assert seeder.service.statistics().sent_bytes == SIZE


def bomb(size: int) -> bytes:
    return zstandard.ZstdCompressor(level=1, write_checksum=False).compress(bytes(size))


LIES: dict[str, Callable[[bytes], bytes]] = {
    "bomb": lambda chunk: bomb(16 * 1024 * 1024),
    "other bytes of the right length": lambda chunk: bomb(len(chunk)),
    "noise": lambda chunk: b"x" * 100,
    "cut off": lambda chunk: packed(chunk)[:-1],
    "two frames": lambda chunk: bomb(len(chunk) // 2) * 2,
    "skippable": lambda chunk: bytes.fromhex("502a4d18") + len(chunk).to_bytes(4, "little"),
}


def packed(chunk: bytes) -> bytes:
    frame = ChunkPacker().pack(chunk, image=sha256(b"image"), chunk=sha256(chunk))
    assert frame is not None
    return frame


@pytest.mark.parametrize("lie", LIES)
async def test_a_frame_that_lies_is_a_corrupt_chunk(
    autojump_clock: trio.abc.Clock, lie: str
) -> None:
    release = textual()
    chunks = release.images[0].chunks

    def answer(request: Request) -> list[Chunks]:
        frames = [(index, LIES[lie](chunks[index])[:4000]) for index in tuple(request.indices)]
        return [Chunks.of(request.request_id, tuple(frames), frozenset(request.indices))]

    async with open_memory_network() as network:
        leecher = await network.add("leecher", MemoryStore())
        liar = PlayedSeeder(release, answer)  # type: ignore[arg-type]  # a list of one kind
        leecher.service.peer_connected(b"played".ljust(32, b"."))
        network.nursery.start_soon(liar.serve, leecher, network)
        with trio.move_on_after(1):
            await leecher.service.fetch(release.authorised)
        assert [offence for _, offence, _ in leecher.score.blames] == [Offence.CORRUPT_CHUNK]
        assert leecher.store.record(sha256(release.images[0].data)).have_count == 0
        seeder = await seeded(network, release)  # and the fetch completes from somebody honest
        network.connect(seeder, leecher)
        await leecher.service.fetch(release.authorised)
        assert held(leecher, release)


@pytest.mark.parametrize("size", [4096, 4097, 9000])
async def test_a_frame_not_shorter_than_its_chunk_is_an_offence(
    autojump_clock: trio.abc.Clock, size: int
) -> None:
    release = textual()

    def answer(request: Request) -> list[Chunks]:
        return [
            Chunks.of(
                request.request_id,
                ((request.indices.first, bytes(size)),),
                frozenset(request.indices),
            )
        ]

    async with open_memory_network() as network:
        leecher = await network.add("leecher", MemoryStore())
        liar = PlayedSeeder(release, answer)  # type: ignore[arg-type]  # a list of one kind
        leecher.service.peer_connected(b"played".ljust(32, b"."))
        network.nursery.start_soon(liar.serve, leecher, network)
        with trio.move_on_after(1):
            await leecher.service.fetch(release.authorised)
        assert [offence for _, offence, _ in leecher.score.blames] == [Offence.WRONG_LENGTH]


async def test_the_seeder_marks_what_it_packed(autojump_clock: trio.abc.Clock) -> None:
    release = textual()
    async with open_memory_network() as network:
        await seeded(network, release)
        leecher = await network.add("leecher", MemoryStore())
        frames: list[Chunks] = []
        network.connect_all()
        network.watch = lambda body: frames.extend(
            message for message in (decode_exchange(body),) if isinstance(message, Chunks)
        )
        await leecher.service.fetch(release.authorised)
        marked = [index for frame in frames for index in frame.packed]
        assert sorted(marked) == list(range(len(release.images[0].chunks)))


# When --------------------------------------------------------------------------------------------


def metered(bytes_per_s: float, seconds: float = 1.0) -> SendMeter:
    meter, now = SendMeter(), 100.0
    while now < 100.0 + seconds:
        meter.note(int(bytes_per_s / 50), now)
        now += 0.02
    return meter


def test_packing_ends_where_the_link_proves_fast_and_comes_back() -> None:
    packing = Packing()
    assert packing.packer_for(SendMeter()) is not None  # nothing is known: an update may be short
    assert packing.packer_for(metered(FAST_BYTES_PER_S / 2)) is not None
    meter = metered(2 * FAST_BYTES_PER_S)
    assert packing.packer_for(meter) is None
    for step in range(50):
        meter.note(int(FAST_BYTES_PER_S / 100), 101.0 + step / 50)
    assert packing.packer_for(meter) is not None


def test_pauses_are_no_slowness() -> None:
    meter = metered(2 * FAST_BYTES_PER_S)
    meter.note(1000, 200.0)
    assert meter.is_fast
    meter.note(1000, 200.0 + GAP_S + SPAN_S)
    assert meter.is_fast


@pytest.mark.parametrize("rate", [1.0, 1e12])
def test_the_operator_may_decide(rate: float) -> None:
    assert Packing(PackingMode.NEVER).packer_for(metered(rate)) is None
    assert Packing(PackingMode.ALWAYS).packer_for(metered(rate)) is not None

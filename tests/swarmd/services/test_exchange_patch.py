"""Updates by patch through the real service: used where it saves, and never in the way."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from chunks.file_store import FileStore
from chunks.memory_store import MemoryStore
from chunks.store import ImageState
from protocol.digest import Digest, sha256
from protocol.errors import StorageError
from protocol.exchange_messages import Request, decode_exchange
from swarmd.services.exchange_patch import BAD_MAX, PATIENCE_S, BadPatches
from tests.chunks.chunk_images import FIXED_1000, Sample
from tests.chunks.patches import copy, frame_of, framed, patch_between, patch_of
from tests.support.exchange_nodes import Network, Node, open_memory_network
from tests.support.exchange_release import Image, Release, release_of

CHUNK = 1000


def altered(data: bytes, *, every: int = 700) -> bytes:
    """The next version: a byte here and there, so that hardly a chunk is the same."""
    entropy, changed = random.Random(every), bytearray(data)
    for start in range(0, len(data), every):
        position = min(start + entropy.randrange(every // 2), len(data) - 1)
        changed[position] ^= entropy.randrange(1, 256)
    return bytes(changed)


OLD = random.Random(7).randbytes(60_000)
NEW = altered(OLD)
OLD_RELEASE = release_of(1, (Image(OLD, CHUNK),))
PATCH = patch_between(Sample(OLD, FIXED_1000), Sample(NEW, FIXED_1000))


def update(patch: bytes = PATCH, base: bytes = OLD, new: bytes = NEW) -> Release:
    """The next release, with one patch."""
    return release_of(2, (Image(new, CHUNK),), patches=((Image(patch, 512), sha256(base)),))


async def publisher(network: Network, release: Release, *, patched: bool = True) -> Node:
    store = MemoryStore()
    release.hold_all(store)
    if patched:
        release.hold_patches(store)
    node = await network.add("publisher", store)
    await node.service.offer(release.authorised)
    return node


async def gateway(network: Network, name: str = "gateway", *, old: bytes | None = OLD) -> Node:
    store = MemoryStore()
    if old is not None:
        release_of(1, (Image(old, CHUNK),)).hold_all(store)
    return await network.add(name, store)


def whole(node: Node, data: bytes = NEW) -> bool:
    """Whether a node holds an image completely, byte by byte."""
    image = sha256(data)
    record = node.store.record(image)
    read = (node.store.read_chunk(image, index) for index in range(record.chunk_count))
    return record.state is ImageState.COMPLETE and b"".join(read) == data


async def test_a_gateway_with_the_base_fetches_the_patch(autojump_clock: trio.abc.Clock) -> None:
    release = update()
    async with open_memory_network() as network:
        source, target = await publisher(network, release), await gateway(network)
        network.connect_all()
        await target.service.fetch(release.authorised)
        assert whole(target)
        statistics = target.service.statistics()
        assert source.service.statistics().sent_bytes == len(PATCH) < len(NEW) // 20
        assert statistics.fetched_bytes == len(PATCH)
        assert statistics.patched_bytes + statistics.reused_bytes == len(NEW)
        assert statistics.blames == {}


async def test_files_and_threads(tmp_path: Path) -> None:
    release = update()
    async with open_memory_network() as network:
        await publisher(network, release)
        store = FileStore.open(tmp_path / "store")
        OLD_RELEASE.hold_all(store)
        target = await network.add("gateway", store, has_threads=True)
        network.connect_all()
        await target.service.fetch(release.authorised)
        assert whole(target)
        assert target.service.statistics().fetched_bytes == len(PATCH)


@pytest.mark.parametrize("old", [None, OLD[::-1]])
async def test_a_gateway_without_the_base_fetches_chunks(
    autojump_clock: trio.abc.Clock, old: bytes | None
) -> None:
    release = update()
    async with open_memory_network() as network:
        source, target = await publisher(network, release), await gateway(network, old=old)
        network.connect_all()
        await target.service.fetch(release.authorised)
        assert whole(target)
        assert source.service.statistics().sent_bytes == len(NEW)
        assert target.service.statistics().patched_bytes == 0


async def test_a_patch_that_saves_nothing_is_left(autojump_clock: trio.abc.Clock) -> None:
    one_byte = OLD[:500] + b"\0" + OLD[501:]  # one chunk is missing: 1,000 bytes
    patch = patch_of(
        len(one_byte),
        len(OLD),
        (framed(3000), frame_of(one_byte[:3000])),
        (copy(57_000, 3000), b""),
    )
    release = update(patch, new=one_byte)
    assert len(patch) > 1000
    async with open_memory_network() as network:
        source, target = await publisher(network, release), await gateway(network)
        network.connect_all()
        await target.service.fetch(release.authorised)
        assert whole(target, one_byte)
        assert source.service.statistics().sent_bytes == 1000


async def test_a_gateway_passes_the_patch_on(autojump_clock: trio.abc.Clock) -> None:
    release = update()
    async with open_memory_network() as network:
        source, first = await publisher(network, release), await gateway(network, "first")
        network.connect(source, first)
        await first.service.fetch(release.authorised)
        second = await gateway(network, "second")
        network.connect(first, second)
        await second.service.fetch(release.authorised)
        assert whole(second)
        assert first.service.statistics().sent_bytes == len(PATCH)
        third = await gateway(network, "third", old=None)  # and the image itself
        network.connect(second, third)
        await third.service.fetch(release.authorised)
        assert whole(third)


async def test_of_several_patches_the_one_for_the_held_base_is_taken(
    autojump_clock: trio.abc.Clock,
) -> None:
    older = altered(OLD, every=300)
    other = patch_between(Sample(older, FIXED_1000), Sample(NEW, FIXED_1000))
    release = release_of(
        3,
        (Image(NEW, CHUNK), Image(b"second component" * 100, CHUNK)),
        patches=((Image(PATCH, 512), sha256(OLD)), (Image(other, 512), sha256(older))),
    )
    async with open_memory_network() as network:
        source = await publisher(network, release)
        target = await gateway(network, old=older)
        network.connect(source, target)
        await target.service.fetch(release.authorised)
        assert whole(target)
        assert target.service.statistics().fetched_bytes == len(other) + 1600
        with pytest.raises(Exception, match="image"):
            target.store.record(sha256(PATCH))


async def test_empty_space_does_not_make_a_patch_look_dear(
    autojump_clock: trio.abc.Clock,
) -> None:
    """What would pack well is what changed, not the image as a whole."""
    old, new = OLD + bytes(900_000), NEW + bytes(900_000)
    patch = patch_between(Sample(old, FIXED_1000), Sample(new, FIXED_1000))
    release = update(patch, old, new)
    async with open_memory_network() as network:
        source, target = await publisher(network, release), await gateway(network, old=old)
        network.connect_all()
        await target.service.fetch(release.authorised)
        assert whole(target, new)
        assert target.service.statistics().fetched_bytes == len(patch)
        assert source.service.statistics().sent_bytes <= len(patch)


async def test_chunks_that_pack_better_than_the_patch_are_fetched_packed(
    autojump_clock: trio.abc.Clock,
) -> None:
    """The new parts are one letter each: their chunks pack to less than this clumsy patch has."""
    new = bytes(65 + n // 1000 for n in range(20_000)) + OLD[20_000:]
    old = bytes(75 + n // 1000 for n in range(20_000)) + OLD[20_000:]
    noise = bytes(byte ^ 7 for byte in OLD[:3000])
    clumsy = [
        (framed(2000), frame_of(new[:2000])),
        (framed(58_000, (20_000, 40_000)), frame_of(new[2000:], old[20_000:])),
    ]
    patch = patch_of(len(new), len(old), *clumsy)
    padded = patch_of(
        len(new) + len(noise), len(old), *clumsy, (framed(len(noise)), frame_of(noise))
    )
    assert len(patch) < 1000 < len(padded)
    release = update(padded, old, new + noise)
    async with open_memory_network() as network:
        await publisher(network, release)
        target = await gateway(network, old=old)
        network.connect_all()
        await target.service.fetch(release.authorised)
        assert whole(target, new + noise)
        assert target.service.statistics().patched_bytes == 0


# What goes wrong ---------------------------------------------------------------------------------

HALF = len(NEW) // 2
WRONG = {
    "makes another image": patch_of(
        len(NEW), len(OLD), (framed(len(NEW)), frame_of(bytes(len(NEW))))
    ),
    "right at first, wrong in the end": patch_of(
        len(NEW),
        len(OLD),
        (framed(HALF, (0, HALF + 100)), frame_of(NEW[:HALF], OLD[: HALF + 100])),
        (copy(HALF, HALF), b""),
    ),
    "for another base": patch_between(
        Sample(random.Random(8).randbytes(len(OLD)), FIXED_1000), Sample(NEW, FIXED_1000)
    )[:4000],
    "of another size": patch_of(len(NEW) - 1, len(OLD), (copy(len(NEW) - 1, 0), b"")),
    "no patch at all": random.Random(9).randbytes(3000),
    "a bomb": patch_of(
        len(NEW), len(OLD), (framed(len(NEW), (0, 50)), frame_of(bytes(8 * 1024 * 1024)))
    ),
}


@pytest.mark.parametrize("kind", WRONG)
async def test_a_wrong_patch_costs_time_and_nothing_else(
    autojump_clock: trio.abc.Clock, kind: str
) -> None:
    release = update(WRONG[kind])
    async with open_memory_network() as network:
        source, target = await publisher(network, release), await gateway(network)
        network.connect_all()
        await target.service.fetch(release.authorised)
        assert whole(target)
        assert target.score.blames == []  # its publisher signed it; nobody else is to blame
        assert source.score.blames == []
        # The next fetch knows it for bad.
        before = source.service.statistics().sent_bytes
        target.store.remove(sha256(NEW))
        await target.service.fetch(release.authorised)
        assert whole(target)
        assert source.service.statistics().sent_bytes - before == len(NEW)


async def test_a_patch_object_that_contradicts_itself_does_not_spoil_the_image(
    autojump_clock: trio.abc.Clock,
) -> None:
    """Its recipe is right, its digest is not: no peer can mend that, and nobody needs to."""
    lying = Image(PATCH, 512)
    release = release_of(2, (Image(NEW, CHUNK),), patches=((lying, sha256(OLD)),))
    reference = release.authorised.manifest.components[0].patches[0]
    object.__setattr__(reference, "digest", Digest(sha256(b"something else")))
    async with open_memory_network() as network:
        store = MemoryStore()
        release.hold_all(store)
        download = store.begin(reference.digest, len(PATCH), lying.recipe)
        for index, chunk in enumerate(lying.chunks):
            store.write_chunk(download, index, chunk)
        source = await network.add("publisher", store)
        await source.service.offer(release.authorised)
        target = await gateway(network)
        network.connect_all()
        await target.service.fetch(release.authorised)
        assert whole(target)


async def test_a_patch_that_nobody_has_is_given_up(autojump_clock: trio.abc.Clock) -> None:
    release = update()
    async with open_memory_network() as network:
        await publisher(network, release, patched=False)
        target = await gateway(network)
        network.connect_all()
        started = trio.current_time()
        await target.service.fetch(release.authorised)
        assert whole(target)
        assert PATIENCE_S <= trio.current_time() - started <= PATIENCE_S + 15


async def test_waiting_for_the_first_peer_is_no_reason_to_give_a_patch_up(
    autojump_clock: trio.abc.Clock,
) -> None:
    release = update()
    async with open_memory_network() as network:
        source, target = await publisher(network, release), await gateway(network)
        # The recipe is known from before, so that the patch is chosen while there is no peer.
        image = release.images[0]
        target.store.begin(sha256(NEW), len(NEW), image.recipe)

        async def connect_late() -> None:
            await trio.sleep(10 * PATIENCE_S)
            network.connect(source, target)

        network.nursery.start_soon(connect_late)
        await target.service.fetch(release.authorised)
        assert whole(target)
        assert source.service.statistics().sent_bytes == len(PATCH)


class RottingStore:
    """A store whose base rots once reading it for the patch has begun."""

    def __init__(self, store: MemoryStore, base: Digest) -> None:
        self._store = store
        self._base = base
        self.is_armed = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def write_chunk(self, *arguments: object) -> object:
        if self.is_armed:
            self.is_armed = False
            for index in range(20, 60):
                self._store.rot(self._base, index)
        return self._store.write_chunk(*arguments)  # type: ignore[arg-type]  # passed on


async def test_a_base_that_rots_while_it_is_used(autojump_clock: trio.abc.Clock) -> None:
    # Two frames, so that the base is read again after the first chunks were written.
    halves = [
        (framed(HALF, (0, HALF)), frame_of(NEW[:HALF], OLD[:HALF])),
        (framed(HALF, (HALF, HALF)), frame_of(NEW[HALF:], OLD[HALF:])),
    ]
    release = update(patch_of(len(NEW), len(OLD), *halves))
    async with open_memory_network() as network:
        await publisher(network, release)
        memory = MemoryStore()
        OLD_RELEASE.hold_all(memory)
        store = RottingStore(memory, sha256(OLD))
        target = await network.add("gateway", store)  # type: ignore[arg-type]  # all but one call
        network.connect_all()
        store.is_armed = True
        await target.service.fetch(release.authorised)
        assert whole(target)
        assert target.score.blames == []
        assert memory.record(sha256(OLD)).state is ImageState.PARTIAL  # the rot was met


async def test_stopped_in_the_middle_and_begun_again(autojump_clock: trio.abc.Clock) -> None:
    release = update()
    async with open_memory_network() as network:
        source, target = await publisher(network, release), await gateway(network)
        network.breaks_after = 4  # the stream breaks after a few frames
        network.connect_all()
        with trio.move_on_after(0.2):
            await target.service.fetch(release.authorised)
        await target.service.fetch(release.authorised)
        assert whole(target)
        assert source.service.statistics().sent_bytes <= 2 * len(PATCH)


async def test_begun_patches_are_gone_on_with_after_a_restart(
    autojump_clock: trio.abc.Clock,
) -> None:
    """The store knows the patch's recipe from before: nobody is asked for it again."""
    release = update()
    async with open_memory_network() as network:
        source, target = await publisher(network, release), await gateway(network)
        patch = release.authorised.manifest.objects[1]
        target.store.begin(patch.digest, patch.size, source.store.recipe(patch.digest))
        network.connect_all()
        await target.service.fetch(release.authorised)
        assert whole(target)
        assert source.service.statistics().sent_bytes == len(PATCH)


async def test_no_component_chunk_is_asked_for_while_the_patch_may_come(
    autojump_clock: trio.abc.Clock,
) -> None:
    release = update()
    asked: list[int] = []

    def watch(body: bytes) -> None:
        message = decode_exchange(body)
        if isinstance(message, Request):
            asked.append(message.component)

    async with open_memory_network() as network:
        await publisher(network, release)
        target = await gateway(network)
        network.watch = watch
        network.connect_all()
        await target.service.fetch(release.authorised)
        assert set(asked) == {1}


async def test_no_room_for_the_patch_is_no_reason_to_wait(
    autojump_clock: trio.abc.Clock,
) -> None:
    release = update()
    async with open_memory_network() as network:
        await publisher(network, release)
        store = MemoryStore(quota_bytes=len(OLD) + len(NEW) + 100)
        OLD_RELEASE.hold_all(store)
        target = await network.add("gateway", store)
        network.connect_all()
        await target.service.fetch(release.authorised)
        assert whole(target)
        assert len(store.images()) == 2


def test_bad_patches_are_remembered_within_a_bound() -> None:
    bad = BadPatches()
    for number in range(2 * BAD_MAX):
        bad.add(sha256(b"%d" % number))
    assert len(bad) == BAD_MAX
    assert sha256(b"%d" % (2 * BAD_MAX - 1)) in bad
    assert sha256(b"0") not in bad


class FailingStore:
    """A store that cannot say what it holds of an image once it is armed."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.is_armed = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def have(self, image: Digest) -> bytes:
        if self.is_armed:
            raise StorageError("input/output error")
        return self._store.have(image)


async def test_a_disk_that_fails_while_a_patch_is_given_up_ends_the_fetch_only(
    autojump_clock: trio.abc.Clock,
) -> None:
    release = update()
    async with open_memory_network() as network:
        await publisher(network, release, patched=False)
        memory = MemoryStore()
        OLD_RELEASE.hold_all(memory)
        store = FailingStore(memory)
        target = await network.add("gateway", store)  # type: ignore[arg-type]  # all but one call
        network.connect_all()

        async def break_disk() -> None:
            await trio.sleep(PATIENCE_S - 1)
            store.is_armed = True

        network.nursery.start_soon(break_disk)
        with pytest.raises(StorageError, match="input/output"):
            await target.service.fetch(release.authorised)

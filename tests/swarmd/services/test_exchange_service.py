"""The exchange service over streams in memory, with the real store in files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from chunks.file_store import FileStore
from chunks.memory_store import MemoryStore
from chunks.store import ImageState
from protocol.digest import sha256
from protocol.errors import LocalProtocolError, TransportError, VerificationError
from protocol.exchange_events import Offence
from protocol.exchange_messages import (
    EXCHANGE_FRAME_BYTES_MAX,
    BitfieldMessage,
    Chunks,
    Interest,
    Reject,
    RejectReason,
    Request,
    Unknown,
    decode_exchange,
    encode_exchange,
)
from protocol.runs import Runs
from swarmd.services.exchange_fetch import FetchStoppedError
from swarmd.simulation.byzantine.chunk_corrupter import CorruptingStore
from tests.support.exchange_nodes import (
    MemoryFrameStream,
    Network,
    Node,
    open_memory_network,
    stream_pair,
)
from tests.support.exchange_release import Image, Release, make_release, release_of

SMALL = (40_000,)


def content(store: MemoryStore | FileStore, release: Release, component: int = 0) -> bytes:
    digest = sha256(release.images[component].data)
    assert store.record(digest).state is ImageState.COMPLETE
    count = len(release.images[component].chunks)
    return b"".join(store.read_chunk(digest, index) for index in range(count))


async def seeded(network: Network, release: Release, name: str = "seeder") -> Node:
    store = MemoryStore()
    release.hold_all(store)
    node = await network.add(name, store)
    await node.service.offer(release.authorised)
    return node


async def test_a_leecher_gets_two_components_from_files_to_files(tmp_path: Path) -> None:
    release = make_release(1, (300_000, 5_000), chunk_bytes=4096)
    source = FileStore.open(tmp_path / "seeder")
    release.hold_all(source)
    target = FileStore.open(tmp_path / "leecher")
    async with open_memory_network() as network:
        seeder = await network.add("seeder", source, has_threads=True)
        await seeder.service.offer(release.authorised)
        leecher = await network.add("leecher", target, has_threads=True)
        network.connect_all()
        await leecher.service.fetch(release.authorised)
        statistics = leecher.service.statistics()
        assert statistics.fetched_bytes == 305_000
        assert statistics.reused_bytes == 0
        assert statistics.blames == {}
        assert statistics.fetches == ()
        assert seeder.service.statistics().sent_bytes == 305_000
    for component in (0, 1):
        assert content(target, release, component) == release.images[component].data
    source.close()
    target.close()


@pytest.mark.slow
@pytest.mark.slow
async def test_leechers_serve_each_other_while_they_fetch() -> None:
    # More than the seeder can have given to all of them before the first news is told.
    size = 16_000_000
    release = make_release(2, (size,), chunk_bytes=40_000)
    async with open_memory_network() as network:
        seeder = await seeded(network, release)
        leechers = [await network.add(f"leecher{i}", MemoryStore()) for i in range(3)]
        network.connect_all()
        async with trio.open_nursery() as nursery:
            for leecher in leechers:
                nursery.start_soon(leecher.service.fetch, release.authorised)
        sent = seeder.service.statistics().sent_bytes
        assert sum(n.service.statistics().fetched_bytes for n in leechers) == 3 * size
        assert sent < 3 * size
        for leecher in leechers:
            assert not leecher.score.blames


async def test_what_other_images_hold_is_not_fetched() -> None:
    old = make_release(3, (50_000,))
    image = old.images[0]
    changed = image.data[:10_240] + b"y" * 1024 + image.data[11_264:]
    release = release_of(99, (Image(changed, image.chunk_bytes),))
    async with open_memory_network() as network:
        await seeded(network, release)
        store = MemoryStore()
        old.hold_all(store)
        leecher = await network.add("leecher", store)
        network.connect_all()
        await leecher.service.fetch(release.authorised)
        statistics = leecher.service.statistics()
        assert (statistics.fetched_bytes, statistics.reused_bytes) == (1024, 50_000 - 1024)


async def test_a_corrupter_is_blamed_once_and_the_image_still_arrives() -> None:
    release = make_release(5, SMALL)
    async with open_memory_network() as network:
        bad_store = MemoryStore()
        release.hold_all(bad_store)
        spoilt: Any = CorruptingStore(bad_store)
        corrupter = await network.add("corrupter", spoilt)
        await corrupter.service.offer(release.authorised)
        leecher = await network.add("leecher", MemoryStore())
        network.connect(corrupter, leecher)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leecher.service.fetch, release.authorised)
            with trio.fail_after(5):
                while not leecher.score.blames:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            assert leecher.store.statistics().written_bytes == 0
            honest = await seeded(network, release)
            network.connect(honest, leecher)
        assert [(peer, kind) for peer, kind, _ in leecher.score.blames] == [
            (corrupter.key, Offence.CORRUPT_CHUNK)
        ]
        assert leecher.service.statistics().blames == {Offence.CORRUPT_CHUNK: 1}
        assert content(leecher.store, release) == release.images[0].data  # type: ignore[arg-type]


def test_a_corrupting_store_spoils_every_chunk_of_a_run_and_keeps_their_lengths() -> None:
    release = make_release(6, SMALL)
    store = MemoryStore()
    release.hold_all(store)
    chunks = release.images[0].chunks
    image = sha256(release.images[0].data)
    outcome = CorruptingStore(store).read_chunks(
        image, Runs([(0, len(chunks))]), bytes_max=len(release.images[0].data)
    )
    assert outcome.lengths == tuple(map(len, chunks))
    for chunk, part in zip(chunks, outcome.payload, strict=True):
        assert part == bytes([chunk[0] ^ 1]) + chunk[1:]


async def test_a_peer_that_opens_the_manifest_late_is_asked_without_a_further_word(
    autojump_clock: trio.testing.MockClock,
) -> None:
    release = make_release(6, SMALL)
    async with open_memory_network() as network:
        store = MemoryStore()
        release.hold_all(store)
        seeder = await network.add("seeder", store)
        leecher = await network.add("leecher", MemoryStore())
        network.connect_all()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leecher.service.fetch, release.authorised)
            await trio.sleep(1.5)
            opened_at = trio.current_time()
            await seeder.service.offer(release.authorised)
        assert trio.current_time() - opened_at < 0.5


async def test_a_broken_stream_is_opened_again(autojump_clock: trio.testing.MockClock) -> None:
    release = make_release(7, (600_000,))
    async with open_memory_network() as network:
        await seeded(network, release)
        leecher = await network.add("leecher", MemoryStore())
        network.breaks_after = 4
        network.connect_all()
        await leecher.service.fetch(release.authorised)
        assert len(network.streams) == 2
        assert not leecher.score.blames
        assert content(leecher.store, release) == release.images[0].data  # type: ignore[arg-type]


async def test_stopping_ends_a_fetch_and_its_serving() -> None:
    release = make_release(8, SMALL)
    async with open_memory_network() as network:
        store = MemoryStore()
        release.hold(store, indices=range(5))
        half = await network.add("half", store)
        await half.service.offer(release.authorised)
        leecher = await network.add("leecher", MemoryStore())
        network.connect_all()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_stop, leecher, release)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert leecher.service.statistics().fetched_bytes == 5 * 1024
            leecher.service.stop(release.manifest_id)
        assert leecher.service.statistics().fetches == ()
        reader = await connect_raw(network, leecher)
        await reader.send_frame(
            encode_exchange(Interest(manifest_id=release.manifest_id, components=(0,)))
        )
        assert await receive(reader) == Unknown(manifest_id=release.manifest_id)


async def expect_stop(node: Node, release: Release) -> None:
    with pytest.raises(FetchStoppedError):
        await node.service.fetch(release.authorised)


async def connect_raw(network: Network, node: Node, name: bytes = b"raw") -> MemoryFrameStream:
    """A stream of a peer that the test plays itself."""
    ours, theirs = stream_pair(name.ljust(32, b"."), node.key)
    network.nursery.start_soon(node.service.serve_stream, theirs)
    await trio.testing.wait_all_tasks_blocked()
    return ours


async def receive(stream: MemoryFrameStream) -> object:
    with trio.fail_after(5):
        body = await stream.receive_frame()
    return None if body is None else decode_exchange(body)


@pytest.mark.slow
async def test_after_a_stop_nothing_queued_leaves_but_refusals() -> None:
    """G1: what waits in the queue of a slow peer is not sent after a revocation."""
    release = make_release(9, (3_000_000,), chunk_bytes=100_000)
    async with open_memory_network() as network:
        seeder = await seeded(network, release)
        reader = await connect_raw(network, seeder)
        manifest_id = release.manifest_id
        # Fills the window of the stream, then the queue behind it: frames grow to 1 MB.
        reader.other._bytes = 0
        for number in range(4):
            request = Request(
                request_id=number,
                manifest_id=manifest_id,
                component=0,
                indices=Runs.of(tuple(range(30))),
            )
            await reader.send_frame(encode_exchange(request))
        await trio.testing.wait_all_tasks_blocked(0.05)
        before = len(reader._frames)
        seeder.service.stop(manifest_id)
        answered: list[object] = []
        await trio.testing.wait_all_tasks_blocked(0.05)
        while reader._frames:
            answered.append(await receive(reader))
            await trio.testing.wait_all_tasks_blocked(0.01)
        after = answered[before + 1 :]  # one frame was under way
        assert after
        assert all(isinstance(m, Reject | Unknown) for m in after)
        assert all(m.reason is RejectReason.UNKNOWN for m in after if isinstance(m, Reject))
        indices = [
            (m.request_id, i)
            for m in answered
            if isinstance(m, Chunks | Reject)
            for i in ([i for i, _ in m.chunks] if isinstance(m, Chunks) else m.indices)
        ]
        assert sorted(indices) == [(number, i) for number in range(4) for i in range(30)]


async def test_a_frame_stuck_under_way_is_cut_within_a_second_of_the_revocation(
    autojump_clock: trio.testing.MockClock,
) -> None:
    release = make_release(10, (9_000_000,), chunk_bytes=500_000)
    async with open_memory_network() as network:
        seeder = await seeded(network, release)
        reader = await connect_raw(network, seeder)
        request = Request(
            request_id=1,
            manifest_id=release.manifest_id,
            component=0,
            indices=Runs.of(tuple(range(18))),
        )
        await reader.send_frame(encode_exchange(request))
        await trio.sleep(5)
        assert not reader.is_broken
        seeder.service.stop(release.manifest_id)
        await trio.sleep(0.9)
        assert reader.is_broken


async def test_a_suspended_peer_is_cut_off_by_reevaluation(
    autojump_clock: trio.testing.MockClock,
) -> None:
    release = make_release(11, SMALL)
    async with open_memory_network() as network:
        seeder = await seeded(network, release)
        reader = await connect_raw(network, seeder)
        await reader.send_frame(
            encode_exchange(Interest(manifest_id=release.manifest_id, components=(0,)))
        )
        assert isinstance(await receive(reader), BitfieldMessage)
        seeder.rules.denied.add((reader.other.peer, release.manifest_id))
        seeder.service.reevaluate()
        assert await receive(reader) == Unknown(manifest_id=release.manifest_id)
        request = Request(
            request_id=1, manifest_id=release.manifest_id, component=0, indices=Runs.of((0,))
        )
        await reader.send_frame(encode_exchange(request))
        assert await receive(reader) == Reject(
            request_id=1, indices=Runs.of((0,)), reason=RejectReason.UNKNOWN
        )


async def test_peers_outside_the_group_are_neither_asked_nor_told() -> None:
    release = make_release(12, SMALL)
    async with open_memory_network() as network:
        seeder = await seeded(network, release)
        leecher = await network.add("leecher", MemoryStore())
        leecher.rules.denied_ask.add((seeder.key, release.manifest_id))
        network.connect_all()
        with trio.move_on_after(0.1):
            await leecher.service.fetch(release.authorised)
        assert network.streams == []


@pytest.mark.parametrize(
    ("body", "offence"),
    [
        (b"\x0cxx", Offence.MALFORMED),
        (b"\x07\xa0", Offence.MALFORMED),
        (encode_exchange(Chunks.of(5, ((0, b"x"),))), Offence.UNSOLICITED),
        (
            encode_exchange(Reject(request_id=5, indices=Runs.of((0,)), reason=RejectReason.BUSY)),
            Offence.UNSOLICITED,
        ),
    ],
)
async def test_protocol_breaches_end_the_stream_and_are_scored(
    body: bytes, offence: Offence
) -> None:
    async with open_memory_network() as network:
        node = await network.add("node", MemoryStore())
        reader = await connect_raw(network, node)
        await reader.send_frame(body)
        assert await receive(reader) is None
        await trio.testing.wait_all_tasks_blocked()
        assert [(peer, kind) for peer, kind, _ in node.score.blames] == [
            (reader.other.peer, offence)
        ]


async def send_until_broken(stream: MemoryFrameStream, body: bytes) -> None:
    while not stream.is_broken:
        with suppress(TransportError):
            await stream.send_frame(body)


@pytest.mark.slow
async def test_a_peer_that_asks_and_never_reads_is_disconnected() -> None:
    release = make_release(13, SMALL)
    async with open_memory_network() as network:
        seeder = await seeded(network, release)
        reader = await connect_raw(network, seeder)
        ask = encode_exchange(Interest(manifest_id=release.manifest_id, components=(0,)))
        # Its window is full: nothing more can be sent to it.
        reader._bytes = EXCHANGE_FRAME_BYTES_MAX * 100
        with trio.fail_after(20):
            await send_until_broken(reader, ask)
        await trio.testing.wait_all_tasks_blocked()
        assert seeder.score.blames[0][1] is Offence.MALFORMED


async def test_two_streams_at_once_leave_the_one_of_the_smaller_key() -> None:
    release = make_release(14, (200_000,))
    other = make_release(15, (200_000,))
    async with open_memory_network() as network:
        one, two = await seeded(network, release, "a"), await seeded(network, other, "b")
        network.connect_all()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.service.fetch, other.authorised)
            nursery.start_soon(two.service.fetch, release.authorised)
        alive = [s for s in network.streams if not s[2].is_broken]
        assert [(a, b) for a, b, _ in alive] == [(one.key, two.key)]
        assert not one.score.blames
        assert not two.score.blames


async def test_rot_is_not_sent_and_is_fetched_again(tmp_path: Path) -> None:
    release = make_release(16, SMALL)
    rotten = MemoryStore()
    release.hold_all(rotten)
    async with open_memory_network() as network:
        holder = await network.add("holder", rotten)
        await holder.service.offer(release.authorised)
        backup = await seeded(network, release, "backup")
        reader = await connect_raw(network, holder)
        network.connect(holder, backup)
        rotten.rot(sha256(release.images[0].data), 3)
        request = Request(
            request_id=1, manifest_id=release.manifest_id, component=0, indices=Runs.of((2, 3))
        )
        await reader.send_frame(encode_exchange(request))
        answers = [await receive(reader), await receive(reader)]
        assert (
            Reject(request_id=1, indices=Runs.of((3,)), reason=RejectReason.NOT_AVAILABLE)
            in answers
        )
        with trio.fail_after(5):
            while rotten.record(sha256(release.images[0].data)).state is not ImageState.COMPLETE:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert content(rotten, release) == release.images[0].data
        assert holder.service.statistics().fetched_bytes == 1024


async def test_a_full_disk_pauses_the_fetch_until_there_is_space(
    autojump_clock: trio.testing.MockClock,
) -> None:
    release = make_release(17, SMALL)
    ballast = make_release(18, (5_000,))
    store = MemoryStore(quota_bytes=42_000)
    ballast.hold_all(store)
    async with open_memory_network() as network:
        await seeded(network, release)
        leecher = await network.add("leecher", store)
        network.connect_all()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leecher.service.fetch, release.authorised)
            await trio.sleep(10)
            (progress,) = leecher.service.statistics().fetches
            assert progress.is_paused
            assert progress.chunks_missing == progress.chunks_total
            store.remove(sha256(ballast.images[0].data))
        assert content(store, release) == release.images[0].data
        assert not leecher.score.blames


async def test_a_manifest_that_contradicts_itself_fails_and_leaves_nothing() -> None:
    honest = make_release(19, SMALL)
    release = release_of(20, honest.images, digest=sha256(b"another image"))
    async with open_memory_network() as network:
        store = MemoryStore()
        store_under(store, release, sha256(b"another image"))
        seeder = await network.add("seeder", store)
        await seeder.service.offer(release.authorised)
        target = MemoryStore()
        leecher = await network.add("leecher", target)
        network.connect_all()
        with pytest.raises(VerificationError):
            await leecher.service.fetch(release.authorised)
        assert target.images() == ()
        assert not leecher.score.blames


def store_under(store: MemoryStore, release: Release, digest: bytes) -> None:
    image = release.images[0]
    download = store.begin(digest, len(image.data), image.recipe)  # type: ignore[arg-type]
    for index, chunk in enumerate(image.chunks):
        store.write_chunk(download, index, chunk)


async def test_fetching_twice_at_once_is_a_defect_of_ours() -> None:
    release = make_release(21, SMALL)
    async with open_memory_network() as network:
        leecher = await network.add("leecher", MemoryStore())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leecher.service.fetch, release.authorised)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(LocalProtocolError):
                await leecher.service.fetch(release.authorised)
            nursery.cancel_scope.cancel()


async def test_a_complete_image_needs_no_peer() -> None:
    release = make_release(22, SMALL)
    async with open_memory_network() as network:
        node = await seeded(network, release)
        with trio.fail_after(5):
            await node.service.fetch(release.authorised)
        assert node.service.statistics().fetched_bytes == 0


async def test_a_manifest_stopped_while_it_is_being_opened_stays_closed() -> None:
    release = make_release(23, SMALL)
    async with open_memory_network() as network:
        store = MemoryStore()
        release.hold_all(store)
        node = await network.add("node", store)
        gate = trio.Event()

        async def run_behind_the_gate(call: Any) -> Any:
            await gate.wait()
            return call()

        node.service._run_blocking = run_behind_the_gate
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.service.offer, release.authorised)
            nursery.start_soon(expect_stop, node, release)
            await trio.testing.wait_all_tasks_blocked()
            node.service.stop(release.manifest_id)
            gate.set()
        reader = await connect_raw(network, node)
        await reader.send_frame(
            encode_exchange(Interest(manifest_id=release.manifest_id, components=(0,)))
        )
        assert await receive(reader) == Unknown(manifest_id=release.manifest_id)


async def test_a_fetch_waits_for_a_repair_under_way() -> None:
    release = make_release(24, SMALL)
    store = MemoryStore()
    release.hold_all(store)
    async with open_memory_network() as network:
        holder = await network.add("holder", store)
        await holder.service.offer(release.authorised)
        reader = await connect_raw(network, holder)
        store.rot(sha256(release.images[0].data), 3)
        request = Request(
            request_id=1, manifest_id=release.manifest_id, component=0, indices=Runs.of((3,))
        )
        await reader.send_frame(encode_exchange(request))
        assert isinstance(await receive(reader), Reject)
        await trio.testing.wait_all_tasks_blocked()
        assert len(holder.service.statistics().fetches) == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(holder.service.fetch, release.authorised)
            await trio.testing.wait_all_tasks_blocked()
            backup = await seeded(network, release, "backup")
            network.connect(holder, backup)
        assert content(store, release) == release.images[0].data


async def test_when_a_stream_that_the_peer_opened_breaks_the_fetch_opens_one_itself() -> None:
    release = make_release(25, (600_000,))
    async with open_memory_network() as network:
        seeder = await seeded(network, release)
        leecher = await network.add("leecher", MemoryStore())
        ours = await network.open(seeder, leecher.key)
        ours.frames_left = 4
        network.nursery.start_soon(seeder.service.serve_stream, ours)
        await trio.testing.wait_all_tasks_blocked()
        network.connect_all()
        with trio.fail_after(5):
            await leecher.service.fetch(release.authorised)
        assert [(a, b) for a, b, _ in network.streams[1:]] == [(leecher.key, seeder.key)]
        assert not leecher.score.blames

"""Watching who holds a release, over streams in memory: claims come, change, and are not leaked."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from chunks.memory_store import MemoryStore
from protocol.bitfield import Bitfield
from protocol.exchange_events import ExchangeOffenceError
from protocol.exchange_messages import BitfieldMessage, Have, Interest, Unknown, decode_exchange
from protocol.runs import Runs
from swarmd.services.exchange_copies import RENEW_S, CopyWatch
from tests.support.exchange_nodes import open_memory_network, stream_pair
from tests.support.exchange_release import make_release

RELEASE = make_release(1, (40_000, 10_000))
ONE, OTHER = (name.encode().ljust(32, b".") for name in ("one", "other"))


def bitfield(component: int, indices: range) -> BitfieldMessage:
    field = Bitfield(len(RELEASE.images[component].chunks))
    field.update(indices)
    return BitfieldMessage(
        manifest_id=RELEASE.manifest_id, component=component, bits=field.encode()
    )


def have(component: int, *indices: int) -> Have:
    return Have(manifest_id=RELEASE.manifest_id, component=component, indices=Runs.of(indices))


def test_a_copy_is_every_chunk_of_every_component() -> None:
    watch = CopyWatch(RELEASE.authorised)
    watch.note(ONE, bitfield(0, range(40)))
    assert watch.holders == ()
    watch.note(ONE, bitfield(1, range(9)))
    assert watch.holders == ()
    changed = watch.changed
    watch.note(ONE, have(1, 9))
    assert watch.holders == (ONE,)
    assert changed.is_set()
    watch.note(OTHER, have(0, *range(40)))
    assert watch.holders == (ONE,)


def test_who_lost_something_is_no_copy_any_more() -> None:
    watch = CopyWatch(RELEASE.authorised)
    for component, count in ((0, 40), (1, 10)):
        watch.note(ONE, bitfield(component, range(count)))
        watch.note(OTHER, bitfield(component, range(count)))
    watch.note(ONE, bitfield(0, range(39)))
    assert watch.holders == (OTHER,)
    watch.note(OTHER, Unknown(manifest_id=RELEASE.manifest_id))
    assert watch.holders == ()


@pytest.mark.parametrize(
    "message",
    [
        have(0, 40),
        have(2, 0),
        BitfieldMessage(manifest_id=RELEASE.manifest_id, component=0, bits=b"\xff"),
        BitfieldMessage(manifest_id=RELEASE.manifest_id, component=1, bits=b"\xff\xff"),
        BitfieldMessage(manifest_id=RELEASE.manifest_id, component=2, bits=b"\xff"),
    ],
)
def test_claims_outside_the_manifest_are_an_offence(message: Have | BitfieldMessage) -> None:
    watch = CopyWatch(RELEASE.authorised)
    with pytest.raises(ExchangeOffenceError):
        watch.note(ONE, message)
    assert watch.holders == ()


async def test_a_seeder_sees_copies_come_about(autojump_clock: trio.testing.MockClock) -> None:
    async with open_memory_network() as network:
        store = MemoryStore()
        RELEASE.hold_all(store)
        seeder = await network.add("seeder", store)
        leechers = [await network.add(name, MemoryStore()) for name in ("one", "two")]
        network.connect_all()
        await seeder.service.offer(RELEASE.authorised)
        with seeder.service.watch_copies(RELEASE.authorised) as watch:
            await trio.sleep(1)
            assert watch.holders == ()
            for number, leecher in enumerate(leechers, start=1):
                await leecher.service.fetch(RELEASE.authorised)
                await trio.sleep(1)
                seeder.service.ask_again(watch)
                await trio.sleep(1)
                assert len(watch.holders) == number
            # One of them loses a chunk and says so.
            image = RELEASE.images[0].component("c0").digest
            leechers[0].store.rot(image, 3)
            assert leechers[0].store.verify_image(image) == (3,)
            await leechers[0].service.offer(RELEASE.authorised)
            await trio.sleep(1)
            assert watch.holders == (leechers[1].key,)


async def test_a_watch_asks_newcomers_and_only_who_may_know(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_memory_network() as network:
        watcher = await network.add("watcher", MemoryStore())
        stranger, friend = b"stranger".ljust(32, b"."), b"friend".ljust(32, b".")
        watcher.rules.denied_ask.add((stranger, RELEASE.manifest_id))
        said: dict[bytes, list[object]] = {stranger: [], friend: []}
        ends = {}
        async with trio.open_nursery() as nursery:
            for peer in (stranger, friend):
                watchers, ends[peer] = stream_pair(watcher.key, peer)
                nursery.start_soon(watcher.service.serve_stream, watchers)

                async def listen(peer: bytes = peer) -> None:
                    while (body := await ends[peer].receive_frame()) is not None:
                        said[peer].append(decode_exchange(body))

                nursery.start_soon(listen)
            await trio.sleep(0.1)
            with watcher.service.watch_copies(RELEASE.authorised) as watch:
                await trio.sleep(RENEW_S)
                watcher.service.ask_again(watch)
                await trio.sleep(1)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert said[stranger] == []
        kinds = [type(message).__name__ for message in said[friend]]
        assert kinds == ["Interest", "Interest", "NotInterested"]
        assert said[friend][0] == Interest(manifest_id=RELEASE.manifest_id, components=(0, 1))

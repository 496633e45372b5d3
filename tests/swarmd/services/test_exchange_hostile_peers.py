"""The exchange service against peers that the test plays frame by frame."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing

from chunks.memory_store import MemoryStore
from protocol.bitfield import Bitfield
from protocol.digest import ManifestId
from protocol.errors import TransportError
from protocol.exchange_events import Offence, ReadPage
from protocol.exchange_messages import (
    BitfieldMessage,
    Cancel,
    Chunks,
    ExchangeMessage,
    Have,
    Interest,
    NotInterested,
    RecipePageMessage,
    RecipeRequest,
    Reject,
    RejectReason,
    Request,
    decode_exchange,
    encode_exchange,
)
from protocol.runs import Runs
from swarmd.services.exchange_fetch import FetchStoppedError
from swarmd.services.exchange_fetches import EXCUSED_S
from swarmd.services.exchange_library import ServedLibrary
from tests.support.exchange_nodes import MemoryFrameStream, Network, Node, open_memory_network
from tests.support.exchange_nodes import stream_pair as make_pair
from tests.support.exchange_release import Release, make_release

SMALL = (40_000,)
KEY = b"played".ljust(32, b".")
Answer = Callable[[Request], list[ExchangeMessage]]


class PlayedSeeder:
    """Holds everything, and answers requests as the test says."""

    def __init__(self, release: Release, answer: Answer) -> None:
        self.release = release
        self.answer = answer
        self.heard: list[ExchangeMessage] = []
        self.stream: MemoryFrameStream

    async def serve(self, node: Node, network: Network) -> None:
        """Opens a stream to a node and plays on it until it ends."""
        self.stream, theirs = make_pair(KEY, node.key)
        network.nursery.start_soon(node.service.serve_stream, theirs)
        while (body := await self.stream.receive_frame()) is not None:
            message = decode_exchange(body)
            self.heard.append(message)
            for reply in self.replies(message):
                # The node may end the stream at any of them.
                with suppress(TransportError):
                    await self.stream.send_frame(encode_exchange(reply))

    def replies(self, message: ExchangeMessage) -> list[ExchangeMessage]:
        image = self.release.images[0]
        match message:
            case Interest():
                bits = Bitfield.full(len(image.chunks)).encode()
                return [BitfieldMessage(manifest_id=message.manifest_id, component=0, bits=bits)]
            case RecipeRequest():
                page = self.page(image.pages[message.page])
                return [RecipePageMessage(request_id=message.request_id, page=page)]
            case Request():
                return self.answer(message)
            case _:
                return []

    def page(self, page: bytes) -> bytes:
        return page

    def honest(self, request: Request) -> Chunks:
        chunks = self.release.images[0].chunks
        return Chunks.of(
            request.request_id, tuple((index, chunks[index]) for index in request.indices)
        )


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.001)


async def fetch_quietly(node: Node, release: Release) -> None:
    with pytest.raises(FetchStoppedError):
        await node.service.fetch(release.authorised)


async def play(seeder: PlayedSeeder, check: Callable[[Network, Node], Awaitable[None]]) -> None:
    """Lets a node fetch from the played seeder alone while `check` looks on."""
    async with open_memory_network() as network:
        node = await network.add("node", MemoryStore())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch_quietly, node, seeder.release)
            nursery.start_soon(seeder.serve, node, network)
            await check(network, node)
            node.service.stop(seeder.release.manifest_id)
            nursery.cancel_scope.cancel()


def spoil(kind: str, release: Release) -> Answer:
    chunks = release.images[0].chunks

    def answer(request: Request) -> list[ExchangeMessage]:
        index = request.indices.first
        match kind:
            case "short":
                payload = ((index, chunks[index][:-1]),)
            case "long":
                payload = ((index, chunks[index] + b"x"),)
            case "index":
                payload = ((len(chunks) + 5, chunks[index]),)
            case "twice":
                once = Chunks.of(request.request_id, ((index, chunks[index]),))
                return [once, once]
            case _:
                return [
                    Reject(
                        request_id=request.request_id + 999,
                        indices=Runs.of((index,)),
                        reason=RejectReason.BUSY,
                    )
                ]
        return [Chunks.of(request.request_id, payload)]

    return answer


@pytest.mark.parametrize(
    ("kind", "offence"),
    [
        ("short", Offence.WRONG_LENGTH),
        ("long", Offence.WRONG_LENGTH),
        ("index", Offence.UNSOLICITED),
        ("twice", Offence.UNSOLICITED),
        ("reject", Offence.UNSOLICITED),
    ],
)
async def test_a_breach_ends_the_stream_and_bans_for_the_manifest(
    kind: str, offence: Offence
) -> None:
    release = make_release(1, SMALL)
    seeder = PlayedSeeder(release, spoil(kind, release))

    async def check(network: Network, node: Node) -> None:
        await until(lambda: node.score.blames)
        assert [(peer, what) for peer, what, _ in node.score.blames] == [(KEY, offence)]
        assert seeder.stream.is_broken
        # It comes back: it is not even told that this node wants the manifest.
        again = PlayedSeeder(release, seeder.answer)
        network.nursery.start_soon(again.serve, node, network)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert again.heard == []

    await play(seeder, check)


async def test_a_forged_page_is_blamed_on_its_sender() -> None:
    release = make_release(2, SMALL)

    class Forger(PlayedSeeder):
        def page(self, page: bytes) -> bytes:
            return page[:-40] + bytes(40)

    seeder = Forger(release, lambda _: [])

    async def check(_: Network, node: Node) -> None:
        await until(lambda: node.score.blames)
        assert [what for _, what, _ in node.score.blames] == [Offence.CORRUPT_PAGE]

    await play(seeder, check)


async def test_news_of_what_is_not_wanted_any_more_is_no_offence() -> None:
    release = make_release(3, SMALL)
    other = ManifestId(bytes(32))
    async with open_memory_network() as network:
        node = await network.add("node", MemoryStore())
        seeder = PlayedSeeder(release, lambda request: [seeder.honest(request)])
        network.nursery.start_soon(seeder.serve, node, network)
        await node.service.fetch(release.authorised)
        await until(lambda: NotInterested(manifest_id=release.manifest_id) in seeder.heard)
        for manifest_id in (release.manifest_id, other):
            have = Have(manifest_id=manifest_id, component=0, indices=Runs.of((0,)))
            await seeder.stream.send_frame(encode_exchange(have))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not seeder.stream.is_broken
        assert node.score.blames == []


async def test_a_mute_peer_is_noted_once_and_never_blamed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    release = make_release(4, SMALL)
    seeder = PlayedSeeder(release, lambda _: [])

    async def check(_: Network, node: Node) -> None:
        await trio.sleep(100)
        assert node.score.stalls == [KEY]
        assert node.score.blames == []
        assert node.service.statistics().stalls == 1

    await play(seeder, check)


async def test_an_answer_after_the_stop_is_no_offence_but_a_second_one_is() -> None:
    release = make_release(5, SMALL)
    seeder = PlayedSeeder(release, lambda _: [])
    async with open_memory_network() as network:
        node = await network.add("node", MemoryStore())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch_quietly, node, release)
            nursery.start_soon(seeder.serve, node, network)
            await until(lambda: any(isinstance(m, Request) for m in seeder.heard))
            node.service.stop(release.manifest_id)
            await until(lambda: any(isinstance(m, Cancel) for m in seeder.heard))
            asked = [m for m in seeder.heard if isinstance(m, Request)]
            for request in asked:
                await seeder.stream.send_frame(encode_exchange(seeder.honest(request)))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not seeder.stream.is_broken
            assert node.store.images() == () or node.store.images()[0].have_count == 0
            await seeder.stream.send_frame(encode_exchange(seeder.honest(asked[0])))
            await until(lambda: node.score.blames)
            assert node.score.blames[0][1] is Offence.UNSOLICITED
            nursery.cancel_scope.cancel()


async def test_a_peer_that_leaves_the_group_is_not_asked_until_it_is_back() -> None:
    release = make_release(6, SMALL)
    seeder = PlayedSeeder(release, lambda _: [])
    async with open_memory_network() as network:
        node = await network.add("node", MemoryStore())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.service.fetch, release.authorised)
            nursery.start_soon(seeder.serve, node, network)
            await until(lambda: any(isinstance(m, Request) for m in seeder.heard))
            node.rules.denied_ask.add((KEY, release.manifest_id))
            node.service.reevaluate()
            assert node.service.statistics().fetches[0].peers == 0
            node.rules.denied_ask.clear()
            seeder.answer = lambda request: [seeder.honest(request)]
            node.service.reevaluate()
            await until(lambda: not node.service.statistics().fetches)
            nursery.cancel_scope.cancel()
        assert node.score.blames == []


async def test_a_suspended_peer_loses_its_link_at_once() -> None:
    release = make_release(7, SMALL)
    seeder = PlayedSeeder(release, lambda _: [])

    async def check(_: Network, node: Node) -> None:
        await until(lambda: any(isinstance(m, Request) for m in seeder.heard))
        node.service.peer_disconnected(KEY)
        await trio.testing.wait_all_tasks_blocked()
        assert seeder.stream.is_broken
        assert node.service.statistics().peers == ()

    await play(seeder, check)


async def test_a_new_stream_of_the_same_peer_replaces_the_old_one() -> None:
    release = make_release(8, SMALL)
    old = PlayedSeeder(release, lambda _: [])

    async def check(network: Network, node: Node) -> None:
        await until(lambda: any(isinstance(m, Request) for m in old.heard))
        new = PlayedSeeder(release, lambda request: [new.honest(request)])
        network.nursery.start_soon(new.serve, node, network)
        await until(lambda: not node.service.statistics().fetches)
        assert old.stream.is_broken
        assert not new.stream.is_broken
        assert node.score.blames == []

    async with open_memory_network() as network:
        node = await network.add("node", MemoryStore())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.service.fetch, release.authorised)
            nursery.start_soon(old.serve, node, network)
            await check(network, node)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_late", [False, True])
async def test_what_was_on_its_way_from_a_peer_put_into_quarantine_is_no_offence(
    mock_clock: trio.testing.MockClock, *, is_late: bool
) -> None:
    release = make_release(7, SMALL)
    seeder = PlayedSeeder(release, lambda _: [])

    async def check(_: Network, node: Node) -> None:
        await until(lambda: any(isinstance(m, Request) for m in seeder.heard))
        request = next(m for m in seeder.heard if isinstance(m, Request))
        node.rules.denied_ask.add((KEY, release.manifest_id))
        node.service.reevaluate()
        if is_late:
            mock_clock.jump(EXCUSED_S + 1)
        await seeder.stream.send_frame(encode_exchange(seeder.honest(request)))
        await trio.testing.wait_all_tasks_blocked()
        blamed = [offence for _, offence, _ in node.score.blames]
        assert blamed == ([Offence.UNSOLICITED] if is_late else [])
        assert seeder.stream.is_broken is is_late
        assert node.service.statistics().fetched_bytes == 0, "and it is thrown away"

    await play(seeder, check)


async def test_a_page_that_only_a_lying_manifest_has_is_not_there() -> None:
    release = make_release(11, SMALL)
    store = MemoryStore()
    release.hold_all(store)
    beyond = ReadPage(request_id=0, manifest_id=release.manifest_id, component=0, page=1)
    component = release.authorised.manifest.objects[0]
    assert ServedLibrary(store).read_page(beyond, component) is None


async def test_a_defect_on_a_link_of_our_own_costs_the_link_alone(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds one must not end the daemon with it."""
    release = make_release(12, SMALL)
    async with open_memory_network() as network:
        holder = await network.add("holder", MemoryStore())
        release.hold_all(holder.store)
        await holder.service.offer(release.authorised)
        fetcher = await network.add("fetcher", MemoryStore())
        sound, failures = fetcher.service.take_answer, list[ExchangeMessage]()

        def fail_once(peer: bytes, message: ExchangeMessage) -> None:
            if not failures:
                failures.append(message)
                raise RuntimeError("a defect")
            sound(peer, message)

        monkeypatch.setattr(fetcher.service, "take_answer", fail_once)
        fetcher.service.peer_connected(holder.key)
        await fetcher.service.fetch(release.authorised)
        assert failures
        assert fetcher.service.statistics().fetched_bytes == sum(SMALL)

"""The exchange service's relays against peers that the test plays frame by frame."""

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
from protocol.exchange_events import Offence
from protocol.exchange_messages import (
    BitfieldMessage,
    Interest,
    RecipePageMessage,
    RecipeRequest,
    Request,
    decode_exchange,
    encode_exchange,
)
from protocol.relay_events import RelaySettings
from protocol.relay_messages import (
    News,
    Push,
    PushedChunk,
    PushFlag,
    Ready,
    RelayMessage,
    Role,
    decode_relay,
    encode_relay,
    is_relay_kind,
)
from swarmd.services.exchange_fetch import FetchStoppedError
from tests.support.exchange_nodes import (
    MemoryFrameStream,
    Network,
    Node,
    open_memory_network,
    stream_pair,
)
from tests.support.exchange_release import Release, make_release

KEY = b"played".ljust(32, b".")
RELEASE = make_release(5, (40_000,), chunk_bytes=4096)
SETTINGS = RelaySettings()


class PlayedPeer:
    """Serves the recipe, holds nothing else unless the test sends it."""

    def __init__(self, release: Release, *, role: Role = Role.SEEDS) -> None:
        self.release = release
        self.role = role
        self.heard: list[object] = []
        self.stream: MemoryFrameStream

    async def serve(self, node: Node, network: Network) -> None:
        """Opens a stream to a node and plays on it until it ends."""
        self.stream, theirs = stream_pair(KEY, node.key)
        network.nursery.start_soon(node.service.serve_stream, theirs)
        await self.say(self.ready(self.role))
        while (body := await self.stream.receive_frame()) is not None:
            is_relayed = is_relay_kind(body[0])
            message = decode_relay(body) if is_relayed else decode_exchange(body)
            self.heard.append(message)
            await self.reply(message)

    async def reply(self, message: object) -> None:
        image = self.release.images[0]
        with suppress(TransportError):
            if isinstance(message, Interest):
                bits = Bitfield.full(len(image.chunks)).encode()
                answer = BitfieldMessage(manifest_id=message.manifest_id, component=0, bits=bits)
                await self.stream.send_frame(encode_exchange(answer))
            elif isinstance(message, RecipeRequest):
                page = RecipePageMessage(
                    request_id=message.request_id, page=image.pages[message.page]
                )
                await self.stream.send_frame(encode_exchange(page))

    async def say(self, message: RelayMessage) -> None:
        """Sends a relay message."""
        await self.stream.send_frame(b"".join(encode_relay(message)))

    def ready(self, role: Role) -> Ready:
        return Ready(manifest_id=self.release.manifest_id, roles=((0, role),))

    def push(self, first: int, count: int = 1, *, spoil: bool = False) -> Push:
        chunks = self.release.images[0].chunks
        return Push(
            manifest_id=self.release.manifest_id,
            object_number=0,
            flags=PushFlag.NONE,
            delegates=(),
            chunks=tuple(
                PushedChunk(
                    index=index,
                    data=bytes(len(chunks[index])) if spoil else chunks[index],
                )
                for index in range(first, first + count)
            ),
        )

    def is_welcome(self) -> bool:
        """Whether the node said that it receives."""
        return any(
            isinstance(message, Ready) and (0, Role.RECEIVES) in message.roles
            for message in self.heard
        )


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.001)


Check = Callable[[Network, Node, PlayedPeer], Awaitable[None]]


async def play(check: Check, *, relays: RelaySettings | None = SETTINGS) -> None:
    """Lets a node fetch from a played peer while `check` looks on."""
    async with open_memory_network() as network:
        node = await network.add("node", MemoryStore(), relays=relays)
        peer = PlayedPeer(RELEASE)

        async def fetch() -> None:
            with suppress(FetchStoppedError):
                await node.service.fetch(RELEASE.authorised)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            await trio.testing.wait_all_tasks_blocked(0.001)
            nursery.start_soon(peer.serve, node, network)
            await check(network, node, peer)
            node.service.stop(RELEASE.manifest_id)
            nursery.cancel_scope.cancel()


async def test_a_node_completes_by_pushes_alone() -> None:
    async def check(_: Network, node: Node, peer: PlayedPeer) -> None:
        await until(peer.is_welcome)
        count = len(RELEASE.images[0].chunks)
        for first in range(0, count, 3):
            await peer.say(peer.push(first, min(3, count - first)))
        await until(lambda: node.service.statistics().fetched_bytes == 40_000)
        assert not any(isinstance(message, Request) for message in peer.heard)
        assert node.score.blames == []

    await play(check)


async def test_a_bad_push_cuts_its_sender_and_keeps_nothing() -> None:
    async def check(network: Network, node: Node, peer: PlayedPeer) -> None:
        await until(peer.is_welcome)
        await peer.say(peer.push(0, 2, spoil=True))
        await until(lambda: node.score.blames)
        assert [what for _, what, _ in node.score.blames] == [Offence.CORRUPT_CHUNK]
        await until(lambda: peer.stream.is_broken)
        assert node.service.statistics().fetched_bytes == 0
        # It may come back, and is told nothing of what is wanted.
        again = PlayedPeer(RELEASE)
        network.nursery.start_soon(again.serve, node, network)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert again.heard == []

    await play(check)


async def test_a_push_to_who_holds_everything_ends_the_stream() -> None:
    async with open_memory_network() as network:
        store = MemoryStore()
        RELEASE.hold_all(store)
        node = await network.add("node", store, relays=SETTINGS)
        await node.service.offer(RELEASE.authorised)
        peer = PlayedPeer(RELEASE)
        network.nursery.start_soon(peer.serve, node, network)
        await until(lambda: peer.ready(Role.HOLDS) in peer.heard)
        await peer.say(peer.push(0))
        await until(lambda: node.score.blames)
        assert [what for _, what, _ in node.score.blames] == [Offence.UNSOLICITED]
        assert peer.stream.is_broken


@pytest.mark.parametrize(
    "frame",
    [
        bytes((12,)),
        bytes((13,)) + bytes(60),
        b"".join(
            encode_relay(News(manifest_id=RELEASE.manifest_id, runs=((10_000, 1),), queued_bytes=0))
        ),
    ],
    ids=["ready", "push", "news"],
)
async def test_a_malformed_frame_ends_the_stream(frame: bytes) -> None:
    async def check(_: Network, node: Node, peer: PlayedPeer) -> None:
        await until(peer.is_welcome)
        await peer.stream.send_frame(frame)
        await until(lambda: node.score.blames)
        assert [what for _, what, _ in node.score.blames] == [Offence.MALFORMED]
        assert peer.stream.is_broken

    await play(check)


async def test_who_may_not_take_part_hears_nothing_and_is_not_taken_from() -> None:
    """G8: neither what is wanted nor what is held is told outside the manifest's groups."""
    for denied in ("serve", "ask"):
        async with open_memory_network() as network:
            node = await network.add("node", MemoryStore(), relays=SETTINGS)
            rule = node.rules.denied if denied == "serve" else node.rules.denied_ask
            rule.add((KEY, RELEASE.manifest_id))
            peer = PlayedPeer(RELEASE)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.service.fetch, RELEASE.authorised)
                await trio.testing.wait_all_tasks_blocked(0.001)
                nursery.start_soon(peer.serve, node, network)
                await trio.testing.wait_all_tasks_blocked(0.01)
                await peer.say(peer.push(0))
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert not any(isinstance(m, Ready | News | Push) for m in peer.heard)
                assert node.service.statistics().fetched_bytes == 0
                assert node.score.blames == []
                nursery.cancel_scope.cancel()


async def test_ready_for_what_is_not_held_is_answered_like_for_what_is_denied() -> None:
    other = ManifestId(bytes(32))
    async with open_memory_network() as network:
        store = MemoryStore()
        RELEASE.hold_all(store)
        node = await network.add("node", store, relays=SETTINGS)
        await node.service.offer(RELEASE.authorised)
        node.rules.denied.add((KEY, RELEASE.manifest_id))
        peer = PlayedPeer(RELEASE, role=Role.RECEIVES)
        network.nursery.start_soon(peer.serve, node, network)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await peer.say(Ready(manifest_id=other, roles=((0, Role.RECEIVES),)))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert peer.heard == []
        assert not peer.stream.is_broken


async def test_a_holder_takes_part_when_a_permitted_peer_does() -> None:
    async with open_memory_network() as network:
        store = MemoryStore()
        RELEASE.hold_all(store)
        node = await network.add("node", store, relays=SETTINGS)
        await node.service.offer(RELEASE.authorised)
        peer = PlayedPeer(RELEASE, role=Role.RECEIVES)
        network.nursery.start_soon(peer.serve, node, network)
        await until(lambda: peer.ready(Role.HOLDS) in peer.heard)
        # Withdrawn: nothing more is said, whatever is asked.
        node.service.stop(RELEASE.manifest_id)
        heard = len(peer.heard)
        await peer.say(peer.ready(Role.RECEIVES))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not any(isinstance(message, Ready | Push) for message in peer.heard[heard:])
        assert node.service.relay_statistics() == ()


async def test_a_node_that_does_not_relay_says_nothing_and_takes_nothing() -> None:
    async def check(_: Network, node: Node, peer: PlayedPeer) -> None:
        await trio.testing.wait_all_tasks_blocked(0.01)
        await peer.say(peer.push(0))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not any(isinstance(message, Ready) for message in peer.heard)
        assert node.service.statistics().fetched_bytes == 0
        assert node.score.blames == []

    await play(check, relays=None)


async def test_a_suspended_member_leaves_the_relay_at_the_next_block() -> None:
    async def check(_: Network, node: Node, peer: PlayedPeer) -> None:
        await until(peer.is_welcome)
        node.rules.denied.add((KEY, RELEASE.manifest_id))
        node.service.reevaluate()
        ((_, statistics),) = node.service.relay_statistics()
        assert statistics.members == 0
        await peer.say(peer.push(0))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert node.service.statistics().fetched_bytes == 0
        assert node.score.blames == []

    await play(check)


async def test_a_push_under_way_when_a_manifest_was_closed_and_opened_again_is_no_offence() -> None:
    """RL14: the object was welcome on this stream; its sender has not heard yet that it is not."""

    async def check(_: Network, node: Node, peer: PlayedPeer) -> None:
        await until(peer.is_welcome)
        node.service.stop(RELEASE.manifest_id)
        await node.service.offer(RELEASE.authorised)
        await peer.say(peer.ready(Role.SEEDS))
        await until(node.service.relay_statistics)
        await peer.say(peer.push(0))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert node.score.blames == []
        assert not peer.stream.is_broken

    await play(check)


async def test_a_push_that_crosses_a_suspension_and_its_end_is_no_offence() -> None:
    async def check(_: Network, node: Node, peer: PlayedPeer) -> None:
        await until(peer.is_welcome)
        count = len(RELEASE.images[0].chunks)
        node.rules.denied.add((KEY, RELEASE.manifest_id))
        node.service.reevaluate()
        node.rules.denied.clear()
        node.service.refuse_pushes()  # nothing is welcome when it takes part again
        node.service.reevaluate()
        await peer.say(peer.push(count - 1))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert node.score.blames == []
        assert not peer.stream.is_broken

    await play(check)

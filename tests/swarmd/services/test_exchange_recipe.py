"""The exchange service asks members for recipes that hold no chunk yet."""

from __future__ import annotations

from contextlib import suppress

import trio
import trio.testing

from chunks.memory_store import MemoryStore
from protocol.exchange_messages import (
    RecipePageMessage,
    RecipeRequest,
    decode_exchange,
    encode_exchange,
)
from protocol.relay_events import RelaySettings
from protocol.relay_messages import Ready, Role, decode_relay, encode_relay, is_relay_kind
from swarmd.services.exchange_fetch import FetchStoppedError
from tests.support.exchange_nodes import open_memory_network, stream_pair
from tests.support.exchange_release import make_release

KEY = b"played".ljust(32, b".")
RELEASE = make_release(5, (40_000,), chunk_bytes=4096)


async def test_a_member_that_receives_passes_the_recipe_on() -> None:
    async with open_memory_network() as network:
        node = await network.add("node", MemoryStore(), relays=RelaySettings())
        ours, theirs = stream_pair(KEY, node.key)
        receives = Ready(manifest_id=RELEASE.manifest_id, roles=((0, Role.RECEIVES),))

        async def fetch() -> None:
            with suppress(FetchStoppedError):
                await node.service.fetch(RELEASE.authorised)

        network.nursery.start_soon(fetch)
        await trio.testing.wait_all_tasks_blocked(0.001)
        network.nursery.start_soon(node.service.serve_stream, theirs)
        await ours.send_frame(b"".join(encode_relay(receives)))
        with trio.fail_after(20):
            while (body := await ours.receive_frame()) is not None:
                message = decode_relay(body) if is_relay_kind(body[0]) else decode_exchange(body)
                if isinstance(message, RecipeRequest):
                    page = RELEASE.images[0].pages[message.page]
                    answer = RecipePageMessage(request_id=message.request_id, page=page)
                    await ours.send_frame(encode_exchange(answer))
                if isinstance(message, Ready) and (0, Role.RECEIVES) in message.roles:
                    break  # it has the recipe, though nobody holds a chunk
        assert node.score.blames == []
        node.service.stop(RELEASE.manifest_id)

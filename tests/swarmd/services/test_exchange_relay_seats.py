"""Which manifests have a relay, which of several is urgent, and what is kept in memory."""

from __future__ import annotations

import pytest

from chunks.memory_store import MemoryStore
from protocol.digest import Digest, ManifestId
from protocol.relay_events import RelaySettings
from protocol.relay_messages import PushedChunk
from swarmd.services import exchange_relay
from swarmd.services.exchange_relay_cache import ChunkCache
from swarmd.services.exchange_relay_frames import WAITING_BYTES_MAX, RelayFrame, RelayOutbox
from swarmd.services.exchange_relay_mode import RelayMode, relay_settings
from swarmd.services.exchange_relay_seat import priority_of
from tests.support.exchange_nodes import open_memory_network
from tests.support.exchange_release import authorised_release, make_release

IMAGE, OTHER = Digest(b"i" * 32), Digest(b"j" * 32)


@pytest.mark.parametrize(
    ("metadata", "priority"),
    [({}, 0), ({"urgency": "high"}, 1), ({"urgency": "low"}, -1), ({"urgency": "HIGH!"}, 0)],
)
def test_the_manifest_says_how_urgent_it_is(metadata: dict[str, str], priority: int) -> None:
    components = make_release(1, (4000,)).authorised.manifest.components
    assert priority_of(authorised_release(components, metadata=metadata)) == priority


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        (RelayMode.ON, RelaySettings(site=b"depot")),
        (RelayMode.LEAF, RelaySettings(site=b"depot", is_leaf=True)),
        (RelayMode.OFF, None),
    ],
)
def test_the_operator_decides_the_part(mode: RelayMode, settings: RelaySettings | None) -> None:
    assert relay_settings(mode, "depot") == settings


async def test_what_is_fetched_has_a_relay_before_what_is_only_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange_relay, "SEATS_MAX", 2)
    releases = [make_release(number, (4000,)) for number in range(3)]
    async with open_memory_network() as network:
        node = await network.add("node", MemoryStore(), relays=RelaySettings())
        desk = node.service._relays
        for release in releases[:2]:
            assert desk._open(release.authorised, is_fetched=False) is not None
        assert desk._open(releases[2].authorised, is_fetched=False) is None
        assert desk._open(releases[2].authorised, is_fetched=True) is not None
        kept = [manifest_id for manifest_id, _ in node.service.relay_statistics()]
        assert kept == [releases[1].manifest_id, releases[2].manifest_id]


def test_the_cache_keeps_the_newest_within_its_bound() -> None:
    cache = ChunkCache(bytes_max=100)
    for index in range(4):
        cache.put(IMAGE, index, bytes(40), is_packed=index == 3)
    assert cache.held_bytes == 80
    assert cache.find(IMAGE, range(1, 3)) is None
    assert cache.find(IMAGE, range(2, 4)) == (
        PushedChunk(index=2, data=bytes(40)),
        PushedChunk(index=3, data=bytes(40), is_compressed=True),
    )
    cache.put(IMAGE, 3, bytes(10), is_packed=False)
    assert cache.held_bytes == 50
    cache.put(OTHER, 0, bytes(10), is_packed=False)
    cache.forget(IMAGE)
    assert cache.held_bytes == 10
    assert cache.find(OTHER, range(1)) is not None


def test_an_outbox_sends_pushes_apart_and_drops_what_nobody_reads() -> None:
    outbox, left = RelayOutbox(), list[int]()
    manifest_id = ManifestId(bytes(32))
    outbox.put(RelayFrame([b"push"], manifest_id, lambda: left.append(1)))
    outbox.put(RelayFrame([bytes(WAITING_BYTES_MAX)], manifest_id))
    outbox.put(RelayFrame([b"x"], manifest_id))
    assert outbox.dropped_count == 1
    control, push = outbox.take_control(), outbox.take_push()
    assert control is not None
    assert control.on_left is None
    assert push is not None
    assert push.on_left is not None
    assert (outbox.take_control(), outbox.take_push()) == (None, None)
    outbox.put(RelayFrame([b"x"], manifest_id))
    assert outbox.take_control() is not None

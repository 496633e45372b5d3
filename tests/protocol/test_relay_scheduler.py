"""Which image's push is next."""

from __future__ import annotations

import pytest

from protocol.digest import ManifestId
from protocol.errors import LocalProtocolError
from protocol.exchange_events import PeerJoined, PeerLeft, Stop, TimerFired
from protocol.relay import Relay
from protocol.relay_events import (
    ChunksGained,
    ObjectReady,
    RelayReceived,
    RelaySettings,
    SendPush,
)
from protocol.relay_messages import Push, PushedChunk, PushFlag, Ready, Role
from protocol.relay_scheduler import HOLD_S, LOWER_SHARE, RelayScheduler

SEEDER = b"s" * 32
OTHERS = [bytes((number,)) * 32 for number in range(12)]
COUNT = 400


def make(name: bytes) -> Relay:
    """A relay with a seeder and twelve receivers around it."""
    manifest_id = ManifestId(name * 32)
    relay = Relay(
        manifest_id=manifest_id,
        own_key=b"o" * 32,
        chunk_counts=[COUNT],
        settings=RelaySettings(),
        entropy=1,
    )
    relay.handle(ObjectReady(object_number=0, lengths=[100] * COUNT, held=0), 0.0)
    for peer in (SEEDER, *OTHERS):
        relay.handle(PeerJoined(peer=peer), 0.0)
        role = Role.SEEDS if peer == SEEDER else Role.RECEIVES
        message = Ready(manifest_id=manifest_id, roles=((0, role),))
        relay.handle(RelayReceived(peer=peer, message=message), 0.0)
    return relay


def owe(relay: Relay, index: int) -> None:
    """Has the relay pass a unit on."""
    push = Push(
        manifest_id=relay.manifest_id,
        object_number=0,
        flags=PushFlag.RELAYER,
        delegates=(),
        chunks=(PushedChunk(index=index, data=bytes(100)),),
    )
    relay.handle(RelayReceived(peer=SEEDER, message=push), 0.0)
    relay.handle(ChunksGained(object_number=0, indices=[index]), 0.0)


def drain(scheduler: RelayScheduler, now: float, limit: int = 10**6) -> list[bytes]:
    """Takes pushes, each leaving at once; the first letters of their images."""
    found: list[bytes] = []
    while len(found) < limit:
        pushes = [e for _, e in scheduler.next_effects(now) if isinstance(e, SendPush)]
        if not pushes:
            break
        for push in pushes:
            found.append(push.manifest_id[:1])
            scheduler.push_sent(push.peer)
    return found


@pytest.mark.parametrize(("room_bytes", "count"), [(0, 0), (-5, 0), (1, 1), (100, 1), (101, 2)])
def test_no_more_is_handed_out_than_the_uplink_has_room_for(room_bytes: int, count: int) -> None:
    """Units of 100 bytes; the last one may be larger than what is left."""
    scheduler, relay = RelayScheduler(), make(b"a")
    scheduler.add(relay, priority=0)
    owe(relay, 0)
    effects = scheduler.next_effects(0.0, room_bytes)
    pushes = [e for _, e in effects if isinstance(e, SendPush)]
    assert len(pushes) == scheduler.under_way == count
    assert scheduler.under_way_bytes == 100 * count
    for push in pushes[:1]:
        scheduler.push_blocked(push.peer)
        assert scheduler.under_way_bytes == 100 * (count - 1)


def test_one_push_a_peer_and_no_more_than_the_slots() -> None:
    scheduler, relay = RelayScheduler(), make(b"a")
    scheduler.add(relay, priority=0)
    owe(relay, 0)
    pushes = [e for _, e in scheduler.next_effects(0.0) if isinstance(e, SendPush)]
    assert len(pushes) == scheduler.under_way == relay.slots
    assert len({push.peer for push in pushes}) == len(pushes)
    assert scheduler.next_effects(0.0) == []
    scheduler.push_blocked(pushes[0].peer)
    assert len([e for _, e in scheduler.next_effects(0.0) if isinstance(e, SendPush)]) == 1
    scheduler.push_sent(pushes[0].peer)
    scheduler.push_sent(pushes[0].peer)
    assert scheduler.under_way == relay.slots


def test_a_push_to_a_peer_under_way_holds_every_image_back_from_it() -> None:
    scheduler, one, other = RelayScheduler(), make(b"a"), make(b"b")
    scheduler.add(one, priority=0)
    owe(one, 0)
    pushes = [e for _, e in scheduler.next_effects(0.0) if isinstance(e, SendPush)]
    scheduler.add(other, priority=5)
    owe(other, 0)
    for push in pushes[:3]:
        scheduler.push_blocked(push.peer)
    more = [e for _, e in scheduler.next_effects(0.0) if isinstance(e, SendPush)]
    assert {push.peer for push in more}.isdisjoint(push.peer for push in pushes)


def test_the_urgent_image_goes_first_and_a_tenth_is_left() -> None:
    scheduler, urgent, other = RelayScheduler(), make(b"u"), make(b"o")
    scheduler.add(other, priority=0)
    scheduler.add(urgent, priority=1)
    order: list[bytes] = []
    for index in range(30):
        owe(urgent, index)
        owe(other, index)
        order += drain(scheduler, 0.0, limit=12)
    share = order.count(b"o") / len(order)
    assert 0.5 / LOWER_SHARE < share < 2 / LOWER_SHARE


def test_lower_ones_wait_through_a_gap_and_not_through_a_pause() -> None:
    scheduler, urgent, other = RelayScheduler(), make(b"u"), make(b"o")
    scheduler.add(other, priority=0)
    scheduler.add(urgent, priority=1)
    owe(urgent, 0)
    assert set(drain(scheduler, 1.0)) == {b"u"}
    owe(other, 0)
    held = drain(scheduler, 1.0 + HOLD_S / 2)
    assert len(held) <= 2  # of the tenth
    assert other.deadline is not None
    assert other.deadline <= 1.0 + HOLD_S
    assert held.count(b"o") + len(drain(scheduler, 1.0 + HOLD_S)) == 12


def test_an_urgent_image_that_is_over_holds_nobody_up() -> None:
    scheduler, urgent, other = RelayScheduler(), make(b"u"), make(b"o")
    scheduler.add(other, priority=0)
    scheduler.add(urgent, priority=1)
    owe(urgent, 0)
    drain(scheduler, 1.0)
    urgent.handle(Stop(), 1.0)
    scheduler.remove(urgent.manifest_id)
    owe(other, 0)
    assert drain(scheduler, 1.0) == [b"o"] * 12


def test_equal_images_take_turns() -> None:
    scheduler, one, other = RelayScheduler(), make(b"a"), make(b"b")
    scheduler.add(one, priority=0)
    scheduler.add(other, priority=0)
    owe(one, 0)
    owe(other, 0)
    order = drain(scheduler, 0.0)
    assert order.count(b"a") == order.count(b"b") == 12
    assert abs(order[:12].count(b"a") - 6) <= 1


def test_who_leaves_frees_its_slot() -> None:
    scheduler, relay = RelayScheduler(), make(b"a")
    scheduler.add(relay, priority=0)
    owe(relay, 0)
    (push, *_) = [e for _, e in scheduler.next_effects(0.0) if isinstance(e, SendPush)]
    before = scheduler.under_way
    scheduler.left(push.peer)
    relay.handle(PeerLeft(peer=push.peer), 0.0)
    assert scheduler.under_way == before - 1
    assert scheduler.open_slots == 1


def test_an_image_is_added_once() -> None:
    scheduler, relay = RelayScheduler(), make(b"a")
    scheduler.add(relay, priority=0)
    with pytest.raises(LocalProtocolError):
        scheduler.add(relay, priority=0)
    scheduler.remove(relay.manifest_id)
    scheduler.remove(relay.manifest_id)
    scheduler.add(relay, priority=1)


@pytest.mark.parametrize("is_idle", [True, False])
def test_units_that_no_relayer_has_room_for_go_out_only_where_the_uplink_is_idle(
    is_idle: bool,
) -> None:
    """To everybody, which costs as much as a unit for each: a credit may come first."""
    scheduler, relay = RelayScheduler(), make_seeder()
    scheduler.add(relay, priority=0)
    given = 0
    while True:
        effects = scheduler.next_effects(0.0, is_idle=False)
        pushes = [effect for _, effect in effects if isinstance(effect, SendPush)]
        if not pushes:
            break
        given += len(pushes)
        assert all(push.flags is PushFlag.RELAYER for push in pushes)
        for push in pushes:
            scheduler.push_sent(push.peer)
    assert given > 0
    # Whoever credits nothing for long is paused: nobody is left who would pass anything on.
    relay.handle(TimerFired(), 100.0)
    effects = scheduler.next_effects(100.0, is_idle=is_idle)
    own = [effect for _, effect in effects if isinstance(effect, SendPush)]
    assert bool(own) is is_idle
    assert all(push.flags is PushFlag.NONE for push in own)


def make_seeder() -> Relay:
    """A relay that holds everything, with twelve receivers around it."""
    manifest_id = ManifestId(b"x" * 32)
    relay = Relay(
        manifest_id=manifest_id,
        own_key=b"o" * 32,
        chunk_counts=[COUNT],
        settings=RelaySettings(),
        entropy=1,
    )
    lengths = [8192] * COUNT
    relay.handle(ObjectReady(object_number=0, lengths=lengths, held=(1 << COUNT) - 1), 0.0)
    for peer in OTHERS:
        relay.handle(PeerJoined(peer=peer), 0.0)
        message = Ready(manifest_id=manifest_id, roles=((0, Role.RECEIVES),))
        relay.handle(RelayReceived(peer=peer, message=message), 0.0)
    return relay

"""How the last chunks come where some members are slow: rules RL25, RL41 and RL49 of relay.md."""

from __future__ import annotations

import pytest

from protocol.digest import ManifestId
from protocol.exchange_events import PeerJoined, TimerFired
from protocol.relay import Relay
from protocol.relay_events import (
    ChunksGained,
    ObjectReady,
    PeerClaims,
    PeerClaimsObject,
    PullFreed,
    RelayEffect,
    RelayReceived,
    RelaySettings,
)
from protocol.relay_gate import CROWD_MEMBERS, CROWD_S
from protocol.relay_messages import News, Push, PushedChunk, PushFlag, Ready, RelayMessage, Role
from protocol.relay_targets import HEADS_MAX, MEMBERS_PER_HEAD

M = ManifestId(b"m" * 32)
CHUNKS = 200
WHOLE = (1 << CHUNKS) - 1
SEEDER = b"s" * 32


def key(number: int) -> bytes:
    return number.to_bytes(4, "big") * 8


class Swarm:
    """One receiver's relay, a seeder, and so many other receivers around it."""

    def __init__(self, members: int) -> None:
        self.now = 0.0
        self.members = [key(number) for number in range(1, members)]
        self.relay = Relay(
            manifest_id=M,
            own_key=b"o" * 32,
            chunk_counts=[CHUNKS],
            settings=RelaySettings(),
            entropy=1,
        )
        for peer in (SEEDER, *self.members):
            self.relay.handle(PeerJoined(peer=peer), 0.0)
        self.relay.handle(ObjectReady(object_number=0, lengths=[100] * CHUNKS, held=0), 0.0)
        self.hear(SEEDER, Ready(manifest_id=M, roles=((0, Role.SEEDS),)))
        for peer in self.members:
            self.hear(peer, Ready(manifest_id=M, roles=((0, Role.RECEIVES),)))

    def hear(self, peer: bytes, message: RelayMessage) -> list[RelayEffect]:
        return self.relay.handle(RelayReceived(peer=peer, message=message), self.now)

    def later(self, seconds: float) -> list[RelayEffect]:
        """Waits, waking the machine whenever it wants to be."""
        until, effects = self.now + seconds, []
        for _ in range(10_000):
            due = self.relay.deadline
            if due is None or due > until:
                self.now = until
                return effects
            self.now = max(due, self.now)
            effects += self.relay.handle(TimerFired(), self.now)
        raise AssertionError("it asks to be woken again and again and does nothing")

    def push(self, index: int, flags: PushFlag = PushFlag.NONE) -> list[RelayEffect]:
        chunk = PushedChunk(index=index, data=bytes(100))
        message = Push(manifest_id=M, object_number=0, flags=flags, delegates=(), chunks=(chunk,))
        effects = self.hear(SEEDER, message)
        gained = ChunksGained(object_number=0, indices=(index,))
        return effects + self.relay.handle(gained, self.now)

    def seeding_ends(self) -> list[RelayEffect]:
        return self.hear(SEEDER, Ready(manifest_id=M, roles=((0, Role.HOLDS),)))


def is_free(effects: list[RelayEffect]) -> bool:
    return any(isinstance(effect, PullFreed) for effect in effects)


def claims(effects: list[RelayEffect], peer: bytes) -> list[int]:
    return [e.bits for e in effects if isinstance(e, PeerClaimsObject) and e.peer == peer]


@pytest.mark.parametrize(("gap_s", "waits"), [(0.03, True), (0.2, False)])
def test_a_trickle_of_late_pushes_is_not_waited_for(gap_s: float, *, waits: bool) -> None:
    """Pushes as frequent as ever are waited for; a few late ones for about half a second."""
    swarm = Swarm(CROWD_MEMBERS + 2)
    for index in range(100):
        swarm.push(index)
        swarm.later(0.02)
    effects = swarm.seeding_ends()
    for index in range(100, 100 + round(1.8 / gap_s)):
        effects += swarm.push(index)
        effects += swarm.later(gap_s)
    assert is_free(effects) is not waits


def test_what_comes_all_the_time_is_waited_for_only_so_long() -> None:
    """A sender that keeps the pace up with the last chunks bounds the wait all the same (RL41)."""
    swarm = Swarm(8)
    for index in range(50):
        swarm.push(index)
        swarm.later(0.05)
    effects = swarm.seeding_ends()
    for index in range(50, 150):
        effects += swarm.push(index)
        effects += swarm.later(0.05)
    assert is_free(effects)


@pytest.mark.parametrize("count", [8, CROWD_MEMBERS + 2])
def test_in_a_crowd_who_has_seeded_is_asked_last_and_is_asked(count: int) -> None:
    swarm = Swarm(count)
    swarm.push(0)
    effects = swarm.seeding_ends()
    is_crowd = count > CROWD_MEMBERS
    assert claims(effects, SEEDER) == ([] if is_crowd else [WHOLE])
    effects = []
    while not is_free(effects):
        effects = swarm.later(0.05)
        assert not claims(effects, SEEDER)
    assert not claims(swarm.later(CROWD_S - 0.1), SEEDER)
    assert claims(swarm.later(0.2), SEEDER) == ([WHOLE] if is_crowd else [])
    assert not claims(swarm.later(60.0), SEEDER)


def test_a_crowd_never_asks_a_seeder_while_pushes_are_expected() -> None:
    swarm = Swarm(CROWD_MEMBERS + 2)
    swarm.seeding_ends()
    for index in range(60):
        swarm.push(index)
        assert not claims(swarm.later(0.05), SEEDER)


@pytest.mark.parametrize("count", [8, CROWD_MEMBERS + 2])
def test_in_a_crowd_members_that_take_nothing_are_asked_last_and_are_asked(count: int) -> None:
    swarm = Swarm(count)
    slow = swarm.members[0]
    news = News(manifest_id=M, runs=((150, 3),), queued_bytes=0)
    assert any(isinstance(effect, PeerClaims) for effect in swarm.hear(slow, news))
    swarm.relay.set_writable(slow, is_writable=False)
    # As a head it is owed a unit by this relayer once everybody else is busy, too.
    for peer in swarm.members:
        swarm.relay.set_writable(peer, is_writable=False)
    for index in range(12):
        swarm.push(index, PushFlag.RELAYER)
    for peer in swarm.members[1:]:
        swarm.relay.set_writable(peer, is_writable=True)
        while swarm.relay.next_push(swarm.now):
            swarm.relay.set_writable(peer, is_writable=True)
    swarm.seeding_ends()
    effects = swarm.later(1.0)
    assert is_free(effects)
    assert claims(effects, slow) == ([0] if count > CROWD_MEMBERS else [])
    effects = swarm.later(CROWD_S)
    if count > CROWD_MEMBERS:
        (bits,) = claims(effects, slow)
        assert bits >> 150 & 0b111 == 0b111


def test_heads_are_members_that_take_frames_as_long_as_there_are_enough() -> None:
    count = 8 * MEMBERS_PER_HEAD + MEMBERS_PER_HEAD
    swarm = Swarm(count)
    wanted = min(HEADS_MAX, len(swarm.members) // MEMBERS_PER_HEAD)
    busy = swarm.members[:-wanted]
    for peer in busy:
        swarm.relay.set_writable(peer, is_writable=False)
    swarm.push(0, PushFlag.RELAYER)
    served = [e.peer for _ in range(wanted) for e in swarm.relay.next_push(swarm.now)]
    assert sorted(served) == sorted(swarm.members[-wanted:])


def test_busy_members_are_heads_where_nobody_else_is_left() -> None:
    swarm = Swarm(CROWD_MEMBERS + 8)
    for peer in swarm.members:
        swarm.relay.set_writable(peer, is_writable=False)
    swarm.push(0, PushFlag.RELAYER)
    assert swarm.relay.statistics().owed_units == len(swarm.members) // MEMBERS_PER_HEAD

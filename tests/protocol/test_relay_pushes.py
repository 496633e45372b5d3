"""Which pushes a relay takes, and what becomes of them: rules of docs/spec/relay.md, section 3."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from protocol.digest import ManifestId
from protocol.errors import LocalProtocolError
from protocol.exchange_events import (
    ExchangeOffenceError,
    ObjectDropped,
    Offence,
    PeerBanned,
    PeerJoined,
    PeerLeft,
    Stop,
    TimerFired,
)
from protocol.relay import Relay
from protocol.relay_events import (
    ChunksDropped,
    ChunksGained,
    ObjectReady,
    PeerClaimsObject,
    PeerPossession,
    PullFreed,
    PullGated,
    PullOpened,
    PushRefused,
    RelayEffect,
    RelayReceived,
    RelaySettings,
    SendPush,
    SendRelay,
    TakePush,
)
from protocol.relay_messages import (
    PUSH_PAYLOAD_BYTES_MAX,
    Complaint,
    Credit,
    News,
    Push,
    PushedChunk,
    PushFlag,
    Ready,
    RelayMessage,
    Role,
    Skip,
    delegate_name,
)
from protocol.relay_receiving import PENDING_BYTES_PEER_MAX

M = ManifestId(b"m" * 32)
LENGTHS = [100] * 20
SEEDER, A, B, C = (letter * 32 for letter in (b"s", b"a", b"b", b"c"))


def push(
    first: int = 0,
    count: int = 1,
    *,
    flags: PushFlag = PushFlag.NONE,
    delegates: tuple[bytes, ...] = (),
    size: int = 100,
    number: int = 0,
    packed: bool = False,
) -> Push:
    return Push(
        manifest_id=M,
        object_number=number,
        flags=flags,
        delegates=delegates,
        chunks=tuple(
            PushedChunk(index=index, data=bytes(size), is_compressed=packed)
            for index in range(first, first + count)
        ),
    )


@dataclass
class Receiver:
    """A relay that receives, with a seeder and three other receivers around it."""

    is_leaf: bool = False
    site: bytes = b""
    lengths: list[int] = field(default_factory=lambda: list(LENGTHS))
    now: float = 0.0

    def __post_init__(self) -> None:
        self.relay = Relay(
            manifest_id=M,
            own_key=b"o" * 32,
            chunk_counts=[len(self.lengths), 5],
            settings=RelaySettings(is_leaf=self.is_leaf, site=self.site),
            entropy=1,
        )
        for peer in (SEEDER, A, B, C):
            self.feed(PeerJoined(peer=peer))
        self.feed(ObjectReady(object_number=0, lengths=self.lengths, held=0))
        self.hear(SEEDER, self.ready(Role.SEEDS))
        for peer in (A, B, C):
            self.hear(peer, self.ready(Role.RECEIVES))

    def ready(self, role: Role) -> Ready:
        return Ready(manifest_id=M, roles=((0, role),))

    def feed(self, event: object) -> list[RelayEffect]:
        return self.relay.handle(event, self.now)  # type: ignore[arg-type]  # any input

    def hear(self, peer: bytes, message: RelayMessage) -> list[RelayEffect]:
        return self.feed(RelayReceived(peer=peer, message=message))

    def gain(self, *indices: int) -> list[RelayEffect]:
        return self.feed(ChunksGained(object_number=0, indices=indices))

    def pushes(self) -> list[SendPush]:
        """Hands out all that is owed, each as if it left at once."""
        found = []
        while True:
            effects = [e for e in self.relay.next_push(self.now) if isinstance(e, SendPush)]
            if not effects:
                return found
            found += effects
            self.relay.set_writable(effects[0].peer, is_writable=True)

    def later(self, seconds: float) -> list[RelayEffect]:
        self.now += seconds
        return self.feed(TimerFired())


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


def offence_of(receiver: Receiver, peer: bytes, message: Push) -> Offence:
    before = receiver.relay.statistics()
    with pytest.raises(ExchangeOffenceError) as caught:
        receiver.hear(peer, message)
    assert receiver.relay.statistics() == before
    return caught.value.offence


# What is taken ----------------------------------------------------------------------------------


def test_a_push_is_handed_over_to_be_verified_and_passed_on_only_then(receiver: Receiver) -> None:
    message = push(3, 2, flags=PushFlag.RELAYER)
    effects = receiver.hear(SEEDER, message)
    assert [e for e in effects if isinstance(e, TakePush)] == [TakePush(peer=SEEDER, push=message)]
    assert receiver.pushes() == []
    receiver.gain(3)
    assert receiver.pushes() == []
    receiver.gain(4)
    sent = receiver.pushes()
    assert sorted(effect.peer for effect in sent) == [A, B, C]
    assert {(e.first_index, e.count, e.size_bytes, e.flags) for e in sent} == {
        (3, 2, 200, PushFlag.NONE)
    }


def test_a_plain_push_is_passed_on_to_nobody(receiver: Receiver) -> None:
    receiver.hear(A, push(3))
    receiver.gain(3)
    assert receiver.pushes() == []


def test_delegates_are_served_and_nobody_else(receiver: Receiver) -> None:
    names = (delegate_name(B), delegate_name(C), b"stranger")
    receiver.hear(A, push(3, delegates=names))
    receiver.gain(3)
    assert sorted(effect.peer for effect in receiver.pushes()) == [B, C]


def test_half_of_the_pushes_earn_a_credit(receiver: Receiver) -> None:
    receiver.hear(SEEDER, push(3, flags=PushFlag.RELAYER))
    receiver.gain(3)
    receiver.relay.next_push(receiver.now)
    assert not credits_in(receiver.later(1.0))
    receiver.relay.next_push(receiver.now)
    assert credits_in(receiver.later(1.0)) == [
        SendRelay(peer=SEEDER, message=Credit(manifest_id=M, firsts=(3,)))
    ]


def credits_in(effects: list[RelayEffect]) -> list[RelayEffect]:
    return [e for e in effects if isinstance(e, SendRelay) and isinstance(e.message, Credit)]


def test_who_has_a_unit_is_not_sent_it(receiver: Receiver) -> None:
    receiver.hear(B, News(manifest_id=M, runs=((0, 5),), queued_bytes=0))
    receiver.hear(SEEDER, push(3, flags=PushFlag.RELAYER))
    receiver.gain(3)
    assert sorted(effect.peer for effect in receiver.pushes()) == [A, C]


def test_a_unit_that_is_here_is_passed_on_and_counts_as_duplicate(receiver: Receiver) -> None:
    receiver.gain(3)
    effects = receiver.hear(SEEDER, push(3, flags=PushFlag.RELAYER))
    assert not any(isinstance(effect, TakePush) for effect in effects)
    assert len(receiver.pushes()) == 3
    assert receiver.relay.statistics().duplicate_bytes == 100


def test_a_leaf_takes_and_passes_nothing_on() -> None:
    receiver = Receiver(is_leaf=True)
    receiver.hear(SEEDER, push(3, flags=PushFlag.ALL, delegates=(delegate_name(A),)))
    receiver.gain(3)
    assert receiver.pushes() == []


# What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "offence"),
    [
        (push(number=2), Offence.MALFORMED),
        (push(number=1), Offence.UNSOLICITED),
        (push(20), Offence.MALFORMED),
        (push(19, 2), Offence.MALFORMED),
        (push(size=99), Offence.WRONG_LENGTH),
        (push(size=101), Offence.WRONG_LENGTH),
        (push(size=100, packed=True), Offence.WRONG_LENGTH),
    ],
)
def test_a_push_that_no_order_of_honest_messages_explains(
    receiver: Receiver, message: Push, offence: Offence
) -> None:
    assert offence_of(receiver, A, message) is offence


def test_a_push_before_any_welcome_is_an_offence() -> None:
    relay = Relay(
        manifest_id=M, own_key=b"o" * 32, chunk_counts=[20], settings=RelaySettings(), entropy=0
    )
    relay.handle(PeerJoined(peer=A), 0.0)
    with pytest.raises(ExchangeOffenceError) as caught:
        relay.handle(RelayReceived(peer=A, message=push()), 0.0)
    assert caught.value.offence is Offence.UNSOLICITED


def test_a_push_that_crosses_the_end_of_the_welcome_is_none(receiver: Receiver) -> None:
    receiver.feed(ObjectDropped(component=0))
    assert receiver.hear(A, push(3)) == []
    assert receiver.relay.statistics().dropped_bytes == 100


def test_pushes_of_who_left_was_banned_or_after_the_end_are_nothing(receiver: Receiver) -> None:
    receiver.feed(PeerLeft(peer=A))
    assert receiver.hear(A, push(3)) == []
    receiver.feed(PeerBanned(peer=B))
    assert receiver.hear(B, push(3)) == []
    receiver.feed(PeerJoined(peer=B))
    assert not receiver.relay.has_peer(B)
    receiver.feed(Stop())
    assert receiver.hear(C, push(3)) == []


def test_what_finds_no_room_is_dropped_and_may_be_pulled() -> None:
    size = 100_000
    receiver = Receiver(lengths=[size] * 40)
    room = PENDING_BYTES_PEER_MAX // size
    for index in range(room):
        effects = receiver.hear(A, push(index, size=size))
        assert any(isinstance(effect, TakePush) for effect in effects)
    effects = receiver.hear(A, push(room, size=size))
    assert effects == [PullOpened(runs=((room, 1),))]
    statistics = receiver.relay.statistics()
    assert (statistics.dropped_bytes, statistics.pending_bytes) == (size, room * size)
    # Others have room of their own; what was verified makes room again.
    assert any(isinstance(e, TakePush) for e in receiver.hear(B, push(room, size=size)))
    receiver.gain(0)
    assert any(isinstance(e, TakePush) for e in receiver.hear(A, push(room + 1, size=size)))


def test_a_unit_that_fits_a_frame_only_while_packed_is_neither_taken_nor_passed_on() -> None:
    """Who holds its chunks unpacked could not encode it, nor would anybody take it from it."""
    size = 100_000
    receiver = Receiver(lengths=[size] * 40)
    count = PUSH_PAYLOAD_BYTES_MAX // size + 1
    message = push(0, count, size=1, packed=True, flags=PushFlag.RELAYER)
    assert not any(isinstance(effect, TakePush) for effect in receiver.hear(SEEDER, message))
    receiver.gain(*range(count))
    receiver.hear(SEEDER, message)
    assert receiver.pushes() == []
    receiver.hear(SEEDER, push(0, count - 1, size=1, packed=True, flags=PushFlag.RELAYER))
    assert len(receiver.pushes()) == 3


# Bad bytes --------------------------------------------------------------------------------------


def test_a_bad_chunk_is_complained_about_pulled_and_never_passed_on(receiver: Receiver) -> None:
    receiver.hear(A, push(3, 2, flags=PushFlag.RELAYER))
    receiver.gain(3)
    effects = receiver.feed(PushRefused(peer=A, object_number=0, index=4))
    assert SendRelay(peer=SEEDER, message=Complaint(manifest_id=M, culprit=A)) in effects
    assert PullOpened(runs=((4, 1),)) in effects
    assert receiver.pushes() == []
    assert receiver.relay.statistics().pending_bytes == 0
    receiver.gain(4)
    assert receiver.pushes() == []


def test_a_seeder_is_not_complained_about_to_itself(receiver: Receiver) -> None:
    receiver.hear(SEEDER, push(3))
    effects = receiver.feed(PushRefused(peer=SEEDER, object_number=0, index=3))
    assert not [e for e in effects if isinstance(e, SendRelay)]


def test_the_same_chunk_from_another_sender_still_counts(receiver: Receiver) -> None:
    receiver.hear(A, push(3, flags=PushFlag.RELAYER))
    receiver.feed(PushRefused(peer=A, object_number=0, index=3))
    receiver.feed(PeerBanned(peer=A))
    receiver.hear(SEEDER, push(3, flags=PushFlag.RELAYER))
    receiver.gain(3)
    assert sorted(effect.peer for effect in receiver.pushes()) == [B, C]


def test_rot_is_pushed_to_nobody(receiver: Receiver) -> None:
    receiver.hear(SEEDER, push(3, flags=PushFlag.RELAYER))
    receiver.gain(3)
    receiver.feed(ChunksDropped(object_number=0, indices=[3]))
    assert receiver.pushes() == []


# What may be pulled -----------------------------------------------------------------------------


def opened(effects: list[RelayEffect]) -> list[tuple[int, int]]:
    return [run for e in effects if isinstance(e, PullOpened) for run in e.runs]


def test_nothing_is_pulled_while_somebody_seeds() -> None:
    relay = Relay(
        manifest_id=M, own_key=b"o" * 32, chunk_counts=[20], settings=RelaySettings(), entropy=0
    )
    relay.handle(PeerJoined(peer=SEEDER), 0.0)
    relay.handle(
        RelayReceived(peer=SEEDER, message=Ready(manifest_id=M, roles=((0, Role.SEEDS),))), 0.0
    )
    effects = relay.handle(ObjectReady(object_number=0, lengths=LENGTHS, held=0), 0.0)
    assert PullGated(object_number=0) in effects


def test_a_bitfield_of_alternating_bits_opens_its_chunks_at_once(receiver: Receiver) -> None:
    """Each opening has the download look for what to ask: one for each run froze it for seconds."""
    effects = receiver.feed(PeerPossession(peer=A, object_number=0, bits=0x55555))
    assert opened(effects) == [(index, 1) for index in range(0, 20, 2)]
    assert sum(isinstance(effect, PullOpened) for effect in effects) == 1


def test_a_far_member_that_tells_again_and_again_waits_once() -> None:
    receiver = Receiver(site=b"here")
    receiver.hear(B, Ready(manifest_id=M, roles=((0, Role.RECEIVES),), site=b"here"))
    receiver.hear(A, Ready(manifest_id=M, roles=((0, Role.RECEIVES),), site=b"there"))
    for _ in range(100):
        receiver.feed(PeerPossession(peer=A, object_number=0, bits=0b11))
    effects = [effect for _ in range(8) for effect in receiver.later(5.0)]
    assert sum(isinstance(e, PeerClaimsObject) and e.peer == A for e in effects) == 1


@pytest.mark.parametrize(
    "message",
    [push(0), push(0, 12, size=1, packed=True)],
    ids=["what is here", "what fits no frame"],
)
def test_a_seeder_that_pushes_nothing_new_holds_nobody_up(message: Push) -> None:
    """G6: one that says SEEDS and repeats one chunk for ever must not keep all others unasked."""
    size = 100 if len(message.chunks) == 1 else 100_000
    receiver = Receiver(lengths=[size] * 20)
    receiver.hear(A, receiver.ready(Role.HOLDS))
    receiver.gain(0)
    effects: list[RelayEffect] = []
    for _ in range(40):
        receiver.hear(SEEDER, message)
        effects += receiver.later(0.5)
    assert any(isinstance(effect, PullFreed) for effect in effects)
    assert not any(isinstance(effect, PullGated) for effect in effects)


def test_once_nobody_seeds_and_nothing_comes_all_may_be_pulled(receiver: Receiver) -> None:
    """What a slow relayer still has to pass on is held elsewhere by then."""
    receiver.hear(A, push(1))
    receiver.gain(1)
    receiver.hear(SEEDER, receiver.ready(Role.HOLDS))
    assert not any(isinstance(effect, PullFreed) for effect in receiver.later(0.4))
    assert any(isinstance(effect, PullFreed) for effect in receiver.later(0.2))


def test_while_pushes_come_nothing_is_pulled_though_nobody_seeds(receiver: Receiver) -> None:
    receiver.hear(SEEDER, receiver.ready(Role.HOLDS))
    for index in range(1, 8):
        effects = receiver.later(0.2)
        assert not any(isinstance(effect, PullFreed) for effect in effects)
        receiver.hear(A, push(index))
        receiver.gain(index)


def test_what_was_heard_of_and_does_not_come_is_pulled(receiver: Receiver) -> None:
    news = News(manifest_id=M, runs=((3, 4),), queued_bytes=0)
    assert opened(receiver.hear(A, news)) == []
    receiver.gain(5)
    repair_s = receiver.relay.statistics().repair_s
    receiver.hear(SEEDER, push(0))
    assert opened(receiver.later(repair_s - 0.01)) == []
    assert opened(receiver.later(0.02)) == [(3, 2), (6, 1)]
    assert opened(receiver.later(0.02)) == []


def test_a_skip_is_pulled_at_once(receiver: Receiver) -> None:
    assert opened(receiver.hear(A, Skip(manifest_id=M, runs=((3, 2),)))) == [(3, 2)]


def test_what_a_lost_sender_told_of_is_pulled_at_once(receiver: Receiver) -> None:
    receiver.hear(A, News(manifest_id=M, runs=((3, 2),), queued_bytes=0))
    receiver.hear(B, News(manifest_id=M, runs=((7, 1),), queued_bytes=0))
    assert opened(receiver.feed(PeerLeft(peer=A))) == [(3, 2)]


@pytest.mark.parametrize(
    "message",
    [
        News(manifest_id=M, runs=((24, 2),), queued_bytes=0),
        Skip(manifest_id=M, runs=((25, 1),)),
        Credit(manifest_id=M, firsts=(25,)),
        Ready(manifest_id=M, roles=((2, Role.HOLDS),)),
    ],
)
def test_claims_outside_the_manifest_are_offences(
    receiver: Receiver, message: RelayMessage
) -> None:
    with pytest.raises(ExchangeOffenceError):
        receiver.hear(A, message)


def test_senseless_inputs_of_the_host_change_nothing(receiver: Receiver) -> None:
    before = receiver.relay.statistics()
    for event in (
        PeerJoined(peer=A),
        ChunksGained(object_number=0, indices=[20]),
        ChunksGained(object_number=2, indices=[0]),
        ObjectReady(object_number=0, lengths=[1], held=0),
        PushRefused(peer=A, object_number=0, index=99),
    ):
        with pytest.raises(LocalProtocolError):
            receiver.feed(event)
    assert receiver.relay.statistics() == before

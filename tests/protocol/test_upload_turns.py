"""`UploadTurns`: an uplink is shared by need, and nobody is forgotten."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from protocol.bitfield import Bitfield
from protocol.digest import ManifestId
from protocol.exchange_events import (
    ChunksRead,
    Flushed,
    PageRead,
    PeerId,
    PeerMessage,
    ReadChunks,
    ReadPage,
    Send,
    TurnCame,
    UploadEffect,
    UploadInput,
)
from protocol.exchange_messages import Cancel, Chunks, RecipePageMessage, RecipeRequest, Request
from protocol.limits import KIB
from protocol.runs import Runs
from protocol.upload import ServedManifest, Upload
from protocol.upload_pace import FRAME_BYTES_MIN, FRAME_BYTES_START
from protocol.upload_turns import (
    CALM_S,
    ENTRIES_MAX,
    NEED_S,
    PAUSE_FACTOR,
    PAUSE_S_MAX,
    PUSHED_HOLD_S,
    Seat,
    UploadTurns,
    Wish,
)

M = ManifestId(b"m" * 32)
COUNT = 30
NEED = COUNT + 1
"""Chunks and the one page of the object."""
WISH = Wish(manifest_id=M, component=0, answers=NEED)
CHUNK = bytes(64 * KIB)


class Desk:
    """Turns, and whether pushes wait."""

    def __init__(self) -> None:
        self.is_pushing = False
        self.turns = UploadTurns(lambda: self.is_pushing)

    def seat(self, name: str, served: int = 0) -> Seat:
        seat = self.turns.seat(name.encode())
        if served:
            seat.sent(WISH, served)
        return seat


def ask(seat: Seat, now: float, unsent_bytes: int = 0) -> int:
    return seat.begin(WISH, frame_bytes=FRAME_BYTES_START, unsent_bytes=unsent_bytes, now=now)


def frame_left(seat: Seat, now: float, *, is_asking: bool = True) -> None:
    seat.flushed(now)
    seat.settle(is_asking=is_asking, is_busy=False, now=now)


def test_who_is_in_need_waits_for_nobody() -> None:
    desk = Desk()
    seats = [desk.seat(name) for name in "abc"]
    assert [ask(seat, 0.0) for seat in seats] == [FRAME_BYTES_START] * 3
    assert [ask(seat, 0.0, unsent_bytes=1) for seat in seats] == [FRAME_BYTES_START] * 3
    assert not desk.turns.has_waiting
    assert desk.turns.deadline is None


def test_who_was_sent_everything_is_served_freely_while_nobody_is_in_need() -> None:
    desk = Desk()
    seats = [desk.seat(name, NEED) for name in "abc"]
    assert [ask(seat, 0.0) for seat in seats] == [FRAME_BYTES_START] * 3


def test_all_who_were_sent_everything_take_one_turn_beside_those_in_need() -> None:
    desk = Desk()
    ask(desk.seat("newcomer"), 0.0)
    more, most = desk.seat("more", NEED), desk.seat("most", 3 * NEED)
    assert ask(more, 0.0) == FRAME_BYTES_MIN
    assert ask(most, 0.0) == 0
    least = desk.seat("least", NEED - 1)
    least.sent(WISH, 1)
    assert ask(least, 0.1) == 0
    assert desk.turns.due(0.1) == []
    frame_left(more, 0.2)
    assert ask(more, 0.2) == 0, "those who wait come before who was just served"
    # Nobody pauses: the next frame follows at once, for the least served.
    assert desk.turns.due(0.2) == [b"least"]
    assert ask(least, 0.2) == FRAME_BYTES_MIN
    assert desk.turns.due(0.2) == []


def test_who_was_sent_one_copy_and_lost_it_goes_before_those_who_were_sent_many() -> None:
    desk = Desk()
    greedy = [desk.seat(name, 4 * NEED) for name in "abc"]
    lost, equal = desk.seat("lost", NEED), desk.seat("equal", 2 * NEED - 1)
    assert ask(lost, 0.0) == ask(equal, 0.0) == FRAME_BYTES_START
    assert [ask(seat, 0.0) for seat in greedy] == [FRAME_BYTES_MIN, 0, 0]


def test_a_peer_in_need_is_remembered_for_a_while_after_it_asked() -> None:
    desk = Desk()
    newcomer, greedy, other = desk.seat("new"), desk.seat("greedy", NEED), desk.seat("o", NEED)
    ask(newcomer, 0.0)
    frame_left(newcomer, 0.5, is_asking=False)
    assert ask(greedy, 10.4) == FRAME_BYTES_MIN
    assert ask(other, 10.4) == 0
    assert desk.turns.due(0.5 + NEED_S) == [b"o"]
    assert ask(other, 0.5 + NEED_S) == FRAME_BYTES_START


def test_a_new_stream_changes_no_count_and_other_peers_have_their_own() -> None:
    desk = Desk()
    old = desk.seat("greedy", NEED)
    old.leave()
    assert not desk.seat("greedy").is_in_need(WISH)
    assert desk.seat("greedx").is_in_need(WISH)
    other = Wish(manifest_id=M, component=1, answers=1)
    assert desk.seat("greedy").is_in_need(other), "objects are counted apart"


def test_counts_are_bounded_and_those_in_use_stay() -> None:
    desk = Desk()
    desk.seat("kept", NEED)
    for number in range(ENTRIES_MAX + 10):
        desk.seat(f"peer {number}", 1)
        if number % 1000 == 0:
            desk.seat("kept", 1)
    assert not desk.seat("kept").is_in_need(WISH)
    assert desk.turns.served(b"peer 0", WISH) == 0
    assert desk.turns.served(f"peer {ENTRIES_MAX}".encode(), WISH) == 1


# -- pushes ----------------------------------------------------------------------------------------


def test_while_pushes_wait_all_take_one_turn_with_pauses() -> None:
    desk = Desk()
    desk.is_pushing = True
    new, greedy = desk.seat("new"), desk.seat("greedy", 2 * NEED)
    assert ask(greedy, 0.0) == FRAME_BYTES_MIN
    assert ask(new, 0.0) == 0
    frame_left(greedy, 0.05)
    assert ask(greedy, 0.05) == 0
    pause_s = PAUSE_FACTOR * 0.05
    assert desk.turns.deadline == 0.05 + pause_s
    assert desk.turns.due(0.04 + pause_s) == []
    assert desk.turns.due(0.05 + pause_s) == [b"new"], "who is in need comes first"
    assert ask(new, 0.05 + pause_s) == FRAME_BYTES_MIN
    frame_left(new, 0.9 + pause_s, is_asking=False)
    assert desk.turns.deadline == 0.9 + pause_s + PAUSE_S_MAX


def test_all_go_on_at_once_when_no_push_waited_for_a_second() -> None:
    desk = Desk()
    desk.is_pushing = True
    seats = [desk.seat(name) for name in "abc"]
    assert [ask(seat, 0.0) for seat in seats] == [FRAME_BYTES_MIN, 0, 0]
    desk.is_pushing = False
    # In a moment without a push each gets a small frame.
    assert desk.turns.due(0.1) == [b"b", b"c"]
    assert [ask(seat, 0.1) for seat in seats[1:]] == [FRAME_BYTES_MIN] * 2
    assert ask(seats[1], 0.9, unsent_bytes=1) == 0
    assert ask(seats[1], CALM_S, unsent_bytes=1) == FRAME_BYTES_START


def test_who_takes_no_frame_loses_its_turn() -> None:
    desk = Desk()
    desk.is_pushing = True
    stuck, other = desk.seat("stuck"), desk.seat("other", 1)
    ask(stuck, 0.0)
    assert ask(other, 0.0) == 0
    assert desk.turns.deadline == PUSHED_HOLD_S
    assert desk.turns.due(PUSHED_HOLD_S) == []
    at = desk.turns.deadline
    assert at == PUSHED_HOLD_S + PAUSE_S_MAX
    assert desk.turns.due(at) == [b"other"]
    # Its own next frame has to wait until this one has left.
    assert ask(stuck, at, unsent_bytes=1) == 0


def test_a_turn_that_is_not_used_passes_on() -> None:
    desk = Desk()
    desk.is_pushing = True
    first, second, third = (desk.seat(name) for name in "abc")
    for seat in (first, second, third):
        ask(seat, 0.0)
    first.leave()
    assert desk.turns.due(0.0) == [b"b"]
    # It has cancelled everything meanwhile.
    second.settle(is_asking=False, is_busy=False, now=0.0)
    assert desk.turns.due(0.0) == [b"c"]


# -- with uploads ----------------------------------------------------------------------------------


@dataclass
class Node:
    """Uploads to some peers; frames leave one after the other, each peer's in its turn."""

    rate: float = 2.5e6
    desk: Desk = field(default_factory=Desk)
    now: float = 0.0

    def __post_init__(self) -> None:
        field_ = Bitfield(COUNT, (1 << COUNT) - 1)
        self.served = ServedManifest(manifest_id=M, possession=(field_,))
        self.uploads: dict[PeerId, Upload] = {}
        self.queue: deque[tuple[PeerId, int]] = deque()
        self.sent: dict[PeerId, int] = {}
        self.log: list[PeerId] = []
        self.answered: list[int] = []

    def find(self, manifest_id: ManifestId) -> ServedManifest | None:
        return self.served if manifest_id == M else None

    def connect(self, peer: PeerId) -> None:
        self.uploads[peer] = Upload(
            peer=peer, library=self, may_serve=lambda _: True, turns=self.desk.turns
        )

    def feed(self, peer: PeerId, event: UploadInput) -> None:
        effects = deque(self.uploads[peer].handle(event, self.now))
        while effects:
            for answer in self.execute(peer, effects.popleft()):
                effects.extend(self.uploads[peer].handle(answer, self.now))
        for called in self.desk.turns.due(self.now):
            if called in self.uploads:
                self.feed(called, TurnCame())

    def execute(self, peer: PeerId, effect: UploadEffect) -> list[UploadInput]:
        match effect:
            case ReadChunks():
                taken = list(effect.indices)[: max(effect.bytes_max // len(CHUNK), 1)]
                return [ChunksRead.of(effect.request_id, [(index, CHUNK) for index in taken])]
            case ReadPage():
                return [PageRead(request_id=effect.request_id, page=CHUNK)]
            case Send(message=Chunks() | RecipePageMessage() as message):
                size = message.payload_bytes if isinstance(message, Chunks) else len(message.page)
                self.queue.append((peer, size))
                self.answered.append(message.request_id)
        return []

    def ask(self, peer: PeerId, request_id: int, count: int = COUNT) -> None:
        indices = Runs.of(range(count))
        message = Request(request_id=request_id, manifest_id=M, component=0, indices=indices)
        self.feed(peer, PeerMessage(peer=peer, message=message))

    def step(self) -> bool:
        """Lets one frame leave, or the time come that somebody waits for."""
        if self.queue:
            peer, size = self.queue.popleft()
            self.now += size / self.rate
            self.sent[peer] = self.sent.get(peer, 0) + size
            self.log.append(peer)
            if peer in self.uploads:
                self.feed(peer, Flushed(payload_bytes=size))
            return True
        deadline = self.desk.turns.deadline
        if deadline is None:
            return False
        self.now = max(self.now, deadline)
        for called in self.desk.turns.due(self.now):
            self.feed(called, TurnCame())
        return True


def test_a_newcomer_gets_half_of_an_uplink_however_many_ask_again_and_again() -> None:
    node = Node()
    greedy = [b"greedy %d" % number for number in range(5)]
    for peer in [*greedy, b"new"]:
        node.connect(peer)
    for peer in greedy:
        node.ask(peer, 1)
    while node.step():
        pass
    for peer in greedy:  # pages are chunks' worth of the uplink, too
        page = RecipeRequest(request_id=2, manifest_id=M, component=0, page=0)
        node.feed(peer, PeerMessage(peer=peer, message=page))
    while node.step():
        pass
    node.log.clear()
    for peer in greedy:
        for request_id in range(3, 40):
            node.ask(peer, request_id)
    for _ in range(12):
        node.step()
    node.ask(b"new", 1)
    while node.uploads[b"new"].open_requests or node.uploads[b"new"].unsent_bytes:
        node.step()
    begun = node.log.index(b"new")
    mine = node.log[begun:]
    others = [peer for peer in mine if peer != b"new"]
    sent = node.sent[b"new"]
    assert sent == COUNT * len(CHUNK)
    assert len(others) * FRAME_BYTES_MIN <= sent
    # They took turns, and go on at once afterwards.
    assert max(others.count(peer) for peer in greedy) - min(map(others.count, greedy)) <= 1
    for _ in range(30):
        assert node.queue, "the uplink is never idle while somebody asks"
        node.step()


def test_what_a_peer_needs_goes_before_what_it_was_sent() -> None:
    node = Node()
    node.connect(b"peer")
    whole = Bitfield(1, 1)
    node.served = ServedManifest(manifest_id=M, possession=(whole, whole))
    for request_id in range(2):
        node.ask(b"peer", request_id, count=1)
        while node.step():
            pass
    node.answered.clear()
    for request_id in range(10, 30):
        node.ask(b"peer", request_id, count=1)
    wanted = Request(request_id=9, manifest_id=M, component=1, indices=Runs.of((0,)))
    node.feed(b"peer", PeerMessage(peer=b"peer", message=wanted))
    under_way = len(node.answered)
    while node.step():
        pass
    assert node.answered[under_way] == 9
    assert sorted(node.answered) == [*range(9, 30)]


OPERATION = st.tuples(
    st.sampled_from(["ask", "page", "cancel", "step", "push", "calm", "leave", "connect"]),
    st.integers(0, 3),
)


@given(st.lists(OPERATION, max_size=60))
def test_everybody_is_answered_in_the_end_whatever_happens(
    operations: list[tuple[str, int]],
) -> None:
    node, request_id = Node(), 0
    peers = [b"a", b"b", b"c", b"d"]
    for peer in peers:
        node.connect(peer)
    for what, number in operations:
        peer, request_id = peers[number], request_id + 1
        match what:
            case "step":
                node.step()
            case "push" | "calm":
                node.desk.is_pushing = what == "push"
            case "leave" if peer in node.uploads:
                node.uploads.pop(peer).end()
                node.queue = deque(each for each in node.queue if each[0] != peer)
            case "connect" if peer not in node.uploads:
                node.connect(peer)
            case "ask" if peer in node.uploads:
                node.ask(peer, request_id, count=number + 3)
            case "page" if peer in node.uploads:
                page = RecipeRequest(request_id=request_id, manifest_id=M, component=0, page=0)
                node.feed(peer, PeerMessage(peer=peer, message=page))
            case "cancel" if peer in node.uploads:
                cancel = Cancel(request_id=request_id - 1, indices=Runs.of(range(COUNT)))
                node.feed(peer, PeerMessage(peer=peer, message=cancel))
    for _ in range(10_000):
        is_open = any(upload.open_requests for upload in node.uploads.values())
        # Work conserving: who asks is read for, or a frame is under way, or a pause ends.
        assert not is_open or node.queue or node.desk.turns.deadline is not None
        if not node.step():
            break
    assert all(
        upload.open_requests == 0 and upload.unsent_bytes == 0 for upload in node.uploads.values()
    )

"""`PageLine`: a crowd that asks for a recipe is served by a few, and nobody is forgotten."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.bitfield import Bitfield
from protocol.digest import ManifestId
from protocol.exchange_events import (
    Flushed,
    PageRead,
    PeerId,
    PeerMessage,
    ReadPage,
    Send,
    TurnCame,
    UploadInput,
)
from protocol.exchange_messages import RecipePageMessage, RecipeRequest, Reject, RejectReason
from protocol.upload import ServedManifest, Upload
from protocol.upload_pages import (
    ENTRIES_MAX,
    GATHER_S,
    HOLD_S,
    LINE_BYTES_MAX,
    PAGE_BYTES_PER_CHUNK,
    UNDER_WAY_BYTES_MAX,
    WAIT_S,
    PageCost,
    PageLine,
)
from protocol.upload_turns import UploadTurns

OBJECT = (ManifestId(b"m" * 32), 0)
CHUNKS = 1024
PAGE_BYTES = CHUNKS * PAGE_BYTES_PER_CHUNK
FIT = UNDER_WAY_BYTES_MAX // PAGE_BYTES
"""Peers that are served at once."""
LINE = LINE_BYTES_MAX // PAGE_BYTES
"""Peers that may be served and wait."""


def name(number: int) -> PeerId:
    return PeerId(b"%04d" % number)


class Line:
    """A line whose peers take their turn as soon as they may."""

    def __init__(self) -> None:
        self.line = PageLine()
        self.begun: list[int] = []
        self.now = 0.0

    def ask(self, number: int, now: float, *, pages: int = 1, is_source: bool = True) -> bool:
        page = PageCost(chunks=CHUNKS, of_count=pages)
        if not self.line.admit(name(number), OBJECT, page, is_source=is_source, now=now):
            return False
        self.look(number, now)
        return True

    def look(self, number: int, now: float) -> None:
        if self.line.may_begin(name(number), now):
            self.line.begins(name(number))
            self.begun.append(number)

    def wait(self, now: float) -> list[int]:
        """Runs until a time; who was told BUSY."""
        refused, at = [], self.now
        while (due_at := self.line.deadline) is not None and due_at <= now:
            at = max(at, due_at)
            for peer in self.line.due(at):
                number = int(peer)
                if self.line.is_over(peer, at):
                    refused.append(number)
                else:
                    self.look(number, at)
        self.now = now
        return refused


def test_what_fits_is_served_at_once_and_the_rest_of_a_few_soon() -> None:
    line = Line()
    assert all(line.ask(number, 0.0) for number in range(LINE))
    assert line.begun == list(range(FIT))
    assert line.wait(GATHER_S) == []
    assert line.begun == list(range(LINE))
    assert line.line.deadline is None


def test_of_a_crowd_only_what_fits_is_served_and_the_others_know_soon() -> None:
    line = Line()
    asked = [line.ask(number, 0.0) for number in range(100)]
    assert asked == [number < LINE for number in range(100)]
    refused = line.wait(WAIT_S)
    assert line.begun == list(range(FIT))
    assert refused == list(range(FIT, LINE))


def test_one_of_several_sources_has_nobody_wait() -> None:
    line = Line()
    asked = [line.ask(number, 0.0, is_source=False) for number in range(100)]
    assert asked == [number < FIT for number in range(100)]
    assert line.begun == list(range(FIT))
    assert line.wait(WAIT_S) == []


def test_who_has_a_place_does_not_ask_for_more_past_the_others() -> None:
    line = Line()
    for number in range(LINE):
        assert line.ask(number, 0.0, pages=16)
    assert not line.ask(0, 0.0, pages=16)
    for number in range(1, LINE):
        line.line.leave(name(number))
    assert line.ask(0, 0.1, pages=16)


def test_what_has_left_makes_room() -> None:
    line = Line()
    for number in range(100):
        line.ask(number, 0.0)
    for number in range(3):
        line.line.leave(name(number))
    assert line.wait(0.1) == []
    assert line.begun == list(range(FIT + 3))


def test_who_takes_nothing_holds_up_nobody_for_long() -> None:
    line = Line()
    for number in range(100):
        line.ask(number, 0.0)
    line.wait(HOLD_S - 0.1)
    assert line.ask(200, HOLD_S - 0.1)
    assert line.wait(HOLD_S - 0.01) == []
    assert 200 not in line.begun
    line.wait(HOLD_S)
    assert 200 in line.begun


def test_who_takes_its_pages_keeps_its_turn() -> None:
    line = Line()
    for number in range(100):
        line.ask(number, 0.0)
    line.wait(WAIT_S)
    for number in range(FIT):
        line.line.moved(name(number), HOLD_S - 0.05)
    assert line.ask(200, HOLD_S - 0.1)
    assert line.wait(HOLD_S + 0.1) == []
    assert 200 not in line.begun
    assert line.wait(HOLD_S - 0.1 + WAIT_S) == [200]


def test_a_large_recipe_is_served_to_one_of_a_crowd_after_the_other() -> None:
    line = Line()
    for number in range(4):
        for _ in range(16):
            line.ask(number, 0.0, pages=16)
    line.wait(WAIT_S)
    assert set(line.begun) == {0}
    line.line.leave(name(0))
    assert line.ask(2, 0.5, pages=16)
    assert 2 in line.begun


def test_who_asks_again_for_what_it_was_sent_waits_for_all_others() -> None:
    line = Line()
    assert line.ask(1, 0.0)
    line.line.leave(name(1))
    assert line.ask(1, 1.0)  # nobody else asks: nothing is refused
    line.line.leave(name(1))
    assert line.ask(2, 2.0)
    assert not line.ask(1, 2.0)
    line.line.leave(name(2))
    assert line.ask(1, 3.0)


def test_who_asks_for_one_page_without_end_is_cut_short_by_the_next() -> None:
    line = Line()
    assert line.ask(1, 0.0)
    assert line.ask(1, 0.0)
    assert line.ask(2, 0.0)
    assert not line.ask(1, 0.1)


def test_who_left_is_in_nobodys_way() -> None:
    line = Line()
    for number in range(100):
        line.ask(number, 0.0)
    for number in range(LINE):
        line.line.leave(name(number))
    assert not line.line.has_waiting
    assert line.line.deadline is None
    assert line.ask(200, 0.1)
    assert 200 in line.begun


def test_counts_are_bounded() -> None:
    line = PageLine()
    for number in range(ENTRIES_MAX + 10):
        peer = PeerId(b"%08d" % number)
        assert line.admit(peer, OBJECT, PageCost(chunks=1, of_count=1), is_source=True, now=0.0)
        line.leave(peer)
    assert len(line._given) == ENTRIES_MAX


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "leave", "move"]), st.integers(0, 40), st.floats(0, 0.3)),
        max_size=60,
    )
)
def test_everybody_is_served_or_told_in_time(steps: list[tuple[str, int, float]]) -> None:
    line, now, since = Line(), 0.0, dict[int, float]()
    for what, number, pause_s in steps:
        now += pause_s
        for refused in line.wait(now):
            assert since.pop(refused) <= now - WAIT_S
        if what == "ask" and line.ask(number, now, pages=100):
            since.setdefault(number, now)
        elif what == "leave":
            line.line.leave(name(number))
            since.pop(number, None)
        else:
            line.line.moved(name(number), now)
        for begun in line.begun:
            since.pop(begun, None)
        assert all(now < asked_at + WAIT_S for asked_at in since.values())


# -- with uploads ----------------------------------------------------------------------------------


class Node:
    """Uploads to a crowd; what they answer is noted."""

    def __init__(self, held: int = CHUNKS) -> None:
        self.turns = UploadTurns()
        field = Bitfield(CHUNKS, (1 << held) - 1)
        self.served = ServedManifest(manifest_id=OBJECT[0], possession=(field,))
        self.uploads: dict[PeerId, Upload] = {}
        self.reads: list[PeerId] = []
        self.sent: list[PeerId] = []
        self.busy: list[PeerId] = []

    def find(self, manifest_id: ManifestId) -> ServedManifest | None:
        return self.served if manifest_id == OBJECT[0] else None

    def ask(self, number: int, now: float, request_id: int = 1) -> None:
        peer = name(number)
        if peer not in self.uploads:
            self.uploads[peer] = Upload(
                peer=peer, library=self, may_serve=lambda _: True, turns=self.turns
            )
        request = RecipeRequest(request_id=request_id, manifest_id=OBJECT[0], component=0, page=0)
        self.feed(peer, PeerMessage(peer=peer, message=request), now)

    def feed(self, peer: PeerId, event: UploadInput, now: float) -> None:
        for effect in self.uploads[peer].handle(event, now):
            match effect:
                case ReadPage():
                    self.reads.append(peer)
                    read = PageRead(request_id=effect.request_id, page=bytes(PAGE_BYTES))
                    self.feed(peer, read, now)
                case Send(message=RecipePageMessage()):
                    self.sent.append(peer)
                case Send(message=Reject() as reject):
                    assert reject.reason is RejectReason.BUSY
                    self.busy.append(peer)
        for called in self.turns.due(now):
            self.feed(called, TurnCame(), now)

    def left(self, number: int, now: float) -> None:
        self.feed(name(number), Flushed(payload_bytes=PAGE_BYTES), now)

    def wake(self, now: float) -> None:
        while (deadline := self.turns.deadline) is not None and deadline <= now:
            for called in self.turns.due(deadline):
                self.feed(called, TurnCame(), deadline)


def test_of_a_crowd_some_are_served_and_all_others_answered() -> None:
    node = Node()
    for number in range(40):
        node.ask(number, 0.0)
    assert node.sent == [name(number) for number in range(FIT)]
    assert node.busy == [name(number) for number in range(LINE, 40)]
    node.left(0, 0.1)
    assert node.sent[FIT:] == [name(FIT)]
    node.wake(WAIT_S)
    assert len(node.busy) + len(node.sent) == 40
    assert not any(
        upload.open_requests for peer, upload in node.uploads.items() if peer not in node.sent
    )


def test_who_holds_a_part_serves_what_fits_and_has_nobody_wait() -> None:
    node = Node(held=3)
    for number in range(40):
        node.ask(number, 0.0)
    assert node.sent == [name(number) for number in range(FIT)]
    assert len(node.busy) == 40 - FIT
    assert node.turns.deadline is None


def test_who_was_busy_has_room_once_pages_have_left() -> None:
    node = Node(held=3)
    for number in range(40):
        node.ask(number, 0.0)
    for number in range(FIT):
        node.left(number, 0.1)
    node.ask(30, 0.2, request_id=2)
    assert node.sent[-1] == name(30)


def test_while_pushes_wait_a_page_is_served_in_its_turn_or_refused_soon() -> None:
    node = Node()
    node.turns = UploadTurns(lambda: True)
    node.ask(0, 0.0)
    node.ask(1, 0.0)
    assert node.sent == [name(0)]
    node.wake(WAIT_S)
    assert node.busy == [name(1)]
    assert node.turns.deadline is None

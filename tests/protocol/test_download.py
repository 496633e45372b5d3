"""`Download` alone: every (state, input) pair, and the rules of asking."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocol.bitfield import Bitfield, bits_of
from protocol.digest import ManifestId
from protocol.download import Download
from protocol.download_board import ByteBudget
from protocol.download_requests import LANE_BITS
from protocol.download_state import DownloadState
from protocol.errors import LocalProtocolError
from protocol.exchange_events import (
    Blame,
    ChunkRefused,
    ChunksLost,
    ChunksStored,
    ComponentComplete,
    ComponentPrepared,
    ComponentVerified,
    DownloadEffect,
    DownloadInput,
    ExchangeOffenceError,
    Finished,
    Offence,
    PageRefused,
    PageVerified,
    PeerBanned,
    PeerJoined,
    PeerLeft,
    PeerMessage,
    PrepareComponent,
    RecipeKnown,
    Send,
    Stalled,
    Stop,
    StorageFull,
    StorageReady,
    TimerFired,
    VerifyPage,
    WriteChunks,
)
from protocol.exchange_flow import WINDOW_BYTES_MAX, WINDOW_BYTES_START
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
    Unknown,
)
from protocol.picker import RarestFirst
from protocol.runs import Runs

M = ManifestId(b"m" * 32)
A, B = b"peer-a", b"peer-b"
SIZE = 1000
COUNT = 8


class Rig:
    """A download with its effects at hand."""

    def __init__(
        self, counts: tuple[int, ...] = (COUNT,), *, budget: ByteBudget | None = None
    ) -> None:
        self.machine = Download(
            manifest_id=M,
            chunk_counts=counts,
            picker=RarestFirst(size=sum(counts), entropy=0),
            lane=1,
            budget=budget,
        )
        self.counts = counts
        self.now = 0.0

    def feed(self, event: DownloadInput) -> list[DownloadEffect]:
        return self.machine.handle(event, self.now)

    def message(self, peer: bytes, message: ExchangeMessage) -> list[DownloadEffect]:
        return self.feed(PeerMessage(peer=peer, message=message))

    def know(self, component: int = 0, held: int = 0) -> list[DownloadEffect]:
        count = self.counts[component]
        self.feed(RecipeKnown(component=component, lengths=[SIZE] * count))
        return self.feed(ComponentPrepared(component=component, held=Bitfield(count, held)))

    def join(self, peer: bytes, indices: range = range(COUNT), component: int = 0) -> list[Request]:
        if not self.machine.has_peer(peer):
            self.feed(PeerJoined(peer=peer))
        bits = Bitfield(self.counts[component], bits_of(indices)).encode()
        effects = self.message(peer, BitfieldMessage(manifest_id=M, component=component, bits=bits))
        return requests(effects)

    def answer(
        self, request: Request, peer: bytes, indices: tuple[int, ...]
    ) -> list[DownloadEffect]:
        chunks = tuple((index, b"x" * SIZE) for index in indices)
        return self.message(peer, Chunks.of(request.request_id, chunks))

    def store(self, *indices: int, gained: tuple[int, ...] = ()) -> list[DownloadEffect]:
        return self.feed(ChunksStored(component=0, indices=indices, gained=gained))


def requests(effects: list[DownloadEffect]) -> list[Request]:
    return [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Request)]


def sends(effects: list[DownloadEffect], kind: type) -> list[Send]:
    return [e for e in effects if isinstance(e, Send) and isinstance(e.message, kind)]


def only(effects: list[DownloadEffect], kind: type) -> list[DownloadEffect]:
    return [e for e in effects if isinstance(e, kind)]


def fetching() -> tuple[Rig, Request]:
    rig = Rig()
    rig.know()
    (request,) = rig.join(A)
    return rig, request


def paused() -> tuple[Rig, Request]:
    rig, request = fetching()
    rig.feed(StorageFull(component=0, indices=()))
    return rig, request


def stopped() -> tuple[Rig, Request]:
    rig, request = fetching()
    rig.feed(Stop())
    return rig, request


def finished() -> tuple[Rig, Request]:
    rig, request = fetching()
    rig.answer(request, A, tuple(range(COUNT)))
    rig.store(*range(COUNT))
    rig.feed(ComponentVerified(component=0))
    return rig, request


def test_the_path_of_a_download_with_its_recipe() -> None:
    rig = Rig()
    (interest,) = rig.feed(PeerJoined(peer=A))
    assert interest == Send(peer=A, message=Interest(manifest_id=M, components=(0,)))
    bits = Bitfield.full(COUNT).encode()
    (ask,) = rig.message(A, BitfieldMessage(manifest_id=M, component=0, bits=bits))
    assert isinstance(ask, Send)
    assert isinstance(ask.message, RecipeRequest)
    (verify,) = rig.message(A, RecipePageMessage(request_id=ask.message.request_id, page=b"page"))
    assert verify == VerifyPage(component=0, page=0, body=b"page")
    (prepare,) = rig.feed(PageVerified(component=0, page=0, lengths=[SIZE] * COUNT))
    assert prepare == PrepareComponent(component=0)
    (request,) = requests(rig.feed(ComponentPrepared(component=0, held=Bitfield(COUNT, 1))))
    assert tuple(request.indices) == tuple(range(1, COUNT))
    writes = rig.answer(request, A, request.indices)
    assert [tuple(w.indices) for w in writes if isinstance(w, WriteChunks)] == [
        tuple(range(1, COUNT))
    ]
    assert rig.store(*range(1, COUNT)) == [ComponentComplete(component=0)]
    end = rig.feed(ComponentVerified(component=0))
    assert end == [Send(peer=A, message=NotInterested(manifest_id=M)), Finished()]
    assert rig.machine.state is DownloadState.FINISHED
    assert rig.machine.is_drained
    assert rig.machine.in_flight_bytes == 0
    assert rig.machine.deadline is None


# The answer of each state to each input that the peer or the host may give: which error, or none.
BITS = Bitfield.full(COUNT).encode()
INPUTS: dict[str, Callable[[Request], DownloadInput]] = {
    "joined_again": lambda _: PeerJoined(peer=A),
    "joined": lambda _: PeerJoined(peer=B),
    "left": lambda _: PeerLeft(peer=A),
    "left_unknown": lambda _: PeerLeft(peer=B),
    "banned": lambda _: PeerBanned(peer=A),
    "timer": lambda _: TimerFired(),
    "stop": lambda _: Stop(),
    "full": lambda _: StorageFull(component=0, indices=()),
    "ready": lambda _: StorageReady(),
    "prepared": lambda _: ComponentPrepared(component=0, held=Bitfield(COUNT)),
    "recipe": lambda _: RecipeKnown(component=0, lengths=[SIZE] * COUNT),
    "page_verified": lambda _: PageVerified(component=0, page=0, lengths=[SIZE] * COUNT),
    "page_refused": lambda _: PageRefused(component=0, page=0, detail=""),
    "stored": lambda _: ChunksStored(component=0, indices=(0,)),
    "stored_outside": lambda _: ChunksStored(component=0, indices=(COUNT,)),
    "refused": lambda _: ChunkRefused(component=0, index=0, detail=""),
    "verified": lambda _: ComponentVerified(component=0),
    "lost": lambda _: ChunksLost(component=0, indices=(0,)),
    "have": lambda _: PeerMessage(
        peer=A, message=Have(manifest_id=M, component=0, indices=Runs.of((COUNT - 1,)))
    ),
    "have_outside": lambda _: PeerMessage(
        peer=A, message=Have(manifest_id=M, component=0, indices=Runs.of((COUNT,)))
    ),
    "have_component": lambda _: PeerMessage(
        peer=A, message=Have(manifest_id=M, component=1, indices=Runs.of((0,)))
    ),
    "bitfield": lambda _: PeerMessage(
        peer=A, message=BitfieldMessage(manifest_id=M, component=0, bits=BITS)
    ),
    "bitfield_size": lambda _: PeerMessage(
        peer=A, message=BitfieldMessage(manifest_id=M, component=0, bits=BITS + b"\x00")
    ),
    "unknown": lambda _: PeerMessage(peer=A, message=Unknown(manifest_id=M)),
    "page": lambda r: PeerMessage(
        peer=A, message=RecipePageMessage(request_id=r.request_id, page=b"")
    ),
    "page_unasked": lambda _: PeerMessage(
        peer=A, message=RecipePageMessage(request_id=7, page=b"")
    ),
    "chunk": lambda r: PeerMessage(peer=A, message=Chunks.of(r.request_id, ((0, b"x" * SIZE),))),
    "chunk_unasked": lambda _: PeerMessage(peer=A, message=Chunks.of(7, ((0, b"x" * SIZE),))),
    "chunk_short": lambda r: PeerMessage(
        peer=A, message=Chunks.of(r.request_id, ((0, b"x" * (SIZE - 1)),))
    ),
    "chunk_index": lambda r: PeerMessage(
        peer=A, message=Chunks.of(r.request_id, ((COUNT, b"x" * SIZE),))
    ),
    "reject": lambda r: PeerMessage(
        peer=A,
        message=Reject(request_id=r.request_id, indices=Runs.of((0,)), reason=RejectReason.BUSY),
    ),
    "reject_nothing": lambda r: PeerMessage(
        peer=A,
        message=Reject(request_id=r.request_id, indices=Runs.of(()), reason=RejectReason.BUSY),
    ),
    "reject_unasked": lambda _: PeerMessage(
        peer=A, message=Reject(request_id=7, indices=Runs.of((0,)), reason=RejectReason.BUSY)
    ),
    "stranger": lambda _: PeerMessage(peer=B, message=Unknown(manifest_id=M)),
    "wrong_direction": lambda _: PeerMessage(peer=A, message=NotInterested(manifest_id=M)),
}
OURS = {
    "joined_again", "prepared", "recipe", "page_refused", "stored_outside", "refused", "verified",
    "stranger", "wrong_direction",
}  # fmt: skip
THEIRS = {
    "have_outside": Offence.MALFORMED,
    "have_component": Offence.MALFORMED,
    "bitfield_size": Offence.MALFORMED,
    "page": Offence.UNSOLICITED,
    "page_unasked": Offence.UNSOLICITED,
    "chunk_unasked": Offence.UNSOLICITED,
    "chunk_short": Offence.WRONG_LENGTH,
    "chunk_index": Offence.UNSOLICITED,
    "reject_nothing": Offence.UNSOLICITED,
    "reject_unasked": Offence.UNSOLICITED,
}
# After the end the host's inputs are stale, not wrong; a finished download has no open request.
ENDED_OURS = {"wrong_direction"}
FINISHED_THEIRS = {"chunk": Offence.UNSOLICITED, "reject": Offence.UNSOLICITED}
FINISHED_THEIRS["chunk_short"] = Offence.UNSOLICITED


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("state", [fetching, paused, stopped, finished])
def test_every_state_has_an_answer_to_every_input(
    state: Callable[[], tuple[Rig, Request]], name: str
) -> None:
    rig, request = state()
    is_ended = state in (stopped, finished)
    ours = ENDED_OURS if is_ended else OURS
    theirs = THEIRS | (FINISHED_THEIRS if state is finished else {})
    before = (rig.machine.statistics(), rig.machine.deadline, rig.machine.in_flight_bytes)
    event = INPUTS[name](request)
    if name in ours:
        with pytest.raises(LocalProtocolError):
            rig.feed(event)
    elif name in theirs:
        with pytest.raises(ExchangeOffenceError) as caught:
            rig.feed(event)
        assert caught.value.offence is theirs[name]
    else:
        rig.feed(event)
        return
    after = (rig.machine.statistics(), rig.machine.deadline, rig.machine.in_flight_bytes)
    assert after == before


def test_an_answer_is_taken_once() -> None:
    rig, request = fetching()
    assert only(rig.answer(request, A, (0, 1)), WriteChunks)
    with pytest.raises(ExchangeOffenceError):
        rig.answer(request, A, (1,))
    assert only(rig.answer(request, A, (2,)), WriteChunks)


def test_a_refused_chunk_bans_its_sender_and_frees_all_it_owed() -> None:
    rig, request = fetching()
    rig.feed(PeerJoined(peer=B))
    rig.answer(request, A, (0, 1))
    effects = rig.feed(ChunkRefused(component=0, index=0, detail="digest"))
    (blame,) = only(effects, Blame)
    assert blame == Blame(
        peer=A,
        offence=Offence.CORRUPT_CHUNK,
        manifest_id=M,
        component=0,
        position=0,
        detail="digest",
    )
    assert rig.machine.is_banned(A)
    assert not rig.machine.has_peer(A)
    # The second chunk was on its way to the disk: judged on its own, blamed no second time.
    assert only(rig.feed(ChunkRefused(component=0, index=1, detail="")), Blame) == []
    (again,) = rig.join(B)
    assert tuple(again.indices) == tuple(range(COUNT))
    assert rig.feed(PeerJoined(peer=A)) == []
    assert rig.message(A, Unknown(manifest_id=M)) == []


def test_a_corrupt_chunk_is_blamed_even_after_its_sender_left_or_the_fetch_stopped() -> None:
    for event in (PeerLeft(peer=A), Stop()):
        rig, request = fetching()
        rig.answer(request, A, (0,))
        rig.feed(event)
        assert only(rig.feed(ChunkRefused(component=0, index=0, detail="")), Blame)
        assert rig.machine.is_banned(A)


def test_a_forged_page_bans_its_sender_and_is_asked_elsewhere() -> None:
    rig = Rig()
    rig.join(A)
    rig.feed(PeerJoined(peer=B))
    rig.message(A, RecipePageMessage(request_id=1 << LANE_BITS, page=b"forged"))
    effects = rig.feed(PageRefused(component=0, page=0, detail="root"))
    assert [b.offence for b in only(effects, Blame) if isinstance(b, Blame)] == [
        Offence.CORRUPT_PAGE
    ]
    rig.feed(PeerMessage(peer=B, message=Unknown(manifest_id=M)))
    bits = Bitfield.full(COUNT).encode()
    effects = rig.message(B, BitfieldMessage(manifest_id=M, component=0, bits=bits))
    assert sends(effects, RecipeRequest)


def test_an_overdue_request_is_asked_elsewhere_and_its_late_answer_still_counts() -> None:
    rig, request = fetching()
    rig.join(B)
    rig.now = 5.0
    effects = rig.feed(TimerFired())
    assert Stalled(peer=A) in effects
    (second,) = requests(effects)
    assert tuple(second.indices) == tuple(request.indices)
    assert sends(effects, Request)[0].peer == B
    late = rig.answer(request, A, (0,))
    assert only(late, WriteChunks)
    (cancel,) = sends(rig.store(0), Cancel)
    assert cancel.peer == B
    assert cancel.message == Cancel(request_id=second.request_id, indices=Runs.of((0,)))
    # B's answer was under way: superfluous, but no offence; then it confirms the rest.
    assert only(rig.answer(second, B, (0, 1)), WriteChunks)[0].chunks == ((1, b"x" * SIZE),)
    assert rig.machine.statistics().wasted_bytes == SIZE


def test_a_stalled_peer_is_asked_nothing_until_it_answers() -> None:
    rig = Rig()
    rig.know()
    (request,) = rig.join(A, range(5))
    rig.now = 5.0
    assert Stalled(peer=A) in rig.feed(TimerFired())
    have = Have(manifest_id=M, component=0, indices=Runs.of((5,)))
    assert requests(rig.message(A, have)) == []
    (next_request,) = requests(rig.answer(request, A, (0,)))
    assert tuple(next_request.indices) == (5,)


def test_nobody_is_asked_twice_for_what_it_still_owes() -> None:
    rig, _ = fetching()
    rig.now = 5.0
    assert requests(rig.feed(TimerFired())) == []
    assert requests(rig.feed(TimerFired())) == []


def test_a_peer_that_answers_again_is_not_asked_twice_for_what_is_overdue() -> None:
    rig = Rig()
    rig.know()
    (overdue,) = rig.join(A, range(5))
    rig.now = 4.9
    have = Have(manifest_id=M, component=0, indices=Runs.of((5,)))
    (recent,) = requests(rig.message(A, have))
    rig.now = 5.0
    rig.feed(TimerFired())
    assert requests(rig.answer(recent, A, (5,))) == []
    assert [tuple(r.indices) for r in rig.join(B, range(5))] == [tuple(overdue.indices)]


def test_late_answers_are_taken_only_while_there_is_room() -> None:
    rig = Rig(budget=ByteBudget(limit_bytes=COUNT * SIZE))
    rig.know()
    (request,) = rig.join(A)
    rig.join(B)
    rig.now = 5.0
    (second,) = requests(rig.feed(TimerFired()))
    assert rig.machine.in_flight_bytes == COUNT * SIZE
    assert only(rig.answer(request, A, (0,)), WriteChunks) == []
    assert rig.machine.statistics().wasted_bytes == SIZE
    assert rig.machine.in_flight_bytes == COUNT * SIZE
    assert only(rig.answer(second, B, (0,)), WriteChunks)
    rig.store(0)
    assert only(rig.answer(request, A, (1,)), WriteChunks)


def test_the_endgame_asks_a_second_peer_and_no_third() -> None:
    rig, request = fetching()
    for peer in (B, b"peer-c"):
        assert rig.join(peer) == []
    rig.now = 2.6
    assert [tuple(r.indices) for r in requests(rig.feed(TimerFired()))] == [tuple(request.indices)]


def test_what_one_peer_rejects_is_not_asked_of_a_third_while_a_second_is_at_it() -> None:
    rig, request = fetching()
    rig.join(B)
    rig.now = 2.6
    assert len(requests(rig.feed(TimerFired()))) == 1
    rig.join(b"peer-c")
    effects = rig.message(
        A,
        Reject(
            request_id=request.request_id,
            indices=request.indices,
            reason=RejectReason.NOT_AVAILABLE,
        ),
    )
    assert requests(effects) == []


def test_rejects_route_requests_to_others() -> None:
    for reason in (RejectReason.NOT_AVAILABLE, RejectReason.BUSY, RejectReason.UNKNOWN):
        rig, request = fetching()
        rig.join(B)
        effects = rig.message(
            A,
            Reject(request_id=request.request_id, indices=request.indices, reason=reason),
        )
        (second,) = requests(effects)
        assert sends(effects, Request)[0].peer == B
        assert tuple(second.indices) == tuple(request.indices)


def test_busy_is_a_pause_and_unknown_a_longer_one() -> None:
    rig, request = fetching()
    rig.message(
        A,
        Reject(
            request_id=request.request_id,
            indices=request.indices,
            reason=RejectReason.BUSY,
        ),
    )
    assert rig.machine.deadline is not None
    rig.now = rig.machine.deadline
    (second,) = requests(rig.feed(TimerFired()))
    rig.message(
        A,
        Reject(
            request_id=second.request_id,
            indices=second.indices,
            reason=RejectReason.UNKNOWN,
        ),
    )
    rig.now = 1.5
    assert sends(rig.feed(TimerFired()), Interest)


def test_what_a_peer_lacks_is_not_asked_of_it_again() -> None:
    rig, request = fetching()
    rig.message(
        A,
        Reject(
            request_id=request.request_id, indices=Runs.of((3,)), reason=RejectReason.NOT_AVAILABLE
        ),
    )
    rig.answer(request, A, (0, 1, 2, 4, 5, 6, 7))
    rig.store(0, 1, 2, 4, 5, 6, 7)
    for step in range(1, 40):
        rig.now = float(step)
        assert requests(rig.feed(TimerFired())) == []
    picker = rig.machine._core.picker
    assert isinstance(picker, RarestFirst)
    assert [picker.availability(number) for number in range(COUNT)] == [1, 1, 1, 0, 1, 1, 1, 1]
    have = Have(manifest_id=M, component=0, indices=Runs.of((3,)))
    assert [tuple(r.indices) for r in requests(rig.message(A, have))] == [(3,)]
    rig.feed(PeerLeft(peer=A))
    assert [picker.availability(number) for number in range(COUNT)] == [0] * COUNT


def test_a_full_disk_pauses_without_blame_and_resumes() -> None:
    rig, request = fetching()
    rig.answer(request, A, (0, 1))
    assert rig.feed(StorageFull(component=0, indices=(0, 1))) == []
    assert rig.machine.state is DownloadState.PAUSED
    # What comes during the pause is dropped; nobody is to blame.
    assert rig.answer(request, A, (2, 3, 4, 5, 6, 7)) == []
    assert rig.machine.in_flight_bytes == 0
    (again,) = requests(rig.feed(StorageReady()))
    assert tuple(again.indices) == tuple(range(COUNT))


def test_a_full_disk_before_preparation_repeats_the_preparation() -> None:
    rig = Rig()
    rig.feed(RecipeKnown(component=0, lengths=[SIZE] * COUNT))
    rig.feed(StorageFull(component=0, indices=()))
    assert rig.feed(StorageReady()) == [PrepareComponent(component=0)]


def test_equal_chunks_that_came_with_another_are_not_asked_for() -> None:
    rig, request = fetching()
    rig.answer(request, A, (0,))
    (cancel,) = sends(rig.store(0, gained=(1, 2)), Cancel)
    assert cancel.message == Cancel(request_id=request.request_id, indices=Runs.of((1, 2)))


def test_rot_before_and_after_completion_is_fetched_again() -> None:
    rig, request = fetching()
    rig.answer(request, A, tuple(range(COUNT)))
    rig.store(*range(COUNT))
    (again,) = requests(rig.feed(ChunksLost(component=0, indices=(5,))))
    assert tuple(again.indices) == (5,)
    two = Rig((COUNT, COUNT))
    two.know(0, held=(1 << COUNT) - 1)
    two.feed(ComponentVerified(component=0))
    assert two.feed(ChunksLost(component=0, indices=(5,))) == [PrepareComponent(component=0)]


def test_stopping_withdraws_everything_and_returns_the_budget() -> None:
    budget = ByteBudget()
    rig = Rig(budget=budget)
    rig.know()
    (request,) = rig.join(A)
    rig.answer(request, A, (0,))
    effects = rig.feed(Stop())
    assert [type(e.message) for e in effects if isinstance(e, Send)] == [Cancel, NotInterested]
    assert budget.used_bytes == 0
    assert not rig.machine.is_drained
    for index in range(1, COUNT):
        rig.message(
            A,
            Reject(
                request_id=request.request_id,
                indices=Runs.of((index,)),
                reason=RejectReason.CANCELLED,
            ),
        )
    assert rig.machine.is_drained
    assert budget.used_bytes == 0


def test_downloads_share_a_budget_and_a_starved_one_wakes_up() -> None:
    budget = ByteBudget(limit_bytes=COUNT * SIZE)
    one, two = Rig(budget=budget), Rig(budget=budget)
    one.know()
    two.know()
    (request,) = one.join(A)
    assert two.join(A) == []
    assert two.machine.deadline is not None
    one.answer(request, A, tuple(range(COUNT)))
    one.store(*range(COUNT))
    two.now = two.machine.deadline
    assert len(requests(two.feed(TimerFired()))) == 1


def test_requests_never_span_components() -> None:
    rig = Rig((3, 3))
    rig.know(0)
    rig.know(1)
    rig.feed(PeerJoined(peer=A))
    effects: list[DownloadEffect] = []
    for component in (0, 1):
        bits = Bitfield.full(3).encode()
        effects += rig.message(A, BitfieldMessage(manifest_id=M, component=component, bits=bits))
    assert sorted((r.component, tuple(r.indices)) for r in requests(effects)) == [
        (0, (0, 1, 2)),
        (1, (0, 1, 2)),
    ]


def test_windows_bound_what_one_peer_owes_and_follow_its_rate() -> None:
    count = 4000
    rig = Rig((count,))
    rig.know()
    asked = rig.join(A, range(count))
    total = sum(len(r.indices) for r in asked) * SIZE
    assert 48_000 < total <= WINDOW_BYTES_START
    peaks = []
    for _ in range(12):
        rig.now += 0.01
        request = asked.pop(0)
        asked += requests(rig.answer(request, A, request.indices))
        rig.store(*request.indices)
        peaks.append(sum(len(r.indices) for r in asked) * SIZE)
    # A quarter of the window comes every 10 ms: it grows, and stays below the bound.
    assert max(peaks) > 2 * WINDOW_BYTES_START
    assert max(peaks) <= WINDOW_BYTES_MAX
    for _ in range(40):
        rig.now += 1.0
        rig.feed(TimerFired())
        if asked:
            request = asked.pop(0)
            asked += requests(rig.answer(request, A, tuple(request.indices)[:1]))
            rig.store(request.indices.first)
    # One chunk a second: the window shrinks again.
    fresh = requests(rig.message(A, Have(manifest_id=M, component=0, indices=Runs.of((0,)))))
    assert sum(len(r.indices) for r in fresh) * SIZE < WINDOW_BYTES_START

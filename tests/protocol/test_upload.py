"""`Upload` alone: what it says, to whom, and how exactly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bitfield import Bitfield
from protocol.digest import ManifestId
from protocol.errors import LocalProtocolError
from protocol.exchange_events import (
    Acquired,
    ChunksRead,
    ExchangeOffenceError,
    Flushed,
    Offence,
    Opened,
    PageRead,
    PeerMessage,
    ReadChunks,
    ReadPage,
    Send,
    UploadEffect,
    UploadInput,
    Withdrawn,
)
from protocol.exchange_messages import (
    HAVE_RUNS_MAX,
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
from protocol.limits import REQUEST_INDICES_MAX
from protocol.runs import Runs
from protocol.upload import (
    INTERESTS_MAX,
    PATIENCE_MAX,
    SERVED_REQUESTS_MAX,
    WAITING_INDICES_MAX,
    ServedManifest,
    Upload,
    refusal_of,
)
from protocol.upload_pace import FRAME_BYTES_START

M = ManifestId(b"m" * 32)
OTHER = ManifestId(b"o" * 32)
PEER = b"peer"
COUNT = 10


class Rig:
    """An upload over a library that the test controls."""

    def __init__(self, held: int = (1 << COUNT) - 1) -> None:
        self.allowed = True
        self.served: dict[ManifestId, ServedManifest] = {
            M: ServedManifest(manifest_id=M, possession=(Bitfield(COUNT, held),))
        }
        self.machine = Upload(peer=PEER, library=self, may_serve=lambda _: self.allowed)

    def find(self, manifest_id: ManifestId) -> ServedManifest | None:
        return self.served.get(manifest_id)

    def feed(self, event: UploadInput) -> list[UploadEffect]:
        return self.machine.handle(event, 0.0)

    def say(self, message: ExchangeMessage) -> list[UploadEffect]:
        return self.feed(PeerMessage(peer=PEER, message=message))

    def ask(self, *indices: int, request_id: int = 1) -> list[UploadEffect]:
        return self.say(request(*indices, request_id=request_id))


def request(*indices: int, request_id: int = 1, manifest_id: ManifestId = M) -> Request:
    return Request(
        request_id=request_id, manifest_id=manifest_id, component=0, indices=Runs.of(indices)
    )


def messages(effects: list[UploadEffect]) -> list[ExchangeMessage]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def reads(effects: list[UploadEffect]) -> list[ReadChunks]:
    return [effect for effect in effects if isinstance(effect, ReadChunks)]


def test_interest_is_answered_by_possession_and_followed_by_news() -> None:
    rig = Rig(held=0b101)
    interest = Interest(manifest_id=M, components=(0,))
    bits = Bitfield(COUNT, 0b101).encode()
    assert messages(rig.say(interest)) == [BitfieldMessage(manifest_id=M, component=0, bits=bits)]
    news = Acquired(manifest_id=M, component=0, indices=(1, 4))
    assert messages(rig.feed(news)) == [Have(manifest_id=M, component=0, indices=Runs.of((1, 4)))]
    rig.say(NotInterested(manifest_id=M))
    assert rig.feed(news) == []


def test_much_news_is_cut_into_messages_that_every_peer_accepts() -> None:
    rig = Rig()
    rig.say(Interest(manifest_id=M, components=(0,)))
    news = Acquired(manifest_id=M, component=0, indices=range(0, 2 * HAVE_RUNS_MAX + 1, 2))
    sizes = [len(m.indices) for m in messages(rig.feed(news)) if isinstance(m, Have)]
    assert sizes == [HAVE_RUNS_MAX, 1]


def test_chunks_are_read_then_sent_and_every_index_is_answered_once() -> None:
    rig = Rig(held=0b1111)
    effects = rig.ask(0, 1, 2, 3, 9)
    assert messages(effects) == [
        Reject(request_id=1, indices=Runs.of((9,)), reason=RejectReason.NOT_AVAILABLE)
    ]
    (read,) = reads(effects)
    assert tuple(read.indices) == (0, 1, 2, 3)
    effects = rig.feed(ChunksRead.of(1, ((0, b"a"), (1, None))))
    assert messages(effects) == [
        Reject(request_id=1, indices=Runs.of((1,)), reason=RejectReason.NOT_AVAILABLE),
        Chunks.of(1, ((0, b"a"),)),
    ]
    (read,) = reads(effects)
    assert tuple(read.indices) == (2, 3)
    rig.feed(ChunksRead.of(1, ((2, b"c"), (3, b"d"))))
    assert rig.machine.open_requests == 0


def test_outside_the_group_everything_is_unknown_whether_it_exists_or_not() -> None:
    """G8: an existing manifest and one never heard of are answered alike."""

    def conversation(rig: Rig, manifest_id: ManifestId) -> list[object]:
        said: list[object] = []
        for message in (
            Interest(manifest_id=manifest_id, components=(0,)),
            request(0, 400, manifest_id=manifest_id),
            RecipeRequest(request_id=2, manifest_id=manifest_id, component=9, page=200),
        ):
            effects = rig.say(message)
            assert all(isinstance(effect, Send) for effect in effects)
            said += messages(effects)
        return said

    outsider = Rig()
    outsider.allowed = False
    member = Rig()
    assert conversation(outsider, M) == [
        Unknown(manifest_id=M),
        Reject(request_id=1, indices=Runs.of((0, 400)), reason=RejectReason.UNKNOWN),
        Reject(request_id=2, indices=Runs.of(()), reason=RejectReason.UNKNOWN),
    ]
    unheard = [str(m).replace(repr(OTHER), repr(M)) for m in conversation(member, OTHER)]
    assert unheard == [str(m) for m in conversation(outsider, M)]
    assert outsider.feed(Acquired(manifest_id=M, component=0, indices=(0,))) == []


def test_the_rule_is_asked_again_after_each_read_and_before_each_further_one() -> None:
    rig = Rig()
    rig.ask(0, 1, 2)
    rig.allowed = False
    effects = rig.feed(ChunksRead.of(1, ((0, b"a"),)))
    assert messages(effects) == [
        Reject(request_id=1, indices=Runs.of((0, 1, 2)), reason=RejectReason.UNKNOWN)
    ]
    assert reads(effects) == []


def test_withdrawal_answers_everything_open_and_ends_interest() -> None:
    rig = Rig()
    rig.say(Interest(manifest_id=M, components=(0,)))
    rig.ask(0, 1)
    rig.say(RecipeRequest(request_id=2, manifest_id=M, component=0, page=0))
    del rig.served[M]
    assert messages(rig.feed(Withdrawn(manifest_id=M))) == [
        Reject(request_id=1, indices=Runs.of((0, 1)), reason=RejectReason.UNKNOWN),
        Reject(request_id=2, indices=Runs.of(()), reason=RejectReason.UNKNOWN),
        Unknown(manifest_id=M),
    ]
    # The read that was under way ends in nothing.
    assert rig.feed(ChunksRead.of(1, ((0, b"a"),))) == []
    assert rig.feed(Acquired(manifest_id=M, component=0, indices=(0,))) == []


def test_a_queued_message_is_turned_into_a_refusal() -> None:
    chunks = Chunks.of(1, ((0, b"a"), (4, b"b")))
    assert refusal_of(chunks) == Reject(
        request_id=1, indices=Runs.of((0, 4)), reason=RejectReason.UNKNOWN
    )
    assert refusal_of(RecipePageMessage(request_id=2, page=b"p")) == Reject(
        request_id=2, indices=Runs.of(()), reason=RejectReason.UNKNOWN
    )
    assert refusal_of(Have(manifest_id=M, component=0, indices=Runs.of((1,)))) is None
    assert refusal_of(BitfieldMessage(manifest_id=M, component=0, bits=b"")) is None
    assert refusal_of(Unknown(manifest_id=M)) == Unknown(manifest_id=M)


def test_every_message_that_tells_or_gives_something_names_its_manifest_to_the_host() -> None:
    rig = Rig()
    effects = rig.say(Interest(manifest_id=M, components=(0,)))
    effects += rig.ask(0)
    effects += rig.feed(ChunksRead.of(1, ((0, b"a"),)))
    effects += rig.feed(Acquired(manifest_id=M, component=0, indices=(0,)))
    rig.say(RecipeRequest(request_id=2, manifest_id=M, component=0, page=0))
    effects += rig.feed(PageRead(request_id=2, page=b"p"))
    sent = [effect for effect in effects if isinstance(effect, Send)]
    assert len(sent) == 4
    assert all(effect.served == M for effect in sent)


def test_an_interest_too_early_is_answered_when_the_manifest_opens() -> None:
    rig = Rig()
    served = rig.served.pop(M)
    assert messages(rig.say(Interest(manifest_id=M, components=(0, 7)))) == [Unknown(manifest_id=M)]
    assert rig.feed(Opened(manifest_id=M)) == []
    rig.served[M] = served
    (answer,) = messages(rig.feed(Opened(manifest_id=M)))
    assert isinstance(answer, BitfieldMessage)
    rig.allowed = False
    assert rig.feed(Opened(manifest_id=M)) == []


def test_what_is_remembered_of_a_peer_is_bounded() -> None:
    rig = Rig()
    rig.allowed = False
    for number in range(PATIENCE_MAX + 5):
        manifest_id = ManifestId(number.to_bytes(32, "big"))
        rig.say(Interest(manifest_id=manifest_id, components=(0,)))
    assert len(rig.machine._unknown) == PATIENCE_MAX
    rig.allowed = True
    for number in range(INTERESTS_MAX + 1):
        manifest_id = ManifestId(number.to_bytes(32, "big"))
        rig.served[manifest_id] = ServedManifest(
            manifest_id=manifest_id, possession=(Bitfield(COUNT),)
        )
        (answer,) = messages(rig.say(Interest(manifest_id=manifest_id, components=(0,))))
        assert isinstance(answer, BitfieldMessage if number < INTERESTS_MAX else Unknown)
    assert len(rig.machine.open_manifests) == INTERESTS_MAX


def test_open_requests_are_bounded_and_ids_unique() -> None:
    rig = Rig()
    for number in range(SERVED_REQUESTS_MAX):
        rig.ask(0, request_id=number)
    with pytest.raises(ExchangeOffenceError) as caught:
        rig.ask(0, request_id=3)
    assert caught.value.offence is Offence.MALFORMED
    assert messages(rig.ask(0, request_id=SERVED_REQUESTS_MAX)) == [
        Reject(request_id=SERVED_REQUESTS_MAX, indices=Runs.of((0,)), reason=RejectReason.BUSY)
    ]
    page = RecipeRequest(request_id=9999, manifest_id=M, component=0, page=0)
    assert messages(rig.say(page)) == [
        Reject(request_id=9999, indices=Runs.of(()), reason=RejectReason.BUSY)
    ]
    assert rig.machine.open_requests == SERVED_REQUESTS_MAX


def test_waiting_indices_are_bounded_and_room_comes_back() -> None:
    count = REQUEST_INDICES_MAX
    rig = Rig()
    rig.served[M] = ServedManifest(manifest_id=M, possession=(Bitfield.full(count),))
    full = WAITING_INDICES_MAX // count
    for number in range(full):
        rig.ask(*range(count), request_id=number)
    assert reasons(rig.ask(0, request_id=full)) == [RejectReason.BUSY]
    rig.say(Cancel(request_id=full - 1, indices=Runs.of((0,))))
    assert reasons(rig.ask(0, request_id=full)) == []
    assert reasons(rig.ask(0, request_id=full + 1)) == [RejectReason.BUSY]
    rig.feed(Withdrawn(manifest_id=M))
    assert reasons(rig.ask(*range(count), request_id=0)) == []


def reasons(effects: list[UploadEffect]) -> list[RejectReason]:
    return [message.reason for message in messages(effects) if isinstance(message, Reject)]


@pytest.mark.parametrize(
    "message",
    [
        Interest(manifest_id=M, components=(0, 1)),
        request(COUNT),
        Request(request_id=1, manifest_id=M, component=1, indices=Runs.of((0,))),
        RecipeRequest(request_id=1, manifest_id=M, component=1, page=0),
        RecipeRequest(request_id=1, manifest_id=M, component=0, page=1),
    ],
)
def test_what_the_manifest_does_not_have_is_an_offence_of_a_member(
    message: ExchangeMessage,
) -> None:
    rig = Rig()
    with pytest.raises(ExchangeOffenceError):
        rig.say(message)
    assert rig.machine.open_requests == 0
    assert rig.machine.open_manifests == ()


def test_a_peer_that_does_not_read_gets_no_more_reads() -> None:
    rig = Rig()
    big = bytes(2 * FRAME_BYTES_START)
    rig.ask(0, 1)
    effects = rig.feed(ChunksRead.of(1, ((0, big),)))
    assert reads(effects) == []
    assert rig.machine.unsent_bytes == 2 * FRAME_BYTES_START
    (read,) = reads(rig.feed(Flushed(payload_bytes=2 * FRAME_BYTES_START)))
    assert tuple(read.indices) == (1,)


def test_cancelled_indices_are_confirmed_and_those_being_read_too() -> None:
    rig = Rig()
    rig.ask(0, 1, 2)
    assert messages(rig.say(Cancel(request_id=1, indices=Runs.of((1, 2, 5))))) == [
        Reject(request_id=1, indices=Runs.of((1, 2)), reason=RejectReason.CANCELLED)
    ]
    effects = rig.feed(ChunksRead.of(1, ((0, b"a"), (1, b"b"))))
    assert messages(effects) == [Chunks.of(1, ((0, b"a"),))]
    assert rig.say(Cancel(request_id=1, indices=Runs.of((0,)))) == []
    assert rig.say(Cancel(request_id=99, indices=Runs.of((0,)))) == []


def test_an_id_used_again_does_not_get_the_chunks_of_the_old_request() -> None:
    rig = Rig()
    rig.ask(0)
    rig.say(Cancel(request_id=1, indices=Runs.of((0,))))
    rig.ask(0, 5)
    effects = rig.feed(ChunksRead.of(1, ((0, b"old"),)))
    assert messages(effects) == []
    (read,) = reads(effects)
    assert tuple(read.indices) == (0, 5)


def test_recipe_pages() -> None:
    rig = Rig()
    (read,) = rig.say(RecipeRequest(request_id=4, manifest_id=M, component=0, page=0))
    assert read == ReadPage(request_id=4, manifest_id=M, component=0, page=0)
    assert messages(rig.feed(PageRead(request_id=4, page=b"p"))) == [
        RecipePageMessage(request_id=4, page=b"p")
    ]
    rig.say(RecipeRequest(request_id=5, manifest_id=M, component=0, page=0))
    assert messages(rig.feed(PageRead(request_id=5, page=None))) == [
        Reject(request_id=5, indices=Runs.of(()), reason=RejectReason.NOT_AVAILABLE)
    ]


WRONG: dict[str, Callable[[], UploadInput]] = {
    "chunks": lambda: PeerMessage(peer=PEER, message=Chunks.of(1, ((0, b"x"),))),
    "unknown": lambda: PeerMessage(peer=PEER, message=Unknown(manifest_id=M)),
    "read": lambda: ChunksRead.of(1, ()),
    "page": lambda: PageRead(request_id=1, page=None),
}


@pytest.mark.parametrize("name", WRONG)
def test_inputs_that_make_no_sense_are_a_defect_of_ours(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        Rig().feed(WRONG[name]())


class Conversation:
    """Counts what the upload owes for each index of each request, and what it answered."""

    def __init__(self, held: int) -> None:
        self.rig = Rig(held=held)
        self.owed: dict[tuple[int, int], int] = {}
        self.reading: ReadChunks | None = None
        self.last_id = 0

    def take(self, effects: list[UploadEffect]) -> None:
        for read in reads(effects):
            assert self.reading is None
            self.reading = read
        for message in messages(effects):
            if isinstance(message, Chunks):
                self.settle(message.request_id, [index for index, _ in message.chunks])
            elif isinstance(message, Reject):
                self.settle(message.request_id, list(message.indices))

    def settle(self, request_id: int, indices: list[int]) -> None:
        for index in indices:
            self.owed[request_id, index] -= 1

    def ask(self, indices: tuple[int, ...]) -> None:
        self.last_id += 1
        self.owed |= {(self.last_id, index): 1 for index in indices}
        self.take(self.rig.ask(*indices, request_id=self.last_id))

    def read(self, count: int, data: bytes | None) -> None:
        if self.reading is not None:
            done, self.reading = self.reading, None
            chunks = tuple((index, data) for index in tuple(done.indices)[:count])
            self.take(self.rig.feed(ChunksRead.of(done.request_id, chunks)))

    def drain(self) -> None:
        self.rig.allowed = True
        self.take(self.rig.feed(Flushed(payload_bytes=0)))
        while self.reading is not None:
            self.read(COUNT, b"x")


@pytest.mark.slow
@given(st.data())
def test_every_index_is_answered_exactly_once_whatever_happens(data: st.DataObject) -> None:
    talk = Conversation(data.draw(st.integers(0, (1 << COUNT) - 1)))
    some = st.sets(st.integers(0, COUNT - 1), min_size=1).map(lambda s: tuple(sorted(s)))
    for step in data.draw(st.lists(st.sampled_from("acrfw"), max_size=25)):
        match step:
            case "a":
                talk.ask(data.draw(some))
            case "c":
                target = data.draw(st.integers(0, talk.last_id))
                talk.take(talk.rig.say(Cancel(request_id=target, indices=Runs.of(data.draw(some)))))
            case "r":
                chunk = data.draw(st.sampled_from([b"x", None]))
                talk.read(data.draw(st.integers(1, COUNT)), chunk)
            case "f":
                talk.rig.allowed = not talk.rig.allowed
            case "w":
                talk.take(talk.rig.feed(Withdrawn(manifest_id=M)))
    talk.drain()
    assert set(talk.owed.values()) <= {0}
    assert talk.rig.machine.open_requests == 0

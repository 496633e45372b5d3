"""Whom a download asks for recipe pages: whoever has them, after short stated waits."""

from __future__ import annotations

from protocol.bitfield import Bitfield
from protocol.digest import ManifestId
from protocol.download import Download
from protocol.download_core import EARLIER_PEERS
from protocol.download_pages import PAGE_PATIENCE_S
from protocol.exchange_events import (
    Blame,
    ComponentPrepared,
    DownloadEffect,
    DownloadInput,
    Offence,
    PageRefused,
    PageVerified,
    PeerId,
    PeerJoined,
    PeerMessage,
    RecipeHeld,
    Send,
    TimerFired,
)
from protocol.exchange_flow import PAGE_PAUSE_S_MAX, PAGE_PAUSE_S_START
from protocol.exchange_messages import (
    BitfieldMessage,
    Interest,
    RecipePageMessage,
    RecipeRequest,
    Reject,
    RejectReason,
)
from protocol.limits import RECIPE_PAGE_LEAVES
from protocol.picker import RarestFirst
from protocol.runs import NO_CHUNKS

M = ManifestId(b"m" * 32)
SEEDER = PeerId(b"seeder")
COUNT = 8


def member(number: int) -> PeerId:
    return PeerId(b"member-%d" % number)


class Rig:
    """A download whose requests for pages are noted; it knows a seeder."""

    def __init__(self, count: int = COUNT, *, entropy: int = 0, members: int = 0) -> None:
        picker = RarestFirst(size=count, entropy=0)
        self.machine = Download(
            manifest_id=M, chunk_counts=[count], picker=picker, lane=1, entropy=entropy
        )
        self.count = count
        self.now = 0.0
        self.asked: list[tuple[PeerId, RecipeRequest]] = []
        for number in range(members):
            self.feed(PeerJoined(peer=member(number)))
        self.feed(PeerJoined(peer=SEEDER))

    def feed(self, event: DownloadInput) -> list[DownloadEffect]:
        effects = self.machine.handle(event, self.now)
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, RecipeRequest):
                self.asked.append((effect.peer, effect.message))
        return effects

    def take_asked(self) -> list[PeerId]:
        peers = [peer for peer, _ in self.asked]
        self.asked.clear()
        return peers

    def seeds(self) -> None:
        bits = Bitfield.full(self.count).encode()
        message = BitfieldMessage(manifest_id=M, component=0, bits=bits)
        self.feed(PeerMessage(peer=SEEDER, message=message))

    def holds(self, *numbers: int) -> list[DownloadEffect]:
        effects: list[DownloadEffect] = []
        for number in numbers:
            effects += self.feed(RecipeHeld(peer=member(number), components=(0,)))
        return effects

    def busy(self, peer: PeerId, request: RecipeRequest) -> None:
        reject = Reject(request_id=request.request_id, indices=NO_CHUNKS, reason=RejectReason.BUSY)
        self.feed(PeerMessage(peer=peer, message=reject))

    def page(self, peer: PeerId, request: RecipeRequest) -> None:
        message = RecipePageMessage(request_id=request.request_id, page=b"page")
        self.feed(PeerMessage(peer=peer, message=message))

    def wake(self, at: float) -> None:
        while (deadline := self.machine.deadline) is not None and deadline <= at:
            self.now = max(self.now, deadline)
            self.feed(TimerFired())
        self.now = at


def test_whoever_says_so_is_asked_although_it_holds_no_chunk() -> None:
    rig = Rig(members=2)
    rig.holds(1)
    assert rig.take_asked() == [member(1)]


def test_a_word_of_who_may_not_be_asked_is_ignored() -> None:
    rig = Rig()
    rig.feed(RecipeHeld(peer=member(7), components=(0,)))
    assert rig.take_asked() == []


def test_who_is_busy_sends_a_node_to_others_and_is_asked_again() -> None:
    rig = Rig(members=3)
    rig.seeds()
    ((peer, request),) = rig.asked
    assert peer == SEEDER
    rig.take_asked()
    rig.busy(SEEDER, request)
    assert rig.take_asked() == []
    assert rig.machine.deadline == PAGE_PAUSE_S_START
    rig.holds(2)
    assert rig.take_asked() == [member(2)]
    rig.wake(PAGE_PAUSE_S_START)
    assert rig.take_asked() == []  # one is asked for one page


def test_a_busy_seeder_is_asked_again_less_and_less_often() -> None:
    rig = Rig()
    rig.seeds()
    pauses = []
    for _ in range(8):
        ((peer, request),) = rig.asked
        rig.asked.clear()
        begun_at = rig.now
        rig.busy(peer, request)
        while not rig.asked:
            deadline = rig.machine.deadline
            assert deadline is not None
            rig.wake(deadline)
        pauses.append(rig.now - begun_at)
    assert [round(pause / PAGE_PAUSE_S_START) for pause in pauses[:4]] == [1, 2, 4, 8]
    assert max(pauses) <= PAGE_PAUSE_S_MAX + 1e-9


def test_after_a_refusal_one_page_is_asked_for_until_it_comes() -> None:
    rig = Rig(3 * RECIPE_PAGE_LEAVES)
    rig.seeds()
    requests = [request for _, request in rig.asked]
    assert [request.page for request in requests] == [0, 1, 2]
    rig.asked.clear()
    for request in requests:
        rig.busy(SEEDER, request)
    assert rig.asked == []
    rig.wake(PAGE_PAUSE_S_START)
    ((_, probe),) = rig.asked
    rig.asked.clear()
    rig.page(SEEDER, probe)
    assert [request.page for _, request in rig.asked] == [1, 2]


def test_members_come_before_who_holds_everything() -> None:
    rig = Rig(members=1)
    rig.seeds()
    ((_, request),) = rig.asked
    rig.busy(SEEDER, request)
    rig.wake(PAGE_PAUSE_S_START - 0.01)
    rig.asked.clear()
    rig.holds(0)
    ((_, request),) = rig.asked
    rig.asked.clear()
    rig.wake(PAGE_PAUSE_S_START)
    rig.busy(member(0), request)
    assert rig.take_asked() == [SEEDER]


def test_nodes_ask_members_in_different_orders() -> None:
    firsts = set()
    for entropy in range(20):
        rig = Rig(entropy=entropy, members=6)
        rig.seeds()
        ((_, request),) = rig.asked
        rig.asked.clear()
        rig.holds(*range(6))  # nobody else is asked while the seeder is
        assert rig.asked == []
        rig.busy(SEEDER, request)
        firsts.add(rig.asked[0][0])
    assert len(firsts) > 3
    assert SEEDER not in firsts


def test_who_is_mute_costs_its_patience_and_then_the_seeder_is_asked() -> None:
    rig = Rig(members=3)
    rig.holds(0)
    rig.holds(1, 2)
    rig.seeds()
    assert rig.take_asked() == [member(0)]
    rig.wake(PAGE_PATIENCE_S - 0.01)
    assert rig.take_asked() == []
    rig.wake(PAGE_PATIENCE_S + 0.25)
    assert rig.take_asked() == [SEEDER]


def test_what_a_slow_peer_sends_is_taken_though_another_was_asked() -> None:
    rig = Rig(members=1)
    rig.holds(0)
    rig.seeds()
    ((_, slow),) = rig.asked
    rig.wake(PAGE_PATIENCE_S + 0.25)
    late = rig.asked[-1][1]
    rig.page(member(0), slow)
    rig.feed(PageVerified(component=0, page=0, lengths=[1] * COUNT))
    rig.page(SEEDER, late)  # what nobody needs any more is no offence
    assert rig.machine.has_peer(SEEDER)


def test_who_sends_a_page_that_does_not_match_is_named_and_another_is_asked() -> None:
    rig = Rig(members=2)
    rig.holds(0)
    rig.holds(1)
    ((_, request),) = rig.asked
    rig.asked.clear()
    rig.page(member(0), request)
    effects = rig.feed(PageRefused(component=0, page=0, detail="another root"))
    (blame,) = [effect for effect in effects if isinstance(effect, Blame)]
    assert (blame.peer, blame.offence) == (member(0), Offence.CORRUPT_PAGE)
    assert rig.take_asked() == [member(1)]
    assert rig.machine.is_banned(member(0))


def test_who_has_the_recipe_later_asks_some_of_the_others_what_they_got() -> None:
    rig = Rig(members=10)
    rig.holds(*range(8))
    ((peer, request),) = rig.asked
    rig.page(peer, request)
    rig.feed(PageVerified(component=0, page=0, lengths=[1] * COUNT))
    effects = rig.feed(ComponentPrepared(component=0, held=Bitfield(COUNT)))
    again = [e.peer for e in effects if isinstance(e, Send) and isinstance(e.message, Interest)]
    assert again == [member(number) for number in range(EARLIER_PEERS)]


def test_who_has_the_recipe_first_asks_nobody_again() -> None:
    rig = Rig(members=3)
    rig.seeds()
    ((peer, request),) = rig.asked
    rig.page(peer, request)
    rig.feed(PageVerified(component=0, page=0, lengths=[1] * COUNT))
    effects = rig.feed(ComponentPrepared(component=0, held=Bitfield(COUNT)))
    assert not [e for e in effects if isinstance(e, Send) and isinstance(e.message, Interest)]

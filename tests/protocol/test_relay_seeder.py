"""The seeder: who is given units, what a credit is worth, and what lies achieve."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.digest import ManifestId
from protocol.exchange_layout import Layout
from protocol.limits import KIB, RECIPE_PAGE_LEAVES
from protocol.relay_chunks import ChunkSet
from protocol.relay_members import Member, RelayerRecord
from protocol.relay_seeder import (
    ALLOWANCE_MAX,
    INJECT_S_MAX,
    PAUSE_S_START,
    SETTLED_VOUCHERS,
    UNVOUCHED_START,
    Seeder,
)
from protocol.relay_units import SeedShare, UnitCutter, UnitSize

CHUNKS = 200
SIZE = CHUNKS * 8 * KIB


class Bench:
    """A seeder of 200 units of one chunk, and relayers whose behaviour the test decides."""

    def __init__(self, relayers: int = 4, *, far: int = 0) -> None:
        layout = Layout([CHUNKS])
        for page in range(layout.page_count(0)):
            start = page * RECIPE_PAGE_LEAVES
            layout.learn_page(0, page, [8 * KIB] * CHUNKS)
            assert start == 0
        have = ChunkSet()
        have.add(0, CHUNKS)
        cutter = UnitCutter(layout, 0, UnitSize())
        share = SeedShare(
            manifest_id=ManifestId(b"m" * 32), own_key=b"o" * 32, cutter=cutter, object_bytes=SIZE
        )
        self.seeder = Seeder(share=share, cutter=cutter, have=have, object_bytes=SIZE)
        self.members = [Member(bytes((number,)) * 32) for number in range(relayers)]
        for number, member in enumerate(self.members):
            self.seeder.admit(member, is_local=number >= far)
        self.seeder.fresh.set_members(relayers)
        self.now = 0.0

    def record(self, member: Member) -> RelayerRecord:
        return dict(self.seeder.relayers())[member]

    def give(self, limit: int = 10_000) -> list[tuple[Member, int]]:
        """Gives units until nobody takes any more."""
        found = []
        while len(found) < limit and (member := self.seeder.choose(self.now)) is not None:
            run = self.seeder.fresh.next_unit()
            if run is None:
                break
            assert run[1] == 1
            self.seeder.given(member, run, 8 * KIB, self.now)
            found.append((member, run[0]))
        return found

    def credit(self, member: Member, first: int, *, vouchers: int = 1) -> None:
        """The relayer says that it passed a unit on, and others that they have it."""
        self.seeder.credited(member, first, self.now)
        others = [other for other in self.members if other is not member]
        for other in others[:vouchers]:
            self.seeder.announced(other.peer, first, 1, self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.seeder.check(self.now)


def test_units_go_in_order_to_whoever_has_fewest() -> None:
    bench = Bench()
    given_units = bench.give()
    assert [first for _, first in given_units] == list(range(len(given_units)))
    counts = [len(bench.record(member).out) for member in bench.members]
    assert max(counts) - min(counts) <= 1
    assert max(counts) <= ALLOWANCE_MAX


def test_a_credit_that_somebody_vouches_for_makes_room() -> None:
    bench = Bench()
    (member, first), *_ = bench.give()
    assert bench.seeder.choose(bench.now) is None
    bench.credit(member, first)
    assert bench.seeder.choose(bench.now) is member


def test_a_relayers_own_news_vouches_for_nothing() -> None:
    bench = Bench()
    (member, first), *_ = bench.give()
    bench.seeder.credited(member, first, 0.0)
    bench.seeder.announced(member.peer, first, 1, 0.0)
    assert first in bench.record(member).out
    assert bench.record(member).vouched_count == 0


def test_what_a_liar_gets_for_its_word_is_bounded() -> None:
    bench = Bench()
    liar = bench.members[0]
    got = 0
    for _ in range(50):
        for member, first in bench.give():
            if member is liar:
                got += 1
                bench.seeder.credited(liar, first, bench.now)
            else:
                bench.credit(member, first)
        bench.now += 0.01
    # Beyond what was believed, only what it had no time to credit.
    assert got <= UNVOUCHED_START + ALLOWANCE_MAX
    assert bench.record(liar).vouched_count == 0


def test_no_progress_pauses_a_relayer_and_others_get_its_units() -> None:
    bench = Bench()
    given_units = bench.give()
    mute = bench.members[0]
    its = [first for member, first in given_units if member is mute]
    for member, first in given_units:
        if member is not mute:
            bench.credit(member, first, vouchers=1)
    bench.wait(INJECT_S_MAX)
    assert bench.record(mute).is_paused
    again = [(member, first) for member, first in bench.give() if first in its]
    assert sorted(first for _, first in again) == its
    assert all(member is not mute for member, _ in again)
    bench.wait(PAUSE_S_START / 2)
    assert bench.record(mute).is_paused
    bench.wait(PAUSE_S_START)
    assert not bench.record(mute).is_paused
    assert bench.record(mute).allowance == 1


def test_a_late_credit_ends_the_pause() -> None:
    bench = Bench()
    (member, first), *_ = bench.give()
    bench.wait(INJECT_S_MAX)
    assert bench.record(member).is_paused
    bench.seeder.credited(member, first, bench.now)
    assert not bench.record(member).is_paused


def test_pauses_grow_while_nothing_changes() -> None:
    bench = Bench()
    member, pauses = bench.members[0], []
    for _ in range(3):
        bench.give()
        bench.wait(INJECT_S_MAX)
        record = bench.record(member)
        assert record.is_paused
        pauses.append(record.pause_s)
        bench.wait(record.probe_at - bench.now)
    assert pauses == [PAUSE_S_START, 2 * PAUSE_S_START, 4 * PAUSE_S_START]


def test_who_leaves_leaves_its_open_units_to_others() -> None:
    bench = Bench()
    given_units = bench.give()
    gone = bench.members[0]
    its = sorted(first for member, first in given_units if member is gone)
    bench.seeder.dismiss(gone)
    for member, first in given_units:
        bench.credit(member, first)
    again = bench.give(len(its))
    assert sorted(first for _, first in again) == its
    assert all(member is not gone for member, _ in again)


def test_a_convicted_relayer_gets_nothing_and_what_it_had_is_given_again() -> None:
    bench = Bench()
    given_units = bench.give()
    bad = bench.members[0]
    its = sorted(first for member, first in given_units if member is bad)
    for first in its[:1]:
        bench.credit(bad, first, vouchers=SETTLED_VOUCHERS)
    bad.is_convicted = True
    bench.seeder.convict(bad)
    for member, first in given_units:
        if member is not bad:
            bench.credit(member, first)
    again = bench.give()
    assert sorted(first for _, first in again if first in its) == its[1:]
    assert all(member is not bad for member, _ in again)


def test_near_relayers_are_preferred_while_one_of_them_works() -> None:
    bench = Bench(4, far=2)
    near = bench.members[2:]
    assert all(member in near for member, _ in bench.give())
    for member in near:
        member.is_convicted = True
        bench.seeder.place(member)
    assert all(member not in near for member, _ in bench.give())


def test_one_that_claims_everything_keeps_nothing_from_the_others() -> None:
    bench = Bench(6)
    liar = bench.members[0]
    for _ in range(10):
        bench.seeder.announced(liar.peer, 0, CHUNKS, 0.0)
    assert bench.seeder.fresh.has_fresh
    run = bench.seeder.fresh.next_unit()
    assert run is not None
    assert run[0] == 0


def test_what_more_than_a_third_hold_is_not_pushed() -> None:
    bench = Bench(6)
    for member in bench.members[:2]:
        bench.seeder.announced(member.peer, 0, 50, 0.0)
    run = bench.seeder.fresh.next_unit()
    assert run is not None
    assert run[0] == 50
    held = (1 << 120) - 1
    bench.seeder.fresh.known_before([held, held, held])
    run = bench.seeder.fresh.next_unit()
    assert run is not None
    assert run[0] == 120


def test_somebody_is_given_the_last_units_and_then_nothing_is_left() -> None:
    bench = Bench()
    while not bench.seeder.fresh.is_exhausted:
        for member, first in bench.give():
            bench.credit(member, first)
        bench.now += 0.01
    assert bench.give() == []


@settings(max_examples=40)
@given(st.data())
def test_counts_of_relayers_agree_whatever_happens(data: st.DataObject) -> None:
    """Every unit given is open, was credited and vouched for, or is given again: none is lost."""
    bench = Bench(data.draw(st.integers(2, 6)))
    pushed: set[int] = set()
    for _ in range(data.draw(st.integers(1, 30))):
        member = data.draw(st.sampled_from(bench.members))
        match data.draw(st.sampled_from(["give", "credit", "news", "wait", "busy", "dismiss"])):
            case "give":
                pushed |= {first for _, first in bench.give(5)}
            case "credit":
                record = dict(bench.seeder.relayers()).get(member)
                if record is not None and record.out:
                    bench.seeder.credited(member, next(iter(record.out)), bench.now)
            case "news":
                first = data.draw(st.integers(0, CHUNKS - 10))
                bench.seeder.announced(member.peer, first, data.draw(st.integers(1, 9)), bench.now)
            case "wait":
                bench.wait(data.draw(st.floats(0.01, 20)))
            case "busy":
                member.is_writable = not member.is_writable
                bench.seeder.place(member)
            case "dismiss":
                bench.seeder.dismiss(member)
                bench.seeder.admit(member, is_local=True)
        for one, record in bench.seeder.relayers():
            open_count = sum(unit.credited_at is None for unit in record.out.values())
            assert record.uncredited_count == open_count
            assert record.is_able == (
                not record.is_paused
                and not one.is_convicted
                and open_count < record.allowance
                and len(record.out) - open_count
                < max(UNVOUCHED_START, UNVOUCHED_START + record.vouched_count // 2)
            )
    assert pushed <= set(range(CHUNKS))


@pytest.mark.parametrize("relayers", [1, 3])
def test_without_relayers_that_work_the_seeder_is_on_its_own(relayers: int) -> None:
    bench = Bench(relayers)
    bench.give()
    bench.wait(INJECT_S_MAX)
    assert bench.seeder.is_saturated


def _with_a_slow_one(slow_s: float) -> Bench:
    """Three relayers credit a unit each 0.1 s, one each `slow_s`; most units are out by then."""
    bench = Bench()
    slow, *quick = bench.members
    due = dict.fromkeys(quick, 0.0) | {slow: 0.0}
    while bench.seeder.fresh.left_bytes > 12 * 8 * KIB:
        bench.give(4)
        bench.wait(0.05)
        for member in bench.members:
            open_units = [unit for unit in bench.record(member).out.values() if not unit.vouchers]
            if open_units and bench.now >= due[member]:
                bench.credit(member, open_units[0].first, vouchers=2)
                due[member] = bench.now + (slow_s if member is slow else 0.1)
    return bench


def test_the_last_units_go_to_relayers_that_are_done_with_the_others() -> None:
    bench = _with_a_slow_one(3.0)
    slow, *quick = bench.members
    for member in bench.members:
        for first in [unit.first for unit in bench.record(member).out.values()]:
            bench.credit(member, first, vouchers=2)
    assert bench.record(slow).is_able, "it has room"
    while bench.seeder.fresh.has_fresh:
        members = [member for member, _ in bench.give(1)]
        assert slow not in members
        for member in members:
            bench.wait(0.03)
            bench.credit(member, next(reversed(bench.record(member).out)), vouchers=2)
    assert quick


def test_if_all_are_slow_the_last_units_go_to_them() -> None:
    bench = _with_a_slow_one(3.0)
    slow, *quick = bench.members
    for member in quick:
        bench.seeder.dismiss(member)
    for first in [unit.first for unit in bench.record(slow).out.values()]:
        bench.seeder.credited(slow, first, bench.now)
        bench.seeder.announced(quick[0].peer, first, 1, bench.now)
    assert [member for member, _ in bench.give(1)] == [slow]


def test_who_was_paused_is_not_tried_again_when_nobody_could_make_up_for_it() -> None:
    bench = _with_a_slow_one(1000.0)
    silent, *quick = bench.members
    record = bench.record(silent)
    assert record.pause_s, "it was paused"
    if record.is_paused:
        bench.seeder._resume(silent, record)
    for member in quick:
        for first in [unit.first for unit in bench.record(member).out.values()]:
            bench.credit(member, first, vouchers=2)
    assert record.is_able, "its trial is due"
    members = [member for member, _ in bench.give(6)]
    assert members
    assert silent not in members
    for member in quick:
        bench.seeder.dismiss(member)
    assert [member for member, _ in bench.give(1)] == [silent], "nobody else is left"

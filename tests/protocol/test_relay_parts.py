"""The small parts of a relay, each by itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import ManifestId
from protocol.exchange_layout import Layout
from protocol.limits import KIB, MIB, RECIPE_PAGE_LEAVES
from protocol.relay_chunks import ChunkSet
from protocol.relay_duties import PUSHCAP, SKIP_DELAY_S, SKIPS_MAX, DutyQueues
from protocol.relay_estimates import Chance, DelayEstimate, QuantileEstimate
from protocol.relay_members import Duty, Member, MemberTable, RelayTask
from protocol.relay_messages import DELEGATES_MAX, RUN_CHUNKS_MAX, PushFlag, Ready, Role
from protocol.relay_news import (
    NEWS_DELAY_S,
    NEWS_FANOUT,
    CreditBoard,
    NewsBoard,
)
from protocol.relay_repair import HEARD_MAX, REPAIR_S_MAX, RepairBoard
from protocol.relay_targets import FLAT_MEMBERS_MAX, HEADS_MAX, TargetPlanner
from protocol.relay_units import (
    UNIT_BYTES_MAX,
    UNIT_BYTES_MIN,
    UNIT_BYTES_THIN_MAX,
    SeedShare,
    UnitCutter,
    UnitSize,
)

M = ManifestId(b"m" * 32)


def members(count: int, *, sites: Sequence[bytes] = (b"",)) -> list[Member]:
    table = MemberTable()
    found = []
    for number in range(count):
        member = table.join(number.to_bytes(4, "big") * 8)
        assert member is not None
        roles = ((0, Role.RECEIVES),)
        site = sites[number % len(sites)]
        table.take_ready(member, Ready(manifest_id=M, roles=roles, site=site))
        found.append(member)
    return found


def layout_of(lengths: Sequence[int]) -> Layout:
    layout = Layout([len(lengths)])
    for page in range(layout.page_count(0)):
        start = page * RECIPE_PAGE_LEAVES
        layout.learn_page(0, page, lengths[start : start + RECIPE_PAGE_LEAVES])
    return layout


# Estimates --------------------------------------------------------------------------------------


def test_a_delay_estimate_starts_with_its_bound_and_follows_samples() -> None:
    estimate = DelayEstimate(3.0)
    assert estimate.bound_s == 3.0
    for _ in range(100):
        estimate.sample(0.2)
    assert estimate.bound_s == pytest.approx(0.2, abs=0.01)
    estimate.sample(1.0)
    assert estimate.bound_s > 0.9


def test_a_quantile_ignores_how_long_rare_delays_are() -> None:
    estimate = QuantileEstimate(1.0)
    for step in range(3000):
        estimate.sample(1000.0 if step % 50 == 0 else 0.1 + step % 10 * 0.01)
    assert 0.1 < estimate.value_s < 0.4


@given(st.integers(0, 2**64), st.integers(1, 1000))
def test_chance_stays_below_its_limit_and_repeats(seed: int, limit: int) -> None:
    one, other = Chance(seed), Chance(seed)
    numbers = [one.below(limit) for _ in range(20)]
    assert numbers == [other.below(limit) for _ in range(20)]
    assert all(0 <= number < limit for number in numbers)


# Duties -----------------------------------------------------------------------------------------


def duty(first: int, task: RelayTask | None = None, flags: PushFlag = PushFlag.NONE) -> Duty:
    return Duty(first, 1, 100, flags, task=task)


def test_members_take_turns_and_urgent_duties_go_first() -> None:
    queues, (a, b) = DutyQueues(), members(2)
    for first in (1, 2):
        for member in (a, b):
            queues.add(member, duty(first), 0.0, is_urgent=False)
    queues.add(b, duty(9), 0.0, is_urgent=True)
    order = []
    while (taken := queues.take()) is not None:
        order.append((taken[0], taken[1].first))
        queues.writable(taken[0])
    assert order == [(b, 9), (a, 1), (b, 1), (a, 2), (b, 2)]
    assert (queues.duty_count, queues.queued_bytes) == (0, 0)


def test_a_busy_member_is_passed_over_until_it_takes_frames() -> None:
    queues, (a, b) = DutyQueues(), members(2)
    a.is_writable = False
    queues.add(a, duty(1), 0.0, is_urgent=False)
    queues.add(b, duty(1), 0.0, is_urgent=False)
    assert [taken[0] for taken in iter(queues.take, None)] == [b]
    a.is_writable = True
    queues.writable(a)
    assert [taken[0] for taken in iter(queues.take, None)] == [a]


def test_what_a_member_has_meanwhile_is_not_sent() -> None:
    queues, (a, _) = DutyQueues(), members(2)
    queues.add(a, duty(1), 0.0, is_urgent=False)
    queues.add(a, duty(2), 0.0, is_urgent=False)
    a.known.add(1, 1)
    taken = queues.take()
    assert taken is not None
    assert taken[1].first == 2
    assert queues.duty_count == 0


def test_an_order_to_pass_on_goes_even_to_who_has_the_unit() -> None:
    queues, (a, _) = DutyQueues(), members(2)
    a.known.add(1, 1)
    queues.add(a, duty(1, flags=PushFlag.SITE), 0.0, is_urgent=True)
    assert queues.take() is not None


def test_a_full_queue_becomes_one_gathered_skip() -> None:
    queues, (a, _) = DutyQueues(), members(2)
    for first in range(PUSHCAP + 3):
        queues.add(a, duty(first), 1.0, is_urgent=False)
    assert (len(a.normal), queues.skipped_count) == (PUSHCAP, 3)
    assert queues.take_skips(1.0) == []
    assert queues.take_skips(1.0 + SKIP_DELAY_S) == [(a, [(PUSHCAP, 3)])]
    assert queues.skips_at is None


def test_many_skips_are_told_at_once() -> None:
    queues, (a, _) = DutyQueues(), members(2)
    for first in range(PUSHCAP + SKIPS_MAX):
        queues.add(a, duty(first), 1.0, is_urgent=False)
    assert queues.skips_at == 1.0


@pytest.mark.parametrize(("targets", "left_at_credit"), [(1, 0), (2, 1), (5, 2), (16, 8)])
def test_the_credit_is_due_when_half_have_left(targets: int, left_at_credit: int) -> None:
    queues, task = DutyQueues(), RelayTask(b"s", 7)
    for member in members(targets):
        queues.add(member, duty(7, task), 0.0, is_urgent=False)
    queues.begun(task, had_targets=True)
    while not queues.credits_due:
        assert queues.take() is not None
    assert queues.credits_due == [task]
    assert task.left == left_at_credit


def test_a_unit_nobody_lacks_is_credited_at_once_and_one_that_found_no_room_is_not() -> None:
    queues, (a, _) = DutyQueues(), members(2)
    nobody = RelayTask(b"s", 1)
    queues.begun(nobody, had_targets=False)
    assert queues.credits_due == [nobody]
    queues.credits_due.clear()
    for first in range(PUSHCAP):
        queues.add(a, duty(first), 0.0, is_urgent=False)
    starved = RelayTask(b"s", 50)
    queues.add(a, duty(50, starved), 0.0, is_urgent=False)
    queues.begun(starved, had_targets=True)
    assert queues.credits_due == []
    assert queues.take() is not None
    assert queues.credits_due == [starved]


def test_who_leaves_is_owed_nothing_and_holds_no_credit_up() -> None:
    queues, (a, b) = DutyQueues(), members(2)
    task = RelayTask(b"s", 1)
    for member in (a, b):
        queues.add(member, duty(1, task), 0.0, is_urgent=False)
    queues.begun(task, had_targets=True)
    queues.drop_member(a)
    assert queues.credits_due == [task]
    assert [taken[0] for taken in iter(queues.take, None)] == [b]
    assert queues.duty_count == 0


# News and credits -------------------------------------------------------------------------------


def test_news_goes_to_four_and_only_what_they_lack() -> None:
    board, table = NewsBoard(Chance(1)), members(10)
    board.note([(0, 2)], 0.0, members=20, is_pulling=False)
    board.note([(2, 1), (9, 1)], 0.1, members=20, is_pulling=False)
    for member in table:
        member.known.add(9, 1)
    assert board.take(0.2, table) == []
    told = board.take(NEWS_DELAY_S, table)
    assert len({id(member) for member, _ in told}) == NEWS_FANOUT
    assert all(runs == [(0, 3)] for _, runs in told)
    assert board.due_at is None


@pytest.mark.parametrize(("count", "heard_min"), [(64, 50), (640, 2)])
def test_a_seeder_hears_news_whomever_chance_chooses(count: int, heard_min: int) -> None:
    """All of it in small swarms; in large ones from as many members."""
    board, table = NewsBoard(Chance(1)), members(count)
    seeders = table[50:52]
    for seeder in seeders:
        seeder.roles[0] = Role.SEEDS
    heard: list[int] = []
    for number in range(50):
        board.note([(number, 1)], float(number), members=count, is_pulling=False)
        told = {id(member) for member, _ in board.take(number + NEWS_DELAY_S, table)}
        assert NEWS_FANOUT <= len(told) <= NEWS_FANOUT + 1
        heard += [id(seeder) for seeder in seeders if id(seeder) in told][:1]
    assert heard_min <= len(heard) <= max(heard_min, 20)
    assert len(set(heard)) == 2, "not always the same"


def test_small_swarms_and_those_that_pull_hear_sooner() -> None:
    for count, is_pulling in ((2, False), (50, True)):
        board = NewsBoard(Chance(1))
        board.note([(0, 1)], 1.0, members=count, is_pulling=is_pulling)
        assert board.due_at == pytest.approx(1.05)


def test_credits_are_gathered_for_each_seeder() -> None:
    board = CreditBoard()
    board.note(b"a", 5, 0.0)
    board.note(b"b", 1, 0.001)
    board.note(b"a", 2, 0.002)
    assert board.take(0.001) == []
    assert board.take(1.0) == [(b"a", (2, 5)), (b"b", (1,))]
    assert board.take(2.0) == []


# Targets ----------------------------------------------------------------------------------------


def test_a_small_swarm_is_served_directly() -> None:
    planner = TargetPlanner(site=b"", chance=Chance(3))
    table = members(16)
    table[3].known.add(0, 4)
    targets = planner.plan(table, first=0, count=4)
    assert sorted(map(id, (target.member for target in targets))) == sorted(
        id(member) for member in table if member is not table[3]
    )
    assert not any(target.is_urgent for target in targets)


@pytest.mark.parametrize("count", [FLAT_MEMBERS_MAX + 1, 255, 1000, 4000])
def test_a_large_swarm_is_served_by_heads_once_each(count: int) -> None:
    planner = TargetPlanner(site=b"", chance=Chance(3))
    table = members(count)
    table[0].is_leaf = True
    targets = planner.plan(table, first=0, count=1)
    names = [target.member.name for target in targets]
    names += [name for target in targets for name in target.delegates]
    assert sorted(names) == sorted(member.name for member in table)
    heads = [target for target in targets if target.delegates]
    assert len(heads) <= max(HEADS_MAX, -(-count // (DELEGATES_MAX + 1)))
    assert all(len(head.delegates) <= DELEGATES_MAX and head.is_urgent for head in heads)
    assert table[0] not in [head.member for head in heads]
    sizes = [len(head.delegates) for head in heads]
    assert max(sizes) - min(sizes) <= 1


def test_heads_take_turns() -> None:
    planner = TargetPlanner(site=b"", chance=Chance(3))
    table = members(128)
    served: dict[bytes, int] = {}
    for _ in range(16):
        for target in planner.plan(table, first=0, count=1):
            served[target.member.name] = served.get(target.member.name, 0) + 1
    assert len(served) == 128
    assert max(served.values()) - min(served.values()) <= 1


def test_another_site_gets_one_copy_and_the_own_site_all() -> None:
    planner = TargetPlanner(site=b"a", chance=Chance(3))
    table = members(12, sites=(b"a", b"b", b"c"))
    chosen = set()
    for first in range(8):
        targets = planner.plan(table, first=first, count=1)
        near = [t for t in targets if t.member.site == b"a"]
        far = [t for t in targets if t.member.site != b"a"]
        assert len(near) == 4
        assert sorted(t.member.site for t in far) == [b"b", b"c"]
        assert all(t.flags is PushFlag.SITE and t.is_urgent for t in far)
        chosen |= {t.member.peer for t in far}
    assert len(chosen) == 8
    assert {t.member.site for t in planner.plan_site(table, first=0, count=1)} == {b"a"}


def test_a_leaf_is_no_delegate_of_its_site() -> None:
    planner = TargetPlanner(site=b"a", chance=Chance(3))
    table = members(3, sites=(b"b",))
    table[0].is_leaf = table[1].is_leaf = True
    for first in range(6):
        (target,) = planner.plan(table, first=first, count=1)
        assert target.member is table[2]


# Units ------------------------------------------------------------------------------------------


@given(st.integers(0, 2**34), st.integers(0, 5000), st.floats(0, 1e9))
def test_units_stay_within_their_bounds(size: int, receivers: int, uplink: float) -> None:
    unit = UnitSize()
    unit.plan(object_bytes=size, receivers=receivers, uplink_bytes_per_s=uplink)
    assert UNIT_BYTES_MIN <= unit.aim_bytes <= UNIT_BYTES_MAX
    unit.plan(object_bytes=size, receivers=receivers, uplink_bytes_per_s=None)
    assert UNIT_BYTES_MIN <= unit.aim_bytes <= UNIT_BYTES_THIN_MAX


def test_units_grow_while_they_come_fast_and_shrink_again() -> None:
    unit = UnitSize()
    unit.plan(object_bytes=1 << 27, receivers=16, uplink_bytes_per_s=None)
    for step in range(4000):
        unit.given(step / 2000)
    assert unit.aim_bytes == UNIT_BYTES_MAX
    for step in range(100):
        unit.given(10 + step / 10)
    assert unit.aim_bytes == UNIT_BYTES_THIN_MAX


def test_units_grow_where_most_credits_come_at_once_and_not_for_a_few_liars() -> None:
    for fast_share, grows in ((0.8, True), (0.3, False)):
        unit = UnitSize()
        unit.plan(object_bytes=1 << 27, receivers=16, uplink_bytes_per_s=None)
        for step in range(400):
            delay_s = 0.001 if step % 10 < 10 * fast_share else 0.2
            unit.credited(delay_s, UNIT_BYTES_THIN_MAX)
            unit.given(step / 100)
        assert (unit.aim_bytes == UNIT_BYTES_MAX) is grows


def test_units_of_a_small_image_stay_a_sixteenth_of_each_share() -> None:
    unit = UnitSize()
    unit.plan(object_bytes=1 << 24, receivers=16, uplink_bytes_per_s=None)
    for step in range(400):
        unit.credited(0.001, unit.aim_bytes)
        unit.given(step / 100)
    assert unit.aim_bytes == (1 << 24) // (16 * 16)


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=300), st.data())
def test_units_cut_an_object_without_gap_or_overlap(
    lengths: list[int], data: st.DataObject
) -> None:
    size = UnitSize()
    size.plan(object_bytes=sum(lengths), receivers=16, uplink_bytes_per_s=None)
    cutter = UnitCutter(layout_of(lengths), 0, size)
    stale = data.draw(st.sets(st.integers(0, len(lengths) - 1)))
    position, covered = 0, []
    while position < len(lengths):
        if position in stale:
            position += 1
            continue
        first, count = cutter.unit_at(position, lambda number: number not in stale)
        assert first == position
        assert count <= RUN_CHUNKS_MAX
        total = sum(lengths[first : first + count])
        assert count == 1 or total <= size.aim_bytes + 40_000
        covered += range(first, first + count)
        position = first + count
    assert covered == [number for number in range(len(lengths)) if number not in stale]


@given(st.integers(1, 600), st.integers(1, 5))
def test_several_seeders_share_an_object_exactly(chunks: int, seeders: int) -> None:
    lengths = [16 * KIB] * chunks
    cutter = UnitCutter(layout_of(lengths), 0, UnitSize())
    keys = [bytes((number,)) * 32 for number in range(seeders)]
    shares = []
    for key in keys:
        share = SeedShare(manifest_id=M, own_key=key, cutter=cutter, object_bytes=sum(lengths))
        share.set_others(other for other in keys if other != key)
        shares.append({number for number in range(chunks) if share.is_own(number)})
        walked = [share.from_end(step) for step in range(share.steps)]
        assert sorted(number for number in walked if number < chunks) == list(range(chunks))
    assert set().union(*shares) == set(range(chunks))
    assert sum(map(len, shares)) == chunks


def test_the_share_of_a_seeder_that_leaves_falls_to_the_others_alone() -> None:
    cutter = UnitCutter(layout_of([16 * KIB] * 1024), 0, UnitSize())
    keys = [bytes((number,)) * 32 for number in range(3)]
    share = SeedShare(manifest_id=M, own_key=keys[0], cutter=cutter, object_bytes=16 << 20)
    share.set_others(keys[1:])
    before = {number for number in range(1024) if share.is_own(number)}
    assert share.set_others(keys[1:2])
    assert not share.set_others(keys[1:2])
    after = {number for number in range(1024) if share.is_own(number)}
    assert before < after
    assert 256 < len(before) < 430
    assert 400 < len(after) < 624


# Repair -----------------------------------------------------------------------------------------


def push_late(board: RepairBoard, have: ChunkSet, late_s: float, *, first: int) -> None:
    """Two hundred chunks, each pushed so long after it was heard of."""
    now = 0.0
    for number in range(first, first + 200):
        board.heard(b"a", number, 1, now)
        assert board.pushed(number, 1, now + late_s)
        have.add(number, 1)
        now += 0.05


@pytest.mark.parametrize("late_s", [0.3, 1.0, 2.5])
def test_a_chunk_is_expected_for_as_long_as_pushes_take(late_s: float) -> None:
    have = ChunkSet()
    board = RepairBoard(have)
    push_late(board, have, late_s, first=0)
    assert 2 * late_s <= board.repair_s <= min(4.5 * late_s, REPAIR_S_MAX)


def test_who_claims_everything_at_once_fills_no_memory_and_delays_repairs_for_ten_seconds() -> None:
    have = ChunkSet()
    board = RepairBoard(have)
    for number in range(0, 4 * HEARD_MAX, 2):
        board.heard(b"liar", number, 1, 0.0)
    assert board.remembered == HEARD_MAX
    for number in range(4 * HEARD_MAX - 400, 4 * HEARD_MAX, 2):
        board.pushed(number, 1, 100.0)
        have.add(number, 1)
    assert board.repair_s == REPAIR_S_MAX
    push_late(board, have, 0.2, first=5 * HEARD_MAX)
    assert board.repair_s < 2.0


def _aim_after(late_s: float) -> int:
    """How large units are after 8 MiB at 20 Mbit/s from a host that is so late."""
    size = UnitSize()
    size.plan(object_bytes=16 * MIB, receivers=16, uplink_bytes_per_s=None)
    given_bytes = 0
    while given_bytes < 8 * MIB:
        size.late(late_s)
        size.given(given_bytes / 2_500_000)
        given_bytes += size.aim_bytes
    return size.aim_bytes


def test_units_grow_where_the_host_lacks_processor_time() -> None:
    assert _aim_after(0.001) == 16 * KIB
    assert _aim_after(0.01) == 32 * KIB

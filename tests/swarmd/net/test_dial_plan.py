"""The dial plan under fed time: order, rests, rations, and what a herd does to one server."""

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmd.entropy import SeededEntropy
from swarmd.net import dial_plan
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.net.dial_plan import Candidate, DialPlan, Origin, interleaved

PEER = PeerKey(b"\x01" * 32)
OTHER = PeerKey(b"\x02" * 32)


def plan(seed: int = 1) -> DialPlan:
    return DialPlan(uint=SeededEntropy(seed).uint)


def at(host: str, port: int = 7001, peer: PeerKey = PEER) -> PeerAddress:
    return PeerAddress(peer, host, port)


def candidates(*hosts: str, origin: Origin = Origin.CONFIGURED) -> list[Candidate]:
    return [Candidate(at(host), origin) for host in hosts]


def test_families_take_turns_and_ipv6_begins() -> None:
    listed = [at("192.0.2.1"), at("192.0.2.2"), at("2001:db8::1"), at("192.0.2.3")]
    hosts = [item.host for item in interleaved(listed)]
    assert hosts == ["2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"]


def test_the_last_good_address_is_tried_first() -> None:
    machine, listed = plan(), candidates("192.0.2.1", "192.0.2.2", "2001:db8::1")
    machine.succeeded(at("192.0.2.1"), 10.0)
    machine.succeeded(at("192.0.2.2"), 20.0)
    assert machine.choose(PEER, listed, 21.0) == (
        at("192.0.2.2"),
        at("192.0.2.1"),
        at("2001:db8::1"),
    )
    machine.failed(at("192.0.2.2"), Origin.CONFIGURED, "refused", 22.0)
    assert machine.choose(PEER, listed, 22.0)[0] == at("192.0.2.1")


def test_a_dead_address_rests_ever_longer_and_its_neighbour_does_not() -> None:
    machine, listed = plan(), candidates("192.0.2.1", "192.0.2.2")
    now, rests = 0.0, []
    for _ in range(12):
        machine.failed(at("192.0.2.1"), Origin.CONFIGURED, "refused", now)
        assert machine.choose(PEER, listed, now) == (at("192.0.2.2"),)
        due = machine.due_at(PEER, listed[:1], now)
        rests.append(due - now)
        now = due
    for count, rest_s in enumerate(rests):
        full = min(dial_plan.REST_S_MAX, dial_plan.REST_S_MIN * 2**count)
        assert 0.5 * full <= rest_s <= 1.5 * full
    assert machine.choose(PEER, listed[:1], now) == (at("192.0.2.1"),)
    record = machine.record(at("192.0.2.1"))
    assert record is not None
    assert record.error == "refused"
    machine.succeeded(at("192.0.2.1"), now)
    machine.failed(at("192.0.2.1"), Origin.CONFIGURED, "refused", now)
    due = machine.due_at(PEER, listed[:1], now)
    assert due - now <= 1.5 * dial_plan.REST_S_MIN


def test_without_addresses_none_is_dialed() -> None:
    """... but the peer itself: there may be a way through a third node, and it rests as well."""
    machine = plan()
    assert machine.due_at(PEER, [], 5.0) == 5.0
    assert machine.choose(PEER, [], 5.0) == ()
    for count in range(20):
        machine.refused(PEER, 5.0, longest_s=600.0)
        full = min(600.0, dial_plan.REST_S_MIN * 2**count)
        assert 5.0 + 0.5 * full <= machine.due_at(PEER, [], 5.0) <= 5.0 + 1.5 * full
    machine.welcomed(PEER)
    assert machine.due_at(PEER, [], 5.0) == 5.0


def test_one_attempt_takes_a_bounded_number_of_addresses() -> None:
    listed = candidates(*(f"192.0.2.{number}" for number in range(1, 100)))
    assert len(plan().choose(PEER, listed, 0.0)) == dial_plan.DIALED_AT_ONCE


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=60), st.integers(0, 2**32))
def test_a_live_address_is_always_tried_again_within_the_longest_rest(
    steps: list[tuple[int, bool]], seed: int
) -> None:
    machine, now = plan(seed), 0.0
    listed = candidates(*(f"192.0.2.{number}" for number in range(1, 10)))
    for number, is_good in steps:
        address = at(f"192.0.2.{number}")
        if is_good:
            machine.succeeded(address, now)
        else:
            machine.failed(address, Origin.CONFIGURED, "no", now)
        now += 1.0
    later = now + 1.5 * dial_plan.REST_S_MAX
    chosen = machine.choose(PEER, listed, later)
    assert len(set(chosen)) == dial_plan.DIALED_AT_ONCE
    due = machine.due_at(PEER, listed, now)
    assert due <= later


# -- addresses nobody but their teller vouches for ---------------------------------------------


def dials_of(machine: DialPlan, listed: list[Candidate], hours: int) -> Counter[PeerAddress]:
    """How often a persistent node dials addresses that never lead to anybody."""
    origins = {item.address: item.origin for item in listed}
    peers = list(dict.fromkeys(item.address.peer for item in listed))
    by_peer = {peer: [item for item in listed if item.address.peer == peer] for peer in peers}
    dials: Counter[PeerAddress] = Counter()
    for step in range(hours * 30):
        now = step * 120.0
        for peer in peers:
            for address in machine.choose(peer, by_peer[peer], now):
                dials[address] += 1
                machine.failed(address, origins[address], "nobody", now)
    return dials


def test_a_liar_cannot_have_a_victim_dialed_more_than_a_few_times_a_day() -> None:
    listed = candidates("198.51.100.7", origin=Origin.STATED)
    assert sum(dials_of(plan(), listed, 12).values()) == dial_plan.UNPROVEN_TRIES


def test_a_liar_that_names_ever_new_victims_runs_out_of_rations() -> None:
    machine, dials = plan(), 0
    for step in range(360):  # one hour, new addresses in every statement
        listed = [
            Candidate(at(f"198.51.{step % 250}.{number}"), Origin.STATED) for number in range(1, 9)
        ]
        for address in machine.choose(PEER, listed, step * 10.0):
            dials += 1
            machine.failed(address, Origin.STATED, "nobody", step * 10.0)
    assert dials <= 2 * dial_plan.UNPROVEN_PER_PEER_HOUR


def test_many_liars_cannot_join_forces_against_one_host_or_scan_its_ports() -> None:
    listed = [
        Candidate(at("198.51.100.7", 2000 + number, PeerKey(bytes([number]) * 32)), Origin.STATED)
        for number in range(1, 200)
    ]
    dials = dials_of(plan(), listed, 1)
    assert sum(dials.values()) <= 2 * dial_plan.UNPROVEN_PER_HOST_HOUR


def test_many_liars_with_many_victims_meet_the_ration_of_all() -> None:
    listed = [
        Candidate(at(f"198.51.{number}.{each}", 7001, PeerKey(bytes([number]) * 32)), Origin.STATED)
        for number in range(1, 200)
        for each in range(1, 9)
    ]
    assert sum(dials_of(plan(), listed, 1).values()) <= 2 * dial_plan.UNPROVEN_PER_HOUR


def test_ipv6_victims_count_by_network() -> None:
    listed = [
        Candidate(at(f"2001:db8::{number:x}", 7001, PeerKey(bytes([number]) * 32)), Origin.STATED)
        for number in range(1, 100)
    ]
    dials = dials_of(plan(), listed, 1)
    assert sum(dials.values()) <= 2 * dial_plan.UNPROVEN_PER_HOST_HOUR


def test_configured_and_proven_addresses_are_not_rationed() -> None:
    machine = plan()
    for origin in (Origin.CONFIGURED, Origin.PROVEN):
        listed = candidates(*(f"192.0.2.{number}" for number in range(1, 200)), origin=origin)
        for item in listed:
            assert machine.choose(PEER, [item], 0.0) == (item.address,)
    stated = candidates("198.51.100.1", origin=Origin.STATED)[0]
    machine.succeeded(stated.address, 0.0)
    for step in range(100):
        assert machine.choose(PEER, [stated], float(step)) == (stated.address,)


def test_memory_is_bounded_and_proven_addresses_stay() -> None:
    machine = plan()
    good = at("192.0.2.1")
    machine.succeeded(good, 0.0)
    for number in range(dial_plan.RECORDS_MAX + 50):
        address = at(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 7001, OTHER)
        machine.failed(address, Origin.STATED, "nobody", 0.0)
        machine.lost(PeerKey(number.to_bytes(32, "big")), 0.0, nodes=1)
    assert len(machine._records) == dial_plan.RECORDS_MAX
    assert len(machine._peers) == dial_plan.RECORDS_MAX
    assert machine.record(good) is not None


# -- a herd ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Node:
    """One of many that lost the same validator."""

    machine: DialPlan
    due: float = 0.0
    is_connected: bool = False


def herd(count: int, down_s: float) -> list[float]:
    """When the dials of `count` nodes reach a validator that is away for a while."""
    listed = candidates("192.0.2.1")
    nodes = [Node(plan(seed)) for seed in range(count)]
    for node in nodes:
        node.machine.succeeded(listed[0].address, 0.0)
        node.machine.lost(PEER, 0.0, nodes=count)
    dials: list[float] = []
    step_s, now = 0.05, 0.0
    while not all(node.is_connected for node in nodes):
        assert now < down_s + 200, "every node comes back"
        for node in nodes:
            if node.is_connected or node.due > now:
                continue
            due = node.machine.due_at(PEER, listed, now)
            if due > now:
                node.due = due
                continue
            assert node.machine.choose(PEER, listed, now)
            dials.append(now)
            if now >= down_s:
                node.is_connected = True
            else:
                node.machine.failed(listed[0].address, Origin.CONFIGURED, "refused", now)
                node.machine.refused(PEER, now)
        now += step_s
    return dials


def busiest_second(dials: list[float], since: float) -> int:
    return max(Counter(int(at) for at in dials if at >= since).values(), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("down_s", [1.0, 30.0, 120.0])
def test_a_validator_that_returns_is_not_stormed(down_s: float) -> None:
    """1,000 nodes at once would be 1,000 dials in one second."""
    dials = herd(1000, down_s)
    assert busiest_second(dials, down_s) <= 2 * dial_plan.REDIALS_PER_S
    assert max(dials) - down_s <= 3 * dial_plan.REST_S_MAX


def test_a_few_nodes_come_back_at_once() -> None:
    assert max(herd(8, 0.0)) <= 1.0

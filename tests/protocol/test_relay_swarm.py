"""Whole swarms of relays: one copy suffices, everybody completes, no queue grows beyond its bound.

`RelaySwarm` checks the bounds after every event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.exchange_events import Offence
from protocol.relay_messages import (
    Complaint,
    News,
    Ready,
    RelayKind,
    Role,
    Skip,
    encode_relay,
)
from tests.support.relay_swarm import M, Node, RelaySwarm, key

Behaviour = Callable[[RelaySwarm, Node, int, object], Iterable[object]]
LENGTHS = [4096 + 512 * (index % 5) for index in range(96)]


def make(
    leechers: int, *, seed: int = 1, seeders: int = 1, bad: dict[int, Behaviour] | None = None
) -> RelaySwarm:
    swarm = RelaySwarm(LENGTHS, seed=seed)
    for number in range(seeders):
        swarm.add(100 + number, holds=range(len(LENGTHS)))
    for number in range(leechers):
        swarm.add(number, behaviour=(bad or {}).get(number))
    return swarm


def honest(swarm: RelaySwarm) -> list[Node]:
    return [n for n in swarm.nodes.values() if n.behaviour is None and not n.is_gone]


def run(swarm: RelaySwarm, until_s: float = 120.0) -> None:
    while swarm.now < until_s and any(node.finished_at is None for node in honest(swarm)):
        swarm.step()
    assert all(node.finished_at is not None for node in honest(swarm)), swarm.now


def kind_of(body: object) -> int | None:
    return body[0] if isinstance(body, bytes) else None


def encoded(message: Ready | News | Skip | Complaint) -> bytes:
    return b"".join(encode_relay(message))


# Behaviours that break the rules ----------------------------------------------------------------


def mute(_swarm: RelaySwarm, _node: Node, _target: int, body: object) -> Iterable[object]:
    """Returns credits for what it never passes on."""
    return () if kind_of(body) == RelayKind.PUSH else (body,)


def dead(_swarm: RelaySwarm, _node: Node, _target: int, _body: object) -> Iterable[object]:
    """Sends nothing at all."""
    return ()


def garbage(_swarm: RelaySwarm, _node: Node, _target: int, body: object) -> Iterable[object]:
    """Spoils the last bytes of what it passes on or serves."""
    if kind_of(body) == RelayKind.PUSH:
        assert isinstance(body, bytes)
        return (body[:-2] + b"!!",)
    if isinstance(body, tuple) and body[0] == "chunk":
        return (("chunk", body[1], b"junk"),)
    return (body,)


def claimer(swarm: RelaySwarm, _node: Node, _target: int, body: object) -> Iterable[object]:
    """Claims everything and gives nothing."""
    if kind_of(body) == RelayKind.PUSH or (isinstance(body, tuple) and body[0] == "chunk"):
        return ()
    if kind_of(body) == RelayKind.NEWS:
        runs = ((0, len(swarm.lengths)),)
        return (encoded(News(manifest_id=M, runs=runs, queued_bytes=0)),)
    if isinstance(body, tuple) and body[0] == "bits":
        return (("bits", swarm.full),)
    return (body,)


def false_seeder(_swarm: RelaySwarm, _node: Node, _target: int, body: object) -> Iterable[object]:
    """Says that it seeds, and never pushes."""
    if kind_of(body) == RelayKind.PUSH:
        return ()
    if kind_of(body) == RelayKind.READY:
        return (encoded(Ready(manifest_id=M, roles=((0, Role.SEEDS),))),)
    return (body,)


def complainer(_swarm: RelaySwarm, _node: Node, _target: int, body: object) -> Iterable[object]:
    """Complains about everybody."""
    if kind_of(body) != RelayKind.CREDIT:
        return (body,)
    about = (Complaint(manifest_id=M, culprit=key(number)) for number in range(8))
    return (body, *(encoded(message) for message in about))


def skipper(swarm: RelaySwarm, _node: Node, _target: int, body: object) -> Iterable[object]:
    """Tells everybody to ask it for everything, and serves nothing."""
    if kind_of(body) == RelayKind.PUSH or (isinstance(body, tuple) and body[0] == "chunk"):
        return ()
    if kind_of(body) == RelayKind.NEWS:
        return (encoded(Skip(manifest_id=M, runs=((0, len(swarm.lengths)),))),)
    return (body,)


LIARS = [mute, dead, garbage, claimer, false_seeder, complainer, skipper]


# Honest swarms ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("leechers", [2, 3, 8])
def test_the_seeder_sends_one_copy(leechers: int) -> None:
    swarm = make(leechers)
    run(swarm)
    assert swarm.nodes[100].sent_bytes < 1.25 * sum(LENGTHS)
    assert sum(node.duplicate_chunks for node in honest(swarm)) <= 0.02 * leechers * len(LENGTHS)
    assert all(node.cut == [] for node in swarm.nodes.values())


def test_a_single_leecher_pulls_and_is_not_held_up() -> None:
    swarm = make(1)
    run(swarm)
    assert swarm.nodes[100].relay.statistics().given_units == 0
    assert swarm.nodes[0].pulled_chunks == len(LENGTHS)
    # Eight chunks a round trip of 43 ms is what the test's nodes ask for.
    assert swarm.now < 0.043 * len(LENGTHS) / 8 + 0.1


@pytest.mark.slow
def test_two_seeders_push_half_each() -> None:
    swarm = make(8, seeders=2)
    run(swarm)
    given = [swarm.nodes[number].relay.statistics().given_units for number in (100, 101)]
    assert min(given) > 0.25 * sum(given)


@pytest.mark.slow
def test_late_ones_pull_and_complete() -> None:
    swarm = make(4)
    swarm.run_until(0.15)
    for number in (10, 11):
        swarm.add(number)
    run(swarm)
    assert all(node.cut == [] for node in swarm.nodes.values())


@pytest.mark.slow
def test_who_holds_some_already_is_not_sent_it_again() -> None:
    swarm = RelaySwarm(LENGTHS, seed=1)
    swarm.add(100, holds=range(len(LENGTHS)))
    for number in range(6):
        swarm.add(number, holds=range(48))
    run(swarm)
    assert swarm.nodes[100].sent_bytes < 0.7 * sum(LENGTHS)
    assert sum(node.duplicate_chunks for node in honest(swarm)) < 0.03 * 6 * len(LENGTHS)


@pytest.mark.slow
def test_a_leaf_is_served_and_never_relays() -> None:
    swarm = make(3)
    leaf = swarm.add(50, is_leaf=True)
    run(swarm)
    assert leaf.relay.statistics().owed_units == 0
    assert leaf.sent_bytes <= 0.1 * sum(LENGTHS)


# Faults -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("liar", LIARS, ids=lambda liar: liar.__name__)
@pytest.mark.parametrize("count", [1, 3])
def test_everybody_honest_completes_whoever_lies(liar: Behaviour, count: int) -> None:
    swarm = make(8, bad=dict.fromkeys(range(count), liar))
    run(swarm)
    for node in honest(swarm):
        assert {culprit for culprit, _ in node.cut} <= set(range(count))


@pytest.mark.slow
def test_every_corrupter_is_cut_after_its_first_bad_chunk_and_convicted() -> None:
    swarm = make(8, bad={0: garbage, 1: garbage})
    run(swarm)
    for node in honest(swarm):
        culprits = [culprit for culprit, offence in node.cut if offence is Offence.CORRUPT_CHUNK]
        assert sorted(culprits) == sorted(set(culprits))
    assert swarm.nodes[100].relay.statistics().convicted == 2


@pytest.mark.slow
def test_a_few_false_complaints_convict_nobody() -> None:
    swarm = make(8, bad={0: complainer, 1: complainer})
    run(swarm)
    assert swarm.nodes[100].relay.statistics().convicted == 0
    assert swarm.nodes[100].sent_bytes < 1.3 * sum(LENGTHS)


@pytest.mark.slow
def test_a_seeder_that_dies_after_all_was_pushed_leaves_a_swarm_that_completes() -> None:
    swarm = make(6)
    while swarm.nodes[100].relay.is_seeding is False or not pushed_all(swarm):
        swarm.step()
    swarm.run_until(swarm.now + 0.2)
    swarm.leave(100)
    run(swarm)


def pushed_all(swarm: RelaySwarm) -> bool:
    held = set().union(*(node.have for node in honest(swarm) if node.number != 100))
    return len(held) == len(LENGTHS)


@pytest.mark.slow
def test_the_share_of_a_seeder_that_dies_is_pushed_by_the_other() -> None:
    swarm = make(6, seeders=2)
    swarm.run_until(0.15)
    swarm.leave(101)
    run(swarm)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.data())
def test_random_departures_and_returns_stop_nobody(data: st.DataObject) -> None:
    """G6 and G7: a seeder stays, the rest comes and goes; bounds hold after every event."""
    swarm = make(5, seed=data.draw(st.integers(0, 2**32)))
    away: dict[int, set[int]] = {}
    for step in range(data.draw(st.integers(1, 8))):
        swarm.run_until(swarm.now + data.draw(st.floats(0.01, 0.2)))
        number = data.draw(st.integers(0, 4))
        if number in away:
            swarm.add(number + 10 * (step + 1), holds=away.pop(number))
        elif number in swarm.nodes and not swarm.nodes[number].is_gone:
            away[number] = set(swarm.nodes[number].have)
            swarm.leave(number)
    run(swarm)


@pytest.mark.slow
@settings(max_examples=10)
@given(st.dictionaries(st.integers(0, 5), st.sampled_from(LIARS), max_size=4), st.integers(0, 99))
def test_any_mixture_of_liars_stops_nobody(bad: dict[int, Behaviour], seed: int) -> None:
    swarm = make(6, seed=seed, bad=bad)
    run(swarm)
    for node in honest(swarm):
        assert {culprit for culprit, _ in node.cut} <= set(bad)

"""The world: order, links, wakes, determinism."""

from __future__ import annotations

import pytest

from swarmd.simulation.world import Link, World


class Recorder:
    """An actor that notes what happens to it and wakes when told."""

    def __init__(self) -> None:
        self.log: list[tuple[float, object]] = []
        self.deadline: float | None = None

    def receive(self, source: int, message: object, now: float) -> None:
        self.log.append((now, (source, message)))

    def handle(self, event: object, now: float) -> None:
        self.log.append((now, event))
        if isinstance(event, float):
            self.deadline = event

    def wake(self, now: float) -> None:
        self.log.append((now, "wake"))
        self.deadline = None


def make(link: Link, seed: int = 1) -> tuple[World, list[Recorder]]:
    world = World(seed, link)
    actors = [Recorder() for _ in range(3)]
    for actor in actors:
        world.add(actor)
    return world, actors


def test_events_run_in_order_of_time_then_of_making() -> None:
    world, (actor, *_) = make(Link())
    for name, delay in (("late", 2.0), ("first", 1.0), ("second", 1.0)):
        world.post(0, delay, name)
    world.run_until(1.5)
    assert actor.log == [(1.0, "first"), (1.0, "second")]
    assert world.now == 1.5
    world.run_until(2.0)
    assert actor.log[-1] == (2.0, "late")


def test_messages_take_the_latency_of_the_link() -> None:
    world, actors = make(Link(latency_s=0.5))
    world.send(0, 1, "hello")
    world.run_until(1.0)
    assert actors[1].log == [(0.5, (0, "hello"))]


def test_jitter_reorders_loss_loses_duplication_repeats() -> None:
    world, actors = make(Link(latency_s=0.1, jitter_s=1.0, loss=0.3, duplication=0.3), seed=5)
    for number in range(200):
        world.send(0, 1, number)
    world.run_until(2.0)
    arrived = [message[1] for _, message in actors[1].log if isinstance(message, tuple)]
    assert arrived != sorted(arrived)
    assert 100 < len(dict.fromkeys(arrived)) < 170
    assert len(arrived) > len(dict.fromkeys(arrived))
    assert all(0.1 <= time <= 1.1 for time, _ in actors[1].log)


def test_partitions_cut_and_heal() -> None:
    world, actors = make(Link(latency_s=0.1))
    world.partition({0: 0, 1: 1})
    world.send(0, 1, "cut")
    world.send(0, 2, "same side")
    assert not world.is_connected(0, 1)
    world.heal()
    world.send(0, 1, "healed")
    world.run_until(1.0)
    assert [item for _, item in actors[1].log] == [(0, "healed")]
    assert [item for _, item in actors[2].log] == [(0, "same side")]


def test_an_actor_wakes_at_its_newest_deadline_only() -> None:
    world, (actor, *_) = make(Link())
    world.post(0, 1.0, 5.0)
    world.post(0, 2.0, 3.0)
    world.post(0, 2.5, 4.0)
    world.run_until(10.0)
    assert [time for time, what in actor.log if what == "wake"] == [4.0]


def test_a_deadline_in_the_past_wakes_now() -> None:
    world, (actor, *_) = make(Link())
    world.post(0, 2.0, 1.0)
    world.run_until(3.0)
    assert actor.log[-1] == (2.0, "wake")


@pytest.mark.parametrize("other", [1, 2])
def test_the_trace_hash_tells_runs_apart(other: int) -> None:
    hashes = []
    for seed in (1, other):
        world, _ = make(Link(jitter_s=1.0), seed)
        for _ in range(20):
            world.send(0, 1, "x")
        world.run_until(5.0)
        hashes.append((world.trace_hash, world.event_count))
    assert (hashes[0] == hashes[1]) is (other == 1)

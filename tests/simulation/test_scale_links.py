"""Links with one event a frame: what the finer model does as well, and their own rules."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmd.simulation.frame_links import Frame, FrameNetwork, Hold
from swarmd.simulation.links import FrameLeft, LinkModel, LinkNetwork, NodeLink
from swarmd.simulation.world import Link, World

RATE = 2_500_000.0
MIB = 1024 * 1024
HEADERS = LinkModel().header_factor


@dataclass
class Sink:
    """Notes what arrives and what left."""

    arrived: list[tuple[float, int, object]] = field(default_factory=list)
    left: list[tuple[float, object]] = field(default_factory=list)
    deadline: None = None

    def receive(self, source: int, message: object, now: float) -> None:
        self.arrived.append((now, source, message))

    def handle(self, event: object, now: float) -> None:
        if isinstance(event, FrameLeft):
            self.left.append((now, event.token))

    def wake(self, now: float) -> None:
        raise AssertionError(now)


class Net:
    """A world with a network and a few nodes, all connected."""

    def __init__(self, links: list[NodeLink], kind: type = FrameNetwork) -> None:
        self.world = World(1, Link())
        self.network: FrameNetwork = kind(self.world, LinkModel())
        self.sinks = [Sink() for _ in links]
        self.numbers = [self.world.add(sink) for sink in self.sinks]
        for number, link in zip(self.numbers, links, strict=True):
            self.network.attach(number, link)
        for one in self.numbers:
            for other in self.numbers:
                if one < other:
                    self.network.connect(one, other)

    def send(self, source: int, target: int, name: object, size: int, urgent: bool = False) -> None:
        self.network.send(
            self.numbers[source],
            self.numbers[target],
            name,
            size_bytes=size,
            is_urgent=urgent,
            token=None if urgent else name,
        )


def node(up: float = RATE, down: float = RATE) -> NodeLink:
    return NodeLink(uplink_bytes_per_s=up, downlink_bytes_per_s=down, bloat_s=0.0)


def test_a_frame_passes_through_both_links_at_once() -> None:
    net = Net([node(), node()])
    net.send(0, 1, "frame", MIB)
    net.world.run_until(5)
    assert net.sinks[1].arrived == [
        (pytest.approx(MIB * HEADERS / RATE + 0.02), net.numbers[0], "frame")
    ]
    assert net.sinks[0].left == [(pytest.approx(MIB * HEADERS / RATE), "frame")]


def test_the_slower_of_uplink_and_downlink_decides() -> None:
    net = Net([node(), node(down=RATE / 4)])
    for number in range(8):
        net.send(0, 1, number, 256 * 1024)
    net.world.run_until(60)
    assert net.sinks[1].arrived[-1][0] == pytest.approx(8 * MIB * HEADERS / RATE + 0.02, rel=0.01)
    assert [name for *_, name in net.sinks[1].arrived] == list(range(8))


def test_streams_take_turns_and_a_full_receiver_holds_up_its_own_only() -> None:
    net = Net([node(), node(down=RATE / 50), node()])
    for number in range(4):
        net.send(0, 1, f"slow {number}", 256 * 1024)
        net.send(0, 2, f"quick {number}", 256 * 1024)
    net.world.run_until(100)
    quick = net.sinks[2].arrived[-1][0]
    assert quick < 6 * 256 * 1024 * HEADERS / RATE + 0.05
    assert net.sinks[1].arrived[-1][0] > 10 * quick
    assert len(net.sinks[1].arrived) == 4


def test_a_receiver_with_a_long_queue_is_sent_nothing_more_until_it_is_short() -> None:
    net = Net([node(up=100 * RATE), node()])
    for number in range(80):
        net.send(0, 1, number, 256 * 1024)
    net.world.run_until(0.2)
    # What left before the word came, and no more: a frame takes 0.1 s at the receiver.
    assert 30 < len(net.sinks[0].left) < 45
    net.world.run_until(60)
    assert [name for *_, name in net.sinks[1].arrived] == list(range(80))


def test_what_is_for_nodes_elsewhere_lies_in_the_outbox_and_goes_on_from_there() -> None:
    halves = [Net([node(), node(), node()]) for _ in range(2)]
    for net, away in zip(halves, ((1,), (0, 2)), strict=True):
        net.network.split([net.numbers[number] for number in away])
    here, there = halves
    here.send(0, 1, "frame", 256 * 1024)
    here.send(0, 2, "near", 256 * 1024)
    here.network.tell(here.numbers[0], here.numbers[1:], "news", size_bytes=50)
    here.world.run_until(1.0)
    assert {name for *_, name in here.sinks[2].arrived} == {"near", "news"}
    assert here.sinks[1].arrived == []
    parcels, here.network.outbox = here.network.outbox, []
    there.network.take(parcels)
    there.world.run_until(1.0)
    whole = Net([node(), node(), node()])
    whole.send(0, 1, "frame", 256 * 1024)
    whole.send(0, 2, "near", 256 * 1024)
    whole.network.tell(whole.numbers[0], whole.numbers[1:], "news", size_bytes=50)
    whole.world.run_until(1.0)
    assert there.sinks[1].arrived == whole.sinks[1].arrived
    frames = [event for _, event in parcels if isinstance(event, Frame)]
    assert len(frames) == 1
    assert not here.network.is_here(frames[0])
    assert there.network.is_here(frames[0])
    assert here.network.is_here(Hold(0, 1, 1.0))
    with pytest.raises(AssertionError, match="one of them in another process"):
        here.network.disconnect(*here.numbers[:2])
    here.network.disconnect(here.numbers[0], here.numbers[2])


def test_small_messages_take_no_turn() -> None:
    net = Net([node(), node()])
    net.send(0, 1, "bulk", 4 * MIB)
    net.send(0, 1, "note", 50, urgent=True)
    net.world.run_until(0.1)
    assert [name for *_, name in net.sinks[1].arrived] == ["note"]


def test_a_broken_stream_delivers_nothing_that_was_queued() -> None:
    net = Net([node(), node()])
    for number in range(4):
        net.send(0, 1, number, MIB)
    net.world.run_until(0.1)
    net.network.disconnect(*net.numbers)
    assert net.network.queued_bytes(*net.numbers) == 0
    net.send(0, 1, "late", 10)
    net.world.run_until(10)
    assert [name for *_, name in net.sinks[1].arrived] == [0]
    with pytest.raises(AssertionError, match="no event of a network"):
        net.network.handle("nonsense", 0.0)


def test_large_frames_take_about_what_the_finer_model_says() -> None:
    ends = []
    for kind in (FrameNetwork, LinkNetwork):
        net = Net([node() for _ in range(4)], kind)
        for source in range(4):
            for step in (1, 2, 3):
                for number in range(6):
                    net.send(source, (source + step) % 4, (source, number), 256 * 1024)
        net.world.run_until(100)
        ends.append(max(sink.arrived[-1][0] for sink in net.sinks))
    assert ends[0] == pytest.approx(ends[1], rel=0.1)


@pytest.mark.slow
@given(
    sendings=st.lists(
        st.tuples(st.floats(0, 2), st.integers(0, 2), st.integers(1, 2), st.integers(1, 300_000)),
        max_size=30,
    )
)
@settings(max_examples=30, deadline=None)
def test_what_is_sent_arrives_once_in_order_and_not_before_its_time(
    sendings: list[tuple[float, int, int, int]],
) -> None:
    net = Net([node() for _ in range(3)])
    sent: dict[tuple[int, int], list[tuple[int, float, int]]] = {}
    for name, (at, source, step, size) in enumerate(sorted(sendings)):
        net.world.run_until(at)
        target = (source + step) % 3
        net.send(source, target, name, size)
        sent.setdefault((source, target), []).append((name, at, size))
    net.world.run_until(100)
    for (source, target), frames in sent.items():
        got = [entry for entry in net.sinks[target].arrived if entry[1] == net.numbers[source]]
        assert [name for *_, name in got] == [name for name, *_ in frames]
        for (arrived_at, *_), (_, at, size) in zip(got, frames, strict=True):
            assert arrived_at >= at + size * HEADERS / RATE + 0.02 - 1e-9
    traffic = [net.network.traffic(number) for number in net.numbers]
    assert sum(t.stream_sent_bytes for t in traffic) == sum(
        t.stream_received_bytes for t in traffic
    )
    assert sum(len(sink.left) for sink in net.sinks) == len(sendings)

"""The link model alone: rates, sharing, delays, queues, order, conservation, repeatability."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmd.simulation.links import FrameBlocked, FrameLeft, LinkModel, LinkNetwork, NodeLink
from swarmd.simulation.world import Link, World

RATE = 2_500_000.0
MIB = 1024 * 1024
START_S = 0.55
"""What slow start over a loaded round trip of 0.1 s takes from a flow, with the delays."""


@dataclass
class Sink:
    """Notes what arrives and what left."""

    arrived: list[tuple[float, int, object]] = field(default_factory=list)
    left: list[tuple[float, object]] = field(default_factory=list)
    blocked: list[tuple[float, object]] = field(default_factory=list)
    deadline: None = None

    def receive(self, source: int, message: object, now: float) -> None:
        self.arrived.append((now, source, message))

    def handle(self, event: object, now: float) -> None:
        if isinstance(event, FrameBlocked):
            self.blocked.append((now, event.token))
            return
        assert isinstance(event, FrameLeft)
        self.left.append((now, event.token))

    def wake(self, now: float) -> None:
        raise AssertionError(now)


class Net:
    """A world with a network and a few nodes, all connected."""

    def __init__(
        self,
        links: list[NodeLink],
        model: LinkModel | None = None,
        seed: int = 1,
    ) -> None:
        self.world = World(seed, Link())
        self.network = LinkNetwork(self.world, model or LinkModel())
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

    def stream(self, source: int, target: int, size: int, frame: int = 16384) -> None:
        for start in range(0, size, frame):
            self.send(source, target, start, min(frame, size - start))


def node(rate: float = RATE, down: float | None = None, **options: object) -> NodeLink:
    return NodeLink(
        uplink_bytes_per_s=rate,
        downlink_bytes_per_s=rate if down is None else down,
        **options,  # type: ignore[arg-type]
    )


def finished_at(net: Net, target: int) -> float:
    return net.sinks[target].arrived[-1][0]


def test_a_flow_reaches_the_rate_less_its_headers() -> None:
    net = Net([node(), node()])
    net.stream(0, 1, 16 * MIB)
    net.world.run_until(1)
    begin = net.network.traffic(net.numbers[1]).stream_received_bytes
    net.world.run_until(3)
    rate = (net.network.traffic(net.numbers[1]).stream_received_bytes - begin) / 2
    assert rate == pytest.approx(RATE / LinkModel().header_factor, rel=0.01)
    net.world.run_until(60)
    assert finished_at(net, 1) < 16 * MIB * LinkModel().header_factor / RATE + START_S


def test_the_slower_of_uplink_and_downlink_decides() -> None:
    net = Net([node(), node(down=RATE / 4)])
    net.stream(0, 1, 4 * MIB)
    net.world.run_until(60)
    ideal = 4 * MIB * LinkModel().header_factor / (RATE / 4)
    assert ideal < finished_at(net, 1) < 1.06 * ideal


def test_flows_of_one_uplink_share_it_evenly() -> None:
    net = Net([node(), node(), node()])
    net.stream(0, 1, 4 * MIB)
    net.stream(0, 2, 4 * MIB)
    net.world.run_until(60)
    first, second = finished_at(net, 1), finished_at(net, 2)
    assert abs(first - second) < 0.03 * second
    assert second < 8 * MIB * LinkModel().header_factor / RATE + START_S


def test_flows_into_one_downlink_share_it() -> None:
    net = Net([node(), node(), node()])
    net.stream(0, 2, 4 * MIB)
    net.stream(1, 2, 4 * MIB)
    net.world.run_until(60)
    ends = {source: now for now, source, _ in net.sinks[2].arrived}
    first, second = sorted(ends.values())
    assert second < 8 * MIB * LinkModel().header_factor / RATE + START_S
    assert first > 0.7 * second


def test_a_small_message_takes_the_delay_and_a_standing_queue_if_the_uplink_is_busy() -> None:
    net = Net([node(), node(), node()])
    net.send(0, 1, "idle", 25, urgent=True)
    net.world.run_until(1)
    assert finished_at(net, 1) == pytest.approx(0.02 + 2 * 100 / RATE)
    net.stream(0, 2, MIB)
    net.world.run_until(1.2)
    net.send(0, 1, "busy", 25, urgent=True)
    net.world.run_until(2)
    assert finished_at(net, 1) == pytest.approx(1.2 + 0.07 + 2 * 100 / RATE)


def test_a_small_message_waits_for_the_frame_under_way_and_for_no_other() -> None:
    net = Net([node(), node()])
    for name in ("first", "second", "third"):
        net.send(0, 1, name, 64_000)
    net.world.run_until(0.005)
    net.send(0, 1, "a", 10, urgent=True)
    net.send(0, 1, "b", 10, urgent=True)
    net.world.run_until(5)
    assert [name for _, _, name in net.sinks[1].arrived] == ["first", "a", "b", "second", "third"]


def test_a_far_flow_starts_slowly() -> None:
    ends = []
    for window in (14_600, 65_536):
        model = LinkModel(delay_s=0.1, initial_window_bytes=window)
        net = Net([node(), node()], model)
        net.stream(0, 1, MIB)
        net.world.run_until(60)
        ends.append(finished_at(net, 1))
    assert ends[0] > ends[1] + 0.3


def test_a_frame_that_waits_for_its_window_says_so_once_and_leaves_later() -> None:
    net = Net([node(), node(), node()])
    net.send(0, 1, "long", 60_000)
    net.send(0, 2, "short", 8_000)
    net.world.run_until(5)
    (blocked_at, name), *others = net.sinks[0].blocked
    assert name == "long"
    assert not others
    left = {token: now for now, token in net.sinks[0].left}
    assert blocked_at < left["long"]


def test_a_queue_at_the_receiver_makes_senders_yield() -> None:
    net = Net([node() for _ in range(9)])
    for source in range(8):
        net.stream(source, 8, 2 * MIB)
    net.world.run_until(60)
    assert 0.1 < net.network.traffic(net.numbers[8]).queue_s_max < 0.8
    ideal = 16 * MIB * LinkModel().header_factor / RATE
    # At the end the flows whose windows were cut last are left, each too slow for the link alone.
    assert finished_at(net, 8) < 1.15 * ideal


def test_sites_are_near_and_share_the_pipe_between_them() -> None:
    fast = 10 * RATE
    links = [node(fast, site=number // 2) for number in range(4)]
    net = Net(links, LinkModel(pipe_bytes_per_s=RATE))
    net.send(0, 1, "near", 10, urgent=True)
    net.send(0, 2, "far", 10, urgent=True)
    net.world.run_until(1)
    assert finished_at(net, 1) < 0.001
    assert 0.02 < finished_at(net, 2) < 0.021
    net.stream(0, 2, 2 * MIB)
    net.stream(1, 3, 2 * MIB)
    net.world.run_until(60)
    ideal = 4 * MIB * LinkModel().header_factor / RATE
    assert ideal < max(finished_at(net, 2), finished_at(net, 3)) - 1 < ideal + START_S
    assert net.network.pipe_bytes == pytest.approx(4 * MIB * LinkModel().header_factor, rel=0.001)


def test_loss_costs_time_and_bytes_and_nothing_else() -> None:
    ends = []
    for loss in (0.0, 0.01):
        net = Net([node(), node()], LinkModel(loss=loss))
        net.stream(0, 1, 4 * MIB)
        net.world.run_until(60)
        assert [name for _, _, name in net.sinks[1].arrived] == list(range(0, 4 * MIB, 16384))
        ends.append((finished_at(net, 1), net.network.traffic(net.numbers[0]).sent_bytes))
    assert ends[1][0] > 1.2 * ends[0][0]
    assert 1.005 < ends[1][1] / ends[0][1] < 1.02


def test_a_broken_stream_delivers_nothing_more_and_a_new_one_starts_afresh() -> None:
    net = Net([node(), node()])
    net.stream(0, 1, MIB)
    net.world.run_until(0.2)
    count = len(net.sinks[1].arrived)
    net.network.disconnect(*net.numbers)
    net.world.run_until(1)
    # What the downlink had taken already is with the receiver's kernel.
    assert len(net.sinks[1].arrived) <= count + 1
    assert net.network.queued_bytes(*net.numbers) == 0
    net.stream(0, 1, MIB)
    net.world.run_until(2)
    assert len(net.sinks[1].arrived) <= count + 1
    net.network.connect(*net.numbers)
    net.send(0, 1, "again", 1000)
    net.world.run_until(3)
    assert net.sinks[1].arrived[-1][2] == "again"


SENDINGS = st.lists(
    st.tuples(
        st.floats(0, 2),
        st.integers(0, 2),
        st.integers(1, 2),
        st.integers(1, 60_000),
        st.booleans(),
    ),
    max_size=40,
)


@given(sendings=SENDINGS, loss=st.sampled_from((0.0, 0.05)), pipe=st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_is_sent_arrives_once_and_bulk_stays_in_order(
    sendings: list[tuple[float, int, int, int, bool]], loss: float, pipe: bool
) -> None:
    model = LinkModel(loss=loss, pipe_bytes_per_s=RATE / 10 if pipe else None)
    net = Net([node(site=number % 2 if pipe else None) for number in range(3)], model)
    expected: dict[tuple[int, int], list[object]] = {}
    for name, (at, source, step, size, urgent) in enumerate(sorted(sendings)):
        net.world.run_until(at)
        target = (source + step) % 3
        net.send(source, target, (name, urgent), size if not urgent else size % 500 + 1, urgent)
        expected.setdefault((source, target), []).append((name, urgent))
    net.world.run_until(120)
    for (source, target), names in expected.items():
        got = [name for _, who, name in net.sinks[target].arrived if who == net.numbers[source]]
        assert sorted(got) == sorted(names)
        for kind in (False, True):
            chosen = [name for name in names if name[1] == kind]
            assert [name for name in got if name[1] == kind] == chosen
    traffic = [net.network.traffic(number) for number in net.numbers]
    assert sum(t.stream_sent_bytes for t in traffic) == sum(
        t.stream_received_bytes for t in traffic
    )
    assert sum(len(sink.left) for sink in net.sinks) == sum(not urgent for *_, urgent in sendings)


def test_one_seed_gives_one_run() -> None:
    def trace(seed: int) -> str:
        net = Net([node() for _ in range(3)], LinkModel(loss=0.02), seed)
        for source in range(3):
            net.stream(source, (source + 1) % 3, MIB)
        net.world.run_until(20)
        return net.world.trace_hash

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)

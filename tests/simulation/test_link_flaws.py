"""What scenarios say of single links: jitter, loss, duplicates, reordering, queues, NAT, clocks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from protocol.errors import ConfigError, TransportError
from swarmd.simulation.daemons.runtime import run_simulated
from swarmd.simulation.daemons.scenario_run import _links, check_daemons, run_daemons
from swarmd.simulation.daemons.timeline import draw_skews, of_one_end
from swarmd.simulation.daemons.wire import CALL_S, NEAR_S, SEGMENT_BYTES, DaemonLink, DaemonNetwork
from swarmd.simulation.links import LinkModel
from swarmd.simulation.processes.grounds import Islands, node_names
from swarmd.simulation.processes.namespaces import Namespaces, Port, leftovers, why_not
from swarmd.simulation.processes.support import Isolation, check_processes
from swarmd.simulation.scenario import (
    Expectations,
    Gateways,
    Image,
    LinkClass,
    Nat,
    Network,
    ReleasePlan,
    Scenario,
    Validators,
)
from swarmd.simulation.scenario_file import load_scenario, parse_scenario
from swarmd.simulation.swarm import Swarm, adapt, run_scenario
from swarmd.simulation.swarm_world import Flaws, SwarmLink, SwarmNetwork, SwarmWorld
from swarmd.simulation.world import Link

SMALL: Final = Scenario(
    name="small",
    duration_s=60.0,
    gateways=Gateways(count=4),
    image=Image(size_kib=64),
    releases=(ReleasePlan(publish_s=0.5),),
    expect=Expectations(seeder_images=20.0),
)
FLAWS: Final = ("jitter_ms", "loss", "duplication", "reorder")
ROUGH: Final = LinkClass(jitter_ms=20, loss=0.05, duplication=0.05, reorder=0.05)


def linked(**classes: LinkClass) -> Scenario:
    """The small scenario with these classes of links."""
    return replace(SMALL, links=classes)


# What a file says --------------------------------------------------------------------------------


def test_a_file_says_it_for_each_class() -> None:
    text = """
    [links.van]
    jitter_ms = 25
    loss = 0.01
    duplication = 0.02
    reorder = 0.03
    reorder_ms = 4
    queue_ms = 400
    nat = "closed"
    share = 0.5
    [links.office]
    share = 0.5
    [gateways]
    skew_ms = 5000
    """
    scenario = parse_scenario(text)
    van, office = scenario.links["van"], scenario.links["office"]
    assert (van.jitter_ms, van.loss, van.duplication) == (25.0, 0.01, 0.02)
    assert (van.reorder, van.reorder_ms, van.queue_ms, van.nat) == (0.03, 4.0, 400.0, Nat.CLOSED)
    assert office == LinkClass(share=0.5)
    assert (office.jitter_ms, office.loss, office.queue_ms, office.nat) == (0, 0, None, Nat.OPEN)
    assert scenario.gateways.skew_ms == 5000


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("loss = -0.1", "links.a.loss: -0.1, allowed 0 to 0.5"),
        ("loss = 1.5", "links.a.loss: 1.5, allowed 0 to 0.5"),
        ("loss = nan", "links.a.loss: nan, allowed"),
        ("loss = inf", "links.a.loss: inf, allowed"),
        ("loss = true", "links.a.loss: expected a number"),
        ("duplication = 2", "links.a.duplication: 2, allowed 0 to 0.5"),
        ("reorder = -1", "links.a.reorder: -1, allowed 0 to 0.5"),
        ("reorder_ms = 0", "links.a.reorder_ms: 0, allowed above 0"),
        ("jitter_ms = -1", "links.a.jitter_ms: -1, allowed 0"),
        ("jitter_ms = nan", "links.a.jitter_ms: nan, allowed"),
        ("queue_ms = 0", "links.a.queue_ms: 0, allowed 1"),
        ("nat = 'symmetric'", "links.a.nat: 'symmetric', expected one of open, closed"),
        ("nat = 'closed'", "links: every class is closed, so that nobody can call anybody"),
        ("jitter = 3", "links.a.jitter: unknown key; did you mean 'jitter_ms'?"),
        ("duplicates = 0.1", "links.a.duplicates: unknown key"),
    ],
)
def test_what_is_wrong_with_a_link_is_named(line: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_scenario(f"[links.a]\n{line}")
    assert reason in str(caught.value)


def test_those_of_one_site_can_be_closed_all_of_them() -> None:
    closed = LinkClass(nat=Nat.CLOSED, site="here")
    linked(one=closed)
    with pytest.raises(ConfigError, match="every class is closed"):
        linked(one=closed, two=replace(closed, site="there", share=0))


# Machines ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("flaw", FLAWS)
def test_each_flaw_changes_the_run_and_one_seed_gives_one_trace(flaw: str) -> None:
    plain = linked(only=LinkClass(reorder_ms=40))
    spoilt = linked(only=replace(plain.links["only"], **{flaw: 30.0 if "ms" in flaw else 0.2}))
    one, again = run_scenario(spoilt, 3), run_scenario(spoilt, 3)
    assert one.passed, one.explain()
    assert one.trace_hash == again.trace_hash
    assert one == again
    assert one.trace_hash != run_scenario(plain, 3).trace_hash
    assert one.trace_hash != run_scenario(spoilt, 4).trace_hash


@pytest.mark.slow
def test_links_that_lose_take_longer() -> None:
    def last_s(loss: float) -> float:
        times = [
            run_scenario(linked(only=LinkClass(loss=loss)), seed).releases[0].finished_s[-1]
            for seed in range(3)
        ]
        return sum(times)

    assert last_s(0.3) > 1.5 * last_s(0.0)


class _Sink:
    """Notes when what arrives."""

    deadline = None

    def __init__(self) -> None:
        self.arrived: list[tuple[float, object]] = []

    def receive(self, _source: int, message: object, now: float) -> None:
        self.arrived.append((now, message))

    def handle(self, event: object, now: float) -> None:
        raise AssertionError(event, now)

    def wake(self, now: float) -> None:
        raise AssertionError(now)


def _ledger(flaws: Flaws, count: int = 400) -> list[tuple[float, int]]:
    """Sends numbered messages 1 ms apart to an actor with such a link; what arrived when."""
    world, sink = SwarmWorld(1, Link(latency_s=0.01)), _Sink()
    source, target = world.add(_Sink()), world.add(sink)
    world.spoil(target, flaws)
    for number in range(count):
        world.run_until(number / 1000)
        world.send(source, target, number)
    world.run_until(10.0)
    found = []
    for at, message in sink.arrived:
        assert isinstance(message, int)
        found.append((at, message))
    return found


def test_ledger_messages_are_lost_doubled_and_overtaken_as_often_as_stated() -> None:
    plain = _ledger(Flaws())
    assert [message for _, message in plain] == list(range(400))
    lossy = len(_ledger(Flaws(loss=0.25)))
    assert 260 <= lossy <= 340
    doubled = _ledger(Flaws(duplication=0.25))
    assert 460 <= len(doubled) <= 540
    assert {message for _, message in doubled} == set(range(400))
    late = _ledger(Flaws(reorder=0.1, reorder_s=0.005))
    numbers = [message for _, message in late]
    overtaken = sum(one > other for one, other in pairwise(numbers))
    assert len(late) == 400
    assert 15 <= overtaken <= 65
    jittery = _ledger(Flaws(jitter_s=0.02))
    delays = [at - message / 1000 for at, message in jittery]
    assert 0.01 <= min(delays) < 0.012 < 0.028 < max(delays) <= 0.03


def _stream_s(flaws: Flaws, *, sites: tuple[int | None, int | None] = (None, None)) -> float:
    """How long a stream of 256 frames takes over two such links; all arrive once, in order."""
    world = SwarmWorld(1, Link())
    network, sink = SwarmNetwork(world, LinkModel()), _Sink()
    source, target = world.add(_Sink()), world.add(sink)
    for number, site in ((source, sites[0]), (target, sites[1])):
        link = SwarmLink(uplink_bytes_per_s=1e6, downlink_bytes_per_s=1e6, flaws=flaws, site=site)
        network.attach(number, link)
    network.connect(source, target)
    for number in range(256):
        network.send(source, target, number, size_bytes=4096)
    world.run_until(300.0)
    assert [message for _, message in sink.arrived] == list(range(256))
    return sink.arrived[-1][0]


@pytest.mark.parametrize(
    "flaws",
    [
        Flaws(loss=0.02),
        Flaws(duplication=0.2),
        Flaws(reorder=0.05, reorder_s=0.2),
        Flaws(jitter_s=0.3),
    ],
)
def test_streams_lose_nothing_but_time_and_near_ones_not_even_that(flaws: Flaws) -> None:
    plain_s = _stream_s(Flaws())
    assert _stream_s(flaws) > 1.05 * plain_s
    assert _stream_s(flaws, sites=(1, 1)) == _stream_s(Flaws(), sites=(1, 1))
    assert _stream_s(flaws, sites=(1, 2)) > 1.05 * plain_s


def test_longer_queues_hold_back_longer() -> None:
    short, long = (
        Swarm(linked(only=LinkClass(queue_ms=queue_ms)), 1).parts._links()["only"]
        for queue_ms in (20.0, 800.0)
    )
    assert (short.bloat_s, short.queue_s_max) == (0.01, 0.02)
    assert (long.bloat_s, long.queue_s_max) == (0.4, 0.8)
    default = Swarm(linked(only=LinkClass()), 1).parts._links()["only"]
    assert (default.bloat_s, default.queue_s_max) == (0.05, None)
    assert LinkModel().queue_s_max == 2 * default.bloat_s


def _streams(scenario: Scenario) -> list[tuple[bool, bool]]:
    """Whether the ends of each stream of a swarm are closed."""
    parts = Swarm(scenario, 1).parts
    return [
        (parts._attached[one].is_closed, parts._attached[other].is_closed)
        for one, others in enumerate(parts.neighbours)
        for other in others
    ]


def test_two_that_nobody_can_call_have_no_stream_and_get_the_image_all_the_same() -> None:
    office, van = LinkClass(share=0.5), LinkClass(share=0.5, nat=Nat.CLOSED)
    scenario = linked(office=office, van=van)
    streams = _streams(scenario)
    assert (True, False) in streams
    assert (False, False) in streams
    assert (True, True) not in streams
    outcome = run_scenario(scenario, 1)
    assert outcome.passed, outcome.explain()
    assert len(outcome.releases[0].finished_s) == 4
    near = linked(office=office, van=replace(van, site="depot"))
    assert (True, True) in _streams(near)


def test_who_would_be_left_alone_knows_one_that_it_can_call() -> None:
    scenario = replace(
        linked(office=LinkClass(share=0.1), van=LinkClass(share=0.9, nat=Nat.CLOSED)),
        gateways=Gateways(count=12, peers=2),
    )
    parts = Swarm(scenario, 1).parts
    assert all(parts.neighbours)
    for one, others in enumerate(parts.neighbours):
        assert all(one in parts.neighbours[other] for other in others)


def test_machines_of_gateways_have_no_clocks_to_be_wrong() -> None:
    with pytest.raises(ConfigError, match=r"^gateways.skew_ms: .* use level daemons"):
        run_scenario(replace(SMALL, gateways=Gateways(count=2, skew_ms=1)), 1)


# Whole daemons -----------------------------------------------------------------------------------


async def _carried_s(near: DaemonLink, far: DaemonLink, size: int) -> float:
    """How long some bytes take from one node to another."""
    network = DaemonNetwork(seed=1)
    listener = await network.wire_of("far", far).listen("far", 7000)
    stream = await network.wire_of("near", near).dial("far", 7000)
    other, start, count = await listener.accept(), trio.current_time(), 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, bytes(size))
        while count < size:
            count += len(await other.receive_some())
    return trio.current_time() - start


@pytest.mark.parametrize(
    ("flaw", "extra_s"),
    [
        ({"duplication": 1.0}, SEGMENT_BYTES / 1e5),
        ({"reorder": 1.0, "reorder_s": 3.0}, 3.0),
    ],
)
def test_segments_that_come_twice_or_late_keep_streams_waiting(
    flaw: dict[str, float], extra_s: float
) -> None:
    plain = DaemonLink(downlink_bytes_per_s=1e5)
    spoilt = replace(plain, **flaw)
    size = 10 * SEGMENT_BYTES
    plain_s = run_simulated(lambda: _carried_s(plain, plain, size), seed=1)
    assert run_simulated(lambda: _carried_s(plain, spoilt, size), seed=1) == pytest.approx(
        plain_s + extra_s
    )
    here = replace(spoilt, site="here", latency_s=0.3)
    assert run_simulated(lambda: _carried_s(here, here, size), seed=1) == pytest.approx(
        NEAR_S + size / 1e5
    )


def test_closed_nodes_hear_only_their_site() -> None:
    async def main() -> None:
        network = DaemonNetwork(seed=1)
        closed = DaemonLink(site="plant", is_closed=True)
        await network.wire_of("far", closed).listen("far", 7000)
        await network.wire_of("open").listen("open", 7000)
        start = trio.current_time()
        with pytest.raises(TransportError, match="timed out"):
            await network.wire_of("near").dial("far", 7000)
        assert trio.current_time() - start == CALL_S
        await network.wire_of("neighbour", DaemonLink(site="plant")).dial("far", 7000)
        await network.wire_of("far").dial("open", 7000)

    run_simulated(main, seed=1)


@pytest.mark.parametrize(
    "fields", [{"duplication": 1.1}, {"reorder": -0.1}, {"reorder_s": -1.0}, {"loss": 1.0}]
)
def test_links_that_cannot_be_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a link's"):
        DaemonLink(**fields)


def test_daemons_links_are_what_the_scenario_says() -> None:
    scenario = replace(
        linked(van=replace(ROUGH, site="depot", nat=Nat.CLOSED), office=LinkClass(share=0)),
        network=Network(loss=0.19, duplication=0.36, segment_loss=0.0),
    )
    links = _links(scenario, 1)
    van, validator = links["gateway-1"], links["validator-1"]
    assert (van.jitter_s, van.loss, van.duplication) == (0.02, pytest.approx(0.05), 0.05)
    assert (van.reorder, van.reorder_s, van.site, van.is_closed) == (0.05, 0.02, "depot", True)
    assert validator.loss == pytest.approx(0.1), "two ends lose 0.19"
    assert validator.duplication == pytest.approx(0.2)
    lossy = replace(scenario, network=Network(segment_loss=0.19))
    assert _links(lossy, 1)["gateway-1"].loss == pytest.approx(1 - 0.95 * 0.9)


def test_whole_daemons_have_no_queues() -> None:
    with pytest.raises(ConfigError, match=r"^links.only.queue_ms: .*use level machines"):
        check_daemons(linked(only=LinkClass(queue_ms=50)))


def test_clocks_are_drawn_within_their_bounds_and_gateways_change_no_validators() -> None:
    scenario = replace(SMALL, validators=Validators(skew_ms=50))
    alone = draw_skews(scenario, 1)
    both = draw_skews(replace(scenario, gateways=Gateways(count=9, skew_ms=7000)), 1)
    assert {name: both[name] for name in alone} == alone
    assert all(abs(skew) <= 50 for skew in alone.values())
    wrong = [skew for name, skew in both.items() if name.startswith("gateway")]
    assert max(map(abs, wrong)) > 1000
    assert all(abs(skew) <= 7000 for skew in wrong)
    assert draw_skews(replace(SMALL, validators=Validators(skew_ms=0)), 1) == {}
    assert 1 - (1 - of_one_end(0.3)) ** 2 == pytest.approx(0.3)


@pytest.mark.slow
def test_whole_daemons_behind_nat_on_rough_links_with_wrong_clocks(tmp_path: Path) -> None:
    """The image reaches those whom nobody can call."""
    scenario = replace(
        linked(
            office=LinkClass(share=0.5),
            van=replace(ROUGH, up_mbit=8, share=0.5, nat=Nat.CLOSED),
        ),
        gateways=Gateways(count=2, skew_ms=10_000),
        network=Network(loss=0.02, duplication=0.02),
    )
    outcome = run_daemons(scenario, 1, tmp_path / "network")
    assert outcome.passed, outcome.explain()
    assert len(outcome.releases[0].finished_s) == 2


async def _spoilt_trace(seed: int) -> str:
    """The trace of some bytes over links with every flaw."""
    network = DaemonNetwork(seed=seed)
    link = DaemonLink(jitter_s=0.1, loss=0.2, duplication=0.2, reorder=0.2, reorder_s=0.1)
    listener = await network.wire_of("far", link).listen("far", 7000)
    stream = await network.wire_of("near", link).dial("far", 7000)
    other, count = await listener.accept(), 0
    for _ in range(40):
        await stream.send_all(bytes(4000))
        count += len(await other.receive_some())
        network.note(network._places["far"], network._places["near"], count)
    return network.trace_hash


def test_one_seed_gives_one_trace_over_spoilt_links() -> None:
    one, again, other = (
        run_simulated(lambda seed=seed: _spoilt_trace(seed), seed=1) for seed in (1, 1, 2)
    )
    assert one == again != other


# Processes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"jitter_ms": 1},
        {"loss": 0.1},
        {"duplication": 0.1},
        {"reorder": 0.1},
        {"queue_ms": 50.0},
        {"nat": Nat.CLOSED, "site": "here"},
    ],
)
def test_loopback_refuses_what_only_links_can_have(change: dict[str, Any]) -> None:
    key = next(iter(change))
    with pytest.raises(ConfigError, match=rf"^links.only.{key}: loopback has no links"):
        check_processes(linked(only=replace(LinkClass(), **change)), Isolation.LOOPBACK)


@pytest.mark.parametrize("key", ["loss", "duplication", "segment_loss"])
def test_loopback_refuses_losses_everywhere(key: str) -> None:
    scenario = replace(SMALL, network=replace(Network(), **{key: 0.1}))
    with pytest.raises(ConfigError, match=rf"^network.{key}: loopback has no links"):
        check_processes(scenario, Isolation.LOOPBACK)


@pytest.mark.slow
def test_the_shipped_example_runs_at_every_level_that_has_links() -> None:
    scenario = load_scenario("rough-links")
    check_daemons(scenario)
    with pytest.raises(ConfigError, match="loopback has no links"):
        check_processes(scenario, Isolation.LOOPBACK)
    outcome = run_scenario(adapt(scenario, nodes=6), 2)
    assert outcome.passed, outcome.explain()


def test_ports_say_all_to_the_link_program() -> None:
    port = Port(up_mbit=8, down_mbit=20, latency_ms=35, jitter_ms=5, loss=0.01, duplication=0.02,
                reorder=0.03, reorder_ms=4, queue_ms=400, site=2, is_closed=True)  # fmt: skip
    assert port.text == "8:20:35:5:0.01:0.02:0.03:4:400:2:1"
    assert Port(up_mbit=1, down_mbit=2).text == "1:2:0:0:0:0:0:0:100:0:0"


@pytest.mark.skipif(why_not() is not None, reason=f"{why_not()}")
def test_islands_have_the_scenarios_ports() -> None:
    van = LinkClass(jitter_ms=3, loss=0.1, nat=Nat.CLOSED, queue_ms=70, site="b", share=0.5)
    scenario = replace(
        linked(office=LinkClass(site="a", share=0.5), van=van), network=Network(loss=0.19)
    )
    ports = Islands(scenario, 1, node_names(scenario))._namespaces._ports
    assert ports[0].loss == pytest.approx(0.1)
    closed = [port for port in ports if port.is_closed]
    assert [(port.loss, port.queue_ms, port.site) for port in closed] == [(0.1, 70.0, 2)] * 2
    assert [port.site for port in ports[4:] if not port.is_closed] == [1, 1, 1]


SERVE: Final = """
import socket
calls = socket.create_server(("0.0.0.0", 10))
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
here.bind(("0.0.0.0", 9))
print("READY", flush=True)
while True:
    here.sendto(*here.recvfrom(2000))
"""
ASK: Final = """
import socket, sys, time
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.connect((sys.argv[1], 9))
here.settimeout(30)
here.send(b"0000")  # finds the address first
while True:
    try:
        here.settimeout(1)
        here.recv(9)
        break
    except OSError:
        here.send(b"0000")
got, left = [], 200
here.settimeout(0.5)
for number in range(left):
    here.send(number.to_bytes(4, "big"))
    time.sleep(0.001)
    here.setblocking(False)
    try:
        while True:
            got.append(int.from_bytes(here.recv(9), "big"))
    except BlockingIOError:
        pass
here.settimeout(0.5)
try:
    while True:
        got.append(int.from_bytes(here.recv(9), "big"))
except TimeoutError:
    pass
print(len(got), len(set(got)), sum(a > b for a, b in zip(got, got[1:])))
"""
CALL: Final = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 10), timeout=float(sys.argv[2]))
    print("in")
except TimeoutError:
    print("out")
"""


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.root
@pytest.mark.skipif(why_not() is not None, reason=f"{why_not()}")
def test_frames_are_lost_doubled_and_overtaken_and_closed_ports_cannot_be_called() -> None:
    base = Port(up_mbit=100, down_mbit=100, latency_ms=2)
    ports = [
        base,
        replace(base, loss=0.2),
        replace(base, duplication=0.2),
        replace(base, reorder=0.1, reorder_ms=10),
        replace(base, site=1, is_closed=True),
        replace(base, site=1),
    ]
    with Namespaces(ports) as spaces, contextlib.ExitStack() as stack:

        def ask(number: int, program: str, *words: str) -> str:
            command = [*spaces.command(number), sys.executable, "-S", "-c", program, *words]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=90)
            return done.stdout.strip()

        for number in (0, 4):
            command = [*spaces.command(number), sys.executable, "-S", "-c", SERVE]
            server = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(server.kill)
            assert server.stdout is not None
            assert server.stdout.readline() == "READY\n"
        answered = {n: [int(x) for x in ask(n, ASK, spaces.address(0)).split()] for n in (1, 2, 3)}
        assert 80 <= answered[1][0] <= 170, "of 200, there and back, 0.64 come through"
        assert answered[2][0] > 1.15 * answered[2][1]
        assert answered[3][2] > 5
        assert ask(0, CALL, spaces.address(4), "0.5") == "out"
        assert ask(5, CALL, spaces.address(4), "30") == "in"
        assert ask(4, CALL, spaces.address(0), "30") == "in"
    assert leftovers(os.getpid()) == []

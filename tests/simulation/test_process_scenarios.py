"""Scenarios with real processes: on loopback, in namespaces, refused, interrupted."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol.digest import Digest
from protocol.errors import ConfigError, TransportError
from swarmd.simulation.daemons.outside import View
from swarmd.simulation.processes import swarm as process_swarm
from swarmd.simulation.processes.grounds import Islands, Loopback, node_names
from swarmd.simulation.processes.namespaces import leftovers, why_not
from swarmd.simulation.processes.scenario_run import run_processes
from swarmd.simulation.processes.support import PROCESSES_MAX, Isolation, check_processes
from swarmd.simulation.processes.swarm import ProcessSwarm
from swarmd.simulation.scenario import (
    Adversary,
    Expectations,
    Fault,
    FaultKind,
    Gateways,
    Image,
    LinkClass,
    Network,
    ReleasePlan,
    Scenario,
    Seeders,
)
from swarmd.simulation.scenario_file import load_scenario
from swarmd.simulation.swarm_outcome import Outcome

LONG = Expectations(finality_s=100.0, heal_s=100.0, revocation_s=100.0, seeder_images=20.0)
"""Bounds that a busy machine keeps, too."""
SMALL = Scenario(
    name="small",
    duration_s=150.0,
    gateways=Gateways(count=2),
    image=Image(size_kib=96),
    releases=(ReleasePlan(publish_s=0.5),),
    expect=LONG,
)
IDLE = [sys.executable, "-S", "-c", "import signal; print('READY', flush=True); signal.pause()"]
"""A process that is ready at once and answers nobody."""


def is_alive(pid: int) -> bool:
    """Whether a process exists that has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# Whole runs --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.network
def test_killed_processes_come_back_and_a_revocation_reaches_all(tmp_path: Path) -> None:
    """In namespaces where that can be, with a cut besides; else on loopback."""
    isolation = Isolation.LOOPBACK if why_not() else Isolation.NAMESPACES
    outcome = run_processes(_eventful(isolation), 1, tmp_path / "network", isolation)
    assert outcome.passed, outcome.explain()
    assert {verdict.name for verdict in outcome.verdicts} >= {
        "agreement", "authorised-only", "blame", "nothing-bad-kept", "finality", "liveness",
        "complete", "revocation", "seeder-images",
    }  # fmt: skip
    recalled, mended = outcome.releases
    assert recalled.revoked_s is not None
    assert len(mended.finished_s) == 1
    assert (outcome.level, outcome.trace_hash) == (isolation.value, "")
    assert outcome.document()["trace_hash"] is None
    assert outcome.height >= 4, "two releases are four decisions"
    assert outcome.samples[-1].gateway_bytes + outcome.samples[-1].seeder_bytes > 0
    assert outcome.cpu_s is not None
    assert outcome.cpu_s > 0
    logs = [path.read_text() for path in (tmp_path / "network").glob("*.log")]
    assert len(logs) == 6
    assert not any("Traceback" in log for log in logs)
    assert leftovers(os.getpid()) == []
    if isolation is Isolation.NAMESPACES:
        _check_links(outcome)
    else:
        assert any("loopback has no links" in note for note in outcome.notes)


def _eventful(isolation: Isolation) -> Scenario:
    """A crash and a revocation; where there are links, thin ones and a cut."""
    faults = (Fault(kind=FaultKind.CRASH, share=1.0, start_s=1.5, end_s=2.0),)
    if isolation is Isolation.NAMESPACES:
        faults += (Fault(kind=FaultKind.PARTITION, share=1.0, start_s=2.5, end_s=6.0),)
    return replace(
        SMALL,
        gateways=Gateways(count=1),
        image=Image(size_kib=512),
        links={"site": LinkClass(up_mbit=4, down_mbit=4, latency_ms=5)},
        releases=(
            ReleasePlan(name="recalled", publish_s=0.5, revoke_s=3.0),
            ReleasePlan(name="mended", publish_s=3.0),
        ),
        faults=faults,
        expect=replace(LONG, makespan_max=200.0),
    )


def _check_links(outcome: Outcome) -> None:
    mended = outcome.releases[1]
    assert mended.final_s is not None
    (finished_s,) = mended.finished_s
    assert mended.final_s + finished_s > 6.0, "nothing passes before the cut has healed"
    assert finished_s > mended.bound_s > 1.0, "a link carries no more than its rate"
    assert outcome.verdict("makespan-max").passed


ECHO = """
import socket
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.bind(("0.0.0.0", 9))
print("READY", flush=True)
while True:
    here.sendto(*here.recvfrom(2000))
"""
ASK = """
import socket, sys, time
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.settimeout(float(sys.argv[2]))
start = time.monotonic()
here.sendto(bytes(1000), (sys.argv[1], 9))
try:
    here.recv(2000)
    print(time.monotonic() - start)
except TimeoutError:
    print("inf")
"""


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.root
@pytest.mark.skipif(why_not() is not None, reason=f"{why_not()}")
def test_frames_take_their_time_and_stop_at_cuts() -> None:
    """An echo in one namespace is asked from another."""
    scenario = replace(SMALL, links={"far": LinkClass(latency_ms=20)})
    islands = Islands(scenario, 1, node_names(scenario))
    away = ["gateway-2", "validator-1"]

    def ask(name: str, patience_s: float) -> float:
        place = islands.place("gateway-2")
        assert place is not None
        words = [*islands.command(name), sys.executable, "-S", "-c", ASK, place.host]
        told = subprocess.run(
            [*words, str(patience_s)], capture_output=True, text=True, check=True, timeout=60
        )
        return float(told.stdout)

    command = [*islands.command("gateway-2"), sys.executable, "-S", "-c", ECHO]
    with islands.context, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as echo:
        try:
            assert echo.stdout is not None
            assert echo.stdout.readline() == "READY\n"
            assert 0.080 <= ask("gateway-1", 30.0) < 30.0, "20 ms at each end, there and back"
            islands.disturb(Fault(kind=FaultKind.PARTITION, end_s=2), away)
            assert ask("gateway-1", 0.3) == math.inf
            assert ask("validator-1", 30.0) < 30.0, "it is on the same side"
            islands.disturb(Fault(kind=FaultKind.ONE_WAY, end_s=2), away)
            assert ask("gateway-1", 0.3) == math.inf
            islands.calm()
            islands.disturb(Fault(kind=FaultKind.LOSS, end_s=2, loss=0.95), [])
            islands.calm()
            assert ask("gateway-1", 30.0) < 30.0
        finally:
            echo.kill()
    assert leftovers(os.getpid()) == []


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", Isolation)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adversaries": (Adversary(name="false_complainer", count=1),)}, r"adversaries\[0\].name"),
        ({"adversaries": (Adversary(name="push_corrupter", share=1.0),)}, "adversaries"),
        ({"seeders": Seeders(count=2)}, "seeders.count"),
        ({"network": Network(pipe_mbit=1.0)}, "network.pipe_mbit"),
        ({"releases": (ReleasePlan(approvals=1),)}, r"releases\[0\].approvals"),
        ({"gateways": Gateways(count=20)}, "gateways.count"),
    ],
)
def test_what_processes_cannot_do_is_refused_by_name(
    tmp_path: Path, isolation: Isolation, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{words}: "):
        run_processes(replace(SMALL, **change), 1, tmp_path / "network", isolation)
    assert not (tmp_path / "network").exists()


@pytest.mark.parametrize("kind", [FaultKind.PARTITION, FaultKind.ONE_WAY, FaultKind.LOSS])
def test_loopback_has_no_links_to_disturb(kind: FaultKind) -> None:
    faults = (Fault(kind=FaultKind.CRASH), Fault(kind=kind, end_s=5.0))
    with pytest.raises(ConfigError, match=rf"^faults\[1\].kind: {kind.value}: loopback has no"):
        check_processes(replace(SMALL, faults=faults), Isolation.LOOPBACK)


def test_as_many_processes_as_stated_are_let_in_and_the_error_says_how_many() -> None:
    most = PROCESSES_MAX - SMALL.validators.count - 1
    check_processes(replace(SMALL, gateways=Gateways(count=most)), Isolation.LOOPBACK)
    with pytest.raises(ConfigError, match=rf"at most {PROCESSES_MAX}: {most} gateways here"):
        check_processes(replace(SMALL, gateways=Gateways(count=most + 1)), Isolation.LOOPBACK)


def test_namespaces_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match=r"^level namespaces: needs root$"):
        check_processes(SMALL, Isolation.NAMESPACES)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"needs iproute2 \(ip is not on PATH\)"):
        check_processes(SMALL, Isolation.NAMESPACES)


@pytest.mark.parametrize("name", ["flash-crowd", "churn", "corrupters", "sixteen-sites"])
def test_shipped_scenarios_run_as_processes(name: str) -> None:
    scenario = load_scenario(name)
    check_processes(
        replace(scenario, gateways=replace(scenario.gateways, count=16)), Isolation.LOOPBACK
    )


# Nothing stays behind ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.network
def test_a_node_that_does_not_answer_ends_the_run_and_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_swarm, "daemon_command", lambda *_, **__: IDLE)
    pids: list[int] = []

    async def remember(swarm: ProcessSwarm) -> None:
        pids.extend(swarm.pids)
        await real(swarm)

    real = ProcessSwarm.settle
    monkeypatch.setattr(ProcessSwarm, "settle", remember)
    with pytest.raises(TransportError, match="no daemon runs"):
        run_processes(SMALL, 1, tmp_path / "network", Isolation.LOOPBACK)
    assert len(pids) == 7
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.slow
@pytest.mark.network
def test_a_node_that_ends_by_itself_is_named_and_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [sys.executable, "-S", "-c", "raise SystemExit('disk on fire')"]
    monkeypatch.setattr(
        process_swarm,
        "daemon_command",
        lambda directory, **_: broken if directory.name == "gateway-2" else IDLE,
    )
    with pytest.raises(TransportError, match=r"gateway-2 did not become ready: disk on fire"):
        run_processes(SMALL, 1, tmp_path / "network", Isolation.LOOPBACK)


INTERRUPTED = """
import sys, trio
from pathlib import Path
from swarmd.simulation.processes import swarm as process_swarm
from swarmd.simulation.processes.scenario_run import run_processes
from swarmd.simulation.processes.support import Isolation
from swarmd.simulation.scenario import Gateways, Scenario

async def settle(swarm):
    print(*swarm.pids, flush=True)
    await trio.sleep_forever()

process_swarm.daemon_command = lambda *_, **__: {idle!r}
process_swarm.ProcessSwarm.settle = settle
scenario = Scenario(gateways=Gateways(count=1))
try:
    run_processes(scenario, 1, Path(sys.argv[1]), Isolation(sys.argv[2]))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_process(tmp_path: Path, number: signal.Signals) -> None:
    """In namespaces where that can be, and these go, too."""
    isolation = Isolation.LOOPBACK if why_not() else Isolation.NAMESPACES
    program = INTERRUPTED.format(idle=IDLE)
    command = [sys.executable, "-c", program, str(tmp_path / "network"), isolation.value]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 6
        assert all(is_alive(pid) for pid in pids)
        process.send_signal(number)
        assert process.stdout.read() == "interrupted\n"
    assert process.returncode == 0
    assert not any(is_alive(pid) for pid in pids)
    assert leftovers(process.pid) == []


# What is seen ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_chains_that_differ_anywhere_are_seen(tmp_path: Path) -> None:
    swarm = ProcessSwarm(SMALL, 1, tmp_path / "network", Loopback())
    swarm._blocks["validator-1"] = {1: "aa", 2: "bb"}
    swarm._blocks["gateway-2"] = {2: "bb", 3: "cc"}
    assert swarm._disagreements() == 0
    swarm._blocks["gateway-1"] = {1: "aa", 3: "dd"}
    assert swarm._disagreements() == 1


@pytest.mark.slow
async def test_a_file_that_is_not_its_image_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = ProcessSwarm(SMALL, 1, tmp_path / "network", Loopback())
    held = tmp_path / "held"
    held.write_bytes(b"image")
    row = {"manifest": "00", "complete": True, "standing": "authorised"}
    revoked = {**row, "standing": "manifest.revoked"}

    async def ask(name: str, method: str, params: object = None) -> object:
        told = {"path": str(held), "sha256": Digest(bytes(32)).hex()}
        return [row, revoked] if method == "images" else told

    monkeypatch.setattr(swarm, "_ask", ask)
    view = View(heights={}, complete={"gateway-1": (), "gateway-2": ()}, seeder_bytes=0,
                gateway_bytes=0)  # fmt: skip
    assert await swarm._spoilt(view) == 2


@pytest.mark.slow
def test_the_seed_says_who_breaks_the_rules_and_where_they_are_not_counted(tmp_path: Path) -> None:
    scenario = replace(
        SMALL,
        gateways=Gateways(count=5),
        adversaries=(Adversary(name="push_corrupter", share=0.4),),
    )
    one = ProcessSwarm(scenario, 1, tmp_path / "one", Loopback())
    again = ProcessSwarm(scenario, 1, tmp_path / "again", Loopback())
    assert one.gateways == again.gateways
    assert len(one.gateways) == 3
    assert one.adversaries == (("push_corrupter", 2),)
    bad = sorted({f"gateway-{n}" for n in range(1, 6)} - set(one.gateways))
    commands = {name: " ".join(node._command) for name, node in one._nodes.items()}
    assert [name for name in sorted(commands) if "push_corrupter" in commands[name]] == bad

"""Scenarios with real processes: on loopback, in namespaces, refused, interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.digest import Digest
from protocol.errors import ConfigError, TransportError
from swarmd.simulation.daemons.outside import View
from swarmd.simulation.processes import swarm as process_swarm
from swarmd.simulation.processes.grounds import Loopback
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
    scenario = replace(
        SMALL,
        releases=(
            ReleasePlan(name="recalled", publish_s=0.5, revoke_s=4.0),
            ReleasePlan(name="mended", publish_s=4.5, changed=0.3),
        ),
        faults=(Fault(kind=FaultKind.CRASH, share=0.5, start_s=2.0, end_s=3.0),),
    )
    outcome = run_processes(scenario, 1, tmp_path / "network", Isolation.LOOPBACK)
    assert outcome.passed, outcome.explain()
    assert {verdict.name for verdict in outcome.verdicts} == {
        "agreement", "authorised-only", "blame", "nothing-bad-kept", "finality", "liveness",
        "complete", "revocation", "seeder-images",
    }  # fmt: skip
    recalled, mended = outcome.releases
    assert recalled.revoked_s is not None
    assert len(mended.finished_s) == 2
    assert (outcome.level, outcome.trace_hash) == ("processes", "")
    assert outcome.document()["trace_hash"] is None
    assert outcome.height >= 4
    assert outcome.samples[-1].gateway_bytes + outcome.samples[-1].seeder_bytes > 0
    assert any("loopback has no links" in note for note in outcome.notes)
    assert outcome.cpu_s is not None
    assert outcome.cpu_s > 0
    logs = [path.read_text() for path in (tmp_path / "network").glob("*.log")]
    assert len(logs) == 7
    assert not any("Traceback" in log for log in logs)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.root
@pytest.mark.skipif(why_not() is not None, reason=f"{why_not()}")
def test_in_namespaces_links_have_rates_and_cuts(tmp_path: Path) -> None:
    scenario = replace(
        SMALL,
        gateways=Gateways(count=1),
        image=Image(size_kib=512),
        links={"site": LinkClass(up_mbit=4, down_mbit=4, latency_ms=5)},
        faults=(Fault(kind=FaultKind.PARTITION, share=1.0, start_s=0.2, end_s=4.0),),
        expect=replace(LONG, makespan_max=200.0),
    )
    outcome = run_processes(scenario, 1, tmp_path / "network", Isolation.NAMESPACES)
    assert outcome.passed, outcome.explain()
    (release,) = outcome.releases
    assert release.final_s is not None
    (finished_s,) = release.finished_s
    assert release.final_s + finished_s > 4.0, "nothing passes before the cut has healed"
    assert finished_s > release.bound_s > 1.0, "a link carries no more than its rate"
    assert outcome.verdict("makespan-max").passed
    assert leftovers(os.getpid()) == []


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", Isolation)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adversaries": (Adversary(name="mute_relayer", count=1),)}, r"adversaries\[0\].name"),
        ({"adversaries": (Adversary(name="push_corrupter", share=1.0),)}, "adversaries"),
        ({"seeders": Seeders(count=2)}, "seeders.count"),
        ({"network": Network(pipe_mbit=1.0)}, "network.pipe_mbit"),
        ({"faults": (Fault(kind=FaultKind.SLOW_DISK),)}, r"faults\[0\].kind"),
        ({"releases": (ReleasePlan(approvals=1),)}, r"releases\[0\].approvals"),
        ({"gateways": Gateways(count=20)}, "gateways.count"),
    ],
)
def test_what_processes_cannot_do_is_refused_by_name(
    tmp_path: Path, isolation: Isolation, change: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{words}: "):
        run_processes(
            replace(SMALL, **change),  # type: ignore[arg-type]
            1,
            tmp_path / "network",
            isolation,
        )
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
    assert [name for name in sorted(commands) if "malicious" in commands[name]] == bad

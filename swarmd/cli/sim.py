"""`swarmd sim`: a whole swarm in this process, from one seed, without a daemon."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

from protocol.errors import ConfigError
from swarmd.cli.options import examples, json_option, pass_output
from swarmd.cli.output import Output, plain, table
from swarmd.cli.sim_attack import attack_list, show_attack

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON
    from swarmd.simulation.scenario import Adversary, Scenario
    from swarmd.simulation.swarm import OnStep
    from swarmd.simulation.swarm_outcome import Outcome, Verdict

_LEVELS: Final = ("machines", "daemons", "processes", "namespaces")
"""What may run: simulated machines, simulated daemons, processes on loopback, in namespaces."""
_SEED_MAX: Final = 2**63 - 1
"""Greatest seed."""
_BAR_STEPS: Final = 1000
"""Steps of the progress bar."""


@click.command(
    epilog=examples(
        "swarmd sim --list",
        "swarmd sim flash-crowd --seed 7",
        "swarmd sim corrupters --nodes 40 --adversary mute_relayer=0.2 --report swarm.html",
        "swarmd sim mine.toml --json",
        "swarmd sim revocation-race --nodes 4 --level namespaces",
        "swarmd sim --attack rollback --seed 3",
    )
)
@click.argument("scenario", required=False, metavar="[SCENARIO]")
@click.option(
    "--seed", type=click.IntRange(0, _SEED_MAX), default=1, show_default=True, metavar="S",
    help="Decides all that is random; the same seed gives the same run.",
)  # fmt: skip
@click.option("--nodes", type=int, metavar="N", help="Gateways, instead of the scenario's.")
@click.option(
    "--adversary", "adversaries", multiple=True, metavar="NAME=SHARE",
    help="Have nodes break the rules: a share such as 0.3, or a whole number of them.",
)  # fmt: skip
@click.option(
    "--until", "until_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
    help="End after this simulated time: replays a prefix.",
)  # fmt: skip
@click.option(
    "--level", type=click.Choice(_LEVELS), default=_LEVELS[0], show_default=True,
    help="What runs: the daemon's machines (thousands of nodes); whole daemons on simulated time "
    "(dozens); or daemons as processes in real time (24), on loopback or, as root, in network "
    "namespaces with the scenario's links.",
)  # fmt: skip
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write an HTML page with plots to FILE.",
)  # fmt: skip
@click.option(
    "--attack", "attack_name", metavar="NAME",
    help="Run an attack of docs/attacks.md instead of a scenario, and its control.",
)  # fmt: skip
@click.option(
    "--list", "is_list", is_flag=True, help="List scenarios, adversaries and attacks, and exit."
)
@json_option
@pass_output
def sim(
    output: Output,
    /,
    scenario: str | None,
    is_list: bool,
    attack_name: str | None,
    **options: Any,
) -> None:
    """Simulate a swarm: validators authorise a release, gateways distribute it.

    SCENARIO is a name from --list or a TOML file. Exits with 0 if every bound was kept (or, where
    more is broken than anybody survives, if the swarm broke), with 1 if not.
    """
    if is_list:
        _show_list(output)
        return
    if attack_name is not None:
        _refuse_with_attack(click.get_current_context(), scenario)
        show_attack(output, attack_name, options["seed"])
        return
    if scenario is None:
        raise click.UsageError("name a SCENARIO; --list shows those that come with the program")
    outcome = _run(scenario, **options)
    _show(output, outcome)
    if not outcome.passed:
        _explain(output, outcome)
        click.get_current_context().exit(1)


def _refuse_with_attack(context: click.Context, scenario: str | None) -> None:
    """An attack is decided by its name and seed; what belongs to scenarios is a mistake."""
    from click.core import ParameterSource

    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in ("attack_name", "seed", "json", "scenario", "is_list")
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if scenario is not None:
        given.insert(0, "SCENARIO")
    if given:
        raise click.UsageError(f"--attack takes only --seed and --json, not {', '.join(given)}")


def _run(
    name: str,
    *,
    seed: int,
    nodes: int | None,
    adversaries: tuple[str, ...],
    until_s: float | None,
    level: str,
    report: Path | None,
) -> Outcome:
    from dataclasses import replace

    from swarmd.simulation.scenario_file import load_scenario
    from swarmd.simulation.swarm import adapt, replay_command, run_scenario, shortest_prefix_s

    added = tuple(_parse_adversary(text) for text in adversaries)
    scenario = adapt(load_scenario(name), nodes=nodes, adversaries=added)
    if level != "machines":
        if until_s is not None:
            raise click.UsageError("--until replays machines only")
        outcome = _run_daemons(scenario, seed, level)
        command = replay_command(name, seed, nodes=nodes, adversaries=added) + f" --level {level}"
        return _reported(replace(outcome, replay=command), report)
    with _progress(scenario) as on_step:
        outcome = run_scenario(scenario, seed, until_s=until_s, on_step=on_step)
    prefix_s = until_s
    if not outcome.passed and not outcome.held:
        prefix_s = shortest_prefix_s(scenario, outcome) or until_s
    command = replay_command(name, seed, nodes=nodes, adversaries=added, until_s=prefix_s)
    return _reported(replace(outcome, replay=command), report)


def _run_daemons(scenario: Scenario, seed: int, level: str) -> Outcome:
    import tempfile

    unit = "simulated" if level == "daemons" else "real"
    with (
        tempfile.TemporaryDirectory(prefix="swarmd-sim-") as folder,
        _progress(scenario, unit) as on_step,
    ):
        network = Path(folder) / "network"
        if level == "daemons":
            from swarmd.simulation.daemons.scenario_run import run_daemons

            return run_daemons(scenario, seed, network, on_step=on_step)
        from swarmd.simulation.processes.scenario_run import run_processes
        from swarmd.simulation.processes.support import Isolation

        return run_processes(scenario, seed, network, Isolation(level), on_step=on_step)


def _reported(outcome: Outcome, report: Path | None) -> Outcome:
    if report is not None:
        from swarmd.simulation.report import render_report

        report.write_text(render_report(outcome), "utf-8")
    return outcome


def _parse_adversary(text: str) -> Adversary:
    """Reads `NAME=0.3` or `NAME=2`."""
    from swarmd.simulation.scenario import Adversary

    name, _, amount = text.partition("=")
    try:
        if amount.isdecimal() and len(amount) < 7 and int(amount) >= 1:
            return Adversary(name=name, count=int(amount))
        return Adversary(name=name, share=float(amount))
    except ValueError:
        raise ConfigError(
            f"--adversary: {text[:80]!r} is not NAME=SHARE, such as push_corrupter=0.3"
        ) from None


@contextlib.contextmanager
def _progress(scenario: Scenario, unit: str = "simulated") -> Iterator[OnStep | None]:
    """A bar on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(plain(scenario.name), total=_BAR_STEPS)

        def show(now_s: float, share: float) -> None:
            text = f"{plain(scenario.name)}: {now_s:.1f} {unit} s"
            bars.update(bar, description=text, completed=round(share * _BAR_STEPS))

        yield show


# Results -----------------------------------------------------------------------------------------


def _show(output: Output, outcome: Outcome) -> None:
    if output.json:
        output.result(cast("JSON", outcome.document()))
        return
    size = f"{outcome.nodes} gateways, {outcome.validators} validators"
    is_real = not outcome.trace_hash
    took = f"{outcome.simulated_s:.2f} {'real' if is_real else 'simulated'} s"
    lines = [
        f"{outcome.scenario}, seed {outcome.seed}: {size}, {took}, {outcome.height} blocks"
        + ("" if is_real else f", {outcome.event_count} events"),
        _repeat_text(outcome),
        "",
        table(("verdict", "measured", "bound", "unit", "result"), _rows(outcome)),
        *(f"note: {note}" for note in outcome.notes),
        *(f"expected to break: {reason}" for reason in outcome.expected_to_break),
        "passed" if outcome.passed else "FAILED",
    ]
    output.result(None, "\n".join(lines))


def _repeat_text(outcome: Outcome) -> str:
    if outcome.trace_hash:
        return f"trace {outcome.trace_hash}"
    busy = "" if outcome.cpu_share is None else f"; processors busy to {outcome.cpu_share:.0%}"
    return f"level {outcome.level}: no trace, real time does not repeat{busy}"


def _rows(outcome: Outcome) -> list[tuple[str, str, str, str, str]]:
    from swarmd.simulation.swarm_outcome import text_of

    def bound(verdict: Verdict) -> str:
        return f"{'>=' if verdict.is_minimum else '<='} {verdict.bound:g}"

    return [
        (
            verdict.name,
            text_of(verdict.measured),
            bound(verdict),
            verdict.unit or "-",
            "kept" if verdict.passed else f"broken after {verdict.failed_s:.2f} s",
        )
        for verdict in outcome.verdicts
    ]


def _explain(output: Output, outcome: Outcome) -> None:
    """Says why a run failed, and how to see it again."""
    if outcome.held:
        output.reason("sim: expected to break, but every bound was kept")
    else:
        names = ", ".join(verdict.name for verdict in outcome.failures)
        output.reason(f"sim: broken bounds: {names}")
    click.echo(f"seed {outcome.seed}; replay: {plain(outcome.replay)}", err=True)


def _show_list(output: Output) -> None:
    from swarmd.simulation.byzantine.catalogue import ADVERSARIES
    from swarmd.simulation.scenario_file import load_scenario, shipped_scenarios

    scenarios = [
        {"name": name, "summary": load_scenario(name).summary} for name in shipped_scenarios()
    ]
    usable = [each for each in ADVERSARIES.values() if each.seat or each.member]
    adversaries = [
        {
            "name": each.name,
            "place": "validator" if each.seat else "gateway",
            "summary": each.summary,
        }
        for each in usable
    ]
    document = {
        "scenarios": scenarios,
        "adversaries": adversaries,
        "attacks": attack_list(),
    }
    output.result(cast("JSON", document))

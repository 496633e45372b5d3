"""The pytest plugin: a `swarm` fixture that runs whole swarms inside a test.

A test says how many nodes there are, how they are linked and who breaks the rules, and asserts on
the outcome (docs/simulating.md). A failing test prints seed, trace and the line that runs it again.
Loaded by every pytest run of an environment that has the package, so it imports nothing of it
before a test asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from swarmd.simulation.scenario import Scenario
    from swarmd.simulation.swarm_outcome import Outcome

_OPTION: Final = "--swarm-seed"
_SEED: Final = 1
"""What tests use unless they or the command line say otherwise."""
_DURATION_S: Final = 30.0
"""When a test's run is given up, simulated seconds."""
Table = Mapping[str, object]
"""A table of a scenario, written as a dictionary."""


class SwarmRunner:
    """What a test gets as `swarm`."""

    def __init__(self, test: str, seed: int | None) -> None:
        """Begins without runs.

        Args:
            test: node id of the test, for the replay line.
            seed: of the command line; None: none was given.
        """
        self._test = test
        self._seed = seed
        self.outcomes: Final[list[Outcome]] = []
        """All runs of the test so far."""

    def run(
        self,
        scenario: str | Path | Scenario | None = None,
        *,
        nodes: int | None = None,
        links: float | Mapping[str, Table] | None = None,
        adversaries: Mapping[str, float] | None = None,
        seed: int | None = None,
        **tables: object,
    ) -> Outcome:
        """Runs a swarm to its end.

        Args:
            scenario: a scenario's name, a file or an object to begin with; None: a small swarm
                with one release of 256 KiB, given up after 30 simulated seconds.
            nodes: gateways; 8 where there is no scenario.
            links: Mbit/s of every link, or classes of links by name.
            adversaries: kinds, with a share (below 1) or a number of nodes (from 1).
            seed: decides all that is random; `--swarm-seed` goes first.
            tables: anything else that a scenario's file may say, such as
                `faults=[{"kind": "churn", "end_s": 9}]` or `expect={"makespan_max": 4}`.

        Returns:
            The outcome; `held` tells whether every bound was kept.

        Raises:
            ConfigError: names the key and the reason.
        """
        from swarmd.simulation.swarm import run_scenario

        chosen = self._seed if self._seed is not None else _SEED if seed is None else seed
        document: dict[str, object] = dict(tables)
        if nodes is not None:
            document["gateways"] = {**_table(document.get("gateways")), "count": nodes}
        if links is not None:
            document["links"] = _links(links)
        if adversaries is not None:
            document["adversaries"] = [_adversary(*item) for item in adversaries.items()]
        outcome = run_scenario(_scenario(scenario, document), chosen)
        self.outcomes.append(outcome)
        return outcome

    def explain(self) -> str:
        """What to know of the runs when the test failed."""
        lines: list[str] = []
        for outcome in self.outcomes:
            lines.append(outcome.explain())
            lines.append(f"  run it again: pytest '{self._test}' {_OPTION}={outcome.seed}")
        return "\n".join(lines)


def _table(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _links(links: float | Mapping[str, Table]) -> Mapping[str, Table]:
    if isinstance(links, Mapping):
        return links
    return {"all": {"up_mbit": links, "down_mbit": links}}


def _adversary(name: str, amount: float) -> dict[str, object]:
    key = "share" if amount < 1 else "count"
    return {"name": name, key: amount}


def _scenario(base: str | Path | Scenario | None, document: Mapping[str, object]) -> Scenario:
    """A scenario with some of its tables replaced, key by key where they are tables."""
    from swarmd.simulation.scenario import Gateways, Image, Scenario
    from swarmd.simulation.scenario_file import load_scenario, override

    if base is None:
        base = Scenario(
            name="test",
            duration_s=_DURATION_S,
            gateways=Gateways(count=8, poll_s=1.0),
            image=Image(size_kib=256),
        )
    elif not isinstance(base, Scenario):
        base = load_scenario(base)
    return override(base, document)


_RUNNER: Final = pytest.StashKey[SwarmRunner]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the seed of all swarms."""
    parser.getgroup("swarmd").addoption(
        _OPTION,
        type=int,
        default=None,
        metavar="S",
        help="seed of the swarms that tests simulate, instead of their own",
    )


@pytest.fixture
def swarm(request: pytest.FixtureRequest) -> SwarmRunner:
    """Runs simulated swarms: `outcome = swarm.run(nodes=12)`."""
    runner = SwarmRunner(request.node.nodeid, request.config.getoption(_OPTION))
    request.node.stash[_RUNNER] = runner
    return runner


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds to a failed test what its swarms did."""
    report = yield
    runner = item.stash.get(_RUNNER, None)
    if runner is not None and call.when == "call" and report.failed and runner.outcomes:
        report.sections.append(("simulated swarms", runner.explain()))
    return report

"""The pytest plugin: a newcomer's test passes, and fails when the adversary wins."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from swarmd.simulation.scenario_file import parse_scenario

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
BROKEN = """
def test_release_survives_half_the_validators_mute(swarm):
    outcome = swarm.run(nodes=2, adversaries={"mute_validator": 2}, duration_s=12)
    assert outcome.held
"""


def documented(language: str) -> str:
    """The first block of a language in the page for users."""
    page = (ROOT / "docs" / "simulating.md").read_text("utf-8")
    found = re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


def plugin_arguments() -> list[str]:
    """Loads the plugin where the environment's entry point does not."""
    names = [each.value for each in metadata.entry_points(group="pytest11")]
    return [] if "swarmd.pytest_plugin" in names else ["-p", "swarmd.pytest_plugin"]


def run(pytester: pytest.Pytester, text: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(text)
    options = (*plugin_arguments(), "-p", "no:cacheprovider", "-p", "no:xdist", *arguments)
    return pytester.runpytest_inprocess(*options)


@pytest.mark.slow
def test_a_newcomers_test_fails_when_the_adversary_wins(pytester: pytest.Pytester) -> None:
    result = run(pytester, documented("python") + BROKEN)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*simulated swarms*",
            "test: seed 1, trace ????????????????",
            "  finality: never s, at most 10 allowed; certain after 11.00 s",
            "  run it again: pytest '*half_the_validators_mute' --swarm-seed=1",
        ]
    )
    assert result.duration < 20


def test_the_documented_scenario_is_one() -> None:
    scenario = parse_scenario(documented("toml"))
    assert [plan.name for plan in scenario.releases] == ["1.0", "1.1"]


@pytest.mark.slow
def test_the_command_lines_seed_goes_first(pytester: pytest.Pytester) -> None:
    text = """
        def test_seed(swarm):
            assert swarm.run("stolen-key", seed=3, nodes=4).seed == 9
            assert swarm.run(nodes=2, image={"size_kib": 16}, links=50).nodes == 2
        """
    run(pytester, text, "--swarm-seed", "9").assert_outcomes(passed=1)


@pytest.mark.slow
def test_a_wrong_table_is_one_clear_error(pytester: pytest.Pytester) -> None:
    text = """
        import pytest

        def test_wrong(swarm):
            with pytest.raises(Exception, match="gateways.count: 0, allowed 1 to"):
                swarm.run(nodes=0)
            with pytest.raises(Exception, match="gatways: unknown key"):
                swarm.run(gatways={})
            with pytest.raises(Exception, match="no adversary 'nobody'"):
                swarm.run(adversaries={"nobody": 0.5})
            assert not swarm.outcomes
        """
    run(pytester, text).assert_outcomes(passed=1)


@pytest.mark.slow
def test_loading_the_plugin_imports_nothing_else_of_ours() -> None:
    code = (
        "import sys, swarmd.pytest_plugin\n"
        "ours = {'swarmd', 'chunks', 'ledger', 'protocol'}\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ours))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "['swarmd', 'swarmd.pytest_plugin']"

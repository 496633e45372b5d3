"""Scenario files: what they say, and one clear error for whatever is wrong in them."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest

from protocol.errors import ConfigError
from swarmd.simulation import scenario as vocabulary
from swarmd.simulation.scenario import FaultKind, LinkClass, Scenario
from swarmd.simulation.scenario_file import (
    SCENARIO_BYTES_MAX,
    load_scenario,
    override,
    parse_scenario,
    shipped_scenarios,
)

FULL = """
summary = "all of it"
duration_s = 30
[network]
latency_ms = 10
pipe_mbit = 5
[validators]
count = 7
[gateways]
count = 9
[seeders]
count = 2
link = "fast"
[links.fast]
up_mbit = 100
site = "here"
share = 0.5
[links.slow]
share = 0.5
[[releases]]
name = "one"
publish_s = 1
revoke_s = 9.5
[[faults]]
kind = "one-way"
target = "validators"
start_s = 2
end_s = 3
[[adversaries]]
name = "push_corrupter"
share = 0.2
[expect]
makespan_max = 3
"""


def test_everything_is_read() -> None:
    scenario = parse_scenario(FULL, "full")
    assert (scenario.name, scenario.summary, scenario.duration_s) == ("full", "all of it", 30.0)
    assert scenario.network.pipe_mbit == 5.0
    assert list(scenario.links) == ["fast", "slow"]
    assert scenario.links["fast"].site == "here"
    assert scenario.releases[0].revoke_s == 9.5
    assert scenario.faults[0].kind is FaultKind.ONE_WAY
    assert scenario.adversaries[0].share == 0.2
    assert scenario.expect.makespan_max == 3.0
    assert isinstance(scenario.duration_s, float)


def test_an_empty_file_is_a_scenario_of_defaults() -> None:
    assert parse_scenario("") == Scenario()


WRONG = [
    ("[gateways]\ncuont = 4", "gateways.cuont: unknown key; did you mean 'count'?"),
    ("speed = 4", "speed: unknown key"),
    ("[links.a]\nup_mbit = 0", "links.a.up_mbit: 0, allowed above 0"),
    ("[links.a]\ndown_mbit = 0.0", "links.a.down_mbit: 0, allowed above 0"),
    ("[links.a]\nlatency_ms = -1", "links.a.latency_ms: -1, allowed 0"),
    ("[network]\nlatency_ms = -0.5", "network.latency_ms: -0.5, allowed 0"),
    ("[network]\nlatency_ms = nan", "network.latency_ms: nan"),
    ("[network]\nloss = 1", "network.loss: 1, allowed 0 to 0.9"),
    ("[network]\npipe_mbit = 0", "network.pipe_mbit: 0, allowed above 0"),
    ("[validators]\ncount = 3", "validators.count: 3, allowed 4 to"),
    ("[validators]\ncount = 4.0", "validators.count: expected a whole number"),
    ("[gateways]\ncount = 0", "gateways.count: 0, allowed 1"),
    ("[gateways]\ncount = true", "gateways.count: expected a whole number"),
    ("gateways = 4", "gateways: expected a table, got a whole number"),
    ("[releases]\nname = 'a'", "releases: expected a list"),
    ("releases = []", "releases: nothing is published"),
    ("[[releases]]\npublish_s = 60", "releases[0].publish_s: not before duration_s"),
    ("[[releases]]\npublish_s = 2\nrevoke_s = 2", "releases[0].revoke_s: 2, not after"),
    ("[[releases]]\nchanged = 0", "releases[0].changed: 0, allowed above 0"),
    ("[[releases]]\napprovals = 3", "releases[0].approvals: 3, allowed 0 to 2"),
    ('summary = "a\\u0007b"', "summary: expected at most 256 printable characters"),
    ("[[faults]]\nkind = 'fire'", "faults[0].kind: 'fire', expected one of partition"),
    ("[[faults]]\nstart_s = 3\nend_s = 2", "faults[0].end_s: 2, not after start_s"),
    ("[[faults]]\nkind = 'churn'", "faults[0].end_s: churn needs an end"),
    (
        "[[faults]]\nkind = 'churn'\nend_s = 9\ntarget = 'validators'",
        "faults[0].target: churn concerns gateways",
    ),
    ("[[adversaries]]\nname = 'twin'", "adversaries[0]: give either share or count"),
    ("[[adversaries]]\nname = 'twin'\nshare = 0.1\ncount = 1", "adversaries[0]: give either"),
    ("[links]", "links: no class of links"),
    ("[links.a]\nshare = 0.7\n[links.b]\nshare = 0.7", "links: the shares sum to 1.4"),
    ("[seeders]\nlink = 'b'", "seeders.link: no class 'b'"),
    ("name = 'x'", "name: a scenario is called what its file is called"),
    ("a = ", "not TOML"),
    ("summary = 1979-05-27", "summary: expected text in quotes, got a date or time"),
]


@pytest.mark.parametrize(("text", "reason"), WRONG)
def test_what_is_wrong_is_named(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_scenario(text, "test")
    assert str(caught.value).startswith("test: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_are_found_by_path_and_shipped_ones_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("duration_s = 9")
    assert load_scenario(path).name == load_scenario(str(path)).name == "mine"
    assert load_scenario("flash-crowd").name == "flash-crowd"
    with pytest.raises(ConfigError, match="did you mean 'flash-crowd'"):
        load_scenario("flash-crowds")
    with pytest.raises(ConfigError, match="No such file"):
        load_scenario(tmp_path / "none.toml")
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_scenario(path)
    path.write_bytes(b"#" * (SCENARIO_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="more than"):
        load_scenario(path)


def test_at_least_eight_scenarios_come_with_the_program() -> None:
    names = shipped_scenarios()
    assert len(names) >= 8
    for name in names:
        assert load_scenario(name).summary, name


def test_tables_are_overridden_key_by_key() -> None:
    changed = override(load_scenario("flash-crowd"), {"gateways": {"peers": 3}, "duration_s": 7})
    assert (changed.gateways.count, changed.gateways.peers, changed.duration_s) == (24, 3, 7.0)
    linked = override(changed, {"links": {"thin": {"up_mbit": 2}}})
    assert linked.links == {"thin": LinkClass(up_mbit=2.0)}
    with pytest.raises(ConfigError, match="gateway: unknown key; did you mean 'gateways'"):
        override(changed, {"gateway": {}})


def test_every_key_has_a_default_and_every_number_a_range() -> None:
    for name, kind in inspect.getmembers(vocabulary, dataclasses.is_dataclass):
        if name == "Range":
            continue
        assert kind() is not None, name
        for each in dataclasses.fields(kind):
            if each.type in ("int", "float", "int | None", "float | None"):
                assert "range" in each.metadata, f"{name}.{each.name}"

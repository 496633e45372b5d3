"""New networks: from join files and a plan, and the laboratory."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from protocol.did import SubjectKind, did_key_text
from protocol.errors import ConfigError, StorageError
from protocol.genesis import decode_genesis
from swarmd.clock import ManualClock
from swarmd.config import Config, LogLevel
from swarmd.datadir import DataDir, load_key
from swarmd.enrolment import JoinFile, NodePlan, create_node, new_key
from swarmd.entropy import SeededEntropy
from swarmd.network_creation import Lab, LabOptions, build_genesis, create_lab, create_network
from swarmd.network_plan import load_plan, parse_plan

NOW_MS = 1_700_000_000_000
OWNERS = {
    name: did_key_text(new_key(SeededEntropy(number)).public)
    for number, name in enumerate(("ada", "bob", "eve"))
}
OWNER_LIST = ", ".join(f'["{name}", "{key}"]' for name, key in OWNERS.items())
PLAN = f"""
name = "acme"
[governance]
threshold = 2
owners = [{OWNER_LIST}]
[[group]]
name = "fleet"
threshold = 2
owners = [{OWNER_LIST}]
revoke = 1
publishers = ["factory"]
offer_freshness_ms = 1000
[[group]]
name = "bench"
threshold = 1
owners = [{OWNER_LIST}]
"""


def make_joins(tmp_path: Path) -> list[JoinFile]:
    nodes = [
        *((SubjectKind.VALIDATOR, f"v{number}", ()) for number in range(4)),
        (SubjectKind.GATEWAY, "gw", ("fleet",)),
        (SubjectKind.PUBLISHER, "factory", ("fleet", "bench")),
    ]
    joins = []
    for number, (kind, name, groups) in enumerate(nodes):
        plan = NodePlan(
            kind=kind, name=name, groups=groups, reachable=(("192.0.2.1", 7000 + number),)
        )
        joins.append(create_node(DataDir(tmp_path / name), plan, Config(), SeededEntropy(number)))
    return joins


@pytest.fixture(scope="module")
def joins(tmp_path_factory: pytest.TempPathFactory) -> list[JoinFile]:
    return make_joins(tmp_path_factory.mktemp("joins"))


def test_join_files_and_a_plan_make_a_network(tmp_path: Path, joins: list[JoinFile]) -> None:
    # Join files come in any order; publishers and gateways first must not change the outcome.
    created = create_network(
        tmp_path / "acme", parse_plan(PLAN), joins[::-1], ManualClock(wall_ms=NOW_MS)
    )
    genesis = decode_genesis(created.genesis.read_bytes())
    assert genesis.chain == created.chain
    assert (genesis.name, genesis.time_ms) == ("acme", NOW_MS)
    assert list(genesis.validators) == [join.record.did for join in joins[3::-1]]
    assert len(genesis.joins) == 6
    assert [group.name for group in genesis.groups] == ["bench", "fleet"]
    fleet = genesis.group("fleet")
    assert fleet is not None
    assert fleet.policy.publishers == (joins[5].record.did,)
    assert (fleet.policy.approve_threshold, fleet.policy.revoke_threshold) == (2, 1)
    assert fleet.policy.offer_freshness_ms == 1000
    bench = genesis.group("bench")
    assert bench is not None
    assert bench.policy.publishers == ()
    assert {name for _, name in genesis.governance_root.owners} == set(OWNERS)


def test_the_bootstrap_lines_fit_the_configuration(tmp_path: Path, joins: list[JoinFile]) -> None:
    created = create_network(tmp_path / "acme", parse_plan(PLAN), joins, ManualClock())
    addresses = tomllib.loads(created.bootstrap.read_text())["bootstrap"]
    assert addresses[:4] == [str(join.addresses[0]) for join in joins[:4]]
    assert len(addresses) == 6


def test_nothing_is_overwritten(tmp_path: Path, joins: list[JoinFile]) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(StorageError, match="not empty"):
        create_network(tmp_path, parse_plan(PLAN), joins, ManualClock())


def test_too_few_validators_are_refused(joins: list[JoinFile]) -> None:
    with pytest.raises(ConfigError, match="3 validators, expected 4 to 32"):
        build_genesis(parse_plan(PLAN), joins[1:], NOW_MS)


def test_a_node_named_twice_is_refused(joins: list[JoinFile]) -> None:
    with pytest.raises(ConfigError):
        build_genesis(parse_plan(PLAN), [*joins, joins[4]], NOW_MS)


def test_a_missing_publisher_is_named(joins: list[JoinFile]) -> None:
    with pytest.raises(ConfigError, match="0 join files are of a publisher named 'factory'"):
        build_genesis(parse_plan(PLAN), joins[:5], NOW_MS)
    named_like_it = [*joins[:5], joins[4]]
    with pytest.raises(ConfigError, match="publisher named 'factory'"):
        build_genesis(parse_plan(PLAN), named_like_it, NOW_MS)


def test_a_node_of_an_unknown_group_is_named(joins: list[JoinFile]) -> None:
    plan = parse_plan(PLAN)
    without = dataclasses.replace(
        plan, groups=tuple(group for group in plan.groups if group.name == "bench"), publishers={}
    )
    with pytest.raises(ConfigError, match="unknown group 'fleet'"):
        build_genesis(without, joins, NOW_MS)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "acme"', "", "plan: 'name' is missing"),
        ('name = "acme"', "name = 7", "'name' is not text"),
        ('name = "acme"', 'name = "acme"\nnmae = 1', "unknown key 'nmae'; known: name"),
        ('name = "acme"', 'name = "acme"\nheartbeat_ms = -1', "not a positive integer"),
        ('name = "acme"', 'name = "acme"\nheartbeat_ms = true', "not a positive integer"),
        ("[governance]", "[government]", "unknown key 'government'"),
        ("revoke = 1", "revok = 1", "group 1: unknown key 'revok'"),
        ("revoke = 1", "revoke = 4", "group 1: policy needs 4"),
        ("revoke = 1", "approve = 1", "group 1: policy undercuts"),
        ("revoke = 1", "revoke = 0", "group 1: policy thresholds"),
        ('name = "fleet"', 'name = "Fleet"', "group 1: group name 'Fleet'"),
        ("threshold = 1", "threshold = 9", "group 2: threshold 9 of 3"),
        ('["factory"]', '"factory"', "group 1: 'publishers' is not a list of names"),
        ('["factory"]', '["a", "a"]', "a name twice"),
        (f"threshold = 1\nowners = [{OWNER_LIST}]", "threshold = 1", "'owners' is missing"),
        (f"threshold = 1\nowners = [{OWNER_LIST}]", "threshold = 1\nowners = []", "1 to 32 owners"),
        ('["ada", ', '["ada\\n", ', "control, bidi"),
        (OWNERS["ada"], "did:key:z6Mk", "owner 'ada': "),
        ('["ada", ', '["ada", "x", ', "an owner is written"),
        ("[[group]]", "[group]", "not TOML"),
    ],
)
def test_mistakes_in_a_plan_are_errors_that_name_the_place(old: str, new: str, words: str) -> None:
    assert old in PLAN
    with pytest.raises(ConfigError, match=words) as caught:
        parse_plan(PLAN.replace(old, new, 1) if old != OWNERS["ada"] else PLAN.replace(old, new))
    assert "\n" not in str(caught.value)


def test_a_plan_needs_a_group() -> None:
    with pytest.raises(ConfigError, match=r"'group' is missing"):
        parse_plan(PLAN[: PLAN.index("[[group]]")])
    with pytest.raises(ConfigError, match=r"1 to 256 \[\[group\]\]"):
        parse_plan('group = 7\nname = "x"')
    governance = f"[governance]\nthreshold = 2\nowners = [{OWNER_LIST}]"
    assert governance in PLAN
    with pytest.raises(ConfigError, match="governance: expected a section"):
        parse_plan(PLAN.replace(governance, "governance = 7"))


def test_a_plan_file_is_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    assert load_plan(path) == parse_plan(PLAN)
    path.write_text("nope")
    with pytest.raises(ConfigError, match=r"plan\.toml: not TOML"):
        load_plan(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"plan\.toml: not UTF-8"):
        load_plan(path)
    with pytest.raises(StorageError, match="cannot read"):
        load_plan(tmp_path / "missing.toml")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return create_lab(
        tmp_path_factory.mktemp("lab") / "net",
        LabOptions(gateways=2, base_port=9000, log_level=LogLevel.DEBUG),
        SeededEntropy(1),
        ManualClock(wall_ms=NOW_MS),
    )


def test_a_laboratory_is_ready_to_run(lab: Lab) -> None:
    names = [node.name for node in lab.nodes]
    assert names == [*(f"validator-{n}" for n in range(1, 5)), "gateway-1", "gateway-2",
                     "publisher-1"]  # fmt: skip
    for node in lab.nodes:
        node.directory.check_usable()
        assert node.directory.path.name == node.name
        assert node.directory.load_config() == node.config
        assert node.directory.load_genesis().chain == lab.chain
        assert node.config.node.log_level is LogLevel.DEBUG
        others = {other.join.addresses[0] for other in lab.nodes if other is not node}
        assert set(node.config.network.bootstrap) == others
        assert node.config.node.groups == node.join.record.groups


def test_a_laboratory_uses_each_port_once(lab: Lab) -> None:
    ports = [node.config.network.listen[0].port for node in lab.nodes]
    assert ports == list(range(9000, 9007))
    http = [node.config.http.listen for node in lab.nodes]
    assert [endpoint.port for endpoint in http if endpoint] == [9007, 9008]
    assert [node.name for node in lab.nodes if node.config.http.listen] == ["gateway-1",
                                                                           "gateway-2"]  # fmt: skip


def test_a_laboratory_has_all_persons_keys(lab: Lab) -> None:
    genesis = decode_genesis(lab.genesis.read_bytes())
    group = genesis.group("fleet")
    assert group is not None
    owners = {name: key for key, name in group.owner_root.owners}
    assert {path.stem: load_key(path).public for path in lab.owner_keys} == owners
    governors = {name: key for key, name in genesis.governance_root.owners}
    assert {path.stem: load_key(path).public for path in lab.governance_keys} == governors
    assert (group.owner_root.threshold, genesis.governance_root.threshold) == (2, 2)
    assert [path.name for path in lab.owner_keys] == [f"owner-{n}.key" for n in (1, 2, 3)]


def test_a_laboratory_lists_its_nodes_by_kind(lab: Lab) -> None:
    assert [node.name for node in lab.of_kind(SubjectKind.PUBLISHER)] == ["publisher-1"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"validators": 3}, "3 validators, expected 4 to 32"),
        ({"validators": 33}, "33 validators"),
        ({"gateways": -1}, "nodes, at most 256"),
        ({"gateways": 300}, "305 nodes, at most 256"),
        ({"base_port": 65530}, "leaves no room"),
        ({"base_port": -5}, "leaves no room"),
        ({"owners": 0}, "threshold 2 of 0"),
        ({"owners": 2, "threshold": 3}, "threshold 3 of 2"),
        ({"group": "No Group"}, "group name 'No Group'"),
    ],
)
def test_a_laboratory_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, options: dict[str, int], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        create_lab(tmp_path / "net", LabOptions(**options), SeededEntropy(1), ManualClock())
    assert not (tmp_path / "net").exists()


def test_a_laboratory_does_not_overwrite(tmp_path: Path) -> None:
    (tmp_path / "something").write_text("mine")
    with pytest.raises(StorageError, match="not empty"):
        create_lab(tmp_path, LabOptions(), SeededEntropy(1), ManualClock())

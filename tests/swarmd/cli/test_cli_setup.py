"""`init`, `keys`, `network`: what needs no daemon and no network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocol.did import KeyPurpose, parse_did_key
from protocol.genesis import decode_genesis
from swarmd.config import Endpoint
from swarmd.datadir import DataDir, load_key
from swarmd.enrolment import load_join
from swarmd.net.address import parse_peer_id
from tests.swarmd.cli.conftest import Run


def test_init_makes_a_node_and_prints_its_join_file(swarmd: Run, tmp_path: Path) -> None:
    folder = tmp_path / "gw7"
    ended = swarmd("init", folder, "--role", "gateway", "--group", "fleet")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{folder / 'join.json'}\n"
    join = load_join(folder / "join.json")
    assert (join.role, join.record.name, join.record.groups) == ("gateway", "gw7", ("fleet",))
    config = DataDir(folder).load_config()
    assert config.node.groups == ("fleet",)
    assert config.http.listen == Endpoint("127.0.0.1", 7080)
    assert [str(address).split("/p2p/")[0] for address in join.addresses] == [
        "/ip4/127.0.0.1/tcp/7001"
    ]


def test_init_takes_names_addresses_and_answers_in_json(swarmd: Run, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    ended = swarmd(
        "init", folder, "--role", "validator", "--name", "Validator A", "--listen", "0.0.0.0:7001",
        "--listen", "[::]:7001", "--address", "V.example.org:7001", "--json",
    )  # fmt: skip
    document = ended.document
    join = load_join(Path(document["join"]))
    assert document["role"] == "validator"
    assert document["name"] == join.record.name == "Validator A"
    assert sorted(document["keys"]) == ["node", "transport", "validator"]
    assert [address.host for address in join.addresses] == ["v.example.org"]
    assert DataDir(folder).load_config().http.listen is None


def test_init_warns_when_nobody_could_call(swarmd: Run, tmp_path: Path) -> None:
    ended = swarmd("init", tmp_path / "n", "--role", "gateway", "--listen", "0.0.0.0:7001")
    assert ended.code == 0
    assert "names no address" in ended.err
    assert load_join(tmp_path / "n" / "join.json").addresses == ()


@pytest.mark.parametrize(
    "options",
    [
        ["--listen", "localhost:7001"],
        ["--address", "nowhere"],
        ["--address", ":1"],
        ["--address", "host:port"],
        ["--address", "host:0"],
        ["--group", "No Group"],
        ["--name", "x" * 65],
    ],
)
def test_init_refuses_what_nobody_could_read(
    swarmd: Run, tmp_path: Path, options: list[str]
) -> None:
    ended = swarmd("init", tmp_path / "n", "--role", "gateway", *options)
    assert (ended.code, ended.out) == (2, "")
    assert ended.reason
    assert not (tmp_path / "n").exists()


def test_init_never_overwrites(swarmd: Run, tmp_path: Path) -> None:
    swarmd("init", tmp_path / "n", "--role", "gateway")
    ended = swarmd("init", tmp_path / "n", "--role", "gateway", "--json")
    assert ended.code == 1
    assert "refusing to overwrite" in ended.document["error"]["message"]


def test_a_persons_key_is_made_and_shown(swarmd: Run, tmp_path: Path) -> None:
    path = tmp_path / "ada.key"
    made = swarmd("keys", "new", path)
    assert made.code == 0
    public = load_key(path).public
    assert parse_did_key(made.out.strip()) == public
    assert f'["ada", "{made.out.strip()}"]' in made.err
    assert swarmd("keys", "show", path).out == made.out
    assert swarmd("keys", "show", path, "--json").document["did_key"] == made.out.strip()
    again = swarmd("keys", "new", path, "--name", "Ada")
    assert (again.code, load_key(path).public) == (1, public)
    assert "File exists" in again.reason


def test_no_private_key_is_ever_printed(swarmd: Run, tmp_path: Path) -> None:
    path = tmp_path / "ada.key"
    ended = [swarmd("keys", "new", path, "--json"), swarmd("keys", "show", path)]
    secret = load_key(path).seed().hex()
    secret_pem = path.read_text().split("\n")[1]
    for one in ended:
        assert secret not in one.out + one.err
        assert secret_pem not in one.out + one.err


def test_all_keys_of_a_node_are_shown(swarmd: Run, tmp_path: Path) -> None:
    swarmd("init", tmp_path / "n", "--role", "publisher")
    document = swarmd("keys", "show", tmp_path / "n", "--json").document
    join = load_join(tmp_path / "n" / "join.json")
    assert list(document["keys"]) == [
        "transport", "next-transport", "node", "next-node", "person", "next-person",
    ]  # fmt: skip
    for purpose, key in join.record.keys:
        assert parse_did_key(document["keys"][purpose.name.lower()]) == key
    transport = join.record.key(KeyPurpose.TRANSPORT)
    assert transport is not None
    assert parse_peer_id(document["peer"]) == transport.raw
    assert f"peer {document['peer']}" in swarmd("keys", "show", tmp_path / "n").out


def test_a_key_that_others_may_read_is_refused_with_the_mend(swarmd: Run, tmp_path: Path) -> None:
    path = tmp_path / "ada.key"
    swarmd("keys", "new", path)
    path.chmod(0o644)
    ended = swarmd("keys", "show", path)
    assert ended.code == 1
    assert ended.reason.endswith(f"chmod 600 {path}")


@pytest.mark.slow
def test_a_laboratory_is_made_and_described(swarmd: Run, tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    ended = swarmd(
        "network", "create", lab, "--validators", 4, "--gateways", 1, "--publishers", 0,
        "--group", "bench", "--owners", 2, "--threshold", 1, "--base-port", 9100, "--json",
    )  # fmt: skip
    assert ended.code == 0
    document = ended.document
    genesis = decode_genesis(Path(document["genesis"]).read_bytes())
    assert document["chain"] == genesis.chain.hex()
    assert document["group"] == "bench"
    assert [node["name"] for node in document["nodes"]] == [
        *(f"validator-{n}" for n in range(1, 5)), "gateway-1",
    ]  # fmt: skip
    assert document["nodes"][4]["http"] == "127.0.0.1:9105"
    assert len(document["owner_keys"]) == 2
    for node in document["nodes"]:
        DataDir(Path(node["directory"])).check_usable()


@pytest.mark.slow
def test_a_laboratory_says_that_it_holds_every_key(swarmd: Run, tmp_path: Path) -> None:
    ended = swarmd(
        "network", "create", tmp_path / "lab", "--validators", 4, "--gateways", 0, "--base-port", 0
    )
    assert ended.code == 0
    assert "every private key is in" in ended.err
    assert ended.out.count("swarmd run -C") == 5
    node = DataDir(tmp_path / "lab" / "validator-1")
    assert node.load_config().network.listen == (Endpoint("127.0.0.1", 7001),)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --join and --plan"),
        (["--validators", "4"], "give --join and --plan"),
        (["--validators", "3", "--gateways", "1"], "3 validators, expected 4 to 32"),
        (["--plan", __file__], "--join and --plan belong together"),
        (["--join", __file__], "--join and --plan belong together"),
        (["--plan", __file__, "--base-port", "1"], "--base-port is for laboratories only"),
    ],
)
def test_a_network_of_half_a_request_is_refused(
    swarmd: Run, tmp_path: Path, arguments: list[str], words: str
) -> None:
    ended = swarmd("network", "create", tmp_path / "net", *arguments)
    assert ended.code == 2
    assert words in ended.reason
    assert not (tmp_path / "net").exists()


@pytest.mark.slow
def test_a_real_network_is_made_of_join_files(swarmd: Run, tmp_path: Path) -> None:
    joins: list[str] = []
    for number in range(4):
        ended = swarmd(
            "init", tmp_path / f"v{number}", "--role", "validator",
            "--listen", f"192.0.2.{number + 1}:7001",
        )  # fmt: skip
        joins += ["--join", ended.out.strip()]
    owner = swarmd("keys", "new", tmp_path / "ada.key", "--json").document
    owners = json.dumps([[owner["name"], owner["did_key"]]])
    plan = tmp_path / "acme.toml"
    plan.write_text(
        f'name = "acme"\n[governance]\nthreshold = 1\nowners = {owners}\n'
        f'[[group]]\nname = "fleet"\nthreshold = 1\nowners = {owners}\n'
    )
    ended = swarmd("network", "create", tmp_path / "acme", "--plan", plan, *joins)
    assert ended.code == 0
    assert "copy" in ended.err
    genesis = decode_genesis((tmp_path / "acme" / "genesis.cbor").read_bytes())
    assert ended.out == f"{genesis.chain.hex()}\n"
    again = swarmd("network", "create", tmp_path / "acme", "--plan", plan, *joins, "--json")
    assert (again.code, again.document["error"]["code"]) == (1, "refused")


def test_a_forged_join_file_is_refused_by_name(swarmd: Run, tmp_path: Path) -> None:
    join = Path(swarmd("init", tmp_path / "v", "--role", "validator").out.strip())
    join.write_text(join.read_text().replace('"validator"', '"gateway"', 1))
    plan = tmp_path / "plan.toml"
    plan.write_text("")
    ended = swarmd("network", "create", tmp_path / "net", "--plan", plan, "--join", join)
    assert ended.code == 1
    assert "join.json" in ended.reason

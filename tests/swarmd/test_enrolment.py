"""Join files: made where the keys are, checked by whoever reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.did import (
    DidRecord,
    KeyPurpose,
    SubjectKind,
    did_key_text,
    next_keys_digest,
    sign_join,
)
from protocol.errors import ConfigError, StorageError, VerificationError
from protocol.keys import PrivateKey
from swarmd.config import Config, load_config
from swarmd.datadir import DataDir, load_key
from swarmd.enrolment import (
    JOIN_BYTES_MAX,
    KEY_NAMES,
    ROLE_PURPOSES,
    JoinFile,
    NodePlan,
    create_node,
    decode_join,
    load_join,
    new_key,
    role_of,
)
from swarmd.entropy import SeededEntropy
from swarmd.keys.key_file import load_any_key_file, load_sealing_key
from swarmd.keys.key_writer import write_key_file
from swarmd.keys.sealing_key import SEALING_KEY_NAME
from swarmd.net.address import PeerAddress, PeerKey

PLAN = NodePlan(
    kind=SubjectKind.GATEWAY,
    name="gw-1",
    groups=("fleet", "alpha"),
    reachable=(("192.0.2.1", 7001), ("gw1.example.org", 7001)),
)


@pytest.fixture
def node(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "gw-1")


@pytest.fixture
def join(node: DataDir) -> JoinFile:
    return create_node(node, PLAN, Config(), SeededEntropy(1))


@pytest.mark.parametrize("kind", list(ROLE_PURPOSES))
def test_each_role_gets_its_keys_and_those_it_commits_to(node: DataDir, kind: SubjectKind) -> None:
    made = create_node(node, NodePlan(kind=kind, name="n"), Config(), SeededEntropy(1))
    assert role_of(made.role) is kind
    held = {purpose: node.load_key(KEY_NAMES[purpose]).public for purpose in ROLE_PURPOSES[kind]}
    assert tuple(held.items()) == made.record.keys
    following = tuple(
        (purpose, node.load_key(KEY_NAMES[purpose].next).public)
        for purpose in ROLE_PURPOSES[kind]
        if purpose is not KeyPurpose.VALIDATOR
    )
    assert made.record.next_keys == next_keys_digest(following)
    assert load_sealing_key(node.key_path(SEALING_KEY_NAME)).public.hex() not in repr(made)
    assert {path.stat().st_mode & 0o777 for path in node.keys.iterdir()} == {0o600}
    assert len(list(node.keys.iterdir())) == len(held) + len(following) + 1
    node.check_usable()


def test_the_file_says_who_and_where(node: DataDir, join: JoinFile) -> None:
    assert load_join(node.join) == join
    assert join.record.groups == ("alpha", "fleet")
    document = json.loads(node.join.read_text())
    transport = join.record.key(KeyPurpose.TRANSPORT)
    assert transport is not None
    assert document["keys"]["transport"] == did_key_text(transport)
    assert [address.split("/")[2] for address in document["addresses"]] == [
        "192.0.2.1",
        "gw1.example.org",
    ]
    assert node.join.stat().st_mode & 0o777 == 0o644


def test_no_private_key_is_in_the_join_file(node: DataDir, join: JoinFile) -> None:
    text = node.join.read_text()
    for path in node.keys.iterdir():
        key = load_any_key_file(path)
        secret = key.seed() if isinstance(key, PrivateKey) else key.inner.private_bytes_raw()
        assert secret.hex() not in text
    assert join.statement.verify() == join.record


def test_nothing_is_overwritten(node: DataDir, join: JoinFile) -> None:
    before = {path: path.read_bytes() for path in node.path.rglob("*") if path.is_file()}
    with pytest.raises(StorageError, match="not empty"):
        create_node(node, PLAN, Config(), SeededEntropy(2))
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    "plan",
    [
        NodePlan(kind=SubjectKind.GATEWAY, name=""),
        NodePlan(kind=SubjectKind.GATEWAY, name="x" * 65),
        NodePlan(kind=SubjectKind.GATEWAY, name="a\x1b[31m"),
        NodePlan(kind=SubjectKind.GATEWAY, name="a", groups=("Fleet",)),
        NodePlan(kind=SubjectKind.GATEWAY, name="a", groups=("a", "a")),
        NodePlan(kind=SubjectKind.GATEWAY, name="a", reachable=(("no host", 1),)),
        NodePlan(kind=SubjectKind.GATEWAY, name="a", reachable=(("192.0.2.1", 0),)),
        NodePlan(kind=SubjectKind.GATEWAY, name="a", reachable=(("192.0.2.1", 1),) * 9),
    ],
)
def test_a_plan_that_nobody_could_read_back_makes_nothing(node: DataDir, plan: NodePlan) -> None:
    with pytest.raises(ConfigError):
        create_node(node, plan, Config(), SeededEntropy(1))
    assert not node.path.exists()


def change(**changes: object) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(changes)


@pytest.mark.parametrize(
    "spoil",
    [
        change(name="another"),
        change(role="validator"),
        change(groups=[]),
        change(schema=2),
        change(extra=1),
        change(signatures=[]),
        change(signatures=["00" * 64] * 2),
        change(record="00"),
        change(record="zz"),
        change(record=7),
        change(addresses="text"),
        change(addresses=["/ip4/192.0.2.1/tcp/1"]),
        change(addresses=[]),
        lambda document: document.pop("record"),
        lambda document: document["keys"].update(node=document["keys"]["transport"]),
        lambda document: document["signatures"].reverse(),
    ],
)
def test_an_altered_file_is_refused(
    node: DataDir, join: JoinFile, spoil: Callable[[dict[str, Any]], object]
) -> None:
    document = json.loads(node.join.read_text())
    spoil(document)
    if document.get("addresses") == []:
        # Addresses are not signed: who drops them gets a file without any, and no more than that.
        assert decode_join(json.dumps(document).encode()).addresses == ()
        return
    with pytest.raises(VerificationError):
        decode_join(json.dumps(document).encode())


def test_an_address_of_another_peer_is_refused(node: DataDir, join: JoinFile) -> None:
    document = json.loads(node.join.read_text())
    stranger = PeerKey(PrivateKey(bytes([9] * 32)).public.raw)
    document["addresses"] = [PeerAddress(peer=stranger, host="192.0.2.9", port=1).multiaddr]
    with pytest.raises(VerificationError, match="another peer"):
        decode_join(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"7", b"[" * 100_000, b" " * 40_000])
def test_what_is_no_join_file_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(data)
    with pytest.raises((VerificationError, StorageError), match=r"bad\.json"):
        load_join(path)
    with pytest.raises(VerificationError):
        decode_join(data or b"{}")


def test_an_oversized_file_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(VerificationError, match=f"at most {JOIN_BYTES_MAX}"):
        decode_join(b"[" * (JOIN_BYTES_MAX + 1))


def test_a_person_is_no_node() -> None:
    key = new_key(SeededEntropy(1))
    record = DidRecord(
        kind=SubjectKind.PERSON,
        name="ada",
        keys=((KeyPurpose.PERSON, key.public),),
        next_keys=None,
        groups=(),
    )
    file = JoinFile(statement=sign_join(record, [key]), record=record, addresses=())
    with pytest.raises(VerificationError, match="join file of a person"):
        decode_join(file.encode())


def test_an_unknown_role_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'king', expected one of validator, gateway, publisher"):
        role_of("king")


def test_a_persons_key_is_private_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "ada.key"
    key = new_key(SeededEntropy(1))
    write_key_file(path, key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path).public == key.public
    with pytest.raises(StorageError, match="File exists"):
        write_key_file(path, key)
    with pytest.raises(StorageError, match=r"the folder .* does not exist"):
        write_key_file(tmp_path / "missing" / "ada.key", key)


def test_the_configuration_is_written_with_the_node(node: DataDir, join: JoinFile) -> None:
    assert load_config(node.config) == Config()

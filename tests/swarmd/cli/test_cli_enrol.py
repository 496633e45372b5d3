"""A newcomer's way in by the real commands, against nodes that run: token, keys, seat, proof."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ledger.bodies.subject import CreateSubject
from protocol.approval import Action
from protocol.did import did_key_text, did_text, parse_did_key
from swarmd.datadir import DataDir, KeyName
from swarmd.enrolment import load_join
from swarmd.enrolment_request import load_token_file
from tests.support.commands import command, rule_of
from tests.support.swarm import GROUP, VALIDATORS, Swarm, swarm, until

MEMBER = "gateway-1"


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Swarm]:
    """Validators and one gateway, met."""
    async with swarm(tmp_path, gateways=1) as running:
        await running.start(*VALIDATORS, MEMBER)
        await running.until_met(*VALIDATORS, MEMBER)
        yield running


def owner(lab: Swarm, number: int) -> Path:
    return lab.path / "keys" / f"owner-{number}.key"


async def give(lab: Swarm, name: str, *options: object, owners: int = 2) -> Path:
    """A token that owners signed one after the other."""
    path = lab.path / f"{name}.token"
    first = await command(
        *("enrol", "new-token", path, "-C", lab.path / MEMBER, "--key", owner(lab, 1)),
        *("--group", GROUP, "--yes", *options),
    )
    assert first.code == 0, first
    for number in range(2, owners + 1):
        signed = await command("enrol", "sign-token", path, "--key", owner(lab, number), "--yes")
        assert signed.code == 0, signed
    return path


async def take(lab: Swarm, name: str, token: Path) -> Any:
    """A newcomer's folder, made with a token."""
    ended = await command(
        *("init", lab.path / name, "--role", "gateway", "--token", token, "--json"),
        *("--genesis", lab.path / "genesis.cbor", "--listen", "127.0.0.1:0"),
    )
    assert ended.code == 0, ended
    return ended.document


def submission(lab: Swarm, name: str) -> tuple[object, ...]:
    return ("enrol", "submit", lab.path / name / "enrol.cbor", "-C", lab.path / MEMBER)


@pytest.mark.slow
async def test_a_token_lets_one_newcomer_in(lab: Swarm) -> None:
    token = await give(lab, "gw9", owners=1)
    assert token.stat().st_mode & 0o777 == 0o600
    await take(lab, "early", token)
    assert await rule_of(*submission(lab, "early")) == "seat.threshold"
    await command("enrol", "sign-token", token, "--key", owner(lab, 2), "--yes")
    taken = await take(lab, "gw9", token)
    assert (taken["code"], taken["groups"]) == (None, [GROUP])
    config = DataDir(lab.path / "gw9").load_config()
    assert len(config.network.bootstrap) >= 3
    ended = await command(*submission(lab, "gw9"), "--json")
    assert ended.code == 0, ended
    record = load_join(lab.path / "gw9" / "join.json").record
    assert ended.document["did"] == did_text(lab.chain, record.did)
    # Whoever has a copy of the token is too late.
    await take(lab, "thief", token)
    assert await rule_of(*submission(lab, "thief")) == "seat.taken"
    assert await rule_of(*submission(lab, "gw9")) == "did.known"


@pytest.mark.slow
async def test_a_newcomer_is_confirmed_by_its_code(lab: Swarm) -> None:
    token = await give(lab, "gw9", "--confirm")
    code = (await take(lab, "gw9", token))["code"]
    thief = (await take(lab, "thief", token))["code"]
    assert (len(code), code != thief) == (6, True)
    for name in ("gw9", "thief"):
        ended = await command(*submission(lab, name))
        assert (ended.code, "must confirm its code" in ended.err) == (3, True)
    listed = await command("enrol", "show", "-C", lab.path / MEMBER, "--json")
    assert [(item["name"], item["missing"]) for item in listed.document] == [
        ("gw9", [GROUP]),
        ("thief", [GROUP]),
    ]
    assert code not in listed.out, "a member shows no codes: owners read them at the newcomer"
    confirm = ("enrol", "confirm", "-C", lab.path / MEMBER, "--yes", "--key")
    wrong = f"{(int(code) + 1) % 10**6:06}"
    assert wrong != thief
    assert await rule_of(*confirm, owner(lab, 1), wrong) == "seat.code"
    stranger = lab.path / "stranger.key"
    await command("keys", "new", stranger)
    assert await rule_of(*confirm, stranger, code) == "approval.owner"
    ended = await command(*confirm, owner(lab, 3), code, "--json")
    assert ended.code == 0, ended
    assert ended.document["did"] == did_text(
        lab.chain, load_join(lab.path / "gw9" / "join.json").record.did
    )
    assert await rule_of(*confirm, owner(lab, 3), thief) in ("seat.taken", "seat.code")
    listed = await command("enrol", "show", "-C", lab.path / MEMBER)
    assert listed.out == "nobody waits here\n", "the seat is gone, and with it who waited for it"


@pytest.mark.slow
async def test_a_newcomer_that_runs_says_where_it_stands_and_joins_by_itself(lab: Swarm) -> None:
    token = await give(lab, "gw9", "--confirm")
    code = (await take(lab, "gw9", token))["code"]
    await lab.start("gw9")
    member = VALIDATORS[0]
    await until(lab[member].doorkeeper.waiting, "it waits at an address of its token")
    await until(lambda: lab["gw9"].joining._answers, "it was told so")
    status = await command("status", "-C", lab.path / "gw9", "--json")
    assert status.document["joining"]["code"] == code
    assert {item["status"] for item in status.document["joining"]["answers"].values()} == {
        "waiting"
    }
    doctor = await command("doctor", "-C", lab.path / "gw9", "--json")
    checks = {item["check"]: item for item in doctor.document["checks"]}
    joining = checks["daemon: joining"]
    assert not joining["ok"]
    assert joining["detail"] == (
        f"no member yet; members say: waiting; confirmation code {code}, for an owner"
    )
    confirm = ("enrol", "confirm", code, "-C", lab.path / member, "--yes", "--key", owner(lab, 1))
    assert (await command(*confirm)).code == 0
    await lab.until_met(member, "gw9")
    await until(lambda: not lab["gw9"].joining.is_joining, "its own copy knows it")
    status = await command("status", "-C", lab.path / "gw9", "--json")
    assert status.document["joining"] is None


@pytest.mark.slow
async def test_a_seat_may_be_bound_to_the_newcomers_key(lab: Swarm) -> None:
    for name in ("gw9", "thief"):
        made = await command(
            *("init", lab.path / name, "--role", "gateway", "--group", GROUP),
            *("--listen", "127.0.0.1:0"),
        )
        assert made.code == 0
    key = DataDir(lab.path / "gw9").load_key(KeyName.NODE)
    token = await give(lab, "gw9", "--holder", did_key_text(key.public))
    assert load_token_file(token).seat_key is None
    stolen = await command("enrol", "request", "-C", lab.path / "thief", "--token", token)
    assert (stolen.code, "bound to a key" in stolen.err) == (2, True)
    assert (await command("enrol", "request", "-C", lab.path / "gw9", "--token", token)).code == 0
    ended = await command(*submission(lab, "gw9"), "--json")
    assert ended.code == 0, ended


@pytest.mark.slow
async def test_a_did_is_resolved_and_proven(lab: Swarm) -> None:
    join = load_join(lab.path / MEMBER / "join.json")
    name, proof = did_text(lab.chain, join.record.did), lab.path / "gw.proof"
    newcomer = lab.new_gateway("gateway-9", MEMBER)
    approvals = lab.approvals(Action.ENROL, newcomer.record.did)
    body = CreateSubject(join=newcomer.statement, approvals=(approvals,))
    await lab.submit(body, by=MEMBER)
    ended = await command("did", "resolve", name, "-C", lab.path / MEMBER, "--proof", proof)
    assert ended.code == 0, ended
    document = ended.document["didDocument"]
    assert document["id"] == name
    keys = [method["publicKeyMultibase"] for method in document["verificationMethod"]]
    assert [parse_did_key(f"did:key:{text}") for text in keys] == [
        key for _, key in join.record.keys
    ]
    verify = ("did", "verify", proof, "--genesis")
    for trusted in (lab.path / "genesis.cbor", lab.chain.hex()):
        shown = await command(*verify, trusted, "--json")
        (subject,) = shown.document["subjects"]
        assert subject["resolution"] == ended.document
        assert (subject["name"], subject["groups"]) == (MEMBER, [GROUP])
    assert (await command(*verify, "ab" * 32)).code == 1
    data = bytearray(proof.read_bytes())
    data[-40] ^= 1
    proof.write_bytes(data)
    assert (await command(*verify, lab.chain.hex())).code == 1
    unknown = did_text(lab.chain, join.record.did)[:-4] + "aaaa"
    missing = await command("did", "resolve", unknown, "-C", lab.path / MEMBER, "--json")
    assert missing.document["error"]["rule"] in ("did.unknown", "")


async def test_a_did_key_needs_no_node(tmp_path: Path) -> None:
    text = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"
    ended = await command("did", "resolve", text)
    method = ended.document["didDocument"]["verificationMethod"][0]
    assert method["publicKeyMultibase"] == "z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"
    target = tmp_path / "did.json"
    assert (await command("did", "resolve", text, "-o", target)).code == 0
    assert json.loads(target.read_text())["didDocument"]["id"] == text
    for bad in ("did:key:z6Mk", "did:web:example.org", "did:swarm:00000000:aaaa"):
        assert (await command("did", "resolve", bad)).code == 2

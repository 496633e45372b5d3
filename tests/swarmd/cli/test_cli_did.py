"""Owners decide about subjects by files, with the real commands, against nodes that run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ledger.records.subject import SubjectStatus
from protocol.did import did_text
from swarmd.peers import PeerClass
from tests.support.commands import command, rule_of
from tests.support.swarm import GROUP, VALIDATORS, Swarm, swarm, until

ASKED, OTHER = "gateway-1", "gateway-2"


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Swarm]:
    """Validators and two gateways, met."""
    async with swarm(tmp_path, gateways=2) as running:
        await running.start(*VALIDATORS, ASKED, OTHER)
        await running.until_met(*VALIDATORS, ASKED, OTHER)
        yield running


async def decide(lab: Swarm, *arguments: object, owners: int = 2, role: str = "owner") -> Path:
    """A decision about the other gateway that owners signed one after the other."""
    path = lab.path / "subject.decision"
    name = did_text(lab.chain, lab.did(OTHER))
    drafted = await command(
        *("did", arguments[0], name, "-C", lab.path / ASKED, "-o", path, *arguments[1:])
    )
    assert drafted.code == 0, drafted
    for number in range(1, owners + 1):
        key = lab.path / "keys" / f"{role}-{number}.key"
        signed = await command("did", "sign", path, "--key", key, "--yes")
        assert signed.code == 0, signed
    return path


async def submitted(lab: Swarm, path: Path) -> Any:
    ended = await command("did", "submit", path, "-C", lab.path / ASKED, "--json")
    assert ended.code == 0, ended
    return ended.document


def status(lab: Swarm) -> SubjectStatus:
    record = lab[ASKED].ledger.chain.state.subject(lab.did(OTHER))
    assert record is not None
    return record.status


@pytest.mark.slow
async def test_a_gateway_is_suspended_resumed_and_revoked(lab: Swarm) -> None:
    group = ("--group", GROUP)
    alone = await decide(lab, "suspend", *group, owners=1)
    submit = ("did", "submit", alone, "-C", lab.path / ASKED)
    assert await rule_of(*submit) == "approval.threshold"
    first = lab.path / "keys" / "owner-1.key"
    assert await rule_of("did", "sign", alone, "--key", first, "--yes") == "approval.duplicate"
    suspended = await submitted(lab, await decide(lab, "suspend", *group))
    assert (suspended["kind"], suspended["signatures"]) == ("did.suspend", 2)
    assert status(lab) is SubjectStatus.SUSPENDED
    await until(lambda: lab.class_of(ASKED, OTHER) is PeerClass.READER, "it only reads")
    path = await decide(lab, "resume", *group)
    await submitted(lab, path)
    assert status(lab) is SubjectStatus.ACTIVE
    assert await rule_of("did", "submit", path, "-C", lab.path / ASKED) == "did.status"
    await submitted(lab, await decide(lab, "revoke", role="governance"))
    assert status(lab) is SubjectStatus.REVOKED
    await until(lambda: lab.class_of(ASKED, OTHER) is PeerClass.STRANGER, "it is nobody")


@pytest.mark.slow
async def test_attributes_are_certified_and_shown(lab: Swarm) -> None:
    given = ("--group", GROUP, "--set", "region=north", "--set", "class=pump")
    await submitted(lab, await decide(lab, "certify", *given))
    state = lab[ASKED].ledger.chain.state
    assert state.attributes(lab.did(OTHER), GROUP) == {"class": "pump", "region": "north"}
    proof = lab.path / "other.proof"
    name = did_text(lab.chain, lab.did(OTHER))
    await command("did", "resolve", name, "-C", lab.path / ASKED, "--proof", proof)
    shown = await command("did", "verify", proof, "--genesis", lab.chain.hex(), "--json")
    (subject,) = shown.document["subjects"]
    assert subject["attributes"] == {GROUP: {"class": "pump", "region": "north"}}
    # A second certificate replaces the first.
    await submitted(lab, await decide(lab, "certify", "--group", GROUP))
    assert lab[ASKED].ledger.chain.state.attributes(lab.did(OTHER), GROUP) == {}


@pytest.mark.slow
async def test_drafts_that_make_no_sense_are_refused(lab: Swarm) -> None:
    name = did_text(lab.chain, lab.did(OTHER))
    target = lab.path / "d"
    common = ("-C", lab.path / ASKED, "-o", target)
    assert await rule_of("did", "suspend", name, "--group", "pumps", *common) == "did.group"
    for bad in ("noequals", "=x", "a=", "a b=c"):
        ended = await command("did", "certify", name, "--group", GROUP, "--set", bad, *common)
        assert ended.code == 2, ended
    assert not target.exists()


@pytest.mark.slow
async def test_a_gateway_rotates_its_keys_and_comes_back(lab: Swarm) -> None:
    folder = lab.path / OTHER
    for rotations in (1, 2):
        before = lab.peer(OTHER)
        ended = await command("did", "rotate", "-C", folder, "--via", lab.path / ASKED, "--json")
        assert ended.code == 0, ended
        assert ended.document["installed"] == 2
        assert lab.peer(OTHER) != before
        record = lab[ASKED].ledger.chain.state.subject(lab.did(OTHER))
        assert record is not None
        assert (record.sequence, record.keys[0][1].raw) == (rotations, lab.peer(OTHER))
        await lab.stop(OTHER)
        await lab.start(OTHER)
        await lab.until_met(ASKED, OTHER)
    doctor = (await command("doctor", "-C", folder, "--json")).document
    assert [check["ok"] for check in doctor["checks"] if check["check"] == "keys"] == [True]
    unfinished = await command("did", "rotate", "-C", folder, "--finish")
    assert (unfinished.code, "no rotation was begun here" in unfinished.err) == (1, True)


@pytest.mark.slow
async def test_new_keys_are_offered_agreed_to_and_wait_a_day(lab: Swarm) -> None:
    folder, file = lab.path / OTHER, lab.path / "gw.recovery"
    (folder / "keys" / "next-node.key").unlink()  # what makes a rotation impossible
    offered = await command(
        "did", "offer-keys", file, "-C", folder, "--via", lab.path / ASKED, "--json"
    )
    assert offered.code == 0, offered
    member = ("-C", lab.path / ASKED)
    assert await rule_of("did", "recover", file, *member) == "approval.threshold"
    for number in (1, 2):
        key = lab.path / "keys" / f"owner-{number}.key"
        agreed = await command("did", "sign-keys", file, "--key", key, "--yes", "--json")
        assert agreed.document["signatures"] == {GROUP: number}
        assert agreed.document["keys"] == offered.document["keys"]
    assert await rule_of("did", "claim", file, *member) == "did.pending"
    decided = await command("did", "recover", file, *member, "--json")
    assert decided.code == 0, decided
    early = await command("did", "claim", file, *member)
    assert (early.code, "may be claimed from header time" in early.err) == (3, True)
    assert decided.document["effective_ms"] > lab[ASKED].ledger.chain.head.time_ms
    finished = await command("did", "rotate", "-C", folder, "--finish", "--json")
    assert finished.document["installed"] == 2

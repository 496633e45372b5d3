"""Daemons across the edges of epochs: keys certified, handed over, deleted; late ones catch up."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest
import trio

from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.validators import SetValidators, Upgrade, members_digest, upgrade_digest
from ledger.transition.validators import GOVERNANCE_GROUP, GOVERNANCE_POLICY
from protocol.approval import Action, Approval, sign_approval
from protocol.did import SubjectKind
from protocol.digest import Digest, sha256
from protocol.errors import PolicyError
from protocol.keys import PrivateKey, PublicKey
from swarmd.config import Endpoint
from swarmd.datadir import KeyName, load_key
from swarmd.enrolment import JoinFile, NodePlan, create_node
from swarmd.entropy import SeededEntropy
from swarmd.network_creation import node_config
from swarmd.peers import PeerClass
from tests.support.swarm import VALIDATORS, Swarm, swarm, until

SHORT = {"gateways": 1, "publishers": 0, "heartbeat_ms": 1000, "epoch_ms": 3000}
LATE = "validator-4"


def epoch(lab: Swarm, name: str) -> int:
    """The epoch that a node's copy of the ledger is in."""
    return lab[name].ledger.chain.validators.epoch


def vote_keys(lab: Swarm, name: str) -> dict[str, PublicKey]:
    """The vote keys that lie in a node's folder, by file."""
    directory = lab.directory(name)
    return {
        path.stem: directory.load_key(path.stem).public
        for path in directory.keys.glob("validator*.key")
    }


@pytest.mark.slow
async def test_validators_hand_over_to_new_keys_and_delete_the_old(tmp_path: Path) -> None:
    async with swarm(tmp_path, **SHORT) as lab:
        names = (*VALIDATORS, "gateway-1")
        before = {name: vote_keys(lab, name) for name in VALIDATORS}
        await lab.start(*names)
        await lab.until_met(*names)
        await until(lambda: min(epoch(lab, name) for name in names) >= 3, "two epochs end")
        for name in VALIDATORS:
            consensus = lab[name].consensus
            assert consensus is not None
            await until(lambda c=consensus: c.status.may_vote, "it votes with its new key")
            await until(lambda n=name: "validator" not in vote_keys(lab, n), "the first key goes")
            kept = vote_keys(lab, name)
            assert not set(kept.values()) & set(before[name].values())
            assert f"validator-{epoch(lab, name) - 1}" not in kept
            assert consensus.status.halted is None
            assert consensus.status.convicted == ()
        # Members judge each other by the new set, and its answers make knowledge fresh.
        gateway = lab["gateway-1"]
        assert len(gateway.registry.at_least(PeerClass.VALIDATOR)) == 4
        body = AnchorReceipts(size=1, root=sha256(b"x"))
        await lab.submit(body, by="gateway-1")
        assert all(lab[name].ledger.alarm is None for name in names)


@pytest.mark.slow
async def test_a_validator_that_slept_over_two_edges_joins_again(tmp_path: Path) -> None:
    async with swarm(tmp_path, **SHORT) as lab:
        await lab.start(*VALIDATORS)
        await lab.until_met(*VALIDATORS)
        await until(lambda: epoch(lab, LATE) >= 2, "the first epoch ends")
        slept = epoch(lab, LATE)
        await lab.crash(LATE)
        await until(lambda: epoch(lab, VALIDATORS[0]) >= slept + 2, "three go on")
        await lab.start(LATE)
        consensus = lab[LATE].consensus
        assert consensus is not None
        await until(lambda: epoch(lab, LATE) >= slept + 2, "it catches up")
        await until(lambda: consensus.status.may_vote, "it votes again")
        assert consensus.status.halted is None


@pytest.mark.slow
async def test_an_epoch_that_ended_before_its_engine_starts_is_left(tmp_path: Path) -> None:
    """While the journal was read the follower may adopt what others made final."""
    async with swarm(tmp_path, **SHORT) as lab:
        await lab.start(*VALIDATORS)
        await lab.until_met(*VALIDATORS)
        consensus = lab[LATE].consensus
        assert consensus is not None
        assert consensus.seat is not None
        left = consensus._make_epoch(*consensus.seat, journal=None, fault=None)
        began = epoch(lab, LATE)
        await until(lambda: epoch(lab, LATE) > began, "the epoch ends")
        with trio.fail_after(10):
            await left.run()
        assert (left.may_vote, left.certificates, left.evidence) == (False, (), ())


def traces(seed: bytes) -> tuple[bytes, ...]:
    """The forms in which a file could hold a seed: raw, in hex, in PEM, in base64 of itself."""
    pem = PrivateKey(seed).to_pem().splitlines()[1]
    return seed, seed.hex().encode(), pem, base64.b64encode(seed).rstrip(b"=")


def files_with(lab: Swarm, name: str, seed: bytes) -> list[str]:
    """Every file of a node's folder, whatever it is, in which a seed is found."""
    root = lab.directory(name).path
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and any(trace in path.read_bytes() for trace in traces(seed))
    )


@pytest.mark.slow
async def test_no_file_holds_the_key_of_an_epoch_that_is_over(tmp_path: Path) -> None:
    """Whoever takes a validator's disk after a hand-over cannot sign the epoch before (E23)."""
    async with swarm(tmp_path, **SHORT) as lab:
        first = {name: lab.key(name, KeyName.VALIDATOR).seed() for name in VALIDATORS}
        for name in VALIDATORS:
            assert files_with(lab, name, first[name]) == ["keys/validator.key"], "it can be found"
        await lab.start(*VALIDATORS)
        await lab.until_met(*VALIDATORS)
        paths = {name: lab.directory(name).key_path("validator-2") for name in VALIDATORS}
        await until(lambda: all(path.exists() for path in paths.values()), "they make the second")
        second = {name: load_key(path).seed() for name, path in paths.items()}
        await until(lambda: min(epoch(lab, name) for name in VALIDATORS) >= 3, "two epochs end")
        await until(lambda: not any(path.exists() for path in paths.values()), "it is deleted")
        await lab.crash(*VALIDATORS)  # files that come and go are no matter of this test
        for name in VALIDATORS:
            assert files_with(lab, name, second[name]) == []
            assert files_with(lab, name, first[name]) == []


def new_validator(lab: Swarm, name: str, *peers: str) -> JoinFile:
    """Makes the folder of a validator that the ledger does not know."""
    port = 61_000
    plan = NodePlan(
        kind=SubjectKind.VALIDATOR, name=name, groups=(), reachable=(("127.0.0.1", port),)
    )
    config = node_config(plan, listen=(Endpoint("127.0.0.1", port),), http=None)
    directory = lab.directory(name)
    join = create_node(directory, plan, config, SeededEntropy(9, name))
    shutil.copy(lab.path / "genesis.cbor", directory.genesis)
    lab.only_peers(name, *peers)
    return join


def approve(lab: Swarm, action: Action, subject: Digest) -> tuple[bytes, ...]:
    """Approvals by the laboratory's whole governance root."""
    head = lab[VALIDATORS[0]].ledger.chain.head
    approval = Approval(
        era=0,
        action=action,
        subject=subject,
        group=GOVERNANCE_GROUP,
        policy=GOVERNANCE_POLICY,
        valid_until_ms=head.time_ms + 3_600_000,
    )
    keys = [load_key(path) for path in sorted((lab.path / "keys").glob("governance-*.key"))]
    return tuple(sign_approval(approval, key, lab.chain).signed.raw for key in keys)


@pytest.mark.slow
async def test_one_validator_is_replaced_within_two_minutes(tmp_path: Path) -> None:
    """The new one votes, the old one follows, and nobody waits for the epoch to end by time."""
    async with swarm(tmp_path, gateways=0, publishers=0, heartbeat_ms=1000) as lab:
        await lab.start(*VALIDATORS)
        await lab.until_met(*VALIDATORS)
        ready = lab[VALIDATORS[0]].ledger.chain
        dids = [lab.did(name) for name in VALIDATORS]
        await until(
            lambda: all(ready.state.validator(did).key_for(2) for did in dids), "keys certified"
        )
        with trio.fail_after(120):
            join = new_validator(lab, "validator-5", *VALIDATORS[:3])
            members = (*dids[:3], join.record.did)
            body = SetValidators(
                members=members,
                joins=(join.statement,),
                approvals=approve(lab, Action.VALIDATORS, members_digest(1, members)),
            )
            await lab.submit(body, by=VALIDATORS[1])
            await lab.start("validator-5")
            await until(lambda: epoch(lab, LATE) == 2, "the epoch ends at once")
            new = lab["validator-5"].consensus
            assert new is not None
            await until(lambda: new.status.may_vote, "the new one votes")
        assert new.status.seat == 3
        # Without one of the three that stayed, it takes the new one's vote to go on.
        await lab.crash(VALIDATORS[0])
        height = lab.height("validator-5")
        await lab.submit(AnchorReceipts(size=1, root=sha256(b"x")), by=VALIDATORS[1])
        await until(lambda: lab.height(LATE) > height, "who left follows")
        left = lab[LATE].consensus
        assert left is not None
        assert left.status.seat is None
        assert not left.status.may_vote
        assert left.status.halted is None


@pytest.mark.slow
async def test_a_gateway_that_missed_epochs_is_shown_the_way_at_hello(tmp_path: Path) -> None:
    async with swarm(tmp_path, **SHORT) as lab:
        await lab.start(*VALIDATORS)
        await lab.until_met(*VALIDATORS)
        await until(lambda: epoch(lab, LATE) >= 3, "two epochs end")
        await lab.start("gateway-1")
        gateway = lab["gateway-1"]
        await until(lambda: gateway.hello._trusted.validators.epoch >= 3, "it was shown the way")
        await lab.until_met("gateway-1", VALIDATORS[0])
        await until(lambda: epoch(lab, "gateway-1") >= 3, "and executes it")
        assert gateway.ledger.alarm is None


@pytest.mark.slow
async def test_a_version_that_a_node_lacks_stops_it_and_says_so(tmp_path: Path) -> None:
    async with swarm(tmp_path, **SHORT) as lab:
        await lab.start(*VALIDATORS)
        await lab.until_met(*VALIDATORS)
        current = epoch(lab, VALIDATORS[0])
        body = Upgrade(
            version=2,
            epoch=current + 1,
            approvals=approve(lab, Action.UPGRADE, upgrade_digest(current, 2, current + 1)),
        )
        await lab.submit(body, by=VALIDATORS[0])
        consensus = lab[LATE].consensus
        assert consensus is not None
        await until(lambda: consensus.status.version_fault is not None, "the edge comes")
        assert "update swarmd" in (consensus.status.version_fault or "")
        await until(lambda: consensus.status.seat is None, "it votes no more")
        assert lab.is_alive(LATE)
        with pytest.raises(PolicyError, match="update swarmd"):
            await lab.submit(AnchorReceipts(size=1, root=sha256(b"x")), by=LATE)

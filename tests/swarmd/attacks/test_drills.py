"""Drills: what operators do on bad days, with real nodes and nothing but the files they have.

More validators destroyed than the chain can do without; one validator destroyed and replaced.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio

from ledger.bodies.validators import SetValidators
from protocol.did import SubjectKind
from protocol.digest import ManifestId
from protocol.governance import Recovery, RecoveryPlan
from protocol.group import DAY_MS
from swarmd.authority import Permit
from swarmd.clock import SystemClock
from swarmd.config import Endpoint
from swarmd.datadir import load_key
from swarmd.decision import decode_decision, draft_decision
from swarmd.enrolment import JoinFile, NodePlan, create_node
from swarmd.entropy import SeededEntropy
from swarmd.keys.passphrase import no_passphrase
from swarmd.ledger_recovery import adopt_recovery, back_up, take_seat
from swarmd.network_creation import node_config
from tests.support.swarm import GROUP, VALIDATORS, Swarm, swarm, until

pytestmark = pytest.mark.slow
GATEWAYS = ("gateway-1", "gateway-2")
OLD, NEW = b"image before " * 4000, b"image after " * 4000


def governors(lab: Swarm) -> list:
    return [load_key(path) for path in sorted((lab.path / "keys").glob("governance-*.key"))]


def new_validator(lab: Swarm, name: str, *peers: str) -> JoinFile:
    """A fresh machine: `swarmd init --role validator`, genesis copied, peers configured."""
    port = 61_000 + len(list(lab.path.glob("*/config.toml")))
    plan = NodePlan(
        kind=SubjectKind.VALIDATOR,
        name=name,
        groups=(GROUP,),
        reachable=(("127.0.0.1", port),),
    )
    config = node_config(plan, listen=(Endpoint("127.0.0.1", port),), http=None)
    directory = lab.directory(name)
    join = create_node(directory, plan, config, SeededEntropy(3, name))
    shutil.copy(lab.path / "genesis.cbor", directory.genesis)
    lab.only_peers(name, *peers)
    return join


def destroy(lab: Swarm, *names: str) -> None:
    """The machine burned, with its keys and its ledger."""
    for name in names:
        shutil.rmtree(lab.directory(name).path)


def draft(lab: Swarm, survivor: str) -> Recovery:
    tip = lab[survivor].ledger.chain.tip
    plan = RecoveryPlan(
        era=tip.header.era + 1,
        header=tip.header.encoded,
        certificate=b"" if tip.certificate is None else tip.certificate.encode(),
        time_ms=max(SystemClock().wall_ms(), tip.header.time_ms + 1),
        seats=(),
        joins=(),
    )
    return Recovery(plan=plan, approvals=())


def is_authorised(lab: Swarm, name: str, manifest: ManifestId) -> bool:
    return isinstance(lab[name]._authority.verdict(manifest), Permit)


async def test_more_validators_are_destroyed_than_the_chain_can_do_without(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        everybody = (*VALIDATORS, *GATEWAYS, "publisher-1")
        await lab.start(*everybody)
        old = await lab.release(OLD, version="1.0")
        for name in GATEWAYS:
            await until(lambda name=name: lab.holds(name, old.manifest.components[0].digest))
        height = lab.height("publisher-1")
        await lab.until_height(height, *everybody)
        await lab.stop("validator-1", "validator-2")
        destroy(lab, "validator-1", "validator-2")
        survivors = ("validator-3", "validator-4", *GATEWAYS, "publisher-1")
        top = max(survivors, key=lab.height)
        recovery = draft(lab, top)
        await lab.until_height(lab.height(top), *survivors)
        await lab.stop(*survivors)
        backup = tmp_path / "survivor.db"
        back_up(lab.directory("gateway-1"), backup)
        for name in ("validator-5", "validator-6"):
            new_validator(lab, name, *survivors)
        for name in ("validator-3", "validator-4", "validator-5", "validator-6"):
            recovery = take_seat(
                lab.directory(name), recovery, SeededEntropy(1, name), no_passphrase
            )
        for key in governors(lab)[:2]:
            recovery = recovery.signed_by(key, lab.chain)
        heads = [adopt_recovery(lab.directory(name), recovery) for name in survivors]
        heads += [
            adopt_recovery(lab.directory(name), recovery, backup=backup)
            for name in ("validator-5", "validator-6")
        ]
        assert len({head.block_id for head in heads}) == 1
        running = (*survivors, "validator-5", "validator-6")
        await lab.start(*running)
        new = await lab.release(NEW, version="2.0")
        for name in GATEWAYS:
            await until(lambda name=name: lab.holds(name, new.manifest.components[0].digest))
            assert is_authorised(lab, name, old.manifest_id)
            assert is_authorised(lab, name, new.manifest_id)
            assert lab[name].ledger.alarm is None
            assert lab[name].ledger.chain.head.era == 1


async def test_one_validator_is_destroyed_and_replaced_within_two_minutes(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start(*VALIDATORS, *GATEWAYS, "publisher-1")
        await lab.release(OLD, version="1.0")
        begun = trio.current_time()
        await lab.stop("validator-1")
        destroy(lab, "validator-1")
        stayed = VALIDATORS[1:]
        join = new_validator(lab, "validator-5", *stayed, *GATEWAYS)
        chain = lab["gateway-1"].ledger.chain
        members = (*(lab.did(name) for name in stayed), join.record.did)
        decision = draft_decision(
            SetValidators(members=members, joins=(join.statement,), approvals=()),
            chain=lab.chain,
            era=0,
            epoch=chain.state.epoch().epoch,
            valid_until_ms=SystemClock().wall_ms() + DAY_MS,
        )
        for key in governors(lab)[:2]:
            decision = decode_decision(decision.signed_by(key).encode())
        await lab.submit(decision.body())
        await lab.start("validator-5")
        await until(lambda: chain.state.epoch().epoch == 2, "the next epoch")
        await until(
            lambda: lab["validator-5"].ledger.chain.state.epoch().epoch == 2, "newcomer in it"
        )
        await lab.stop("validator-2")  # so that the newcomer's vote is needed
        new = await lab.release(NEW, version="2.0")
        for name in GATEWAYS:
            await until(lambda name=name: lab.holds(name, new.manifest.components[0].digest))
        assert trio.current_time() - begun < 120

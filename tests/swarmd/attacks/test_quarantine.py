"""Quarantine and capabilities in a running swarm: at once, and no further than they reach."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Collection
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from chunks.store import ChunkStore
from ledger.bodies.capability import GrantCapability, RevokeCapability
from ledger.bodies.defence import (
    ReleaseQuarantine,
    SetQuarantine,
    quarantine_digest,
    release_digest,
)
from ledger.bodies.group import CreateGroup
from ledger.bodies.manifest import ApproveManifest, ProposeManifest
from ledger.bodies.subject import CreateSubject
from protocol.approval import Action, Approval, sign_approval
from protocol.capability import Capability, Verb
from protocol.defence import QuarantineLevel
from protocol.did import SubjectKind
from protocol.digest import DidId, Digest, ManifestId, PolicyId, sha256
from protocol.group import Group
from protocol.keys import PrivateKey
from swarmd.clock import SystemClock
from swarmd.config import Endpoint
from swarmd.datadir import load_key
from swarmd.enrolment import NodePlan, create_node
from swarmd.entropy import SeededEntropy
from swarmd.network_creation import node_config
from swarmd.publisher import Release
from swarmd.questions import Denial, Permit
from swarmd.running_node import RunningNode
from tests.support.forge import Forge
from tests.support.ledger import make_policy, make_root
from tests.support.swarm import GROUP, VALIDATORS, Swarm, swarm, until

FIRST = hashlib.shake_256(b"first").digest(300_000)
SECOND = hashlib.shake_256(b"second").digest(200_000)
DAY_MS = 24 * 3_600_000


def quarantine(lab: Swarm, name: str, level: QuarantineLevel, sequence: int) -> SetQuarantine:
    did = lab.did(name)
    digest = quarantine_digest(did, GROUP, level=int(level), until_ms=None, sequence=sequence)
    approvals = lab.approvals(Action.QUARANTINE, digest)
    return SetQuarantine(subject=did, group=GROUP, level=level, until_ms=None, approvals=approvals)


@pytest.mark.slow
async def test_a_quarantined_gateway_fetches_and_reads_and_nobody_takes_its_chunks(
    tmp_path: Path,
) -> None:
    others = (*VALIDATORS, "publisher-1", "gateway-2")
    async with swarm(tmp_path) as lab:
        lab.isolate("gateway-1", *VALIDATORS, "gateway-2")
        await lab.start(*others)
        await lab.until_met(*others)
        first = await lab.release(FIRST, version="1.0")
        image = first.manifest.components[0].digest
        await until(lambda: lab.holds("gateway-2", image), "gateway-2 has the image")
        await lab.submit(quarantine(lab, "gateway-2", QuarantineLevel.NO_SERVING, 1))

        # It reads the ledger and fetches what is new.
        second = await lab.release(SECOND, version="2.0")
        newer = second.manifest.components[0].digest
        await until(lambda: lab.holds("gateway-2", newer), "it fetches in quarantine")
        await lab.until_height(lab.height("publisher-1"), "gateway-2")

        # The only one that could give gateway-1 the images is in quarantine.
        await lab.start("gateway-1")
        await lab.until_met("gateway-1", "gateway-2")
        fetching = lab["gateway-1"].exchange
        await until(lambda: second.manifest_id in fetching._fetches, "gateway-1 wants it")
        giver, taker = lab.peer("gateway-2"), lab.peer("gateway-1")
        authority = lab["gateway-1"]._authority
        await until(
            lambda: isinstance(authority.may_fetch(second.manifest_id), Permit), "it knows enough"
        )
        verdict = authority.may_take(giver, second.manifest_id)
        assert isinstance(verdict, Denial)
        assert verdict.rule == "quarantine.peer"
        assert isinstance(authority.may_serve(giver, second.manifest_id), Permit)
        served = lab["gateway-2"]._authority.may_serve(taker, second.manifest_id)
        assert isinstance(served, Denial), "nor does it offer itself, if it is honest"
        fetch = fetching._fetches[second.manifest_id]
        assert not fetch.machine.has_peer(bytes(giver))
        assert not lab.holds("gateway-1", newer)

        # Released by its owners, it serves, and nothing else was missing.
        did = lab.did("gateway-2")
        approvals = lab.approvals(Action.RELEASE, release_digest(did, GROUP, 2))
        await lab.submit(ReleaseQuarantine(subject=did, group=GROUP, approvals=approvals))
        await until(lambda: lab.holds("gateway-1", newer), "gateway-1 has it now")


class Held:
    """A store whose first write waits until it is let go."""

    def __init__(self, gate: threading.Event, store: ChunkStore) -> None:
        self.store = store
        self.gate = gate

    def write_chunk(self, *arguments: object) -> object:
        assert self.gate.wait(60), "the test lets go"
        return self.store.write_chunk(*arguments)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)


@pytest.mark.slow
async def test_quarantine_ends_an_open_transfer_within_a_second(tmp_path: Path) -> None:
    gate = threading.Event()
    async with swarm(tmp_path) as lab:
        forge = Forge(lab)
        await lab.start("publisher-1")
        await lab.start("gateway-1", wrap_store=partial(Held, gate))  # type: ignore[arg-type]
        try:
            await lab.until_met("publisher-1", "gateway-1")
            signed = await _release(lab, forge, lab["publisher-1"], lab["gateway-1"])
            giver, taker = lab["publisher-1"], lab["gateway-1"]
            taker_key, giver_key = bytes(lab.peer("gateway-1")), bytes(lab.peer("publisher-1"))
            await until(lambda: signed in _open(giver, taker_key), "a transfer is open")
            fetch = taker.exchange._fetches[signed]
            assert fetch.machine.has_peer(giver_key)
            block = forge.advance(quarantine(lab, "publisher-1", QuarantineLevel.NO_SERVING, 1))
            await forge.give(taker, block)
            with trio.fail_after(1):
                while fetch.machine.has_peer(giver_key):
                    await trio.lowlevel.checkpoint()
            gate.set()  # what was on its way is thrown away, and held against nobody
            await trio.testing.wait_all_tasks_blocked(0.1)
            peer = taker.registry.get(lab.peer("publisher-1"))
            assert peer is not None
            assert peer.offences == {}
            await forge.give(giver, block)
            with trio.fail_after(1):
                while signed in _open(giver, taker_key):
                    await trio.lowlevel.checkpoint()
        finally:
            gate.set()
        forge.close()


@pytest.mark.slow
async def test_a_withdrawn_capability_ends_an_open_transfer_within_a_second(
    tmp_path: Path,
) -> None:
    gate = threading.Event()
    async with swarm(tmp_path) as lab:
        forge = Forge(lab)
        contractor = _found_group(lab, forge)
        await lab.start("publisher-1")
        await lab.start("contractor", wrap_store=partial(Held, gate))  # type: ignore[arg-type]
        try:
            nodes = (lab["publisher-1"], lab["contractor"])
            await lab.until_met("publisher-1", "contractor")
            signed = await _release(lab, forge, *nodes)
            peer = lab.peer("contractor")
            refused = nodes[0]._authority.may_serve(peer, signed)
            assert isinstance(refused, Denial)
            assert refused.rule == "peer.group"

            capability = Capability(
                subject=contractor,
                group=GROUP,
                verbs=(Verb.FETCH,),
                expires_ms=SystemClock().wall_ms() + DAY_MS,
            )
            raw = capability.encode()
            approvals = lab.approvals(Action.GRANT, capability.capability_id)
            grant = forge.advance(GrantCapability(capability=raw, approvals=approvals))
            for node in nodes:
                await forge.give(node, grant)
            giver = nodes[0]
            await until(lambda: signed in _open(giver, bytes(peer)), "a transfer is open")

            approvals = lab.approvals(Action.WITHDRAW, capability.capability_id)
            body = RevokeCapability(capability=capability.capability_id, approvals=approvals)
            await forge.give(giver, forge.advance(body))
            with trio.fail_after(1):
                while signed in _open(giver, bytes(peer)):
                    await trio.lowlevel.checkpoint()
            assert isinstance(giver._authority.may_serve(peer, signed), Denial)
        finally:
            gate.set()
        forge.close()


def _found_group(lab: Swarm, forge: Forge) -> DidId:
    """Founds the group `works` with one gateway, which everybody knows from the start."""
    owner = load_key(lab.path / "keys" / "owner-1.key")
    policy = make_policy(
        approve_threshold=1, revoke_threshold=1, amend_threshold=1, enrol_threshold=1
    )
    group = Group(name="works", owner_root=make_root([owner], threshold=1), policy=policy)
    raw, policy_id = group.encode(), policy.policy_id
    keys = [load_key(path) for path in sorted((lab.path / "keys").glob("governance-*.key"))]
    approvals = tuple(
        _approve(lab, key, Action.CREATE_GROUP, sha256(raw), policy_id) for key in keys
    )
    plan = NodePlan(
        kind=SubjectKind.GATEWAY,
        name="contractor",
        groups=("works",),
        reachable=(("127.0.0.1", 61_000),),
    )
    config = node_config(plan, listen=(Endpoint("127.0.0.1", 61_000),), http=None)
    directory = lab.directory("contractor")
    join = create_node(directory, plan, config, SeededEntropy(9, "contractor"))
    shutil.copy(lab.path / "genesis.cbor", directory.genesis)
    lab.only_peers("contractor", "publisher-1")
    did = join.record.did
    enrolment = (_approve(lab, owner, Action.ENROL, did, policy_id),)
    forge.advance(CreateGroup(group=raw, approvals=approvals))
    forge.advance(CreateSubject(join=join.statement, approvals=(enrolment,)))
    for name in ("publisher-1", "contractor"):
        forge.put(name)
    return did


def _approve(
    lab: Swarm, key: PrivateKey, action: Action, subject: bytes, policy: PolicyId
) -> bytes:
    approval = Approval(
        era=0,
        action=action,
        subject=Digest(subject),
        group="works",
        policy=policy,
        valid_until_ms=SystemClock().wall_ms() + DAY_MS,
    )
    return sign_approval(approval, key, lab.chain).signed.raw


def _open(node: RunningNode, peer: bytes) -> Collection[ManifestId]:
    """Manifests of which a node serves a peer."""
    link = node.exchange._links.get(peer)
    return () if link is None else link.upload.open_manifests


async def _release(lab: Swarm, forge: Forge, *nodes: RunningNode) -> ManifestId:
    """Stages at the publisher; proposal and approval become final at these nodes."""
    publisher = lab["publisher-1"].publisher
    assert publisher is not None
    path = lab.path / "image"
    path.write_bytes(FIRST)
    release = Release(path=path, product="pump", version="1", groups=(GROUP,), metadata={})
    signed = await publisher.stage(release)
    manifest = signed.manifest_id
    approvals = lab.approvals(Action.AUTHORISE, manifest)
    for body in (
        ProposeManifest(manifest=signed.signed.raw),
        ApproveManifest(manifest=manifest, group=GROUP, approvals=approvals),
    ):
        block = forge.advance(body)
        for node in nodes:
            await forge.give(node, block)
    for node in nodes:  # no validator runs that could tell them how fresh they are
        node.time.age.confirm(node._clock.monotonic())
        node.images.wake()
    return manifest

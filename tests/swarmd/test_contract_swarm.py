"""Contracts with whole nodes in one process: attestations and soak, membership by attributes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from ledger.bodies.manifest import ApproveManifest
from ledger.bodies.subject_decisions import CertifySubject, attributes_digest
from ledger.records.manifest import ManifestRecord, ManifestStatus
from protocol.approval import Action, Approval, sign_approval
from protocol.calendar import DAY_MS, HOUR_MS
from protocol.genesis import decode_genesis
from protocol.group import Group, Placement
from protocol.keys import PrivateKey
from protocol.manifest import SignedManifest
from protocol.owner_root import BUILDER_ROLE
from protocol.rule import Compare, Comparison, RuleField
from protocol.version import group_topic
from swarmd.cli.main import run
from swarmd.clock import SystemClock
from swarmd.keys.key_writer import write_key_file
from swarmd.publisher import Release
from swarmd.questions import Denial, Permit
from tests.support.ledger import make_key
from tests.support.swarm import GROUP, LIMIT_S, VALIDATORS, Swarm, swarm, until

IMAGE = hashlib.shake_256(b"contract image").digest(100_000)
BUILDERS = [make_key(f"contract/builder/{index}") for index in range(2)]
WORLD, ZONE = "world", "zone"
GATEWAYS = ("gateway-1", "gateway-2")


class LateClock(SystemClock):
    """The system's clocks; the wall clock can be set ahead for all who share it."""

    def __init__(self) -> None:
        """Begins at the system's time."""
        self.ahead_ms = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + self.ahead_ms


def rewrite_groups(lab: Swarm, *groups: Group) -> None:
    """Gives everybody's genesis other groups."""
    genesis = decode_genesis((lab.path / "genesis.cbor").read_bytes())
    ordered = tuple(sorted(groups, key=lambda group: group.name))
    genesis = replace(genesis, groups=ordered)
    for path in (lab.path / "genesis.cbor", *lab.path.glob("*/genesis.cbor")):
        path.write_bytes(genesis.encode())
    lab.chain = genesis.chain


def first_group(lab: Swarm) -> Group:
    (group,) = decode_genesis((lab.path / "genesis.cbor").read_bytes()).groups
    return group


def record(lab: Swarm, signed: SignedManifest, group: str = GROUP) -> ManifestRecord:
    found = lab["publisher-1"].ledger.chain.state.manifest(signed.manifest_id, group)
    assert found is not None
    return found


async def command(lab: Swarm, *arguments: object, key: PrivateKey | None = None) -> int:
    """Runs a command line against a gateway's daemon; returns its exit code."""
    words = [str(argument) for argument in arguments]
    if key is not None:
        path = lab.path / f"{key.public.raw.hex()[:12]}.key"
        if not path.exists():
            write_key_file(path, key)
        words += ["--key", str(path), "--yes"]
    words += ["-C", str(lab.path / "gateway-1")]
    return await trio.to_thread.run_sync(run, words)


def with_builders(lab: Swarm) -> None:
    """Two builders must attest, and four hours must pass."""
    group = first_group(lab)
    holders = sorted((key.public, f"builder {index}") for index, key in enumerate(BUILDERS))
    root = replace(group.owner_root, roles=((BUILDER_ROLE, tuple(holders)),))
    policy = replace(group.policy, attestations=2, soak_ms=4 * HOUR_MS)
    rewrite_groups(lab, replace(group, owner_root=root, policy=policy))


@pytest.mark.slow
@pytest.mark.parametrize("absent", [False, True], ids=["publisher asks", "a validator asks"])
async def test_two_builders_and_a_soak_come_before_authorisation(
    tmp_path: Path, absent: bool
) -> None:
    """Nobody settles by hand: the publisher's node does, or a validator while that is away."""
    clock = LateClock()
    everyone = (*VALIDATORS, "publisher-1", "gateway-1")
    async with swarm(tmp_path, gateways=1, heartbeat_ms=2_000) as lab:
        with_builders(lab)
        await lab.start(*everyone, clock=clock)
        await lab.until_met(*everyone)
        signed = await lab.release(IMAGE)
        manifest = signed.manifest_id.hex()
        image = lab.path / "image-1.0"
        await lab.until_height(lab.height("publisher-1"), "gateway-1")
        for builder in BUILDERS:
            assert record(lab, signed).status is ManifestStatus.PROPOSED
            assert await command(lab, "attest", manifest, "--image", image, key=builder) == 0
        await lab.until_height(lab.height("gateway-1"), "publisher-1")
        assert len(record(lab, signed).attesters) == 2
        assert record(lab, signed).status is ManifestStatus.PROPOSED
        assert await command(lab, "settle", manifest) == 3
        proposed_ms = record(lab, signed).proposed_ms
        if absent:
            await lab.stop("publisher-1")
        clock.ahead_ms += 5 * HOUR_MS
        state = lab["gateway-1"].ledger.chain

        def is_authorised() -> bool:
            found = state.state.manifest(signed.manifest_id, GROUP)
            return found is not None and found.status is ManifestStatus.AUTHORISED

        await until(is_authorised, "settled by itself")
        found = state.state.manifest(signed.manifest_id, GROUP)
        assert found is not None
        assert found.authorised_ms is not None
        assert found.authorised_ms >= proposed_ms + 4 * HOUR_MS
        for name in lab.running:
            assert lab.is_alive(name)


# -- membership --------------------------------------------------------------------------------


def with_families(lab: Swarm) -> None:
    """`world` above the laboratory's group, and below it a `zone` of those certified so."""
    group = first_group(lab)
    selector = Compare(RuleField.REGION, Comparison.EQUAL, "north")
    rewrite_groups(
        lab,
        replace(group, placement=Placement(WORLD, None)),
        replace(
            group,
            name=WORLD,
            placement=Placement(None, None),
            policy=replace(group.policy, publishers=(lab.did("publisher-1"),)),
        ),
        replace(group, name=ZONE, placement=Placement(GROUP, selector)),
    )


def approvals(lab: Swarm, action: Action, subject: bytes, group: str) -> tuple[bytes, ...]:
    state = lab["publisher-1"].ledger.chain.state
    known = state.group(group)
    assert known is not None
    approval = Approval(
        era=0,
        action=action,
        subject=subject,  # type: ignore[arg-type]
        group=group,
        policy=known.policy,
        valid_until_ms=SystemClock().wall_ms() + DAY_MS,
    )
    return tuple(sign_approval(approval, key, lab.chain).signed.raw for key in lab.owners[:2])


async def certify(lab: Swarm, name: str, region: str, version: int = 1) -> None:
    """Owners of the laboratory's group certify where a node stands."""
    attributes = (("region", region),)
    subject = attributes_digest(lab.did(name), GROUP, version, attributes)
    height = await lab.submit(
        CertifySubject(
            did=lab.did(name),
            group=GROUP,
            attributes=attributes,
            approvals=approvals(lab, Action.CERTIFY, subject, GROUP),
        )
    )
    await lab.until_height(height)


async def release(lab: Swarm, version: str, groups: Sequence[str]) -> SignedManifest:
    """Proposes and approves a release in some groups."""
    publisher = lab["publisher-1"].publisher
    assert publisher is not None
    path = lab.path / f"image-{version}"
    path.write_bytes(IMAGE + version.encode())
    target = Release(path=path, product="pump", version=version, groups=tuple(groups), metadata={})
    signed = await publisher.stage(target)
    await lab["publisher-1"].submission.wait_final(await publisher.propose(signed), LIMIT_S)
    for group in groups:
        raws = approvals(lab, Action.AUTHORISE, signed.manifest_id, group)
        height = await lab.submit(
            ApproveManifest(manifest=signed.manifest_id, group=group, approvals=raws)
        )
    await lab.until_height(height)
    return signed


def subscribed(lab: Swarm, name: str, group: str) -> bool:
    topic = group_topic(lab.chain, group)
    return topic in lab[name].network._gossip._channels  # type: ignore[attr-defined]


@pytest.mark.slow
async def test_membership_follows_parents_and_certified_attributes(tmp_path: Path) -> None:
    everyone = (*VALIDATORS, "publisher-1", *GATEWAYS)
    async with swarm(tmp_path, heartbeat_ms=10_000) as lab:
        with_families(lab)
        await lab.start(*everyone)
        await lab.until_met(*everyone)
        # What is meant for the parent reaches members of the child, by record or by attributes.
        parent = await release(lab, "1.0", (WORLD,))
        for name in GATEWAYS:
            await until(lambda name=name: holds(lab, name, parent), f"{name} has the parent's")
            assert subscribed(lab, name, WORLD)
            assert not subscribed(lab, name, ZONE)
        for name in ("publisher-1", "gateway-1"):
            await certify(lab, name, "north")
        zone = await release(lab, "2.0", (ZONE,))
        await until(lambda: holds(lab, "gateway-1", zone), "who is selected has the zone's")
        assert not holds(lab, "gateway-2", zone)
        await until_known(lab, "gateway-1", GROUP, WORLD, ZONE)
        await until_known(lab, "gateway-2", GROUP, WORLD)
        await until(lambda: subscribed(lab, "gateway-1", ZONE), "the zone's topic is joined")

        await certify(lab, "gateway-2", "north")  # selected after the release
        await until(lambda: holds(lab, "gateway-2", zone), "who is selected later has it too")
        await certify(lab, "gateway-1", "south", 2)
        await _served_no_more(lab, zone)
        for name in everyone:
            assert lab.is_alive(name)


def holds(lab: Swarm, name: str, signed: SignedManifest) -> bool:
    return lab.holds(name, signed.manifest.components[0].digest)


async def until_known(lab: Swarm, name: str, *groups: str) -> None:
    """Waits until every other node takes a node for a member of these groups, and it does so."""

    def is_known() -> bool:
        held = [lab[other].registry.get(lab.peer(name)) for other in lab.running if other != name]
        own = lab[name]._authority.own_groups
        return own == groups and all(peer is not None and peer.groups == groups for peer in held)

    await until(is_known, f"{name} is in {groups}")


async def _served_no_more(lab: Swarm, zone: SignedManifest) -> None:
    """The first gateway has left the zone; the second one is still in it."""
    await until_known(lab, "gateway-1", GROUP, WORLD)
    gone, stays = lab.peer("gateway-1"), lab.peer("gateway-2")
    manifest = zone.manifest_id
    authority = lab["publisher-1"]._authority
    denial = authority.may_serve(gone, manifest)
    assert isinstance(denial, Denial)
    assert denial.rule == "peer.group"
    assert isinstance(authority.may_take(gone, manifest), Denial)
    assert isinstance(authority.may_serve(stays, manifest), Permit)
    own = lab["gateway-1"]._authority
    # Its state knows at once; what it answered from before is forgotten as the block is told.
    await until(lambda: isinstance(own.may_offer(manifest), Denial), "it offers it no more")
    assert isinstance(own.may_serve(stays, manifest), Denial)
    await until(lambda: not subscribed(lab, "gateway-1", ZONE), "the zone's topic is left")
    following = await release(lab, "3.0", (ZONE,))
    await until(lambda: holds(lab, "gateway-2", following), "members of the zone go on")
    assert not holds(lab, "gateway-1", following)
    assert isinstance(authority.may_serve(gone, following.manifest_id), Denial)

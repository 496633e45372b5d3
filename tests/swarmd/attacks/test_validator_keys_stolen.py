"""Every validator key in the attacker's hand: blocks that break the rules convince nobody."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ledger.bodies.manifest import ApproveManifest, ProposeManifest
from protocol.approval import Action
from protocol.catchup import BlocksAnswer
from protocol.manifest import SignedManifest
from swarmd.publisher import Release
from swarmd.questions import Denial
from swarmd.receipts import ReceiptKind
from tests.support.forge import Forge
from tests.support.swarm import GROUP, PRODUCT, Swarm, swarm, until

IMAGE = hashlib.shake_256(b"good").digest(100_000)
EVIL = hashlib.shake_256(b"evil").digest(100_000)
NODES = ("publisher-1", "gateway-1", "gateway-2")


async def stage(lab: Swarm, image: bytes, version: str) -> SignedManifest:
    publisher = lab["publisher-1"].publisher
    assert publisher is not None
    path = lab.path / version
    path.write_bytes(image)
    return await publisher.stage(
        Release(path=path, product=PRODUCT, version=version, groups=(GROUP,), metadata={})
    )


def believe(lab: Swarm, *names: str) -> None:
    """Makes nodes know that their copies are current."""
    for name in names:
        services = lab[name]
        services.time.age.confirm(services._clock.monotonic())
        services.images.wake()


async def release(lab: Swarm, forge: Forge, image: bytes) -> SignedManifest:
    signed = await stage(lab, image, "1.0")
    approvals = lab.approvals(Action.AUTHORISE, signed.manifest_id)
    runs = [
        forge.advance(ProposeManifest(manifest=signed.signed.raw)),
        forge.advance(
            ApproveManifest(manifest=signed.manifest_id, group=GROUP, approvals=approvals)
        ),
    ]
    for name in NODES:
        await forge.give(lab[name], *runs)
    believe(lab, *NODES)
    return signed


@pytest.mark.slow
async def test_followers_refuse_a_certified_lie_and_raise_the_alarm(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start(*NODES)
        await lab.until_met(*NODES)
        forge = Forge(lab)
        good = await release(lab, forge, IMAGE)
        digest = good.manifest.components[0].digest
        for name in ("gateway-1", "gateway-2"):
            await until(lambda name=name: lab.holds(name, digest), f"{name} holds it")
        evil = await stage(lab, EVIL, "2.0")
        proposal = forge.advance(ProposeManifest(manifest=evil.signed.raw))
        for name in NODES:
            await forge.give(lab[name], proposal)
        lie = forge.authorise_without_owners(evil.manifest_id)
        certificate = forge.certify(lie).encode()
        lab["publisher-1"].ledger_service._blocks = lambda _from: BlocksAnswer(
            blocks=(lie.encoded,), certificate=certificate
        )
        for name in ("gateway-1", "gateway-2"):
            lab[name].follower.hear(lab.peer("publisher-1"), lie.header.height)
        for name in ("gateway-1", "gateway-2"):
            services = lab[name]
            await until(lambda s=services: s.ledger.alarm, f"{name} raises the alarm")
            assert services.ledger.alarm is not None
            assert "block.state_root" in services.ledger.alarm
            assert services.ledger.chain.head == proposal[0].header
            for manifest in (good, evil):
                for verdict in (
                    services._authority.may_fetch(manifest.manifest_id),
                    services._authority.may_offer(manifest.manifest_id),
                    services._authority.may_serve(lab.peer("publisher-1"), manifest.manifest_id),
                ):
                    assert isinstance(verdict, Denial)
                    assert verdict.rule == "node.alarm"
            await until(
                lambda s=services: ReceiptKind.ALARM in {e.kind for e in s.receipts.newest(50)},
                "the alarm is noted",
            )
            # What was right before is kept for the operator to decide; the lie was never stored.
            assert lab.holds(name, digest)
            assert not lab.holds(name, evil.manifest.components[0].digest)
            services.time.age._anchor = None
            services.freshness.hurry()
        # They vouch for each other's copies now; who lied once confirms nothing.
        answer = forge.state(b"n" * 32)
        assert len(answer.statements) == 4
        from swarmd.freshness import FreshnessRound

        for name in ("gateway-1", "gateway-2"):
            services = lab[name]
            question = FreshnessRound(b"n" * 32, 0.0, services.freshness.validator_keys)
            question.add(answer, lab.chain)
            assert not services.freshness._is_confirmed(question)
            assert lab.is_alive(name)
        forge.close()


@pytest.mark.slow
async def test_a_fork_at_a_final_height_raises_the_alarm(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start("publisher-1", "gateway-1")
        await lab.until_met("publisher-1", "gateway-1")
        forge = Forge(lab)
        other = Forge(lab)
        signed = await stage(lab, IMAGE, "1.0")
        await forge.give(lab["gateway-1"], forge.advance())
        fork, certificate = other.advance(ProposeManifest(manifest=signed.signed.raw))
        lab["publisher-1"].ledger_service._blocks = lambda _from: BlocksAnswer(
            blocks=(fork.encoded,), certificate=certificate.encode()
        )
        lab["gateway-1"].follower.hear(lab.peer("publisher-1"), 9)
        await until(lambda: lab["gateway-1"].ledger.alarm, "the fork is noticed")
        assert "another block is final at height 1" in str(lab["gateway-1"].ledger.alarm)
        assert lab["gateway-1"].ledger.chain.head != fork.header
        forge.close()
        other.close()


@pytest.mark.slow
async def test_blocks_without_a_quorum_cost_the_peer(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start("publisher-1", "gateway-1")
        await lab.until_met("publisher-1", "gateway-1")
        forge = Forge(lab)
        block, _ = forge.advance()
        other = Forge(lab)
        foreign, certificate = other.advance()
        del foreign
        lab["publisher-1"].ledger_service._blocks = lambda _from: BlocksAnswer(
            blocks=(block.encoded,),
            certificate=certificate.encode() if certificate.block_id != block.block_id else b"x",
        )
        lab["gateway-1"].follower.hear(lab.peer("publisher-1"), 1)
        await until(
            lambda: lab["gateway-1"].registry.is_banned(lab.peer("publisher-1")), "it is banned"
        )
        assert lab["gateway-1"].ledger.alarm is None
        assert lab.height("gateway-1") == 0
        forge.close()
        other.close()

"""Own transactions that lose a race, and validators that never answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from ledger.bodies.manifest import ApproveManifest
from ledger.records.manifest import ManifestStatus
from protocol.approval import Action
from protocol.errors import PolicyError
from swarmd.net.network import Stream
from swarmd.services import submission
from swarmd.services.ledger_service import LedgerService
from tests.support.swarm import GROUP, swarm, until

VALIDATORS = ("validator-1", "validator-2", "validator-3", "validator-4")
NODES = (*VALIDATORS, "publisher-1", "gateway-1", "gateway-2")


@pytest.mark.slow
async def test_a_transaction_that_lost_a_race_is_given_up_and_costs_nobody_a_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start(*NODES)
        await lab.until_met(*NODES)
        signed = await lab.propose(b"image")
        monkeypatch.setattr(submission, "RESEND_S", 0.05)
        approvals = lab.approvals(Action.AUTHORISE, signed.manifest_id)
        body = ApproveManifest(manifest=signed.manifest_id, group=GROUP, approvals=approvals)
        service = lab["gateway-1"].submission
        lost = trio.Event()
        offer, gossip = service._offer, service._gossip

        async def offer_late(raws: Sequence[bytes]) -> None:
            await lost.wait()
            await offer(raws)

        async def gossip_late(raw: bytes) -> None:
            if lost.is_set():
                await gossip(raw)

        monkeypatch.setattr(service, "_offer", offer_late)
        monkeypatch.setattr(service, "_gossip", gossip_late)
        second = await service.submit(body)
        first = await lab["gateway-2"].submission.submit(body)
        await lab["gateway-2"].submission.wait_final(first, 20)
        lost.set()
        with pytest.raises(PolicyError) as caught:
            await service.wait_final(second, 20)
        assert caught.value.rule == "approval.duplicate"
        assert not service._waiting, "its nonce is free again"
        assert await lab.revoke(signed) > 0
        record = lab["validator-1"].ledger.chain.state.manifest(signed.manifest_id, GROUP)
        assert record is not None
        assert record.status is ManifestStatus.REVOKED
        for name in VALIDATORS:
            assert not lab[name].registry.is_banned(lab.peer("gateway-1"))


@pytest.mark.slow
async def test_a_validator_that_never_answers_holds_up_no_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent: list[object] = []
    answer = LedgerService.answer

    async def answer_or_not(self: LedgerService, stream: Stream) -> None:
        if self._ledger in silent:
            await trio.sleep_forever()
        await answer(self, stream)

    monkeypatch.setattr(LedgerService, "answer", answer_or_not)
    async with swarm(tmp_path) as lab:
        await lab.start(*NODES)
        await lab.until_met(*NODES)
        silent.append(lab["validator-4"].ledger)
        await lab.propose(b"first", version="1")
        offered: list[bytes] = []
        service = lab["publisher-1"].submission
        offer = service._offer

        async def note(raws: Sequence[bytes]) -> None:
            offered.extend(raws)
            await offer(raws)

        monkeypatch.setattr(service, "_offer", note)
        with trio.move_on_after(2):
            await lab.propose(b"second", version="2")
        assert offered, "handed over while the first one still waits for an answer"
        await until(lambda: lab.height("publisher-1") >= 2)

"""What a gateway reports of the devices behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trio.testing

from ledger.bodies.health import ReportHealth
from ledger.bodies.rollout import Command, CommandRollout
from ledger.chain import Chain
from ledger.transition.kind import Body
from protocol.digest import sha256
from protocol.errors import PolicyError
from protocol.rollout import Promotion
from swarmd.ledger_host import LedgerHost
from swarmd.receipts import ReceiptKind, ReceiptLog
from swarmd.services.health import DEVICES_MAX, REPORT_S, RETRY_S, HealthService
from swarmd.services.receipts import ReceiptService
from tests.support.ledger import FLEET, HOUR_MS, Lab, advance, authorise, make_lab
from tests.support.rollout import certify_site, health, make_plan, rollout_policy


class Bench:
    """A gateway's chain with an authorised release, its receipts and its health service."""

    def __init__(
        self, path: Path, promotion: Promotion = Promotion.OWNERS, soak_ms: int = 0
    ) -> None:
        plan = make_plan(promotion=promotion, soak_ms=soak_ms)
        self.lab: Lab = make_lab(policy=rollout_policy(plan))
        self.chain: Chain = self.lab.open_chain()
        self.manifest = self.lab.manifest()
        authorise(self.lab, self.chain, self.manifest)
        self.ledger = LedgerHost(self.chain, lambda: 0)
        self.log = ReceiptLog(path / "receipts.db", self.lab.chain_id)
        self.receipts = ReceiptService(
            log=self.log,
            ledger=self.ledger,
            own_did=self.lab.gateways[0].did,
            time_ms=lambda: 0,
        )
        self.service = self.make_service()
        self.submitted: list[Body] = []
        self.refusing = False

    def make_service(self) -> HealthService:
        return HealthService(
            ledger=self.ledger,
            receipts=self.receipts,
            own_did=self.lab.gateways[0].did,
            own_groups=lambda: (FLEET,),
        )

    async def submit(self, body: Body) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.refusing:
            raise PolicyError("tx.rate", "not now")
        self.submitted.append(body)
        if isinstance(body, ReportHealth):
            signed = health(
                self.lab,
                body.manifest,
                self.lab.gateways[0],
                good=body.successes,
                bad=body.failures,
                devices=body.devices,
            )
            advance(self.lab, self.chain, [signed], after_ms=400_000)
        return b""

    def say(self, device: str, *, runs: bool) -> None:
        self.service.note(self.manifest.manifest_id, device.encode(), runs=runs)

    @property
    def counts(self) -> list[tuple[int, int, int]]:
        return [
            (body.successes, body.failures, body.devices)
            for body in self.submitted
            if isinstance(body, ReportHealth)
        ]


@asynccontextmanager
async def running(path: Path, **arguments: Any) -> AsyncIterator[Bench]:
    bench = Bench(path, **arguments)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.service.run, bench.submit)
        await settle()
        yield bench
        nursery.cancel_scope.cancel()
    bench.log.close()


async def settle() -> None:
    """Lets the service do all it can without time passing."""
    await trio.sleep(0.01)


async def test_the_first_outcome_is_reported_at_once_the_next_ones_together(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as bench:
        bench.say("a", runs=False)
        await settle()
        assert bench.counts == [(0, 1, 0)]
        for device in "bcd":
            bench.say(device, runs=True)
        await trio.sleep(REPORT_S / 2)
        assert len(bench.counts) == 1
        await trio.sleep(REPORT_S / 2)
        assert bench.counts == [(0, 1, 0), (3, 1, 3)]
        await trio.sleep(10 * REPORT_S)
        assert len(bench.counts) == 2


async def test_the_first_failure_waits_for_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as bench:
        bench.say("a", runs=True)
        await settle()
        bench.say("b", runs=False)
        await settle()
        assert bench.counts == [(1, 0, 1), (1, 1, 1)]
        bench.say("c", runs=False)
        await settle()
        assert len(bench.counts) == 2


async def test_devices_are_counted_and_not_attempts(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as bench:
        for runs in (False, False, True, True, False, True):
            bench.say("a", runs=runs)
        await trio.sleep(2 * REPORT_S)
        assert bench.counts[-1] == (1, 1, 1)


async def test_a_refused_report_is_sent_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as bench:
        bench.refusing = True
        bench.say("a", runs=True)
        await settle()
        bench.refusing = False
        await trio.sleep(RETRY_S + 1)
        assert bench.counts == [(1, 0, 1)]


async def test_after_a_restart_counts_go_on(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as bench:
        for device in "abc":
            bench.say(device, runs=True)
        bench.say("d", runs=False)
        await settle()
        await bench.receipts.flush()
        again = bench.make_service()
        again.restore(bench.receipts.newest(100))
        again.note(bench.manifest.manifest_id, b"a", runs=True)
        again.note(bench.manifest.manifest_id, b"e", runs=True)
        body = again._next_report(bench.manifest.manifest_id, FLEET)
        assert body is not None
        assert (body.successes, body.failures, body.devices) == (4, 1, 4)
        empty = bench.make_service()
        empty.note(bench.manifest.manifest_id, b"f", runs=True)
        body = empty._next_report(bench.manifest.manifest_id, FLEET)
        assert body is not None
        assert (body.successes, body.failures) == (3, 1)


async def test_invented_devices_fill_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as bench:
        for number in range(DEVICES_MAX + 50):
            bench.say(f"fake-{number}", runs=True)
        await settle()
        assert bench.counts == [(DEVICES_MAX, 0, DEVICES_MAX)]


async def test_outcomes_go_into_the_receipt_log(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as bench:
        bench.say("a", runs=True)
        bench.say("b", runs=False)
        await bench.receipts.flush()
        kinds = [(entry.kind, entry.subject) for entry in bench.receipts.newest(9)]
        assert kinds == [(ReceiptKind.INSTALLED, "a"), (ReceiptKind.INSTALL_FAILED, "b")]


async def test_an_image_belongs_to_the_release_that_is_authorised(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as bench:
        image = bench.manifest.manifest.components[0].digest
        assert bench.service.note_image(image, b"a", True)
        assert not bench.service.note_image(sha256(b"another image"), b"a", True)
        advance(bench.lab, bench.chain, [bench.lab.revoke(bench.manifest.manifest_id)])
        assert not bench.service.note_image(image, b"b", True)


async def test_a_promotion_that_is_due_is_pointed_out_once_in_a_while(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path, promotion=Promotion.AUTOMATIC) as bench:
        advance(bench.lab, bench.chain, [certify_site(bench.lab, bench.lab.gateways[0], "a")])
        bench.say("a", runs=True)
        await trio.sleep(2 * REPORT_S)
        # The report itself promoted; nothing is due until the next stage has a success.
        assert not [body for body in bench.submitted if isinstance(body, CommandRollout)]
        rollout = bench.chain.state.rollout(bench.manifest.manifest_id, FLEET)
        assert rollout is not None
        assert rollout.stage == 1


async def test_a_soak_that_ends_between_reports_is_noticed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path, promotion=Promotion.AUTOMATIC, soak_ms=HOUR_MS) as bench:
        bench.say("a", runs=True)
        await settle()
        advance(bench.lab, bench.chain, [], after_ms=HOUR_MS)
        await trio.sleep(3 * REPORT_S)
        (poke, *_) = [body for body in bench.submitted if isinstance(body, CommandRollout)]
        assert (poke.command, poke.sequence, poke.approvals) == (Command.PROMOTE, 0, ())

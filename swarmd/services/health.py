"""What became of releases on the devices behind this gateway, told to the ledger.

Devices are counted, not attempts: each counts once among those that took a release and once among
those on which it failed, whatever it says later. Every outcome goes into the receipt log first;
after a restart the counts come from there and from the gateway's own last report, below which they
never fall. A change is reported at once, the next one ten minutes later; only the first failure
does not wait. So failures stop a rollout early, and a flood of outcomes costs the ledger six small
transactions an hour and release.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from ledger.bodies.health import ReportHealth
from ledger.bodies.rollout import Command, CommandRollout
from ledger.records.health import REPORT_COUNT_MAX, HealthRecord
from ledger.transition.kind import Body
from ledger.transition.rollout import is_promotion_due
from protocol.digest import DidId, Digest, ManifestId
from protocol.errors import SwarmError
from protocol.rollout import Promotion
from swarmd.ledger_host import LedgerHost
from swarmd.receipts import Receipt, ReceiptKind
from swarmd.services.receipts import ReceiptService

logger = logging.getLogger(__name__)

REPORT_S: Final = 600.0
"""Least time between two reports of one release in one group, seconds."""
RETRY_S: Final = 60.0
"""Pause after a report was refused, seconds."""
DEVICES_MAX: Final = 4096
"""Devices whose outcomes are remembered for one release; a gateway has hundreds. What else comes is
dropped, so that invented names neither fill memory nor push out what real devices said."""
RELEASES_MAX: Final = 256
"""Releases whose outcomes are remembered; the oldest is forgotten first."""
RESTORED_MAX: Final = 65_536
"""Newest receipts that are read after a restart, for the outcomes among them."""
PROMOTE_SPREAD_S: Final = 600
"""Gateways that see a promotion due point it out within this time, each at its own moment, seconds:
of a thousand, few do before the first is final."""
Submit = Callable[[Body], Awaitable[bytes]]


class _Tally:
    """Devices by what they said of one release."""

    def __init__(self) -> None:
        self.latest: dict[str, bool] = {}
        self.succeeded: dict[str, None] = {}
        self.failed: dict[str, None] = {}

    def add(self, device: str, *, runs: bool) -> bool:
        """Notes an outcome; returns whether it is new."""
        if self.latest.get(device) is runs:
            return False
        if device not in self.latest and len(self.latest) >= DEVICES_MAX:
            return False
        self.latest[device] = runs
        (self.succeeded if runs else self.failed)[device] = None
        return True


class HealthService:
    """Counts outcomes and reports them."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        receipts: ReceiptService,
        own_did: DidId,
        own_groups: Callable[[], tuple[str, ...]],
    ) -> None:
        """Wires the service; `own_groups` are the groups this node belongs to now."""
        self._ledger = ledger
        self._receipts = receipts
        self._own_did = own_did
        self._own_groups = own_groups
        self._tallies: dict[ManifestId, _Tally] = {}
        self._running: dict[tuple[str, str], ManifestId] = {}
        self._due: dict[tuple[ManifestId, str], float] = {}
        self._alerted: dict[tuple[ManifestId, str], None] = {}
        self._promote_at: dict[tuple[ManifestId, str], tuple[int, float]] = {}
        self._changed = trio.Event()

    def note_image(self, image: Digest, device: bytes, runs: bool) -> bool:
        """Notes what a device says of an image, for the newest authorised release that has it.

        Returns:
            Whether there is such a release.
        """
        for manifest in reversed(self._ledger.manifests_of(image)):
            if self._groups_of(manifest):
                self.note(manifest, device, runs=runs)
                return True
        return False

    def note(self, manifest: ManifestId, device: bytes, *, runs: bool) -> None:
        """Notes that a device runs a release, or that the release failed on it."""
        name = device.decode("latin-1")
        if self._add(manifest, name, runs=runs):
            kind = ReceiptKind.INSTALLED if runs else ReceiptKind.INSTALL_FAILED
            self._receipts.note_once(kind, manifest=manifest, subject=name, detail="device")
            self._changed.set()

    def restore(self, entries: Iterable[Receipt]) -> None:
        """Takes up the outcomes among earlier receipts, oldest first."""
        outcomes = (ReceiptKind.INSTALLED, ReceiptKind.INSTALL_FAILED)
        for entry in entries:
            if entry.kind in outcomes and entry.manifest:
                runs = entry.kind is ReceiptKind.INSTALLED
                self._add(ManifestId(entry.manifest), entry.subject, runs=runs)

    def _add(self, manifest: ManifestId, device: str, *, runs: bool) -> bool:
        tally = self._tallies.setdefault(manifest, _Tally())
        while len(self._tallies) > RELEASES_MAX:
            self._forget(next(iter(self._tallies)))
        is_new = tally.add(device, runs=runs)
        signed = self._ledger.manifests.get(manifest)
        if is_new and runs and signed is not None:
            self._running[device, signed.manifest.product] = manifest
            while len(self._running) > DEVICES_MAX:
                self._running.pop(next(iter(self._running)))
        return is_new

    def _forget(self, manifest: ManifestId) -> None:
        del self._tallies[manifest]
        for times in (self._due, self._alerted, self._promote_at):
            for key in [key for key in times if key[0] == manifest]:
                del times[key]

    def _groups_of(self, manifest: ManifestId) -> tuple[str, ...]:
        """Own groups in which a release is authorised."""
        chain = self._ledger.chain
        records = ((group, chain.state.manifest(manifest, group)) for group in self._own_groups())
        time_ms = chain.head.time_ms
        return tuple(
            group
            for group, record in records
            if record is not None and record.is_authorised(time_ms)
        )

    def running(self) -> frozenset[ManifestId]:
        """Releases that devices run, as far as they said."""
        return frozenset(self._running.values())

    async def load(self) -> None:
        """Takes up what the receipt log holds; before `run`."""
        self.restore(await trio.to_thread.run_sync(self._receipts.newest, RESTORED_MAX))

    async def run(self, submit: Submit) -> None:
        """Reports what changed until cancelled; `submit` signs and submits a transaction body."""
        while True:
            self._changed = trio.Event()
            for manifest in tuple(self._tallies):
                for group in self._groups_of(manifest):
                    await self._report(manifest, group, submit)
                    await self._promote(manifest, group, submit)
            with trio.move_on_after(self._pause_s()):
                await self._changed.wait()

    def _pause_s(self) -> float:
        """Until the first report that waits is due; else until something changes."""
        now = trio.current_time()
        times = (*self._due.values(), *(at for _, at in self._promote_at.values()))
        return min([at - now for at in times if at > now], default=REPORT_S)

    async def _report(self, manifest: ManifestId, group: str, submit: Submit) -> None:
        now = trio.current_time()
        body = self._next_report(manifest, group)
        if body is None:
            return
        known = self._ledger.chain.state.health(manifest, self._own_did, group) or HealthRecord()
        is_first_failure = body.failures > 0 and known.failures == 0
        if now < self._due.get((manifest, group), now) and not (
            is_first_failure and (manifest, group) not in self._alerted
        ):
            return
        if is_first_failure:
            self._alerted[manifest, group] = None
        self._due[manifest, group] = now + REPORT_S
        try:
            await submit(body)
        except SwarmError as error:
            logger.info("health not reported yet: %s", error)
            self._due[manifest, group] = now + RETRY_S

    async def _promote(self, manifest: ManifestId, group: str, submit: Submit) -> None:
        """Points out that an automatic promotion is due, unless somebody else was faster."""
        chain = self._ledger.chain
        rollout, record = (
            chain.state.rollout(manifest, group),
            chain.state.manifest(manifest, group),
        )
        if rollout is None or record is None:
            return
        plan = chain.state.policy(record.policy).rollout
        if plan is None or plan.promotion is not Promotion.AUTOMATIC:
            return
        if not is_promotion_due(rollout, plan, chain.head.time_ms):
            return
        now = trio.current_time()
        moment = int.from_bytes(self._own_did[:4], "big") % PROMOTE_SPREAD_S
        known = self._promote_at.get((manifest, group))
        if known is None or known[0] != rollout.sequence:
            known = self._promote_at[manifest, group] = (rollout.sequence, now + moment)
        if now < known[1]:
            return
        self._promote_at[manifest, group] = (rollout.sequence, now + PROMOTE_SPREAD_S)
        body = CommandRollout(
            manifest=manifest,
            group=group,
            command=Command.PROMOTE,
            priority=0,
            sequence=rollout.sequence,
            approvals=(),
        )
        try:
            await submit(body)
        except SwarmError as error:
            logger.info("promotion not pointed out: %s", error)

    def _next_report(self, manifest: ManifestId, group: str) -> ReportHealth | None:
        """The report that is missing in the ledger, or None."""
        tally = self._tallies[manifest]
        known = self._ledger.chain.state.health(manifest, self._own_did, group) or HealthRecord()
        running = sum(held == manifest for held in self._running.values())
        body = ReportHealth(
            manifest=manifest,
            group=group,
            successes=min(max(known.successes, len(tally.succeeded)), REPORT_COUNT_MAX),
            failures=min(max(known.failures, len(tally.failed)), REPORT_COUNT_MAX),
            devices=min(running, REPORT_COUNT_MAX),
        )
        said = (known.successes, known.failures, known.devices)
        return None if (body.successes, body.failures, body.devices) == said else body

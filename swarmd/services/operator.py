"""What operators may ask a running node over its control socket.

One method for each command of the command line. Owners' keys never come here: approvals arrive
signed. Every refusal is a typed error that the control server turns into one line.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import trio

from chunks.store import ChunkStore
from ledger.offer import UNKNOWN_DEVICE, Device
from protocol.did import did_text
from protocol.digest import Digest, ManifestId
from protocol.encoding import check_range
from protocol.errors import NotYetError, PolicyError
from protocol.relay_statistics import RelayStatistics
from protocol.rollout import DEVICE_ID_BYTES_MAX
from swarmd.authority import Authority
from swarmd.control.params import Params
from swarmd.control.protocol import JSON
from swarmd.control.server import Handler, Report
from swarmd.ledger_host import LedgerHost
from swarmd.limits.desk import TrafficDesk
from swarmd.net.network import Network
from swarmd.peers import PeerRegistry
from swarmd.publisher import Publisher
from swarmd.questions import Denial, Permit, Verdict
from swarmd.services.access_desk import AccessDesk
from swarmd.services.bundle_desk import BundleDesk
from swarmd.services.consensus import ConsensusService
from swarmd.services.copies_desk import CopiesDesk
from swarmd.services.cosigning import Ask, CosigningService
from swarmd.services.decisions import Decisions
from swarmd.services.doorkeeper import Doorkeeper
from swarmd.services.exchange import ExchangeService
from swarmd.services.exchange_ports import ExchangeStatistics
from swarmd.services.identity_desk import IdentityDesk
from swarmd.services.images import HeldManifest, ImageService
from swarmd.services.joining import joining_text
from swarmd.services.keeping_desk import KeepingDesk
from swarmd.services.policy_desk import PolicyDesk
from swarmd.services.proving import ProvingService
from swarmd.services.reach_report import ReachReport
from swarmd.services.receipts import ReceiptService
from swarmd.services.release_desk import ReleaseDesk, known_manifest
from swarmd.services.rollouts import Rollouts
from swarmd.services.sealing_desk import SealingDesk
from swarmd.services.submission import SubmissionService

logger = logging.getLogger(__name__)

WAIT_S_MAX: Final = 7 * 24 * 3600.0
"""Longest `wait`, seconds."""
FINAL_S: Final = 60.0
"""How long a submission waits to become final before it says "not yet", seconds."""
PROGRESS_S: Final = 0.5
"""Pause between two progress reports, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the methods speak to."""

    ledger: LedgerHost
    authority: Authority
    registry: PeerRegistry
    network: Network
    store: ChunkStore
    exchange: ExchangeService
    images: ImageService
    receipts: ReceiptService
    submission: SubmissionService
    consensus: ConsensusService | None
    publisher: Publisher | None
    sealing: SealingDesk
    bundles: BundleDesk
    traffic: TrafficDesk
    """Rates of image traffic, and its switch."""
    keeping: KeepingDesk
    copies: CopiesDesk
    cosigning: CosigningService
    ask: Ask
    """Sends one request to a peer on the ledger stream."""
    doorkeeper: Doorkeeper
    reach: ReachReport
    image_path: Callable[[Digest], Path]
    """Where the complete file of an image is; the reader checks what it reads."""
    about: Callable[[], dict[str, JSON]]
    """Facts about the node itself: name, role, DID, addresses, age of knowledge."""
    stop: Callable[[], None]
    """Begins an orderly stop."""


class Operator:
    """Implements the control methods."""

    def __init__(self, parts: Parts) -> None:
        """Speaks to `parts`."""
        self._parts = parts
        self._proving = ProvingService(parts.ledger, parts.receipts)
        self._rollouts = Rollouts(parts.ledger, parts.submission, self._now_ms, self._own_groups)

    def handlers(self) -> Mapping[str, Handler]:
        """Methods by name."""
        return {
            "status": self._status,
            "images": self._images,
            "peers": self._peers,
            "reach": self._reach,
            "ledger": self._ledger,
            "wait": self._wait,
            "fetch": self._fetch,
            "prove": self._prove,
            "blocks": self._blocks,
            "checkpoint": self._checkpoint,
            "doctor": self._doctor,
            "receipts": self._receipts,
            "stop": self._stop,
            **self._parts.sealing.handlers(),
            **self._parts.bundles.handlers(),
            **self._parts.keeping.handlers(),
            **self._parts.traffic.handlers(),
            **self._parts.copies.handlers(),
            **AccessDesk(self._parts.ledger, self._parts.submission, self._now_ms).handlers(),
            **Decisions(self._parts.ledger, self._parts.submission, self._now_ms).handlers(),
            **self._rollouts.handlers(),
            **IdentityDesk(
                self._parts.ledger, self._parts.submission, self._parts.doorkeeper, self._now_ms
            ).handlers(),
            **PolicyDesk(self._parts.ledger, self._now_ms, self._asked).handlers(),
            **ReleaseDesk(
                self._parts.ledger, self._parts.submission, self._parts.publisher, self._now_ms
            ).handlers(),
        }

    def _asked(self, manifest: ManifestId, device: Device) -> dict[str, Verdict]:
        """What this node itself answers about a manifest now."""
        authority = self._parts.authority
        return {
            "fetch": authority.may_fetch(manifest),
            "offer": authority.may_offer(manifest, device),
        }

    # -- looking -------------------------------------------------------------------------------

    async def _status(self, params: Mapping[str, object], _report: Report) -> JSON:
        Params(params).finish()
        parts = self._parts
        chain = parts.ledger.chain
        network = parts.network.statistics()
        consensus = None if parts.consensus is None else parts.consensus.status
        return {
            **parts.about(),
            "chain": self._parts.ledger.chain_id.hex(),
            "era": chain.head.era,
            "epoch": chain.head.epoch,
            "height": chain.head.height,
            "block": chain.head.block_id.hex(),
            "head_time_ms": chain.head.time_ms,
            "state_root": chain.head.state_root.hex(),
            "alarm": parts.ledger.alarm,
            "pauses": self._rollouts.active_pauses(),
            "peers": asdict(parts.registry.statistics()),
            "reachability": parts.reach.reachability,
            "bytes_in": network.bytes_in,
            "bytes_out": network.bytes_out,
            "images": len(overview := parts.images.overview()),
            "receipts": parts.receipts.size,
            "sealing": parts.sealing.summary(row.manifest for row in overview),
            "keeping": parts.keeping.summary(),
            "traffic": parts.traffic.summary(),
            "store": asdict(parts.store.statistics()),
            "exchange": _exchange_value(parts.exchange.statistics()),
            "relays": [_relay_value(*entry) for entry in parts.exchange.relay_statistics()],
            "mempool": asdict(chain.mempool.statistics()),
            "consensus": (
                None
                if consensus is None
                else {
                    "view": consensus.view,
                    "may_vote": consensus.may_vote,
                    "halted": consensus.halted,
                    "convicted": list(consensus.convicted),
                    "epoch": consensus.epoch,
                    "seat": consensus.seat,
                }
            ),
        }

    async def _images(self, params: Mapping[str, object], _report: Report) -> JSON:
        Params(params).finish()
        describe = self._parts.sealing.describe
        return [_held_value(row, describe(row.manifest)) for row in self._parts.images.overview()]

    async def _peers(self, params: Mapping[str, object], _report: Report) -> JSON:
        Params(params).finish()
        chain = self._parts.ledger.chain_id
        return [
            {
                "peer": peer.key.hex(),
                "did": None if peer.did is None else did_text(chain, peer.did),
                "name": peer.name,
                "class": peer.peer_class.name.lower(),
                "groups": list(peer.groups),
                "height": peer.height,
                "route": self._parts.reach.route_text(peer),
                "place": self._parts.reach.place_text(peer),
                "offences": dict(peer.offences),
            }
            for peer in self._parts.registry
        ]

    async def _reach(self, params: Mapping[str, object], _report: Report) -> JSON:
        Params(params).finish()
        return self._parts.reach.document()

    async def _ledger(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        start = reader.uint("from", minimum=0) if reader.has("from") else None
        reader.finish()
        chain = self._parts.ledger.chain
        first = max(0, chain.head.height - 9) if start is None else start
        headers = await self._parts.ledger.run(
            lambda: [
                header
                for height in range(first, min(first + 100, chain.head.height + 1))
                if (header := chain.header_at(height)) is not None
            ]
        )
        return {
            "height": chain.head.height,
            "blocks": [
                {
                    "height": header.height,
                    "view": header.view,
                    "block": header.block_id.hex(),
                    "time_ms": header.time_ms,
                    "proposer": header.proposer,
                    "log_size": header.log_size,
                    "state_root": header.state_root.hex(),
                }
                for header in headers
            ],
        }

    async def _receipts(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        count = reader.uint("count", minimum=1, maximum=1000) if reader.has("count") else 50
        since_ms = reader.uint("since_ms") if reader.has("since_ms") else 0
        reader.finish()
        entries = await trio.to_thread.run_sync(self._parts.receipts.numbered, count, since_ms)
        return [
            {
                "number": number,
                "kind": entry.kind.name.lower(),
                "time_ms": entry.time_ms,
                "height": entry.height,
                "manifest": entry.manifest.hex(),
                "subject": entry.subject,
                "detail": entry.detail,
            }
            for number, entry in entries
        ]

    async def _doctor(self, params: Mapping[str, object], _report: Report) -> JSON:
        Params(params).finish()
        parts = self._parts
        statistics = parts.registry.statistics()
        age = parts.about().get("knowledge_age_ms")
        checks: list[tuple[str, bool, str]] = [
            ("alarm", parts.ledger.alarm is None, parts.ledger.alarm or "none raised"),
            (
                "peers",
                statistics.members + statistics.validators > 0,
                f"{statistics.validators} validators, {statistics.members} members",
            ),
            ("reach", *parts.reach.check()),
            ("freshness", age is not None, "never confirmed" if age is None else f"{age} ms old"),
        ]
        if parts.consensus is not None:
            status = parts.consensus.status
            checks.append(("voting", status.halted is None, status.halted or "key may vote"))
        if (joining := parts.about().get("joining")) is not None:
            checks.append(("joining", False, joining_text(joining)))
        fault = parts.ledger.chain.version_fault
        checks.append(("version", fault is None, str(fault or "known protocol version")))
        epoch, limit = parts.ledger.chain.validators.epoch, parts.ledger.trust.limit
        trust = f"epoch {epoch}, may follow to {limit}"
        if epoch > limit:
            trust = f"epoch {epoch} rests on old keys alone: a governance checkpoint is needed"
        checks.append(("trust", epoch <= limit, trust))
        set_back = parts.receipts.set_back
        checks.append(("receipts", set_back is None, set_back or "the log goes on"))
        return [{"check": name, "ok": ok, "detail": detail} for name, ok, detail in checks]

    def _own_groups(self) -> tuple[str, ...]:
        groups = self._parts.about()["groups"]
        assert isinstance(groups, list), "about() lists the node's groups"
        return tuple(str(group) for group in groups)

    def _now_ms(self) -> int:
        now = self._parts.about()["ledger_time_ms"]
        assert isinstance(now, int), "about() gives the ledger time"
        return now

    # -- waiting and fetching ------------------------------------------------------------------

    def _is_reached(self, manifest: ManifestId, goal: str) -> bool:
        state = self._parts.ledger.chain.state
        signed = self._parts.ledger.manifests.get(manifest)
        if signed is None:
            return False
        records = [state.manifest(manifest, group) for group in signed.manifest.groups]
        match goal:
            case "authorised":
                return any(record and record.authorised_height is not None for record in records)
            case "revoked":
                return any(record and record.revoked_height is not None for record in records)
            case _:
                rows = self._parts.images.overview()
                return any(row.manifest == manifest and row.is_complete for row in rows)

    async def _wait(self, params: Mapping[str, object], report: Report) -> JSON:
        reader = Params(params)
        manifest = ManifestId(reader.hex_bytes("manifest", size=32))
        goal = reader.choice("for", ("authorised", "complete", "revoked"))
        timeout_s = reader.seconds("timeout_s", maximum=WAIT_S_MAX)
        reader.finish()
        started = trio.current_time()
        with trio.move_on_after(timeout_s):
            await self._until(lambda: self._is_reached(manifest, goal), manifest, report)
            return {
                "manifest": manifest.hex(),
                "for": goal,
                "height": self._parts.ledger.chain.head.height,
                "waited_s": round(trio.current_time() - started, 3),
            }
        raise NotYetError("wait.timeout", f"not {goal} within {timeout_s:g} s")

    async def _until(
        self, reached: Callable[[], bool], manifest: ManifestId, report: Report
    ) -> None:
        while not reached():
            await report(self._progress(manifest))
            with trio.move_on_after(PROGRESS_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_then_cancel, self._parts.ledger.wait_advanced, nursery)
                    nursery.start_soon(_then_cancel, self._parts.images.wait_progress, nursery)

    def _progress(self, manifest: ManifestId) -> dict[str, JSON]:
        for row in self._parts.images.overview():
            if row.manifest == manifest:
                total = sum(size for _, _, size, _, _ in row.components)
                done = sum(size * held // count for _, _, size, held, count in row.components)
                return {"stage": row.standing, "bytes": done, "total": total}
        return {"stage": "unknown", "bytes": 0, "total": 0}

    async def _fetch(self, params: Mapping[str, object], report: Report) -> JSON:
        reader = Params(params)
        manifest = ManifestId(reader.hex_bytes("manifest", size=32))
        wanted = reader.text("component") if reader.has("component") else None
        device = _device(reader.text("device")) if reader.has("device") else UNKNOWN_DEVICE
        as_stored = reader.has("sealed") and reader.boolean("sealed")
        reader.finish()
        content = known_manifest(self._parts.ledger, manifest).manifest
        component = next((item for item in content.components if wanted in (None, item.name)), None)
        if component is None:
            raise PolicyError("component.unknown", f"the manifest has no component {wanted!r}")
        verdict = self._parts.authority.may_offer(manifest, device)
        match verdict:
            case Denial():
                raise verdict.error()
            case Permit(authorised):
                if not self._parts.images.is_complete(authorised):
                    self._parts.images.request(manifest)
                    await self._until(lambda: self._is_fetched(manifest, device), manifest, report)
        if component.sealing is not None and not as_stored:
            return await self._parts.sealing.hand_out(
                component, lambda: self._check_offer(manifest, device)
            )
        self._parts.keeping.note_use(component.digest)
        path = self._parts.image_path(component.digest)
        return {"path": str(path), "sha256": component.digest.hex(), "size": component.size}

    def _check_offer(self, manifest: ManifestId, device: Device) -> None:
        verdict = self._parts.authority.may_offer(manifest, device)
        if isinstance(verdict, Denial):
            raise verdict.error()

    def _is_fetched(self, manifest: ManifestId, device: Device) -> bool:
        self._check_offer(manifest, device)
        return self._is_reached(manifest, "complete")

    async def _prove(self, params: Mapping[str, object], _report: Report) -> JSON:
        return await self._proving.prove(Params(params))

    async def _checkpoint(self, params: Mapping[str, object], _report: Report) -> JSON:
        parts = self._parts
        return await self._proving.checkpoint(Params(params), parts.cosigning, parts.ask)

    async def _blocks(self, params: Mapping[str, object], _report: Report) -> JSON:
        return await self._proving.blocks(Params(params))

    async def _stop(self, params: Mapping[str, object], _report: Report) -> JSON:
        Params(params).finish()
        self._parts.stop()
        return {"stopping": True}


def _device(name: str) -> Device:
    """A device by the id that an operator names, as it would name itself."""
    device_id = name.encode()
    check_range(len(device_id), "device id's length", minimum=1, maximum=DEVICE_ID_BYTES_MAX)
    return Device(device_id=device_id)


async def _then_cancel(wait: Callable[[], Awaitable[None]], nursery: trio.Nursery) -> None:
    await wait()
    nursery.cancel_scope.cancel()


def _exchange_value(done: ExchangeStatistics) -> JSON:
    """Where the bytes of images came from, and what was given."""
    return {
        "fetched_bytes": done.fetched_bytes,
        "reused_bytes": done.reused_bytes,
        "patched_bytes": done.patched_bytes,
        "sent_bytes": done.sent_bytes,
        "packed_chunks": done.packed_chunks,
        "fetches": len(done.fetches),
        "stalls": done.stalls,
        "offences": sum(done.blames.values()),
    }


def _relay_value(manifest_id: ManifestId, told: RelayStatistics) -> JSON:
    """What this node does for the relay of one image, and how that goes."""
    return {
        "manifest": manifest_id.hex(),
        "roles": [role.name.lower() for _, role in told.roles],
        "receivers": told.receivers,
        "owed_bytes": told.owed_bytes,
        "given_units": told.given_units,
        "reinjected_units": told.reinjected_units,
        "skipped_units": told.skipped_units,
        "pushed_bytes": told.pushed_bytes,
        "duplicate_bytes": told.duplicate_bytes,
        "dropped_bytes": told.dropped_bytes,
        "paused_relayers": told.paused_relayers,
        "convicted": told.convicted,
    }


def _held_value(row: HeldManifest, sealed: Mapping[str, str]) -> dict[str, JSON]:
    return {
        "manifest": row.manifest.hex(),
        "product": row.product,
        "version": row.version,
        "sequence": row.sequence,
        "groups": list(row.groups),
        "standing": row.standing,
        "complete": row.is_complete,
        "components": [
            {
                "name": name,
                "sha256": digest.hex(),
                "size": size,
                "have": held,
                "chunks": count,
                "sealed": sealed.get(name),
            }
            for name, digest, size, held, count in row.components
        ],
    }

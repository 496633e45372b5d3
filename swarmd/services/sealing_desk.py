"""Control methods about sealed images: keys, rings, salts, and plain copies handed out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from protocol.did import did_text, parse_did_text
from protocol.digest import DidId, Digest, ManifestId
from protocol.errors import PolicyError, StorageError
from protocol.manifest import Component
from protocol.sealing_ring import (
    RING_FILE_BYTES_MAX,
    RING_MEMBERS_MAX,
    STATEMENT_BYTES_MAX,
    SealingKeyStatement,
)
from swarmd.control.params import Params
from swarmd.datadir import read_bounded
from swarmd.peers import PeerClass, PeerRegistry
from swarmd.ring_making import RingMaker, RingPlan
from swarmd.services.plain import Check, PlainService
from swarmd.services.release_desk import known_manifest
from swarmd.services.sealing import SealingService

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON
    from swarmd.control.server import Handler, Report
    from swarmd.ledger_host import LedgerHost

STATEMENTS_MAX: Final = 1024
"""Statements in one request: 240 bytes each, within a request's megabyte."""
REMOVED_MAX: Final = RING_MEMBERS_MAX
"""Members that one new generation may leave out."""


class SealingDesk:
    """Implements the methods."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        registry: PeerRegistry,
        sealing: SealingService,
        plain: PlainService,
        maker: RingMaker | None,
    ) -> None:
        """Speaks to the parts of a node; `maker` is None unless it is a publisher's."""
        self._ledger = ledger
        self._registry = registry
        self._sealing = sealing
        self._plain = plain
        self._maker = maker

    def handlers(self) -> Mapping[str, Handler]:
        """Methods by name."""
        return {
            "sealing_key": self._key,
            "sealing_ring": self._ring,
            "sealing_rings": self._rings,
            "sealing_import": self._import,
            "sealing_export": self._export,
            "sealing_forget": self._forget,
            "sealing_salts": self._salts,
            "fetch_done": self._fetch_done,
        }

    def summary(self, manifests: Iterable[ManifestId]) -> JSON:
        """What `status` says: rings, how many open, and which of these manifests do not."""
        views = self._sealing.shelf.views()
        closed = [item.hex() for item in manifests if "no key" in self.describe(item).values()]
        return {
            "rings": len(views),
            "open": sum(view.is_open for view in views),
            "no_key": [*closed],
        }

    def describe(self, manifest: ManifestId) -> dict[str, str]:
        """`open` or `no key` for each sealed component of a known manifest, by name."""
        signed = self._ledger.manifests.get(manifest)
        components = () if signed is None else signed.manifest.components
        return {
            component.name: state
            for component in components
            if (state := self._sealing.describe(component)) is not None
        }

    async def hand_out(self, component: Component, check: Check) -> JSON:
        """The answer to `fetch` for a sealed component: an opened copy, until `fetch_done`."""
        copy = await self._plain.hand_out(component, check)
        return {
            "path": str(copy.path),
            "sha256": copy.digest.hex(),
            "size": copy.size_bytes,
            "ticket": copy.ticket,
        }

    # -- keys and rings ------------------------------------------------------------------------

    async def _key(self, params: Mapping[str, object], _report: Report) -> JSON:
        Params(params).finish()
        return {"statement": self._sealing.statement().hex()}

    async def _rings(self, params: Mapping[str, object], _report: Report) -> JSON:
        Params(params).finish()
        return [
            {
                "ring": view.ring.hex(),
                "group": view.group,
                "generation": view.generation,
                "version": view.version,
                "publisher": self._name(view.publisher),
                "members": view.members,
                "state": "open" if view.is_open else "no key",
            }
            for view in self._sealing.shelf.views()
        ]

    def _name(self, did: DidId) -> str:
        record = self._ledger.chain.state.subject(did)
        return did_text(self._ledger.chain_id, did) if record is None else record.name

    async def _ring(self, params: Mapping[str, object], report: Report) -> JSON:
        """Makes the next file of the publisher's ring for a group."""
        if self._maker is None:
            raise PolicyError("node.role", "only a publisher node makes rings")
        reader = Params(params)
        group = reader.text("group")
        raws: tuple[bytes, ...] = ()
        if reader.has("members"):
            raws = reader.hex_list(
                "members", items_max=STATEMENTS_MAX, bytes_max=STATEMENT_BYTES_MAX
            )
        removed = reader.texts("remove", items_max=REMOVED_MAX) if reader.has("remove") else ()
        is_new = reader.has("new_generation") and reader.boolean("new_generation")
        asks = reader.has("reachable") and reader.boolean("reachable")
        reader.finish()
        adds = [self._sealing.verify_statement(raw, group).statement for raw in raws]
        if asks:
            adds += await self._reachable(group, report)
        before = self._sealing.shelf.newest_of(self._maker.did, group)
        key = None
        if before is not None:
            key = self._sealing.shelf.content_key(before.file.ring(self._ledger.chain_id))
        plan = RingPlan(
            group=group,
            adds=tuple(adds),
            removes=tuple(self._member(text) for text in removed),
            is_new=is_new,
        )
        made = await trio.to_thread.run_sync(
            lambda maker: maker.make(plan, before, key, era=self._ledger.chain.head.era),
            self._maker,
        )
        await self._sealing.take(made.signed.raw)
        file = made.file
        return {
            "ring": file.ring(self._ledger.chain_id).hex(),
            "group": group,
            "generation": file.generation,
            "version": file.version,
            "members": [self._name(member.did) for member in file.members],
        }

    async def _reachable(self, group: str, report: Report) -> list[SealingKeyStatement]:
        """Statements of the group's members that are connected now."""
        found: list[SealingKeyStatement] = []
        peers = self._registry.at_least(PeerClass.MEMBER)
        for number, peer in enumerate(peers):
            await report({"stage": "asking members", "bytes": number, "total": len(peers)})
            raw = await self._sealing.ask_statement(peer, group)
            if raw is not None:
                found.append(self._sealing.verify_statement(raw, group).statement)
        return found

    def _member(self, text: str) -> DidId:
        return parse_did_text(text, self._ledger.chain_id)

    async def _import(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        path = Path(reader.path("path"))
        reader.finish()

        def read() -> bytes:
            if not path.is_file():  # a pipe would hold the thread for ever
                raise StorageError(f"{path} is no regular file")
            return read_bounded(path, bytes_max=RING_FILE_BYTES_MAX)

        signed, is_new = await self._sealing.take(await trio.to_thread.run_sync(read))
        ring = signed.file.ring(self._ledger.chain_id)
        return {
            "ring": ring.hex(),
            "group": signed.file.group,
            "generation": signed.file.generation,
            "version": signed.file.version,
            "new": is_new,
            "state": "no key" if self._sealing.shelf.content_key(ring) is None else "open",
        }

    async def _export(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        ring = Digest(reader.hex_bytes("ring", size=32))
        reader.finish()
        held = self._sealing.shelf.get(ring)
        if held is None:
            raise PolicyError("sealing.ring", f"no ring {ring.hex()[:8]} here")
        return {
            "path": str(self._sealing.shelf.path_of(ring)),
            "sha256": held.digest.hex(),
            "size": len(held.signed.raw),
        }

    async def _forget(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        ring = Digest(reader.hex_bytes("ring", size=32))
        reader.finish()
        await self._sealing.forget(ring)
        return {"ring": ring.hex()}

    async def _salts(self, params: Mapping[str, object], _report: Report) -> JSON:
        """The salts of a manifest's sealed components that this node can open."""
        reader = Params(params)
        manifest = ManifestId(reader.hex_bytes("manifest", size=32))
        reader.finish()
        salts: dict[str, JSON] = {}
        for component in known_manifest(self._ledger, manifest).manifest.components:
            key = self._sealing.content_key(component)
            if component.sealing is not None and key is not None:
                salts[component.name] = key.salt(component.sealing).hex()
        return {"manifest": manifest.hex(), "salts": salts}

    async def _fetch_done(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        ticket = reader.text("ticket")
        reader.finish()
        await self._plain.take_back(ticket)
        return {"done": True}

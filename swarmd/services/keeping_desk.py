"""Control methods about what a node keeps: pins, and collection with its reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from protocol.digest import Digest, ManifestId
from swarmd.control.params import Params
from swarmd.services.keeping import KeepingService, KeptImage
from swarmd.services.release_desk import known_manifest
from swarmd.services.scrub import ScrubStatistics

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON
    from swarmd.control.server import Handler, Report
    from swarmd.ledger_host import LedgerHost

ROOM_BYTES_MAX: Final = 1 << 50
"""Most room that one request may ask for, as the quota's own bound."""


class KeepingDesk:
    """Implements the methods."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        keeping: KeepingService,
        scrub: Callable[[], ScrubStatistics],
    ) -> None:
        """Speaks to the parts of a node; `scrub` tells how re-reading goes."""
        self._ledger = ledger
        self._keeping = keeping
        self._scrub = scrub

    def handlers(self) -> Mapping[str, Handler]:
        """Methods by name."""
        return {
            "pin": self._pin,
            "unpin": self._unpin,
            "pins": self._pins,
            "collect": self._collect,
        }

    def summary(self) -> JSON:
        """What `status` says."""
        return {**asdict(self._keeping.statistics()), "scrub": asdict(self._scrub())}

    def note_use(self, image: Digest) -> None:
        """Notes that an image is being handed to an operator."""
        self._keeping.note_use(image)

    async def _pin(self, params: Mapping[str, object], _report: Report) -> JSON:
        manifest = self._manifest(params)
        known_manifest(self._ledger, manifest)
        add = partial(self._keeping.pins.add, manifest)
        return {"manifest": manifest.hex(), "changed": await trio.to_thread.run_sync(add)}

    async def _unpin(self, params: Mapping[str, object], _report: Report) -> JSON:
        manifest = self._manifest(params)
        remove = partial(self._keeping.pins.remove, manifest)
        return {"manifest": manifest.hex(), "changed": await trio.to_thread.run_sync(remove)}

    @staticmethod
    def _manifest(params: Mapping[str, object]) -> ManifestId:
        reader = Params(params)
        manifest = ManifestId(reader.hex_bytes("manifest", size=32))
        reader.finish()
        return manifest

    async def _pins(self, params: Mapping[str, object], _report: Report) -> JSON:
        Params(params).finish()
        return [self._pin_value(manifest) for manifest in self._keeping.pins]

    def _pin_value(self, manifest: ManifestId) -> JSON:
        signed = self._ledger.manifests.get(manifest)
        return {
            "manifest": manifest.hex(),
            "product": None if signed is None else signed.manifest.product,
            "version": None if signed is None else signed.manifest.version,
        }

    async def _collect(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        is_dry = reader.boolean("dry_run") if reader.has("dry_run") else False
        room = reader.uint("room_bytes", maximum=ROOM_BYTES_MAX) if reader.has("room_bytes") else 0
        reader.finish()
        kept = await self._keeping.collect(more_bytes=room, is_dry=is_dry)
        return [_kept_value(one) for one in kept]


def _kept_value(kept: KeptImage) -> JSON:
    verdict = kept.verdict
    return {
        "image": verdict.image.hex(),
        "releases": list(kept.names),
        "size": verdict.size_bytes,
        "goes": verdict.goes,
        "deleted": kept.is_gone,
        "reason": verdict.reason.value,
    }

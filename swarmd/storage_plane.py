"""What a node does about its disk, wired together: what is kept, pins, re-reading, control methods.

`DataPlane` makes one. The image service asks it for room before it fetches, and what devices run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from ledger.offer import UNKNOWN_DEVICE, Device
from protocol.authorised import AuthorisedManifest
from protocol.digest import Digest, ManifestId
from swarmd.pins import PINS_NAME, Pins
from swarmd.questions import Denial
from swarmd.services.exchange import ExchangeService
from swarmd.services.health import HealthService
from swarmd.services.images import ImageService
from swarmd.services.keeping import KeepingService
from swarmd.services.keeping_desk import KeepingDesk
from swarmd.services.scrub import SCRUB_NAME, ScrubService

if TYPE_CHECKING:
    from swarmd.data_plane import Foundation


class StoragePlane:
    """See the module's docstring."""

    def __init__(
        self, base: Foundation, *, exchange: ExchangeService, health: HealthService
    ) -> None:
        """Wires the services; nothing runs before `start`.

        Args:
            base: what the data plane stands on.
            exchange: serves and fetches chunks.
            health: what devices run.

        Raises:
            StorageError: the file of pins cannot be read.
        """
        self._base = base
        self._exchange = exchange
        self._health = health
        self.images: Final = ImageService(
            ledger=base.ledger,
            authority=base.authority,
            store=base.store,
            exchange=exchange,
            receipts=base.receipts,
            fetches=base.fetches,
            keeping=self,
        )
        """What is wanted, held, promoted and given up."""
        self.keeping: Final = KeepingService(
            ledger=base.ledger,
            store=base.store,
            exchange=exchange,
            images=self.images,
            receipts=base.receipts,
            pins=Pins(base.data.path / PINS_NAME),
            groups=lambda: base.authority.fetching_groups,
            running=health.running,
            keep=base.config.storage.keep_releases,
        )
        """What stays and what goes."""
        self.scrub: Final = ScrubService(
            store=base.store,
            receipts=base.receipts,
            path=base.data.path / SCRUB_NAME,
            days=base.config.storage.scrub_days,
            bytes_per_s_max=base.config.storage.scrub_bytes_per_s,
            exchanged_bytes=self._exchanged_bytes,
            on_rot=self._on_rot,
            run_blocking=trio.to_thread.run_sync,
        )
        """Reads everything again."""
        self.desk: Final = KeepingDesk(
            ledger=base.ledger, keeping=self.keeping, scrub=self.scrub.statistics
        )
        """Control methods."""

    def start(self, nursery: trio.Nursery) -> None:
        """Starts the services; what devices run is known by now."""
        nursery.start_soon(self.images.run)
        nursery.start_soon(self.keeping.run)
        nursery.start_soon(self.scrub.run)

    def _exchanged_bytes(self) -> int:
        statistics = self._exchange.statistics()
        return statistics.fetched_bytes + statistics.sent_bytes

    def _on_rot(self, image: Digest, indices: Sequence[int]) -> bytes:
        """Has chunks repaired; an image that nothing serves is looked at anew."""
        manifest = self._exchange.lost_chunks(image, indices)
        if manifest is None:
            self.images.wake()
        return manifest or b""

    def permit_for_digest(
        self, digest: Digest, device: Device = UNKNOWN_DEVICE
    ) -> AuthorisedManifest | Denial:
        """The image service's answer; what a device is given stays while it is read."""
        answer = self.images.permit_for_digest(digest, device)
        if not isinstance(answer, Denial):
            self.keeping.note_use(digest)
        return answer

    # What the image service asks ------------------------------------------------------------------

    async def make_room(self, more_bytes: int, more_files: int = 1) -> None:
        """Deletes what may go until so much more fits; see `KeepingService.make_room`."""
        await self.keeping.make_room(more_bytes, more_files)

    def is_run(self, image: Digest) -> bool:
        """Whether a device behind this node runs an image."""
        running: frozenset[ManifestId] = self._health.running()
        return any(manifest in running for manifest in self._base.ledger.manifests_of(image))

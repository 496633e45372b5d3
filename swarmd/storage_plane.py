"""What a node does about its disk, wired together: what is kept, pins, re-reading, control methods.

`DataPlane` makes one. The image service asks it for room before it fetches, and what devices run.
"""

from __future__ import annotations

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
        self.desk: Final = KeepingDesk(ledger=base.ledger, keeping=self.keeping)
        """Control methods."""

    def start(self, nursery: trio.Nursery) -> None:
        """Starts the services; what devices run is known by now."""
        nursery.start_soon(self.images.run)
        nursery.start_soon(self.keeping.run)

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

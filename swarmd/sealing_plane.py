"""What a node has to do with sealed images, wired together: rings, opening, control methods."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ledger.chain_blocks import CommitResult
from protocol.sealing_messages import ANSWER_BYTES_MAX
from protocol.version import ProtocolName, protocol_id
from swarmd.net.address import PeerKey
from swarmd.net.network import Stream
from swarmd.ring_making import RingMaker
from swarmd.sealing_rings import RingShelf
from swarmd.services.plain import PlainService
from swarmd.services.sealing import SealingService
from swarmd.services.sealing_desk import SealingDesk

if TYPE_CHECKING:
    from swarmd.data_plane import Foundation

STREAM_S: Final = 120.0
"""Seconds after which an inbound stream is reset: a few full rings on a thin link."""
FRAME_BYTES_MAX: Final = ANSWER_BYTES_MAX
"""Longest frame: a full ring file."""


class SealingPlane:
    """See the module's docstring."""

    def __init__(self, base: Foundation) -> None:
        """Wires the services; nothing runs before `start`.

        Raises:
            StorageError: the folder of rings cannot be used.
        """
        self._base = base
        identity = base.identity
        self._protocol = protocol_id(base.ledger.chain_id, ProtocolName.SEALING)
        self.service: Final = SealingService(
            ledger=base.ledger,
            authority=base.authority,
            registry=base.registry,
            shelf=RingShelf(
                base.data.path, base.ledger.chain_id, identity.did, identity.sealing_key
            ),
            own=(identity.did, identity.node_key, identity.sealing_key.public),
            own_groups=base.own_groups,
            open_stream=self._open_stream,
        )
        """Rings and keys."""
        self.plain: Final = PlainService(
            data=base.data.path,
            store=base.store,
            ledger=base.ledger,
            content_key=self.service.content_key,
            quota_bytes=base.config.storage.quota_bytes,
        )
        """Opened images."""
        self.service.listen(self.plain.wake)
        maker = None
        if identity.person_key is not None:
            maker = RingMaker(
                chain=base.ledger.chain_id,
                did=identity.did,
                person_key=identity.person_key,
                own=identity.sealing_key.public,
                entropy=base.entropy,
            )
        self.desk: Final = SealingDesk(
            ledger=base.ledger,
            registry=base.registry,
            sealing=self.service,
            plain=self.plain,
            maker=maker,
        )
        """Control methods."""

    def serve_protocols(self) -> None:
        """Answers peers from now on."""
        self._base.network.handle(
            self._protocol,
            self.service.answer,
            streams_per_peer_max=1,
            deadline_s=STREAM_S,
            frame_bytes_max=FRAME_BYTES_MAX,
        )

    def start(self, nursery: trio.Nursery) -> None:
        """Starts the services."""
        nursery.start_soon(self.service.run)
        nursery.start_soon(partial(self.plain.run, serve_plain=self._base.config.http.serve_plain))

    def on_commit(self, result: CommitResult) -> None:
        """Looks for rings that new manifests need."""
        self.service.on_commit(result)
        self.plain.wake()

    async def _open_stream(self, peer: PeerKey) -> Stream:
        return await self._base.network.open_stream(
            peer, self._protocol, frame_bytes_max=FRAME_BYTES_MAX
        )

"""A node of a crowd of thousands: the production machines, with the costs of one process left out.

Other than in `TransferHost`:

- All nodes hold one copy of the content, so whether a chunk matches is asked of the object itself:
  the release's own bytes match, and only other bytes are hashed.
- Reading takes no time; verifying is a part of a frame's way (`FrameNetwork`).
- Frequent messages are not encoded to learn their size; it is known, to some bytes.
- Machines are asked for their deadline once a tick, not after every event: timers run late by up to
  a tick, which is to be short beside what they wait for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from protocol.digest import ManifestId
from protocol.exchange_events import (
    Acquired,
    ChunkRefused,
    ChunksRead,
    ChunksStored,
    DownloadInput,
    PeerMessage,
    ReadChunks,
    ReadPage,
    Send,
    UploadEffect,
    UploadInput,
    WriteChunks,
)
from protocol.exchange_messages import Chunks, Have, Request
from protocol.relay_events import RelaySettings
from protocol.relay_messages import News, Push
from protocol.runs import Runs
from protocol.upload import ServedManifest, Upload
from swarmd.simulation.exchange_host import SimulatedRelease, peer_id
from swarmd.simulation.frame_links import FrameNetwork
from swarmd.simulation.links import FrameLeft, NodeLink
from swarmd.simulation.transfer_host import (
    URGENT_BYTES_MAX,
    Disk,
    TransferHost,
    is_due,
    upload_bytes,
)
from swarmd.simulation.transfer_part import ImagePart
from swarmd.simulation.transfer_relay import GateInput, WireMessage
from swarmd.simulation.world import World

TICK_S: Final = 0.02
"""How late a timer may be, seconds: the shortest that machines set is 50 ms."""
_FRAME_HEAD_BYTES: Final = 4 + 16
"""Length, kind, and the head of a frame of chunks, about."""
_ENTRY_BYTES: Final = 8
"""What each chunk of a frame takes beside its bytes."""
_CONTROL_BYTES: Final = 52
"""A message about chunks without its runs: manifest id, kind, numbers."""
_RUN_BYTES: Final = 5
"""A run of chunks in such a message."""


class CrowdPart(ImagePart):
    """What a node holds of an image whose bytes all nodes share."""

    def read(self, effect: ReadChunks) -> ChunksRead:
        """Reads chunks for an upload: nearly always one that is held."""
        pairs = effect.indices.pairs
        first, count = pairs[0]
        held = self.served.possession[effect.component].bits >> first
        chunks = self.release.components[effect.component]
        if not held & 1 or (effect.bytes_max >= 2 * len(chunks[first]) and len(effect.indices) > 1):
            return super().read(effect)
        data = chunks[first]
        return ChunksRead(
            request_id=effect.request_id,
            found=effect.indices if count == len(effect.indices) == 1 else Runs.run(first, 1),
            lengths=(len(data),),
            payload=(data,),
        )

    def write(self, effect: WriteChunks) -> list[ChunksStored | ChunkRefused]:
        """Stores chunks: those that are the release's own need no look at each other."""
        component, indices = effect.component, effect.indices
        chunks = self.release.components[component]
        if len(indices) == 1 and effect.payload[0] is chunks[indices.first]:
            self.gain(component, indices.first, effect.lengths[0])
            return [ChunksStored(component=component, indices=indices)]
        if len(effect.payload) != len(indices) or not all(
            data is chunks[index] for index, data in zip(indices, effect.payload, strict=True)
        ):
            return super().write(effect)
        for index, size_bytes in zip(indices, effect.lengths, strict=True):
            self.gain(component, index, size_bytes)
        return [ChunksStored(component=component, indices=indices)]

    def store(self, component: int, index: int, data: bytes | memoryview) -> bool:
        """Checks a chunk, and keeps it if it matches: see the module's docstring."""
        own = self.release.components[component][index]
        whole = data.obj if isinstance(data, memoryview) else data
        if whole is not own or len(data) != len(own):
            return super().store(component, index, data)
        self.gain(component, index, len(data))
        return True


class _Tick:
    """The machines' deadlines are to be looked at."""


_TICK: Final = _Tick()


class _Shelf(dict[ManifestId, ServedManifest]):
    """What a node serves, as the library of its uploads: asked at every message."""

    find = dict.get


def _anybody(_: ManifestId) -> bool:
    return True


class CrowdHost(TransferHost):
    """See the module's docstring."""

    part_kind = CrowdPart
    is_timed = False

    def __init__(
        self,
        world: World,
        network: FrameNetwork,
        link: NodeLink,
        *,
        disk: Disk | None = None,
        relays: RelaySettings | None = None,
        tick_s: float = TICK_S,
    ) -> None:
        """Makes a node without images; see `TransferHost`.

        Args:
            world: where it lives.
            network: how messages travel.
            link: how the node is attached.
            disk: how long verifying and storing take.
            relays: what it says of itself to relays; None: it only pulls.
            tick_s: how late a timer may be, seconds.
        """
        self._tick_s = tick_s
        self._tick_at = math.inf
        self._shelf = _Shelf()
        self._frames = network
        self._is_relaying = relays is not None
        super().__init__(world, network, link, disk=disk, relays=relays)

    def add_image(
        self,
        release: SimulatedRelease,
        *,
        held: Sequence[Iterable[int]] | None = None,
        wants: bool = True,
        knows_recipe: bool = True,
        priority: int = 0,
    ) -> ImagePart:
        """Begins to serve, and perhaps to fetch, an image; see `TransferHost.add_image`."""
        part = super().add_image(
            release, held=held, wants=wants, knows_recipe=knows_recipe, priority=priority
        )
        self._shelf[release.manifest_id] = part.served
        return part

    def receive(self, source: int, message: object, now: float) -> None:
        """Takes a message, or the end of a stream (None)."""
        super().receive(source, message, now)
        if now + self._tick_s < self._tick_at:
            self._post_tick(now + self._tick_s)

    def _dispatch(self, source: int, message: object) -> None:
        if self._is_relaying:
            super()._dispatch(source, message)
        elif type(message) is Chunks:
            self._answered(source, message)
        elif type(message) is Have:
            part = self._parts.get(message.manifest_id)
            if part is not None:
                self.feed(part, PeerMessage(peer=peer_id(source), message=message))
        elif type(message) is Request:
            self._feed_upload(source, PeerMessage(peer=peer_id(source), message=message))
        else:
            super()._dispatch(source, message)

    def handle(self, event: object, now: float) -> None:
        """Takes the end of an own operation, or a tick."""
        if type(event) is FrameLeft and not self.is_gone:
            self._left(event.target, event.token)  # of no concern to any timer
            return
        if isinstance(event, _Tick):
            self._on_tick(now)
            return
        super().handle(event, now)
        if now + self._tick_s < self._tick_at:
            self._post_tick(now + self._tick_s)

    def connect(self, peer: int) -> None:
        """Opens this side of a stream; everybody may be served everything."""
        self._uploads[peer] = Upload(
            peer=peer_id(peer), library=self._shelf, may_serve=_anybody, turns=self._turns
        )
        for part in self.parts:
            self._join(part, peer)

    def _post_tick(self, at: float) -> None:
        self._tick_at = at
        self._world.post(self.number, at - self._world.now, _TICK)

    def _on_tick(self, now: float) -> None:
        """Wakes the machines whose time has come, and looks when the next one's will."""
        if now < self._tick_at:
            return  # an earlier one was posted since
        self._tick_at = math.inf
        if is_due(self.deadline, now):
            self.wake(now)
        deadline = self.deadline
        if deadline is not None:
            self._post_tick(max(deadline, now + self._tick_s))

    def _feed_upload(self, peer: int, event: UploadInput) -> None:
        for effect in self._effects_of(peer, event):
            self._execute_upload(peer, effect)
        if self._turns.has_waiting:
            self.serve_turns()

    def _effects_of(self, peer: int, event: UploadInput) -> list[UploadEffect]:
        return self._uploads[peer].handle(event, self._world.now)

    def _execute_upload(self, peer: int, effect: UploadEffect) -> None:
        """Executes what an upload wants; reading takes no time."""
        if type(effect) is Send:
            message = effect.message
            if type(message) is Chunks:
                self._send_chunks(peer, message, effect.served)
            else:
                self.transmit(peer, message, upload_bytes(message) or None)
        elif type(effect) is ReadChunks:
            self._feed_upload(peer, self._parts[effect.manifest_id].read(effect))
        else:
            assert isinstance(effect, ReadPage)
            self._feed_upload(peer, self._parts[effect.manifest_id].read_page(effect))

    def _send_chunks(self, peer: int, message: Chunks, served: ManifestId | None) -> None:
        payload_bytes = message.payload_bytes
        if served is not None:
            self._parts[served].figures.sent_bytes += payload_bytes
        size_bytes = _FRAME_HEAD_BYTES + _ENTRY_BYTES * len(message.lengths) + payload_bytes
        self._network.send(
            self.number, peer, message, size_bytes=size_bytes, token=payload_bytes or None
        )

    def _tell_news(self) -> None:
        """Tells all at once, where all are told the same."""
        self._is_news_due = False
        for part in self._lanes:
            for component, indices in part.take_news():
                news = Acquired(
                    manifest_id=part.release.manifest_id, component=component, indices=indices
                )
                self._tell(part, news)

    def _tell(self, part: ImagePart, news: Acquired) -> None:
        told: dict[int, tuple[Have, list[int]]] = {id(have): (have, []) for have in news.messages}
        for peer in tuple(self._uploads):
            if part.relay is not None and self._is_told_by_relay(part, peer):
                continue
            for effect in self._effects_of(peer, news):
                if type(effect) is Send and id(effect.message) in told:
                    told[id(effect.message)][1].append(peer)
                else:
                    self._execute_upload(peer, effect)
        for have, peers in told.values():
            self._frames.tell(self.number, peers, have, size_bytes=self.size_of(have))

    def feed(self, part: ImagePart, event: DownloadInput | GateInput) -> None:
        """Feeds the download of an image."""
        self._is_deadline_known = False
        if part.download is not None:
            for effect in part.download.handle(event, self._world.now):
                if type(effect) is Send:
                    self.transmit(int.from_bytes(effect.peer, "big"), effect.message)
                elif type(effect) is WriteChunks:
                    self._write(part, effect)  # its way took the time that verifying takes
                else:
                    self._execute(part, effect)

    def later(self, event: object) -> None:
        """What came is verified: its way took so much longer."""
        self.handle(event, self._world.now)

    def transmit(self, target: int, message: WireMessage, token: object = None) -> None:
        """Gives a message to the link: everybody here is honest."""
        kind = type(message)
        size = self.size_of(message)
        is_urgent = size <= URGENT_BYTES_MAX and kind is not Chunks and kind is not Push
        self._network.send(
            self.number, target, message, size_bytes=size, is_urgent=is_urgent, token=token
        )

    def size_of(self, message: WireMessage) -> int:
        """What a message takes on the stream."""
        if isinstance(message, Chunks):
            count = len(message.lengths)
            return _FRAME_HEAD_BYTES + _ENTRY_BYTES * count + message.payload_bytes
        if isinstance(message, Push):
            size = sum(len(chunk.data) for chunk in message.chunks)
            return 2 * _FRAME_HEAD_BYTES + _ENTRY_BYTES * len(message.chunks) + size
        if isinstance(message, (Have, Request)):
            return _CONTROL_BYTES + _RUN_BYTES * len(message.indices.pairs)
        if isinstance(message, News):
            return _CONTROL_BYTES + _RUN_BYTES * len(message.runs)
        return super().size_of(message)


def make_shared_release(image_bytes: int, unit_bytes: int) -> SimulatedRelease:
    """A release of equal units that all share one piece of memory; only the last may be shorter."""
    unit = bytes(unit_bytes)
    whole, rest = divmod(image_bytes, unit_bytes)
    chunks: Sequence[bytes] = [unit] * whole + ([bytes(rest)] if rest else [])
    return SimulatedRelease.of([chunks])

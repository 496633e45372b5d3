"""One exchange stream to one peer: reads frames promptly, sends in order, serves the peer.

Reading never waits for the disk or for sending: a muxer may reset a stream whose reader stalls for
five seconds. What a peer can make this node hold is bounded elsewhere: chunks by the requests that
asked for them, answers by the upload's limits and by `QUEUE_BYTES_MAX` here.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import trio

from protocol.digest import ManifestId
from protocol.errors import RemoteProtocolError, TransportError
from protocol.exchange_events import (
    ChunksRead,
    ExchangeOffenceError,
    Flushed,
    Offence,
    PageRead,
    PeerId,
    PeerMessage,
    ReadChunks,
    ReadPage,
    Send,
    UploadInput,
)
from protocol.exchange_messages import (
    BitfieldMessage,
    Cancel,
    Chunks,
    ExchangeMessage,
    Interest,
    NotInterested,
    RecipePageMessage,
    RecipeRequest,
    Request,
    decode_exchange,
    encode_exchange_parts,
)
from protocol.limits import MIB
from protocol.relay_messages import RelayMessage, decode_relay, is_relay_kind
from protocol.upload import Upload, refusal_of
from swarmd.net.uplink_window import PathState
from swarmd.services.exchange_effort import Effort
from swarmd.services.exchange_packing import SendMeter
from swarmd.services.exchange_ports import MeasuredStream, StreamLike
from swarmd.services.exchange_relay_frames import RelayFrame, RelayOutbox

logger = logging.getLogger(__name__)

QUEUE_BYTES_MAX: Final = 4 * MIB
"""Answers other than chunks that may wait for a peer (bitfields of 64 components of 2^18 chunks are
2 MiB); who asks for more without reading is disconnected."""
SEND_TIMEOUT_S: Final = 60.0
"""A frame that a peer does not take within this time ends the stream; 1.25 MiB at 21 KB/s."""
WITHDRAWAL_GRACE_S: Final = 0.5
"""How long a frame under way may still take after its manifest was withdrawn, before the stream is
reset: leaves half of the second within which serving must stop."""
_ENTRY_BYTES: Final = 512
"""What a queued message counts besides its payload: about the memory of its objects."""


class LinkOwner(Protocol):
    """The service, as a link sees it."""

    async def read_chunks(self, effect: ReadChunks, meter: SendMeter) -> ChunksRead:
        """Reads chunks in a worker thread, packed unless the peer's link is fast."""
        ...

    async def read_page(self, effect: ReadPage) -> PageRead:
        """Reads a recipe page in a worker thread."""
        ...

    def take_answer(self, peer: PeerId, message: ExchangeMessage) -> None:
        """Takes a message that concerns a download.

        Raises:
            ExchangeOffenceError: the peer broke the protocol.
        """
        ...

    def take_relayed(self, peer: PeerId, message: RelayMessage) -> None:
        """Takes a message that concerns a relay.

        Raises:
            ExchangeOffenceError: the peer broke the protocol.
        """
        ...

    def note_request(self, peer: PeerId, message: Request) -> None:
        """Notes that the peer asked for chunks, which its upload answers."""
        ...

    def serve_turns(self) -> None:
        """Has the peers served for whose turn has come."""
        ...

    def may_serve(self, peer: PeerId, manifest_id: ManifestId) -> bool:
        """Whether the peer may be served the manifest now."""
        ...

    def may_relay(self, peer: PeerId, manifest_id: ManifestId) -> bool:
        """Whether the peer may take part in the manifest's relay now."""
        ...

    def held_back_s(self, peer: PeerId, size_bytes: int) -> float:
        """How long this node's own rates may hold a frame back, seconds."""
        ...

    def now(self) -> float:
        """Seconds, monotonic."""
        ...


class PeerLink:
    """See the module's docstring."""

    def __init__(
        self, stream: StreamLike, *, is_ours: bool, upload: Upload, owner: LinkOwner
    ) -> None:
        """Wraps a stream; `is_ours` tells whether this node opened it."""
        self.peer: Final = stream.peer
        """Who is at the other end."""
        self.is_ours: Final = is_ours
        """Whether this node opened the stream."""
        self.upload: Final = upload
        """The serving side."""
        self.offence: ExchangeOffenceError | None = None
        """Why the link ended, if the peer broke the protocol."""
        self._stream = stream
        self._measured = stream if isinstance(stream, MeasuredStream) else None
        self._meter = SendMeter()
        self._effort = Effort()
        self._owner = owner
        self._queue: deque[Send] = deque()
        self._relayed = RelayOutbox()
        self._queue_bytes = 0
        self._queued = trio.Event()
        self._sending: ManifestId | None = None
        self._sending_number = 0
        self._patience = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._is_closed = False

    @property
    def meter(self) -> SendMeter:
        """How fast the peer takes chunks."""
        return self._meter

    def path(self) -> PathState | None:
        """What the system knows of the connection; None where it does not tell."""
        return None if self._measured is None else self._measured.path()

    def pace(self, bytes_per_s: int | None) -> None:
        """Has the connection spread what it sends over time, where it can; None: no limit."""
        if self._measured is not None:
            self._measured.pace(bytes_per_s)

    @property
    def is_closed(self) -> bool:
        """Whether the link has ended or is about to."""
        return self._is_closed

    async def run(self) -> None:
        """Works until the stream ends or `close` is called; then the stream is reset."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self._is_closed:
                    nursery.cancel_scope.cancel()
                nursery.start_soon(self._send_queued)
                try:
                    await self._receive()
                finally:
                    # Turns come at any time: no read may begin in a nursery that is closing.
                    self._is_closed = True
                nursery.cancel_scope.cancel()
        finally:
            self._is_closed = True
            with trio.CancelScope(shield=True):
                await self._stream.reset()

    def close(self, offence: ExchangeOffenceError | None = None) -> None:
        """Ends the link, now."""
        self.offence = self.offence or offence
        self._is_closed = True
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    # Sending -------------------------------------------------------------------------------------

    def send(self, effect: Send) -> None:
        """Queues a message. A peer that lets too much pile up is disconnected."""
        if self._is_closed:
            return
        self._queue.append(effect)
        self._queue_bytes += _answer_bytes(effect.message)
        self._queued.set()
        if self._queue_bytes > QUEUE_BYTES_MAX:
            # Where this node's own rates hold the answers back, the peer could not read them.
            is_held_back = self._owner.held_back_s(self.peer, self._queue_bytes) > 0
            what = "asks for more than it reads"
            self.close(None if is_held_back else ExchangeOffenceError(Offence.MALFORMED, what))

    def send_relayed(self, frame: RelayFrame) -> None:
        """Queues a relay frame; control messages go before all else."""
        if not self._is_closed:
            self._relayed.put(frame)
            self._queued.set()

    async def _send_queued(self) -> None:
        try:
            # One scope for all frames, whose deadline moves: one each costs more than sealing it.
            with trio.CancelScope() as self._patience:
                while True:
                    while await self._send_next():
                        pass
                    self._queued = trio.Event()
                    await self._queued.wait()
            raise TransportError("the peer took a frame too slowly")
        except TransportError as error:
            logger.debug("exchange stream to %s: %s", self.peer[:4].hex(), error)
            self.close()

    async def _send_next(self) -> bool:
        """Sends what is next: control messages of relays, answers, pushes; False: nothing waits.

        Answers and pushes take turns, since a push follows only when the last one left.
        """
        if (frame := self._relayed.take_control()) is not None:
            await self._send_relayed(frame)
        elif self._queue:
            effect = self._queue.popleft()
            self._queue_bytes -= _answer_bytes(effect.message)
            await self._send_one(effect)
            if (push := self._relayed.take_push()) is not None:
                await self._send_relayed(push)
        elif (push := self._relayed.take_push()) is not None:
            await self._send_relayed(push)
        else:
            return False
        return True

    async def _send_relayed(self, frame: RelayFrame) -> None:
        # Asked once more: the queue may be older than a revocation.
        if self._owner.may_relay(self.peer, frame.manifest_id):
            await self._send_parts(frame.parts, frame.manifest_id)
            if frame.on_left is not None:
                self._meter.note(frame.size_bytes, self._owner.now())
        if frame.on_left is not None:
            frame.on_left()

    async def _send_parts(
        self, parts: Sequence[bytes | memoryview], served: ManifestId | None
    ) -> None:
        self._sending, self._sending_number = served, self._sending_number + 1
        size_bytes = sum(len(part) for part in parts)
        timeout_s = SEND_TIMEOUT_S + self._owner.held_back_s(self.peer, size_bytes)
        self._patience.deadline = trio.current_time() + timeout_s
        await self._stream.send_frame(parts)
        self._patience.deadline = math.inf
        self._sending = None

    async def _send_one(self, effect: Send) -> None:
        message: ExchangeMessage | None = effect.message
        served = effect.served
        # Asked once more: the queue may be older than a revocation.
        if served is not None and not self._owner.may_serve(self.peer, served):
            message, served = refusal_of(effect.message), None
        if message is not None:
            await self._send_parts(encode_exchange_parts(message), served)
        if (payload_bytes := _payload_bytes(effect.message)) > 0:
            self._meter.note(payload_bytes, self._owner.now())
            self.feed(Flushed(payload_bytes=payload_bytes))

    # Receiving -----------------------------------------------------------------------------------

    async def _receive(self) -> None:
        try:
            while (body := await self._stream.receive_frame()) is not None:
                begun_at = self._owner.now()
                if body and is_relay_kind(body[0]):
                    self._dispatch_relayed(decode_relay(body))
                else:
                    self._dispatch(decode_exchange(body))
                # A stream that has frames ready returns without yielding; others must run too.
                now = self._owner.now()
                await trio.sleep(self._effort.pause_s(now - begun_at, now))
        except TransportError as error:
            logger.debug("exchange stream from %s: %s", self.peer[:4].hex(), error)
        except ExchangeOffenceError as error:
            self.close(error)
        except RemoteProtocolError as error:
            self.close(ExchangeOffenceError(Offence.MALFORMED, str(error)))

    def _dispatch_relayed(self, message: RelayMessage) -> None:
        if not self._is_closed:
            self._owner.take_relayed(self.peer, message)

    def _dispatch(self, message: ExchangeMessage) -> None:
        if self._is_closed:
            # A newer link may have taken over: this answer would match nothing that it asked.
            return
        if isinstance(message, Request):
            self._owner.note_request(self.peer, message)
        match message:
            case Request() | Interest() | Cancel() | RecipeRequest() | NotInterested():
                self.feed(PeerMessage(peer=self.peer, message=message))
            case _:
                self._owner.take_answer(self.peer, message)

    # Serving -------------------------------------------------------------------------------------

    def feed(self, event: UploadInput) -> None:
        """Feeds the upload and executes its effects."""
        for effect in self.upload.handle(event, self._owner.now()):
            match effect:
                case Send():
                    self.send(effect)
                case ReadChunks() | ReadPage():
                    if self._nursery is not None and not self._is_closed:
                        self._nursery.start_soon(self._read, effect)
        self._owner.serve_turns()

    async def _read(self, effect: ReadChunks | ReadPage) -> None:
        if isinstance(effect, ReadChunks):
            self.feed(await self._owner.read_chunks(effect, self._meter))
        else:
            self.feed(await self._owner.read_page(effect))

    def withdraw_in_flight(self, is_withdrawn: Callable[[ManifestId], bool]) -> None:
        """Resets the stream if a frame of a withdrawn manifest does not get away in time."""
        if self._is_closed or self._nursery is None or self._sending is None:
            return
        if is_withdrawn(self._sending):
            self._nursery.start_soon(self._cut_short, self._sending_number)

    async def _cut_short(self, number: int) -> None:
        await trio.sleep(WITHDRAWAL_GRACE_S)
        if self._sending is not None and self._sending_number == number:
            logger.info("exchange stream to %s reset: withdrawn under way", self.peer[:4].hex())
            self.close()


def _payload_bytes(message: ExchangeMessage) -> int:
    """Bytes of a message that the upload counts as unsent."""
    match message:
        case Chunks():
            return message.payload_bytes
        case RecipePageMessage():
            return len(message.page)
        case _:
            return 0


def _answer_bytes(message: ExchangeMessage) -> int:
    """What a queued message counts against the queue; chunks and pages have their own bound."""
    match message:
        case Chunks() | RecipePageMessage():
            return 0
        case BitfieldMessage():
            return _ENTRY_BYTES + len(message.bits)
        case _:
            return _ENTRY_BYTES

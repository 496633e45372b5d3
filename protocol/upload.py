"""`Upload`: serves one peer.

Participants: a peer that asks; the host, which reads chunks and sends frames; a rule, injected,
that says whether this peer may be served a manifest now.

Goals: nothing is said about a manifest unless the rule permits it at that moment: it is asked at
every interest, at every request, again before every read and again before every send, so that a
revocation or suspension ends service with the frame under way. Every index of every request is
answered exactly once. Memory is bounded: one read at a time, a bounded number of unsent bytes.
Non-goals: fairness between peers, which is `upload_turns`' matter, and rates.

There are no states: what is open is the set of requests, served first come, first served; what the
peer was sent completely before goes last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol, assert_never

from protocol.bitfield import Bitfield
from protocol.digest import ManifestId
from protocol.errors import LocalProtocolError
from protocol.exchange_events import (
    Acquired,
    ChunksRead,
    ExchangeOffenceError,
    Flushed,
    Offence,
    Opened,
    PageRead,
    PeerId,
    PeerMessage,
    Send,
    TurnCame,
    UploadEffect,
    UploadInput,
    Withdrawn,
)
from protocol.exchange_messages import (
    BitfieldMessage,
    Cancel,
    Chunks,
    ExchangeMessage,
    Have,
    Interest,
    NotInterested,
    RecipePageMessage,
    RecipeRequest,
    Reject,
    RejectReason,
    Request,
    Unknown,
)
from protocol.runs import NO_CHUNKS, Runs
from protocol.upload_offers import Offers
from protocol.upload_pace import FramePace
from protocol.upload_serving import (
    Serving,
    check_component,
    chunks_of,
    page_cost,
    wish_of,
)
from protocol.upload_turns import UploadTurns

SERVED_REQUESTS_MAX: Final = 512
"""Requests of one peer that may wait; beyond that the answer is BUSY. An honest peer has a few for
each manifest it fetches."""
WAITING_INDICES_MAX: Final = 16_384
"""Indices of one peer that may wait, likewise: 1.5 MiB of memory."""
INTERESTS_MAX: Final = 256
"""Manifests one peer may follow at once; to more the answer is `Unknown`. A gateway wants a
handful, a newcomer all that its groups have."""
PATIENCE_MAX: Final = 16
"""Interests remembered though they were answered by UNKNOWN; the oldest is forgotten first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedManifest:
    """What this node holds of a manifest it may serve; the host keeps `possession` current."""

    manifest_id: ManifestId
    """The manifest it is about."""
    possession: tuple[Bitfield, ...]
    """For each component, the chunks that can be read now."""
    offers: tuple[Offers, ...] | None = None
    """Set where all of it is held and not relayed: for each component, who is told of what."""


class Library(Protocol):
    """Finds what this node holds."""

    def find(self, manifest_id: ManifestId) -> ServedManifest | None:
        """The manifest's possession, or None if nothing of it may be served to anybody."""


ServeRule = Callable[[ManifestId], bool]
"""Says whether the peer may be served a manifest now; cheap, and asked very often."""


class Upload:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        peer: PeerId,
        library: Library,
        may_serve: ServeRule,
        turns: UploadTurns | None = None,
    ) -> None:
        """Starts with nothing open.

        Args:
            peer: whom to serve.
            library: what is held; asked at every message, never copied.
            may_serve: the rule for this peer.
            turns: shared by all uploads of the node; None: this one waits for no other.
        """
        self._peer = peer
        self._seat = None if turns is None else turns.seat(peer)
        self._library = library
        self._may_serve = may_serve
        self._interests: dict[ManifestId, tuple[int, ...]] = {}
        self._unknown: dict[ManifestId, tuple[int, ...]] = {}
        self._open: dict[int, Serving] = {}
        self._reading: Serving | None = None
        self._waiting_count = self._pages_count = 0
        self._pace = FramePace()
        self._unsent_bytes = 0
        self._sent_bytes = 0
        self._effects: list[UploadEffect] = []

    @property
    def deadline(self) -> float | None:
        """None: nothing here depends on time."""
        return None

    @property
    def open_manifests(self) -> tuple[ManifestId, ...]:
        """Manifests the peer follows or has open requests for."""
        requested = (serving.manifest_id for serving in self._open.values())
        return tuple(dict.fromkeys((*self._interests, *requested)))

    @property
    def open_requests(self) -> int:
        """Requests not fully answered."""
        return len(self._open)

    @property
    def unsent_bytes(self) -> int:
        """Payload bytes handed to the host and not flushed yet."""
        return self._unsent_bytes

    @property
    def sent_bytes(self) -> int:
        """Chunk bytes handed to the host since the start."""
        return self._sent_bytes

    def handle(self, event: UploadInput, now: float) -> list[UploadEffect]:
        """Takes one input; `now` is in seconds of a monotonic clock.

        Returns:
            Effects, to be executed in order.

        Raises:
            ExchangeOffenceError: the peer's message breaks the protocol; nothing has changed.
            LocalProtocolError: the host's input makes no sense; nothing has changed.
        """
        self._effects = []
        match event:
            case PeerMessage():
                self._on_message(event.message, now)
            case ChunksRead():
                self._on_chunks_read(event, now)
            case PageRead():
                self._on_page_read(event)
            case Flushed():
                self._unsent_bytes = max(self._unsent_bytes - event.payload_bytes, 0)
                self._pace.flushed(event.payload_bytes, now)
                if self._seat is not None:
                    self._seat.flushed(now)
            case Acquired():
                self._on_acquired(event)
            case Opened():
                self._on_opened(event.manifest_id)
            case Withdrawn():
                self._on_withdrawn(event.manifest_id)
            case TurnCame():
                self._refuse_late_pages(now)
            case _:
                assert_never(event)
        self._settle(now)
        if self._open and self._reading is None:
            self._read_next(now)
            if not self._open:
                self._settle(now)
        return self._effects

    def end(self) -> None:
        """Has nobody wait for this upload: its stream ended."""
        if self._seat is not None:
            self._seat.leave()

    def _settle(self, now: float) -> None:
        if self._seat is not None:
            is_busy = self._reading is not None or self._unsent_bytes > 0
            self._seat.settle(is_asking=bool(self._open), is_busy=is_busy, now=now)
            if not self._pages_count and not is_busy:
                self._seat.has_pages()

    def _on_message(self, message: ExchangeMessage, now: float) -> None:
        match message:
            case Request():
                self._on_request(message)
            case Interest():
                self._on_interest(message)
            case Cancel():
                self._on_cancel(message)
            case RecipeRequest():
                self._on_recipe_request(message, now)
            case NotInterested():
                self._interests.pop(message.manifest_id, None)
                self._unknown.pop(message.manifest_id, None)
            case _:
                raise LocalProtocolError(f"an upload does not take {type(message).__name__}")

    def _find(self, manifest_id: ManifestId) -> ServedManifest | None:
        """What may be served to this peer: the only way from here to the library."""
        if not self._may_serve(manifest_id):
            return None
        return self._library.find(manifest_id)

    def _on_interest(self, message: Interest) -> None:
        manifest_id = message.manifest_id
        served = self._find(manifest_id)
        if served is None:
            self._interests.pop(manifest_id, None)
            self._remember_unknown(manifest_id, message.components)
            self._send(Unknown(manifest_id=manifest_id))
            return
        check_component(message.components[-1], len(served.possession))
        if manifest_id not in self._interests and len(self._interests) >= INTERESTS_MAX:
            self._send(Unknown(manifest_id=manifest_id))
            return
        self._follow(served, message.components)

    def _follow(self, served: ServedManifest, components: tuple[int, ...]) -> None:
        self._unknown.pop(served.manifest_id, None)
        self._interests[served.manifest_id] = components
        for component in components:
            told = served.possession[component]
            if served.offers is not None:
                part = served.offers[component].follow(self._peer)
                told = told if part is None else Bitfield(told.size, told.bits & part)
            message = BitfieldMessage(
                manifest_id=served.manifest_id, component=component, bits=told.encode()
            )
            self._send(message, served.manifest_id)

    def _remember_unknown(self, manifest_id: ManifestId, components: tuple[int, ...]) -> None:
        """The peer's ledger may be ahead of ours: answer once the manifest opens here."""
        self._unknown[manifest_id] = components
        if len(self._unknown) > PATIENCE_MAX:
            del self._unknown[next(iter(self._unknown))]

    def _on_opened(self, manifest_id: ManifestId) -> None:
        components = self._unknown.get(manifest_id) or self._interests.get(manifest_id)
        served = self._find(manifest_id)
        if components is None or served is None or len(self._interests) >= INTERESTS_MAX:
            return
        known = tuple(c for c in components if c < len(served.possession))
        self._follow(served, known)

    def _on_request(self, message: Request) -> None:
        self._check_new(message.request_id)
        served = self._find(message.manifest_id)
        if served is None:
            self._reject(message.request_id, message.indices, RejectReason.UNKNOWN)
            return
        check_component(message.component, len(served.possession))
        held = served.possession[message.component]
        if message.indices.last >= held.size:
            raise ExchangeOffenceError(
                Offence.MALFORMED,
                f"request for chunk {message.indices.last}, the component has {held.size}",
            )
        if self._is_busy(len(message.indices)):
            self._reject(message.request_id, message.indices, RejectReason.BUSY)
            return
        asked = message.indices.bits
        absent, waiting = asked & ~held.bits, asked & held.bits
        if absent:
            self._reject(message.request_id, Runs.of_bits(absent), RejectReason.NOT_AVAILABLE)
        if waiting:
            self._waiting_count += waiting.bit_count()
            self._open[message.request_id] = Serving(
                request_id=message.request_id,
                wish=wish_of(message, held.size),
                waiting=waiting,
            )
            if served.offers is not None:
                self._tell_more(served, message.component, asked)

    def _tell_more(self, served: ServedManifest, component: int, asked: int) -> None:
        """Tells a peer that asks for what it was told what else it may ask for."""
        assert served.offers is not None, "the caller looked"
        more = served.offers[component].asked(self._peer, asked)
        if more:
            held = Runs.of_bits(more.bits & served.possession[component].bits)
            news = Acquired(manifest_id=served.manifest_id, component=component, indices=held)
            self._on_acquired(news)

    def _on_recipe_request(self, message: RecipeRequest, now: float) -> None:
        self._check_new(message.request_id)
        served = self._find(message.manifest_id)
        if served is None:
            self._reject_page(message.request_id, RejectReason.UNKNOWN)
            return
        check_component(message.component, len(served.possession))
        held = served.possession[message.component]
        page = page_cost(held.size, message.page)
        wish, seat = wish_of(message, held.size), self._seat
        if self._is_busy(0) or not (
            seat is None or seat.admits_page(wish, page, is_source=held.is_full, now=now)
        ):
            self._reject_page(message.request_id, RejectReason.BUSY)
            return
        self._pages_count += 1
        self._open[message.request_id] = Serving(
            request_id=message.request_id, wish=wish, page=message.page
        )

    def _check_new(self, request_id: int) -> None:
        if request_id in self._open:
            raise ExchangeOffenceError(Offence.MALFORMED, f"request {request_id} is open already")

    def _is_busy(self, more: int) -> bool:
        waiting = self._waiting_count + more
        return len(self._open) >= SERVED_REQUESTS_MAX or waiting > WAITING_INDICES_MAX

    def _on_cancel(self, message: Cancel) -> None:
        """Cancels what is not answered; the rest was on its way and needs no answer."""
        serving = self._open.get(message.request_id)
        if serving is None:
            return
        withdrawn = message.indices.bits & serving.waiting
        self._answered(serving, withdrawn)
        self._reject(message.request_id, Runs.of_bits(withdrawn), RejectReason.CANCELLED)

    def _on_acquired(self, event: Acquired) -> None:
        components = self._interests.get(event.manifest_id, ())
        if event.component not in components or self._find(event.manifest_id) is None:
            return
        for message in event.messages:
            self._send(message, event.manifest_id)

    def _on_withdrawn(self, manifest_id: ManifestId) -> None:
        for serving in [s for s in self._open.values() if s.manifest_id == manifest_id]:
            self._refuse(serving, RejectReason.UNKNOWN)
        components = self._interests.pop(manifest_id, None)
        if components is not None:
            self._remember_unknown(manifest_id, components)
            self._send(Unknown(manifest_id=manifest_id))

    def _read_next(self, now: float) -> None:
        """Starts the next read if none is under way and the peer takes what it was sent."""
        while (
            self._reading is None
            and self._unsent_bytes < self._pace.unsent_bytes_max
            and self._open
        ):
            serving = self._next_serving(now)
            if serving is None:
                return
            if self._find(serving.manifest_id) is None:
                self._refuse(serving, RejectReason.UNKNOWN)
                continue
            bytes_max = self._turn_bytes(serving, now)
            if not bytes_max:
                return
            if serving.page is not None and self._seat is not None:
                self._seat.begins_page()
            self._reading = serving
            self._effects.append(serving.read(bytes_max))

    def _next_serving(self, now: float) -> Serving | None:
        """The first request of what the peer was not sent completely; without one the first.

        Recipe pages wait for their turn; None: nothing else is asked for.
        """
        servings: Iterable[Serving] = self._open.values()
        seat = self._seat
        if seat is None:
            return next(iter(servings))
        if self._pages_count and not seat.may_send_pages(now):
            servings = [each for each in self._open.values() if each.page is None]
        first = next(iter(servings), None)
        if first is None or seat.is_in_need(first.wish):
            return first
        return next((each for each in servings if seat.is_in_need(each.wish)), first)

    def _refuse_late_pages(self, now: float) -> None:
        """Says BUSY if requests for pages waited too long: others may have the recipe by now."""
        if self._seat is None or not self._seat.has_waited_for_pages(now):
            return
        for serving in [each for each in self._open.values() if each.page is not None]:
            self._refuse(serving, RejectReason.BUSY)

    def _turn_bytes(self, serving: Serving, now: float) -> int:
        """Payload of the next frame; 0: it is not this peer's turn."""
        frame_bytes = self._pace.frame_bytes
        if self._seat is None:
            return frame_bytes
        return self._seat.begin(
            serving.wish, frame_bytes=frame_bytes, unsent_bytes=self._unsent_bytes, now=now
        )

    def _finish_read(self, request_id: int) -> Serving | None:
        """Ends the read under way; None if everything it was for was answered meanwhile."""
        serving = self._reading
        if serving is None or serving.request_id != request_id:
            raise LocalProtocolError(f"no read for request {request_id} is under way")
        self._reading = None
        # By identity: the peer may use the id of an answered request again.
        if self._open.get(request_id) is not serving:
            return None
        if self._find(serving.manifest_id) is None:
            self._refuse(serving, RejectReason.UNKNOWN)
            return None
        return serving

    def _on_chunks_read(self, event: ChunksRead, now: float) -> None:
        serving = self._finish_read(event.request_id)
        if serving is None:
            return
        absent = event.absent.bits & serving.waiting
        message = chunks_of(event, serving.waiting)
        if message is not None:
            self._answered(serving, message.indices.bits)
            self._count(serving, len(message.indices))
        if absent:
            self._answered(serving, absent)
            self._reject(event.request_id, Runs.of_bits(absent), RejectReason.NOT_AVAILABLE)
        if message is not None:
            served = self._library.find(serving.manifest_id)
            if served is not None and served.offers is not None:
                served.offers[serving.component].sent(message.indices.bits)
            payload_bytes = message.payload_bytes
            self._unsent_bytes += payload_bytes
            self._sent_bytes += payload_bytes
            self._pace.handed_over(payload_bytes, now)
            self._send(message, serving.manifest_id)

    def _on_page_read(self, event: PageRead) -> None:
        serving = self._finish_read(event.request_id)
        if serving is None:
            return
        del self._open[event.request_id]
        self._pages_count -= 1
        if event.page is None:
            self._reject_page(event.request_id, RejectReason.NOT_AVAILABLE)
            return
        self._count(serving, 1)
        self._unsent_bytes += len(event.page)
        self._send(
            RecipePageMessage(request_id=event.request_id, page=event.page), serving.manifest_id
        )

    def _count(self, serving: Serving, answers: int) -> None:
        if self._seat is not None:
            self._seat.sent(serving.wish, answers)

    def _refuse(self, serving: Serving, reason: RejectReason) -> None:
        """Answers all that is left of a request by a reject."""
        del self._open[serving.request_id]
        self._waiting_count -= serving.waiting.bit_count()
        if serving.page is not None:
            self._pages_count -= 1
            self._reject_page(serving.request_id, reason)
        self._reject(serving.request_id, Runs.of_bits(serving.waiting), reason)

    def _answered(self, serving: Serving, indices: int) -> None:
        if not indices:
            return
        serving.waiting &= ~indices
        self._waiting_count -= indices.bit_count()
        if not serving.waiting and serving.page is None:
            del self._open[serving.request_id]

    def _reject(self, request_id: int, indices: Runs, reason: RejectReason) -> None:
        if indices:
            self._send(Reject(request_id=request_id, indices=indices, reason=reason))

    def _reject_page(self, request_id: int, reason: RejectReason) -> None:
        self._send(Reject(request_id=request_id, indices=NO_CHUNKS, reason=reason))

    def _send(self, message: ExchangeMessage, served: ManifestId | None = None) -> None:
        self._effects.append(Send(peer=self._peer, message=message, served=served))


def refusal_of(message: ExchangeMessage) -> ExchangeMessage | None:
    """What to send instead of a queued message once its manifest may not be served any more.

    Returns:
        None where nothing at all is to be said.
    """
    match message:
        case Chunks():
            return Reject(
                request_id=message.request_id, indices=message.indices, reason=RejectReason.UNKNOWN
            )
        case RecipePageMessage():
            return Reject(
                request_id=message.request_id, indices=NO_CHUNKS, reason=RejectReason.UNKNOWN
            )
        case Have() | BitfieldMessage():
            return None
        case _:
            return message

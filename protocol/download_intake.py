"""The part of a download that takes what peers say."""

from __future__ import annotations

from typing import assert_never

from protocol.download_core import DownloadCore
from protocol.download_state import DownloadState
from protocol.errors import LocalProtocolError
from protocol.exchange_answers import (
    match_chunks,
    match_page,
    match_reject,
    read_have,
    read_possession,
)
from protocol.exchange_events import PeerId, VerifyPage, WriteChunks
from protocol.exchange_flow import OpenRequest, PeerFlow
from protocol.exchange_messages import (
    BitfieldMessage,
    Chunks,
    ExchangeMessage,
    Have,
    RecipePageMessage,
    Reject,
    RejectReason,
    Unknown,
)
from protocol.runs import Runs


class DownloadIntake:
    """See the module's docstring."""

    __slots__ = ("_core",)

    def __init__(self, core: DownloadCore) -> None:
        """Works on what the download's parts share."""
        self._core = core

    def handle(self, peer: PeerId, message: ExchangeMessage, now: float) -> None:
        """Takes one message; raises as `Download.handle` does, and then nothing has changed."""
        flow = self._core.flows.get(peer)
        if flow is None:
            if peer in self._core.banned or self._core.is_ended:
                return
            raise LocalProtocolError("a message of a peer that did not join")
        match message:
            case Chunks():
                self._on_chunks(flow, message, now)
            case Have():
                self._gain(flow, read_have(message, self._core.layout))
            case BitfieldMessage():
                self._on_bitfield(flow, message)
            case RecipePageMessage():
                self._on_page(flow, message, now)
            case Reject():
                self._on_reject(flow, message, now)
            case Unknown():
                self._forget(flow, now)
            case _:
                raise LocalProtocolError(f"a download does not take {type(message).__name__}")
        self._core.fill(flow, now)

    def _on_chunks(self, flow: PeerFlow, message: Chunks, now: float) -> None:
        request, numbers = match_chunks(message, flow, self._core.layout)
        size_bytes = self._core.layout.bytes_of(request.component, message.indices)
        core, useful = self._core, 0
        if core.state is DownloadState.RUNNING:
            useful = core.chunks.buffer(numbers, request, size_bytes)
        if useful != numbers:
            core.wasted_bytes += message.payload_bytes
            if useful:
                message = _part_of(message, Runs.of_bits(useful >> request.offset))
                core.wasted_bytes -= message.payload_bytes
        if useful:
            core.effects.append(_write_of(request, message))
        flow.outstanding_bytes -= size_bytes
        core.chunks.answered(request, numbers, size_bytes)
        flow.answered(request, now, payload_bytes=size_bytes)
        core.requests.rate.note(size_bytes, now)

    def _on_bitfield(self, flow: PeerFlow, message: BitfieldMessage) -> None:
        claimed = read_possession(message, self._core.layout)
        before = flow.possession & self._core.layout.mask(message.component)
        flow.possession &= ~(before & ~claimed)
        self._core.picker.lost(before & ~claimed)
        self._gain(flow, claimed)
        flow.said_possession()

    def _gain(self, flow: PeerFlow, claimed: int) -> None:
        fresh = claimed & ~flow.possession
        flow.possession |= fresh
        self._core.picker.gained(fresh)

    def _on_page(self, flow: PeerFlow, message: RecipePageMessage, now: float) -> None:
        request = match_page(message, flow)
        key = request.page
        assert key is not None, "match_page returns page requests only"
        if self._core.pages.arrived(key, request) and not self._core.is_ended:
            self._core.effects.append(VerifyPage(component=key[0], page=key[1], body=message.page))
        flow.answered(request, now, payload_bytes=0)
        flow.sent_page()

    def _on_reject(self, flow: PeerFlow, message: Reject, now: float) -> None:
        request, numbers = match_reject(message, flow)
        size_bytes = self._core.layout.bytes_of(request.component, message.indices)
        flow.outstanding_bytes -= size_bytes
        self._core.chunks.answered(request, numbers, size_bytes)
        flow.answered(request, now, payload_bytes=0)
        if request.page is not None:
            self._core.pages.closed(request.page, request)
        match message.reason:
            case RejectReason.NOT_AVAILABLE:
                self._refused(flow, request, numbers, now)
            case RejectReason.BUSY if request.page is not None:
                flow.said_busy_for_pages(now)
                self._core.pages.has_busy = True
            case RejectReason.BUSY:
                flow.said_busy(now)
            case RejectReason.UNKNOWN:
                self._forget(flow, now)
            case RejectReason.CANCELLED:
                pass
            case _:
                assert_never(message.reason)
        self._core.fill_all(now)

    def _refused(self, flow: PeerFlow, request: OpenRequest, numbers: int, now: float) -> None:
        """The peer does not hold what it claimed: rot is honest, so it costs trust, not blame."""
        gone = numbers & flow.possession
        flow.possession &= ~gone
        self._core.picker.lost(gone)
        if request.page is not None:
            flow.pages_refused[request.page] = None
        flow.said_busy(now)

    def _forget(self, flow: PeerFlow, now: float) -> None:
        self._core.picker.lost(flow.possession)
        flow.possession = 0
        if flow.retry_at is None:
            flow.said_unknown(now)
            self._core.retrying[flow.peer] = flow


def _part_of(message: Chunks, indices: Runs) -> Chunks:
    """Some of the chunks of a message."""
    chosen = [(index, data) for index, data in message.chunks if index in indices]
    return Chunks.of(message.request_id, chosen, message.packed)


def _write_of(request: OpenRequest, message: Chunks) -> WriteChunks:
    return WriteChunks(
        component=request.component,
        indices=message.indices,
        lengths=message.lengths,
        payload=message.payload,
        packed=message.packed,
    )

"""The part of a download that takes what peers say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from protocol.bitfield import bits_of
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
from protocol.exchange_events import PeerId, VerifyPage, WriteChunk
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


class DownloadIntake:
    """See the module's docstring."""

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
        request, numbered = match_chunks(message, flow, self._core.layout)
        is_running = self._core.state is DownloadState.RUNNING
        useful_bytes = 0
        for number, data in numbered:
            useful_bytes += request.pending[number]  # as the window counts, packed or not
            if is_running and self._core.chunks.buffer(number, request, len(data)):
                self._core.effects.append(
                    WriteChunk(
                        component=request.component,
                        index=number - request.offset,
                        data=data,
                        is_packed=number - request.offset in message.packed,
                    )
                )
            else:
                self._core.wasted_bytes += len(data)
        self._close(flow, request, [number for number, _ in numbered])
        flow.answered(request, now, payload_bytes=useful_bytes)

    def _close(self, flow: PeerFlow, request: OpenRequest, numbers: Sequence[int]) -> None:
        flow.outstanding_bytes -= sum(request.pending[number] for number in numbers)
        self._core.chunks.answered(request, numbers)

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

    def _on_reject(self, flow: PeerFlow, message: Reject, now: float) -> None:
        request, numbers = match_reject(message, flow)
        self._close(flow, request, numbers)
        flow.answered(request, now, payload_bytes=0)
        if request.page is not None:
            self._core.pages.closed(request.page, request)
        match message.reason:
            case RejectReason.NOT_AVAILABLE:
                self._refused(flow, request, numbers, now)
            case RejectReason.BUSY:
                flow.said_busy(now)
            case RejectReason.UNKNOWN:
                self._forget(flow, now)
            case RejectReason.CANCELLED:
                pass
            case _:
                assert_never(message.reason)
        self._core.fill_all(now)

    def _refused(
        self, flow: PeerFlow, request: OpenRequest, numbers: Sequence[int], now: float
    ) -> None:
        """The peer does not hold what it claimed: rot is honest, so it costs trust, not blame."""
        gone = bits_of(numbers) & flow.possession
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

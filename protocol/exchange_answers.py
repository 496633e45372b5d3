"""Judges a peer's message against what was asked, before anything changes.

Every function either returns what the message means or raises `ExchangeOffenceError`; none modifies
state, so an invalid message leaves a machine as it was.
"""

from __future__ import annotations

from protocol.bitfield import Bitfield
from protocol.errors import EncodingError
from protocol.exchange_events import ExchangeOffenceError, Offence
from protocol.exchange_flow import OpenRequest, PeerFlow
from protocol.exchange_layout import Layout
from protocol.exchange_messages import (
    BitfieldMessage,
    Chunks,
    Have,
    RecipePageMessage,
    Reject,
)


def read_possession(message: BitfieldMessage, layout: Layout) -> int:
    """The chunk numbers a bitfield claims."""
    _check_component(message.component, layout)
    try:
        field = Bitfield.decode(message.bits, layout.chunk_count_of(message.component))
    except EncodingError as error:
        raise ExchangeOffenceError(Offence.MALFORMED, str(error)) from error
    return field.bits << layout.offset(message.component)


def read_have(message: Have, layout: Layout) -> int:
    """The chunk numbers a `Have` claims."""
    _check_component(message.component, layout)
    count = layout.chunk_count_of(message.component)
    if message.indices.last >= count:
        raise ExchangeOffenceError(
            Offence.MALFORMED, f"have of chunk {message.indices.last}, the component has {count}"
        )
    offset = layout.offset(message.component)
    return message.indices.bits << offset if offset else message.indices.bits


def match_chunks(message: Chunks, flow: PeerFlow, layout: Layout) -> tuple[OpenRequest, int]:
    """The request that chunks answer, and the set of their numbers."""
    request = _find(message.request_id, flow)
    numbers = message.indices.bits
    if request.offset:
        numbers <<= request.offset
    if numbers != request.pending and numbers & ~request.pending:
        index = next(i for i in message.indices if not request.pending >> request.offset + i & 1)
        raise ExchangeOffenceError(
            Offence.UNSOLICITED, f"chunk {index} is not open in request {message.request_id}"
        )
    expected = layout.lengths_of(request.component, message.indices)
    if message.lengths != expected:
        for index, actual, length in zip(message.indices, message.lengths, expected, strict=True):
            is_packed = index in message.packed
            if actual >= length if is_packed else actual != length:
                raise ExchangeOffenceError(
                    Offence.WRONG_LENGTH,
                    f"chunk {index} of component {request.component} with {actual} bytes"
                    f"{' packed' if is_packed else ''}, the recipe says {length}",
                )
    elif message.packed:
        index = next(iter(message.indices))
        raise ExchangeOffenceError(
            Offence.WRONG_LENGTH, f"chunks from {index} on as long packed as the recipe says"
        )
    return request, numbers


def match_page(message: RecipePageMessage, flow: PeerFlow) -> OpenRequest:
    """The request that a recipe page answers."""
    request = _find(message.request_id, flow)
    if request.page is None:
        raise ExchangeOffenceError(
            Offence.UNSOLICITED, f"a page answers chunk request {message.request_id}"
        )
    return request


def match_reject(message: Reject, flow: PeerFlow) -> tuple[OpenRequest, int]:
    """The request that a reject answers, and the chunk numbers it rejects."""
    request = _find(message.request_id, flow)
    numbers = message.indices.bits << request.offset
    if (request.page is None) == (not numbers) or numbers & ~request.pending:
        raise ExchangeOffenceError(
            Offence.UNSOLICITED, f"reject names what is not open in request {message.request_id}"
        )
    return request, numbers


def _find(request_id: int, flow: PeerFlow) -> OpenRequest:
    request = flow.requests.get(request_id)
    if request is None:
        raise ExchangeOffenceError(Offence.UNSOLICITED, f"no request {request_id} is open")
    return request


def _check_component(component: int, layout: Layout) -> None:
    if component >= layout.component_count:
        raise ExchangeOffenceError(
            Offence.MALFORMED,
            f"component {component}, the manifest has {layout.component_count}",
        )

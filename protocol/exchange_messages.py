"""Messages of `/swarmd/<chain>/exchange/1`: how peers ask each other for recipes and chunks.

One long-lived framed stream per pair of peers carries both directions; either side may open it.
A frame's body is one kind byte and then, for all kinds but CHUNKS, one canonical CBOR map. CHUNKS
is a fixed binary layout, so that payload bytes are never copied into or out of CBOR:

    kind u8 | request id u64 | count u16 | count x (index u32, length u32) | payloads, in that order

(big-endian; the top bit of a length marks a payload that is packed, docs/spec/updates.md). It
carries several chunks of one request: at 16 KiB a chunk, the cost of a frame would otherwise exceed
the cost of its bytes. See docs/spec/exchange.md for the rules and the CDDL.

Rules the machines enforce: every index of every request is answered exactly once (chunk or
reject), in any order; a request id is unique among its sender's unanswered requests. What a peer
may not know is answered by `Unknown` or by a reject with reason UNKNOWN, whether it exists here or
not.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Final

from protocol.digest import ManifestId
from protocol.encoding import Fields, Value, as_uint, decode_canonical, encode_canonical
from protocol.errors import EncodingError, LocalProtocolError, RemoteProtocolError
from protocol.limits import (
    CHUNK_BYTES_MAX,
    CHUNKS_PER_COMPONENT_MAX,
    KIB,
    OBJECTS_MAX,
    RECIPE_PAGE_LEAVES,
    REQUEST_INDICES_MAX,
)

PAGES_MAX: Final = CHUNKS_PER_COMPONENT_MAX // RECIPE_PAGE_LEAVES
"""Recipe pages of one component."""
PAGE_BYTES_MAX: Final = 64 * KIB
"""Encoded recipe page with its range proof: 1,024 leaves take 40 KiB, the proof below 1 KiB."""
HAVE_INDICES_MAX: Final = 1024
"""Indices in one `Have`; more are sent as several."""
REQUEST_ID_MAX: Final = 2**63 - 1
"""Request ids fit the integers of the canonical encoding."""
CHUNKS_PAYLOAD_BYTES_AIM: Final = 256 * KIB
"""A sender adds chunks to a frame while it holds less: large enough that a frame's own cost
vanishes, small enough that peers take turns and a revocation bites at once."""
CHUNKS_PAYLOAD_BYTES_MAX: Final = CHUNKS_PAYLOAD_BYTES_AIM + CHUNK_BYTES_MAX
"""Payload bytes of one CHUNKS frame: the last chunk added may be of the largest size."""
BITFIELD_BYTES_MAX: Final = CHUNKS_PER_COMPONENT_MAX // 8
"""Bytes of the largest bitfield."""

PACKED_BIT: Final = 1 << 31
"""In an entry's length: the payload is one zstd frame of the chunk."""
_NOTHING_PACKED: Final[frozenset[int]] = frozenset()

_CHUNKS_HEAD: Final = struct.Struct(">BQH")
_CHUNKS_ENTRY: Final = struct.Struct(">II")

EXCHANGE_FRAME_BYTES_MAX: Final = (
    _CHUNKS_HEAD.size + REQUEST_INDICES_MAX * _CHUNKS_ENTRY.size + CHUNKS_PAYLOAD_BYTES_MAX
)
"""Largest frame body of this protocol: a full CHUNKS frame."""
_CONTROL_BYTES_MAX: Final = PAGE_BYTES_MAX + KIB
"""Largest body of every other kind: a recipe page with its envelope."""


class MessageKind(IntEnum):
    """First byte of every frame."""

    INTEREST = 1
    NOT_INTERESTED = 2
    RECIPE_REQUEST = 3
    RECIPE_PAGE = 4
    BITFIELD = 5
    HAVE = 6
    REQUEST = 7
    CHUNKS = 8
    CANCEL = 9
    REJECT = 10
    UNKNOWN = 11


class RejectReason(IntEnum):
    """Why indices of a request will not come."""

    NOT_AVAILABLE = 1
    """Not held, or no longer: ask somebody else."""
    BUSY = 2
    """The queue for this peer is full: ask again later."""
    CANCELLED = 3
    """The requester withdrew it."""
    UNKNOWN = 4
    """Nothing the requester may know about; said alike of what exists and what does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """Asks for possession news of a manifest; answered by bitfields or by `Unknown`."""

    manifest_id: ManifestId
    """The manifest it is about."""
    components: tuple[int, ...]
    """Objects wanted, ascending, 1 to 80."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotInterested:
    """Ends an interest; no answer."""

    manifest_id: ManifestId
    """The manifest it is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeRequest:
    """Asks for one recipe page; answered by `RecipePageMessage` or `Reject`."""

    request_id: int
    """The request it belongs to."""
    manifest_id: ManifestId
    """The manifest it is about."""
    component: int
    """Position in the manifest's objects."""
    page: int
    """Page number: leaves 1024 * page and following."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipePageMessage:
    """One recipe page with its proof, opaque here; the chunks package verifies it."""

    request_id: int
    """The request it belongs to."""
    page: bytes
    """Page number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BitfieldMessage:
    """What the sender holds of one component, replacing what it said before."""

    manifest_id: ManifestId
    """The manifest it is about."""
    component: int
    """Position in the manifest's objects."""
    bits: bytes
    """Wire form of `protocol.bitfield.Bitfield`; its length is checked against the manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Have:
    """Chunks the sender holds since its bitfield."""

    manifest_id: ManifestId
    """The manifest it is about."""
    component: int
    """Position in the manifest's objects."""
    indices: tuple[int, ...]
    """Ascending, 1 to 1024."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Asks for chunks."""

    request_id: int
    """The request it belongs to."""
    manifest_id: ManifestId
    """The manifest it is about."""
    component: int
    """Position in the manifest's objects."""
    indices: tuple[int, ...]
    """Ascending, 1 to 256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """Some of the chunks of one request."""

    request_id: int
    """The request it belongs to."""
    chunks: tuple[tuple[int, bytes | memoryview], ...]
    """(index, bytes), indices ascending, 1 to 256, within the bound above. Decoded payloads are
    views of the frame, so that nothing is copied before it is hashed."""
    packed: frozenset[int] = _NOTHING_PACKED
    """Indices whose bytes are one zstd frame instead of the chunk itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Withdraws indices of a request; each is still answered, by a chunk on its way or a reject."""

    request_id: int
    """The request it belongs to."""
    indices: tuple[int, ...]
    """Chunk indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Answers indices of a request that will not come; no indices: the recipe page."""

    request_id: int
    """The request it belongs to."""
    indices: tuple[int, ...]
    """Chunk indices."""
    reason: RejectReason
    """Why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """There is nothing about this manifest that the receiver may know."""

    manifest_id: ManifestId
    """The manifest it is about."""


ControlMessage = (
    Interest
    | NotInterested
    | RecipeRequest
    | RecipePageMessage
    | BitfieldMessage
    | Have
    | Request
    | Cancel
    | Reject
    | Unknown
)
"""Messages carried as CBOR."""
ExchangeMessage = ControlMessage | Chunks
"""Every message of this protocol."""


def encode_exchange(message: ExchangeMessage) -> bytes:
    """Encodes a message as a frame body.

    Raises:
        LocalProtocolError: it exceeds a bound that every receiver enforces.
    """
    return b"".join(encode_exchange_parts(message))


def encode_exchange_parts(message: ExchangeMessage) -> list[bytes | memoryview]:
    """Encodes a message as parts whose concatenation is the frame body; payloads are not copied.

    Raises:
        LocalProtocolError: it exceeds a bound that every receiver enforces.
    """
    if isinstance(message, Chunks):
        return _encode_chunks(message)
    kind, value = _control_value(message)
    body = bytes((kind,)) + encode_canonical(value)
    if len(body) > _CONTROL_BYTES_MAX:
        raise LocalProtocolError(f"{kind.name} of {len(body)} bytes, at most {_CONTROL_BYTES_MAX}")
    return [body]


def _control_value(message: ControlMessage) -> tuple[MessageKind, dict[int | str, Value]]:
    match message:
        case Interest():
            return MessageKind.INTEREST, {0: message.manifest_id, 1: message.components}
        case NotInterested():
            return MessageKind.NOT_INTERESTED, {0: message.manifest_id}
        case RecipeRequest(request_id=request, manifest_id=manifest, component=component):
            return MessageKind.RECIPE_REQUEST, {
                0: request, 1: manifest, 2: component, 3: message.page,
            }  # fmt: skip
        case RecipePageMessage():
            return MessageKind.RECIPE_PAGE, {0: message.request_id, 1: message.page}
        case BitfieldMessage():
            return MessageKind.BITFIELD, {
                0: message.manifest_id, 1: message.component, 2: message.bits,
            }  # fmt: skip
        case Have():
            return MessageKind.HAVE, {
                0: message.manifest_id, 1: message.component, 2: message.indices,
            }  # fmt: skip
        case Request(request_id=request, manifest_id=manifest, component=component):
            return MessageKind.REQUEST, {
                0: request, 1: manifest, 2: component, 3: message.indices,
            }  # fmt: skip
        case Cancel():
            return MessageKind.CANCEL, {0: message.request_id, 1: message.indices}
        case Reject():
            return MessageKind.REJECT, {
                0: message.request_id, 1: message.indices, 2: int(message.reason),
            }  # fmt: skip
        case Unknown():
            return MessageKind.UNKNOWN, {0: message.manifest_id}


def _encode_chunks(message: Chunks) -> list[bytes | memoryview]:
    chunks = message.chunks
    payload_bytes = sum(len(data) for _, data in chunks)
    if not 1 <= len(chunks) <= REQUEST_INDICES_MAX or payload_bytes > CHUNKS_PAYLOAD_BYTES_MAX:
        raise LocalProtocolError(f"{len(chunks)} chunks of {payload_bytes} bytes in one frame")
    head = [_CHUNKS_HEAD.pack(MessageKind.CHUNKS, message.request_id, len(chunks))]
    packed = message.packed
    head.extend(
        _CHUNKS_ENTRY.pack(index, len(data) | (PACKED_BIT if index in packed else 0))
        for index, data in chunks
    )
    return [b"".join(head), *(data for _, data in chunks)]


def decode_exchange(body: bytes | bytearray | memoryview) -> ExchangeMessage:
    """Decodes a frame body.

    Raises:
        RemoteProtocolError: empty, of unknown kind, malformed, over a bound, or not canonical.
    """
    if not body:
        raise RemoteProtocolError("empty exchange message")
    if body[0] == MessageKind.CHUNKS:
        return _decode_chunks(body)
    read = _READERS.get(body[0])
    if read is None:
        raise RemoteProtocolError(f"unknown exchange message kind {body[0]}")
    try:
        fields = Fields(
            decode_canonical(bytes(body[1:]), bytes_max=_CONTROL_BYTES_MAX), "exchange message"
        )
        message = read(fields)
        fields.finish()
    except EncodingError as error:
        raise RemoteProtocolError(
            f"malformed exchange message of kind {body[0]}: {error}"
        ) from error
    return message


def _decode_chunks(body: bytes | bytearray | memoryview) -> Chunks:
    if len(body) < _CHUNKS_HEAD.size:
        raise RemoteProtocolError(f"CHUNKS frame of {len(body)} bytes has no complete head")
    _, request_id, count = _CHUNKS_HEAD.unpack_from(body)
    start = _CHUNKS_HEAD.size + count * _CHUNKS_ENTRY.size
    if not 1 <= count <= REQUEST_INDICES_MAX or request_id > REQUEST_ID_MAX or len(body) < start:
        raise RemoteProtocolError(f"CHUNKS frame with {count} entries in {len(body)} bytes")
    if len(body) - start > CHUNKS_PAYLOAD_BYTES_MAX:
        raise RemoteProtocolError(f"CHUNKS frame with {len(body) - start} payload bytes")
    view = memoryview(body)
    chunks: list[tuple[int, memoryview]] = []
    packed: list[int] = []
    previous, position = -1, start
    for index, length in _CHUNKS_ENTRY.iter_unpack(view[_CHUNKS_HEAD.size : start]):
        if length & PACKED_BIT:
            packed.append(index)
            length ^= PACKED_BIT
        end = position + length
        if not previous < index < CHUNKS_PER_COMPONENT_MAX or not length or end > len(body):
            raise RemoteProtocolError(f"CHUNKS entry (index {index}, {length} bytes) out of bounds")
        chunks.append((index, view[position:end]))
        previous, position = index, end
    if position != len(body):
        raise RemoteProtocolError(
            f"CHUNKS frame with {len(body) - position} bytes behind its chunks"
        )
    marked = frozenset(packed) if packed else _NOTHING_PACKED
    return Chunks(request_id=request_id, chunks=tuple(chunks), packed=marked)


def _read_indices(
    fields: Fields, key: int, *, maximum: int, minimum: int, below: int
) -> tuple[int, ...]:
    indices = fields.items(
        key,
        lambda item: as_uint(item, "index", maximum=below - 1),
        minimum=minimum,
        maximum=maximum,
    )
    check_ascending(indices)
    return indices


def check_ascending(indices: Sequence[int]) -> None:
    """Refuses indices that are not strictly ascending.

    Raises:
        EncodingError: they are not.
    """
    if any(left >= right for left, right in pairwise(indices)):
        raise EncodingError("indices are not strictly ascending")


def _chunk_indices(fields: Fields, key: int, *, maximum: int, minimum: int = 1) -> tuple[int, ...]:
    return _read_indices(
        fields, key, maximum=maximum, minimum=minimum, below=CHUNKS_PER_COMPONENT_MAX
    )


def _manifest(fields: Fields, key: int) -> ManifestId:
    return ManifestId(fields.digest(key))


def _component(fields: Fields, key: int) -> int:
    return fields.uint(key, maximum=OBJECTS_MAX - 1)


def _request_id(fields: Fields) -> int:
    return fields.uint(0, maximum=REQUEST_ID_MAX)


def _read_interest(fields: Fields) -> Interest:
    components = _read_indices(fields, 1, maximum=OBJECTS_MAX, minimum=1, below=OBJECTS_MAX)
    return Interest(manifest_id=_manifest(fields, 0), components=components)


def _read_recipe_request(fields: Fields) -> RecipeRequest:
    return RecipeRequest(
        request_id=_request_id(fields),
        manifest_id=_manifest(fields, 1),
        component=_component(fields, 2),
        page=fields.uint(3, maximum=PAGES_MAX - 1),
    )


def _read_bitfield(fields: Fields) -> BitfieldMessage:
    return BitfieldMessage(
        manifest_id=_manifest(fields, 0),
        component=_component(fields, 1),
        bits=fields.bytes(2, maximum=BITFIELD_BYTES_MAX),
    )


def _read_have(fields: Fields) -> Have:
    return Have(
        manifest_id=_manifest(fields, 0),
        component=_component(fields, 1),
        indices=_chunk_indices(fields, 2, maximum=HAVE_INDICES_MAX),
    )


def _read_request(fields: Fields) -> Request:
    return Request(
        request_id=_request_id(fields),
        manifest_id=_manifest(fields, 1),
        component=_component(fields, 2),
        indices=_chunk_indices(fields, 3, maximum=REQUEST_INDICES_MAX),
    )


def _read_reject(fields: Fields) -> Reject:
    reason = fields.uint(2)
    if reason not in tuple(RejectReason):
        raise EncodingError(f"reject reason {reason} is not known")
    return Reject(
        request_id=_request_id(fields),
        indices=_chunk_indices(fields, 1, maximum=REQUEST_INDICES_MAX, minimum=0),
        reason=RejectReason(reason),
    )


_READERS: Final[dict[int, Callable[[Fields], ControlMessage]]] = {
    int(MessageKind.INTEREST): _read_interest,
    int(MessageKind.NOT_INTERESTED): lambda fields: NotInterested(manifest_id=_manifest(fields, 0)),
    int(MessageKind.RECIPE_REQUEST): _read_recipe_request,
    int(MessageKind.RECIPE_PAGE): lambda fields: RecipePageMessage(
        request_id=_request_id(fields), page=fields.bytes(1, maximum=PAGE_BYTES_MAX)
    ),
    int(MessageKind.BITFIELD): _read_bitfield,
    int(MessageKind.HAVE): _read_have,
    int(MessageKind.REQUEST): _read_request,
    int(MessageKind.CANCEL): lambda fields: Cancel(
        request_id=_request_id(fields),
        indices=_chunk_indices(fields, 1, maximum=REQUEST_INDICES_MAX),
    ),
    int(MessageKind.REJECT): _read_reject,
    int(MessageKind.UNKNOWN): lambda fields: Unknown(manifest_id=_manifest(fields, 0)),
}

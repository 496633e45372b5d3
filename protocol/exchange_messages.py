"""Messages of `/swarmd/<chain>/exchange/1`: how peers ask each other for recipes and chunks.

One long-lived framed stream per pair of peers carries both directions; either side may open it.
A frame's body is one kind byte and then, for all kinds but CHUNKS, one canonical CBOR map, in which
indices are runs. CHUNKS is a fixed binary layout, so that payload bytes are never copied into or
out of CBOR:

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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, pairwise
from operator import lt
from typing import Final

from protocol.digest import ManifestId
from protocol.encoding import Fields, Value, as_uint, decode_canonical, encode_canonical
from protocol.errors import EncodingError, LocalProtocolError, RemoteProtocolError
from protocol.lean import lean
from protocol.limits import (
    CHUNKS_PER_COMPONENT_MAX,
    KIB,
    MIB,
    OBJECTS_MAX,
    RECIPE_PAGE_LEAVES,
    REQUEST_INDICES_MAX,
)
from protocol.runs import Runs, runs_of_flat

PAGES_MAX: Final = CHUNKS_PER_COMPONENT_MAX // RECIPE_PAGE_LEAVES
"""Recipe pages of one component."""
PAGE_BYTES_MAX: Final = 64 * KIB
"""Encoded recipe page with its range proof: 1,024 leaves take 40 KiB, the proof below 1 KiB."""
HAVE_RUNS_MAX: Final = 512
"""Runs in one `Have`; more are sent as several."""
REQUEST_ID_MAX: Final = 2**63 - 1
"""Request ids fit the integers of the canonical encoding."""
CHUNKS_PAYLOAD_BYTES_MAX: Final = 1 * MIB
"""Payload bytes of one CHUNKS frame: a whole request, and one chunk of the largest size."""
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


@lean
class Have:
    """Chunks the sender holds since its bitfield."""

    manifest_id: ManifestId
    """The manifest it is about."""
    component: int
    """Position in the manifest's objects."""
    indices: Runs
    """Up to 512 runs."""


@lean
class Request:
    """Asks for chunks."""

    request_id: int
    """The request it belongs to."""
    manifest_id: ManifestId
    """The manifest it is about."""
    component: int
    """Position in the manifest's objects."""
    indices: Runs
    """1 to 256 chunks."""


@lean
class Chunks:
    """Some of the chunks of one request."""

    request_id: int
    """The request it belongs to."""
    indices: Runs
    """1 to 256 chunks."""
    lengths: tuple[int, ...]
    """Bytes of each chunk as it stands in the payload."""
    payload: tuple[bytes | memoryview, ...]
    """Parts whose concatenation is all chunks in order, within the bound above. Decoded it is one
    view of the frame, so that nothing is copied before it is hashed."""
    packed: frozenset[int] = _NOTHING_PACKED
    """Indices whose bytes are one zstd frame instead of the chunk itself; others say nothing."""

    @classmethod
    def of(
        cls,
        request_id: int,
        chunks: Iterable[tuple[int, bytes | memoryview]],
        packed: frozenset[int] = _NOTHING_PACKED,
    ) -> Chunks:
        """Makes the message of single chunks, (index, bytes), ascending."""
        listed = tuple(chunks)
        return cls(
            request_id=request_id,
            indices=Runs.of_ascending([index for index, _ in listed]),
            lengths=tuple(len(data) for _, data in listed),
            payload=tuple(data for _, data in listed),
            packed=packed,
        )

    @property
    def payload_bytes(self) -> int:
        """Bytes of all chunks."""
        lengths = self.lengths
        return lengths[0] if len(lengths) == 1 else sum(lengths)

    @property
    def chunks(self) -> tuple[tuple[int, memoryview], ...]:
        """The single chunks, (index, bytes); copies where parts do not end with chunks."""
        return split_payload(self.indices, self.lengths, self.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Withdraws indices of a request; each is still answered, by a chunk on its way or a reject."""

    request_id: int
    """The request it belongs to."""
    indices: Runs
    """1 to 256 chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Answers indices of a request that will not come; no indices: the recipe page."""

    request_id: int
    """The request it belongs to."""
    indices: Runs
    """Up to 256 chunks; none: the recipe page."""
    reason: RejectReason
    """Why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """There is nothing about this manifest that the receiver may know."""

    manifest_id: ManifestId
    """The manifest it is about."""


def split_payload(
    indices: Runs, lengths: Sequence[int], payload: Sequence[bytes | memoryview]
) -> tuple[tuple[int, memoryview], ...]:
    """The single chunks of a payload, (index, bytes); joins what comes in several parts."""
    whole = memoryview(payload[0] if len(payload) == 1 else b"".join(payload))
    ends = accumulate(lengths, initial=0)
    views = (whole[start:end] for start, end in pairwise(ends))
    return tuple(zip(indices, views, strict=True))


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
                0: message.manifest_id, 1: message.component, 2: message.indices.flat(),
            }  # fmt: skip
        case Request(request_id=request, manifest_id=manifest, component=component):
            return MessageKind.REQUEST, {
                0: request, 1: manifest, 2: component, 3: message.indices.flat(),
            }  # fmt: skip
        case Cancel():
            return MessageKind.CANCEL, {0: message.request_id, 1: message.indices.flat()}
        case Reject():
            return MessageKind.REJECT, {
                0: message.request_id, 1: message.indices.flat(), 2: int(message.reason),
            }  # fmt: skip
        case Unknown():
            return MessageKind.UNKNOWN, {0: message.manifest_id}


def _encode_chunks(message: Chunks) -> list[bytes | memoryview]:
    count, payload_bytes = len(message.indices), message.payload_bytes
    if not 1 <= count <= REQUEST_INDICES_MAX or payload_bytes > CHUNKS_PAYLOAD_BYTES_MAX:
        raise LocalProtocolError(f"{count} chunks of {payload_bytes} bytes in one frame")
    if count != len(message.lengths) or payload_bytes != sum(map(len, message.payload)):
        raise LocalProtocolError(f"{count} chunks, {len(message.lengths)} lengths, other payload")
    entries = [0] * (2 * count)
    entries[::2] = message.indices
    entries[1::2] = (
        [
            length | PACKED_BIT if index in message.packed else length
            for index, length in zip(message.indices, message.lengths, strict=True)
        ]
        if message.packed
        else message.lengths
    )
    head = _CHUNKS_HEAD.pack(MessageKind.CHUNKS, message.request_id, count)
    return [head + struct.pack(f">{2 * count}I", *entries), *message.payload]


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
    entries = struct.unpack_from(f">{2 * count}I", body, _CHUNKS_HEAD.size)
    indices, lengths = entries[::2], entries[1::2]
    if indices[-1] >= CHUNKS_PER_COMPONENT_MAX or not all(map(lt, indices, indices[1:])):
        raise RemoteProtocolError("CHUNKS entries do not ascend within a component")
    packed = _NOTHING_PACKED
    if max(lengths) >= PACKED_BIT:
        packed = frozenset(i for i, n in zip(indices, lengths, strict=True) if n & PACKED_BIT)
        lengths = tuple(length & ~PACKED_BIT for length in lengths)
    if min(lengths) < 1 or sum(lengths) != len(body) - start:
        raise RemoteProtocolError(
            f"CHUNKS entries of {sum(lengths)} bytes, the payload has {len(body) - start}"
        )
    return Chunks(
        request_id=request_id,
        indices=Runs.of_ascending(indices),
        lengths=lengths,
        payload=(memoryview(body)[start:],),
        packed=packed,
    )


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


def _runs(fields: Fields, key: int, *, minimum: int, runs_max: int, count_max: int) -> Runs:
    flat = fields.items(
        key,
        lambda item: as_uint(item, "run", maximum=CHUNKS_PER_COMPONENT_MAX),
        minimum=2 * minimum,
        maximum=2 * runs_max,
    )
    return runs_of_flat(flat, below=CHUNKS_PER_COMPONENT_MAX, count_max=count_max)


def _chunk_indices(fields: Fields, key: int, *, minimum: int = 1) -> Runs:
    return _runs(
        fields,
        key,
        minimum=minimum,
        runs_max=REQUEST_INDICES_MAX,
        count_max=REQUEST_INDICES_MAX,
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
        indices=_runs(
            fields, 2, minimum=1, runs_max=HAVE_RUNS_MAX, count_max=CHUNKS_PER_COMPONENT_MAX
        ),
    )


def _read_request(fields: Fields) -> Request:
    return Request(
        request_id=_request_id(fields),
        manifest_id=_manifest(fields, 1),
        component=_component(fields, 2),
        indices=_chunk_indices(fields, 3),
    )


def _read_reject(fields: Fields) -> Reject:
    reason = fields.uint(2)
    if reason not in tuple(RejectReason):
        raise EncodingError(f"reject reason {reason} is not known")
    return Reject(
        request_id=_request_id(fields),
        indices=_chunk_indices(fields, 1, minimum=0),
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
        indices=_chunk_indices(fields, 1),
    ),
    int(MessageKind.REJECT): _read_reject,
    int(MessageKind.UNKNOWN): lambda fields: Unknown(manifest_id=_manifest(fields, 0)),
}

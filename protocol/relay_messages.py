"""Relay messages of `/swarmd/<chain>/exchange/1`: how one copy of an image reaches a whole swarm.

They travel on the stream of `exchange_messages` and continue its kinds. All but PUSH are one
canonical CBOR map behind the kind byte. PUSH is binary, so that payload is never copied into CBOR:

    kind u8 | flags u8 | object u8 | manifest id 32 bytes | delegates u8 | count u16
    | delegates x name 8 bytes | count x (index u32, length u32) | payloads, in that order

(big-endian; the indices are one run without a gap). The top bit of a length says that the payload
is compressed, as in CHUNKS. Everything else names chunks by their number in the manifest
(`exchange_layout`), in ascending runs of (first, count). Rules: docs/spec/relay.md.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from itertools import pairwise
from typing import Final

from protocol.digest import DIGEST_BYTES, ManifestId
from protocol.encoding import Fields, Value, as_uint, decode_canonical, encode_canonical
from protocol.errors import EncodingError, LocalProtocolError, RemoteProtocolError
from protocol.limits import CHUNK_BYTES_MAX, CHUNKS_PER_COMPONENT_MAX, KIB, OBJECTS_MAX

RUN_CHUNKS_MAX: Final = 256
"""Chunks of one push: with the smallest chunks worth pushing (2 KiB) this is 512 KiB."""
PUSH_PAYLOAD_BYTES_MAX: Final = CHUNK_BYTES_MAX
"""Payload of one push: a unit may be a single chunk of the largest size."""
DELEGATES_MAX: Final = 64
"""Peers that one push asks its receiver to serve: 1,024 members over 32 heads need 31."""
DELEGATE_NAME_BYTES: Final = 8
"""A delegate is named by the start of its transport key: whoever made a second key that starts
alike (2^64 tries) would receive a push twice and the other would pull."""
RUNS_MAX: Final = 512
"""Runs in one message; more are sent as several."""
SITE_BYTES_MAX: Final = 32
"""Bytes of a site's name."""
CHUNK_NUMBER_MAX: Final = OBJECTS_MAX * CHUNKS_PER_COMPONENT_MAX - 1
"""Largest chunk number of any manifest."""
QUEUED_BYTES_MAX: Final = 2**40
"""Largest load a peer can report, bytes."""
COMPRESSED_BIT: Final = 1 << 31
"""In a PUSH entry's length: the payload is compressed."""

_PUSH_HEAD: Final = struct.Struct(f">BBB{DIGEST_BYTES}sBH")
_PUSH_ENTRY: Final = struct.Struct(">II")
_CONTROL_BYTES_MAX: Final = 16 * KIB
"""Body of every other kind: 512 runs of at most 10 bytes, with room."""

Run = tuple[int, int]
"""(number of the first chunk, how many chunks)."""


class RelayKind(IntEnum):
    """First byte of a frame; continues `exchange_messages.MessageKind`."""

    READY = 12
    PUSH = 13
    CREDIT = 14
    SKIP = 15
    COMPLAINT = 16
    NEWS = 17


class Role(IntEnum):
    """What a peer is to the relay of one object."""

    RECEIVES = 1
    """Holds the verified recipe and room: pushes are welcome."""
    HOLDS = 2
    """Holds every chunk and gives them to whoever asks."""
    SEEDS = 3
    """Holds every chunk and pushes those that nobody else has; to be asked for nothing until it
    says HOLDS."""
    RESUMES = 4
    """As RECEIVES, and holds some chunks already: a bitfield follows to whoever holds all."""


class PushFlag(IntFlag):
    """What the receiver of a push shall do with it."""

    NONE = 0
    RELAYER = 1
    """Pass it on to the other members and return a credit."""
    SITE = 2
    """Pass it on to all members of your site."""
    ALL = 3
    """Every flag this version knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The sender's part in the relay of a manifest, replacing what it said before."""

    manifest_id: ManifestId
    """The manifest it is about."""
    roles: tuple[tuple[int, Role], ...]
    """(object, role), objects ascending; an object that is absent is no longer relayed."""
    is_leaf: bool = False
    """Never to be asked to relay: metered, or on battery."""
    site: bytes = b""
    """Name of the local network the sender is in, 0 to 32 bytes; empty: none known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedChunk:
    """One chunk of a push."""

    index: int
    """Chunk index within the object."""
    data: bytes | memoryview
    """Payload as it travels; when decoded, a view of the frame."""
    is_compressed: bool = False
    """Whether the payload is one compressed frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """A unit: one run of chunks of one object, nobody asked for it."""

    manifest_id: ManifestId
    """The manifest it is about."""
    object_number: int
    """Position of the object in the manifest."""
    flags: PushFlag
    """What to do with it."""
    delegates: tuple[bytes, ...]
    """Names of members to pass it to, at most 64."""
    chunks: tuple[PushedChunk, ...]
    """1 to 256 chunks with consecutive indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """Units that the sender was asked to relay and has passed to half of the others."""

    manifest_id: ManifestId
    """The manifest it is about."""
    firsts: tuple[int, ...]
    """First chunk number of each unit, ascending, 1 to 512."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Chunks that the sender holds and will not push to the receiver: pull them."""

    manifest_id: ManifestId
    """The manifest it is about."""
    runs: tuple[Run, ...]
    """Ascending, apart, 1 to 512."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """A peer sent the sender of this message a chunk that does not match; opinion, no proof."""

    manifest_id: ManifestId
    """The manifest it is about."""
    culprit: bytes
    """Transport key of the peer complained about, 1 to 64 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """Chunks that the sender verified lately, told to a few peers; and how busy it is."""

    manifest_id: ManifestId
    """The manifest it is about."""
    runs: tuple[Run, ...]
    """Ascending, apart, 1 to 512."""
    queued_bytes: int
    """Bytes that wait at the sender for anybody."""


RelayControl = Ready | Credit | Skip | Complaint | News
"""Messages carried as CBOR."""
RelayMessage = RelayControl | Push
"""Every message of the relay."""


def delegate_name(peer: bytes) -> bytes:
    """Names a peer in a push."""
    return peer[:DELEGATE_NAME_BYTES].ljust(DELEGATE_NAME_BYTES, b"\0")


def runs_of(numbers: Iterable[int]) -> list[Run]:
    """Gathers ascending chunk numbers into runs."""
    runs: list[Run] = []
    first = count = 0
    for number in numbers:
        if count and number == first + count:
            count += 1
            continue
        if count:
            runs.append((first, count))
        first, count = number, 1
    if count:
        runs.append((first, count))
    return runs


# Encoding ---------------------------------------------------------------------------------------


def encode_relay(message: RelayMessage) -> list[bytes | memoryview]:
    """Encodes a message as the parts of one frame body.

    Raises:
        LocalProtocolError: it exceeds a bound that every receiver enforces.
    """
    if isinstance(message, Push):
        return _encode_push(message)
    kind, value = _control_value(message)
    body = bytes((kind,)) + encode_canonical(value)
    if len(body) > _CONTROL_BYTES_MAX:
        raise LocalProtocolError(f"{kind.name} of {len(body)} bytes, at most {_CONTROL_BYTES_MAX}")
    return [body]


def _control_value(message: RelayControl) -> tuple[RelayKind, dict[int | str, Value]]:
    match message:
        case Ready():
            return RelayKind.READY, {
                0: message.manifest_id,
                1: {number: int(role) for number, role in message.roles},
                2: message.is_leaf,
                3: message.site,
            }
        case Credit():
            return RelayKind.CREDIT, {0: message.manifest_id, 1: message.firsts}
        case Skip():
            return RelayKind.SKIP, {0: message.manifest_id, 1: _flat(message.runs)}
        case Complaint():
            return RelayKind.COMPLAINT, {0: message.manifest_id, 1: message.culprit}
        case News():
            return RelayKind.NEWS, {
                0: message.manifest_id, 1: _flat(message.runs), 2: message.queued_bytes,
            }  # fmt: skip


def _flat(runs: Sequence[Run]) -> list[int]:
    return [number for run in runs for number in run]


def _encode_push(message: Push) -> list[bytes | memoryview]:
    chunks, delegates = message.chunks, message.delegates
    payload_bytes = sum(len(chunk.data) for chunk in chunks)
    if not 1 <= len(chunks) <= RUN_CHUNKS_MAX or payload_bytes > PUSH_PAYLOAD_BYTES_MAX:
        raise LocalProtocolError(f"{len(chunks)} chunks of {payload_bytes} bytes in one push")
    if len(delegates) > DELEGATES_MAX:
        raise LocalProtocolError(f"{len(delegates)} delegates in one push")
    head = [
        _PUSH_HEAD.pack(
            RelayKind.PUSH,
            message.flags,
            message.object_number,
            message.manifest_id,
            len(delegates),
            len(chunks),
        ),
        *delegates,
    ]
    for chunk in chunks:
        mark = COMPRESSED_BIT if chunk.is_compressed else 0
        head.append(_PUSH_ENTRY.pack(chunk.index, len(chunk.data) | mark))
    return [b"".join(head), *(chunk.data for chunk in chunks)]


# Decoding ---------------------------------------------------------------------------------------


def is_relay_kind(kind: int) -> bool:
    """Whether a frame's first byte is one of these kinds."""
    return RelayKind.READY <= kind <= RelayKind.NEWS


def decode_relay(body: bytes | bytearray | memoryview) -> RelayMessage:
    """Decodes a frame body.

    Raises:
        RemoteProtocolError: empty, of another kind, malformed, over a bound, or not canonical.
    """
    if not body or not is_relay_kind(body[0]):
        raise RemoteProtocolError("no relay message")
    if body[0] == RelayKind.PUSH:
        return _decode_push(memoryview(body))
    if len(body) > _CONTROL_BYTES_MAX:
        raise RemoteProtocolError(f"relay message of {len(body)} bytes")
    try:
        value = decode_canonical(bytes(body[1:]), bytes_max=_CONTROL_BYTES_MAX)
        fields = Fields(value, "relay message")
        message = _READERS[RelayKind(body[0])](fields)
        fields.finish()
    except EncodingError as error:
        raise RemoteProtocolError(f"malformed relay message {body[0]}: {error}") from error
    return message


def _decode_push(view: memoryview) -> Push:
    if len(view) < _PUSH_HEAD.size:
        raise RemoteProtocolError(f"PUSH frame of {len(view)} bytes has no complete head")
    _, flags, number, manifest_id, delegate_count, count = _PUSH_HEAD.unpack_from(view)
    names_end = _PUSH_HEAD.size + delegate_count * DELEGATE_NAME_BYTES
    start = names_end + count * _PUSH_ENTRY.size
    if not 1 <= count <= RUN_CHUNKS_MAX or delegate_count > DELEGATES_MAX or len(view) < start:
        raise RemoteProtocolError(f"PUSH of {count} chunks in {len(view)} bytes")
    if flags & ~int(PushFlag.ALL) or len(view) - start > PUSH_PAYLOAD_BYTES_MAX:
        raise RemoteProtocolError(f"PUSH with flags {flags}, {len(view) - start} payload bytes")
    names = bytes(view[_PUSH_HEAD.size : names_end])
    return Push(
        manifest_id=ManifestId(manifest_id),
        object_number=number,
        flags=PushFlag(flags),
        delegates=tuple(
            names[at : at + DELEGATE_NAME_BYTES] for at in range(0, len(names), DELEGATE_NAME_BYTES)
        ),
        chunks=_pushed_chunks(view, names_end, start),
    )


def _pushed_chunks(view: memoryview, entries_at: int, start: int) -> tuple[PushedChunk, ...]:
    chunks: list[PushedChunk] = []
    expected, position = None, start
    for index, marked in _PUSH_ENTRY.iter_unpack(view[entries_at:start]):
        length = marked & ~COMPRESSED_BIT
        end = position + length
        in_run = index == expected or (expected is None and index < CHUNKS_PER_COMPONENT_MAX)
        if not in_run or not length or end > len(view):
            raise RemoteProtocolError(f"PUSH entry (index {index}, {length} bytes) out of bounds")
        data = view[position:end]
        chunks.append(
            PushedChunk(index=index, data=data, is_compressed=bool(marked & COMPRESSED_BIT))
        )
        expected, position = index + 1, end
    if position != len(view) or expected is None or expected > CHUNKS_PER_COMPONENT_MAX:
        raise RemoteProtocolError(f"PUSH with {len(view) - position} bytes behind its chunks")
    return tuple(chunks)


def _manifest(fields: Fields) -> ManifestId:
    return ManifestId(fields.digest(0))


def _read_ready(fields: Fields) -> Ready:
    roles = fields.value(1)
    if not isinstance(roles, dict) or len(roles) > OBJECTS_MAX:
        raise EncodingError(f"relay message: roles are no map of at most {OBJECTS_MAX}")
    known = {int(role) for role in Role}
    for number, role in roles.items():
        as_uint(number, "object", maximum=OBJECTS_MAX - 1)
        if as_uint(role, "role") not in known:
            raise EncodingError(f"relay message: role {role} is not known")
    return Ready(
        manifest_id=_manifest(fields),
        roles=tuple((number, Role(role)) for number, role in sorted(roles.items())),
        is_leaf=fields.boolean(2),
        site=fields.bytes(3, maximum=SITE_BYTES_MAX),
    )


def _runs(fields: Fields, key: int) -> tuple[Run, ...]:
    flat = fields.items(
        key,
        lambda item: as_uint(item, "run", maximum=CHUNK_NUMBER_MAX + 1),
        minimum=2,
        maximum=2 * RUNS_MAX,
    )
    if len(flat) % 2:
        raise EncodingError("relay message: half a run")
    runs = tuple(zip(flat[::2], flat[1::2], strict=True))
    end = -1
    for first, count in runs:
        # Apart by at least one chunk, so that one set of chunks has one encoding.
        if first <= end or not count or first + count > CHUNK_NUMBER_MAX + 1:
            raise EncodingError("relay message: runs overlap, touch, or are empty")
        end = first + count
    return runs


def _read_credit(fields: Fields) -> Credit:
    firsts = fields.items(
        1,
        lambda item: as_uint(item, "unit", maximum=CHUNK_NUMBER_MAX),
        minimum=1,
        maximum=RUNS_MAX,
    )
    if any(left >= right for left, right in pairwise(firsts)):
        raise EncodingError("relay message: units are not strictly ascending")
    return Credit(manifest_id=_manifest(fields), firsts=firsts)


def _read_skip(fields: Fields) -> Skip:
    return Skip(manifest_id=_manifest(fields), runs=_runs(fields, 1))


def _read_complaint(fields: Fields) -> Complaint:
    culprit = fields.bytes(1, maximum=64)
    if not culprit:
        raise EncodingError("relay message: nobody is complained about")
    return Complaint(manifest_id=_manifest(fields), culprit=culprit)


def _read_news(fields: Fields) -> News:
    return News(
        manifest_id=_manifest(fields),
        runs=_runs(fields, 1),
        queued_bytes=fields.uint(2, maximum=QUEUED_BYTES_MAX),
    )


_READERS: Final[dict[RelayKind, Callable[[Fields], RelayControl]]] = {
    RelayKind.READY: _read_ready,
    RelayKind.CREDIT: _read_credit,
    RelayKind.SKIP: _read_skip,
    RelayKind.COMPLAINT: _read_complaint,
    RelayKind.NEWS: _read_news,
}

from __future__ import annotations

import contextlib
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import ManifestId
from protocol.encoding import encode_canonical
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.exchange_messages import (
    BITFIELD_BYTES_MAX,
    CHUNKS_PAYLOAD_BYTES_MAX,
    EXCHANGE_FRAME_BYTES_MAX,
    HAVE_RUNS_MAX,
    PAGE_BYTES_MAX,
    PAGES_MAX,
    REQUEST_ID_MAX,
    BitfieldMessage,
    Cancel,
    Chunks,
    ExchangeMessage,
    Have,
    Interest,
    MessageKind,
    NotInterested,
    RecipePageMessage,
    RecipeRequest,
    Reject,
    RejectReason,
    Request,
    Unknown,
    decode_exchange,
    encode_exchange,
)
from protocol.limits import CHUNKS_PER_COMPONENT_MAX, FRAME_BYTES_MAX, REQUEST_INDICES_MAX
from protocol.runs import Runs

M = ManifestId(bytes(range(32)))
IDS = st.integers(0, REQUEST_ID_MAX)
INDEX = st.integers(0, CHUNKS_PER_COMPONENT_MAX - 1)
COMPONENT = st.integers(0, 79)


def ascending(
    item: st.SearchStrategy[int], *, least: int = 1
) -> st.SearchStrategy[tuple[int, ...]]:
    return st.sets(item, min_size=least, max_size=20).map(lambda s: tuple(sorted(s)))


def runs(*, least: int = 1) -> st.SearchStrategy[Runs]:
    return st.one_of(
        ascending(INDEX, least=least).map(Runs.of),
        st.builds(
            lambda first, count: Runs(((first, count),)), st.integers(0, 9), st.integers(1, 40)
        ),
    )


MESSAGES: st.SearchStrategy[ExchangeMessage] = st.one_of(
    st.builds(Interest, manifest_id=st.just(M), components=ascending(COMPONENT)),
    st.builds(NotInterested, manifest_id=st.just(M)),
    st.builds(
        RecipeRequest,
        request_id=IDS,
        manifest_id=st.just(M),
        component=COMPONENT,
        page=st.integers(0, PAGES_MAX - 1),
    ),
    st.builds(RecipePageMessage, request_id=IDS, page=st.binary(max_size=200)),
    st.builds(
        BitfieldMessage, manifest_id=st.just(M), component=COMPONENT, bits=st.binary(max_size=50)
    ),
    st.builds(Have, manifest_id=st.just(M), component=COMPONENT, indices=runs()),
    st.builds(
        Request,
        request_id=IDS,
        manifest_id=st.just(M),
        component=COMPONENT,
        indices=runs(),
    ),
    st.builds(Cancel, request_id=IDS, indices=runs()),
    st.builds(
        Reject,
        request_id=IDS,
        indices=runs(least=0),
        reason=st.sampled_from(RejectReason),
    ),
    st.builds(Unknown, manifest_id=st.just(M)),
    st.builds(
        Chunks.of,
        IDS,
        st.dictionaries(INDEX, st.binary(min_size=1, max_size=30), min_size=1, max_size=8).map(
            lambda d: tuple(sorted(d.items()))
        ),
    ).flatmap(
        lambda made: st.sets(st.sampled_from([index for index, _ in made.chunks])).map(
            lambda packed: replace(made, packed=frozenset(packed))
        )
    ),
)


def same(left: ExchangeMessage, right: ExchangeMessage) -> bool:
    if isinstance(left, Chunks) and isinstance(right, Chunks):
        strip = [[(i, bytes(d)) for i, d in m.chunks] for m in (left, right)]
        return (
            left.request_id == right.request_id
            and strip[0] == strip[1]
            and left.packed == right.packed
        )
    return left == right


@given(MESSAGES)
def test_every_message_survives_the_wire(message: ExchangeMessage) -> None:
    assert same(decode_exchange(encode_exchange(message)), message)


@given(MESSAGES, st.data())
def test_every_truncation_and_every_tail_is_refused(
    message: ExchangeMessage, data: st.DataObject
) -> None:
    body = encode_exchange(message)
    cut = data.draw(st.integers(0, len(body) - 1))
    for spoilt in (body[:cut], body + b"\x00"):
        with pytest.raises(RemoteProtocolError):
            decode_exchange(spoilt)


@given(MESSAGES, st.data())
def test_a_flipped_bit_decodes_canonically_or_not_at_all(
    message: ExchangeMessage, data: st.DataObject
) -> None:
    body = bytearray(encode_exchange(message))
    position = data.draw(st.integers(0, len(body) * 8 - 1))
    body[position // 8] ^= 1 << position % 8
    try:
        decoded = decode_exchange(bytes(body))
    except RemoteProtocolError:
        return
    assert encode_exchange(decoded) == bytes(body)


@given(st.binary(max_size=300))
def test_random_bytes_never_escape_the_error_type(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode_exchange(data)


def pairs(count: int) -> list[int]:
    """That many runs of one chunk each, as they stand on the wire."""
    return [number for run in range(count) for number in (2 * run, 1)]


def control(kind: MessageKind | int, value: dict[int | str, object]) -> bytes:
    return bytes((kind,)) + encode_canonical(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"\x0c\xa0",
        b"\xff",
        control(MessageKind.INTEREST, {0: M, 1: []}),
        control(MessageKind.INTEREST, {0: M, 1: [80]}),
        control(MessageKind.INTEREST, {0: M, 1: [1, 1]}),
        control(MessageKind.INTEREST, {0: M[:31], 1: [1]}),
        control(MessageKind.INTEREST, {0: M, 1: [1], 2: 1}),
        control(MessageKind.NOT_INTERESTED, {}),
        control(MessageKind.RECIPE_REQUEST, {0: 1, 1: M, 2: 0, 3: PAGES_MAX}),
        control(MessageKind.RECIPE_REQUEST, {0: -1, 1: M, 2: 0, 3: 0}),
        control(MessageKind.RECIPE_PAGE, {0: 1, 1: bytes(PAGE_BYTES_MAX + 1)}),
        control(MessageKind.BITFIELD, {0: M, 1: 0, 2: bytes(BITFIELD_BYTES_MAX + 1)}),
        control(MessageKind.HAVE, {0: M, 1: 0, 2: pairs(HAVE_RUNS_MAX + 1)}),
        control(MessageKind.HAVE, {0: M, 1: 0, 2: []}),
        control(MessageKind.HAVE, {0: M, 1: 0, 2: [0, CHUNKS_PER_COMPONENT_MAX + 1]}),
        *(
            control(MessageKind.REQUEST, {0: 1, 1: M, 2: 0, 3: runs})
            for runs in (
                pairs(REQUEST_INDICES_MAX + 1),
                [0, REQUEST_INDICES_MAX + 1],
                [3],
                [3, 0],
                [3, 1, 2, 1],
                [3, 1, 3, 1],
                [3, 2, 4, 1],
                [3, 1, 4, 1],
                [CHUNKS_PER_COMPONENT_MAX, 1],
                [CHUNKS_PER_COMPONENT_MAX - 1, 2],
                [-1, 1],
                [0, 2**60],
            )
        ),
        control(MessageKind.REQUEST, {0: 1, 1: M, 2: 80, 3: [0, 1]}),
        control(MessageKind.REQUEST, {0: True, 1: M, 2: 0, 3: [0, 1]}),
        control(MessageKind.CANCEL, {0: 1, 1: []}),
        control(MessageKind.REJECT, {0: 1, 1: [], 2: 0}),
        control(MessageKind.REJECT, {0: 1, 1: [], 2: 5}),
        control(MessageKind.UNKNOWN, {0: M, 1: 0}),
    ],
)
def test_each_bound_is_enforced(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_exchange(body)


def chunks_frame(
    entries: list[tuple[int, int]], payload: bytes, *, count: int | None = None, request: int = 1
) -> bytes:
    head = struct.pack(
        ">BQH", MessageKind.CHUNKS, request, len(entries) if count is None else count
    )
    return head + b"".join(struct.pack(">II", *entry) for entry in entries) + payload


@pytest.mark.parametrize(
    "body",
    [
        chunks_frame([], b""),
        chunks_frame([(0, 0)], b""),
        chunks_frame([(0, 2)], b"x"),
        chunks_frame([(0, 1)], b"xy"),
        chunks_frame([(1, 1), (1, 1)], b"xy"),
        chunks_frame([(1, 1), (0, 1)], b"xy"),
        chunks_frame([(CHUNKS_PER_COMPONENT_MAX, 1)], b"x"),
        chunks_frame([(0, 2**32 - 1)], b"x"),
        chunks_frame([(0, 1)], b"x", request=REQUEST_ID_MAX + 1),
        chunks_frame([(i, 1) for i in range(257)], b"x" * 257),
        chunks_frame([(0, 1)], b"x", count=2),
        chunks_frame([(0, CHUNKS_PAYLOAD_BYTES_MAX + 1)], bytes(CHUNKS_PAYLOAD_BYTES_MAX + 1)),
    ],
)
def test_malformed_chunk_frames_are_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_exchange(body)


def test_the_layout_of_chunk_frames_is_pinned() -> None:
    message = Chunks.of(2**31 + 5, ((3, b"abc"), (7, b"z")))
    assert encode_exchange(message).hex() == (
        "0800000000800000050002000000030000000300000007000000016162637a"
    )


def test_the_layout_of_a_request_is_pinned() -> None:
    message = Request(request_id=1, manifest_id=M, component=2, indices=Runs.of((0, 300)))
    assert (
        encode_exchange(message).hex() == "07a40001015820" + M.hex() + "0202" + "0384000119012c01"
    )


def test_we_never_send_what_others_would_refuse() -> None:
    big = bytes(CHUNKS_PAYLOAD_BYTES_MAX)
    with pytest.raises(LocalProtocolError):
        encode_exchange(Chunks.of(1, ((0, big), (1, b"x"))))
    with pytest.raises(LocalProtocolError):
        encode_exchange(Chunks.of(1, ()))
    with pytest.raises(LocalProtocolError):
        encode_exchange(RecipePageMessage(request_id=1, page=bytes(PAGE_BYTES_MAX + 2000)))
    assert len(encode_exchange(Chunks.of(1, ((0, big),)))) <= EXCHANGE_FRAME_BYTES_MAX
    assert EXCHANGE_FRAME_BYTES_MAX <= FRAME_BYTES_MAX

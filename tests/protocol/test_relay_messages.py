"""Relay messages: what is encoded is decoded again, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import ManifestId
from protocol.encoding import encode_canonical
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.exchange_messages import EXCHANGE_FRAME_BYTES_MAX
from protocol.limits import CHUNK_BYTES_MAX, CHUNKS_PER_COMPONENT_MAX, OBJECTS_MAX
from protocol.relay_messages import (
    CHUNK_NUMBER_MAX,
    DELEGATES_MAX,
    RUN_CHUNKS_MAX,
    RUNS_MAX,
    SITE_BYTES_MAX,
    Complaint,
    Credit,
    News,
    Push,
    PushedChunk,
    PushFlag,
    Ready,
    RelayKind,
    RelayMessage,
    Role,
    Skip,
    decode_relay,
    delegate_name,
    encode_relay,
)

M = ManifestId(b"m" * 32)


def runs() -> st.SearchStrategy[tuple[tuple[int, int], ...]]:
    """Runs that ascend and lie apart."""
    steps = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 9)), min_size=1, max_size=20)

    def place(pairs: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        found, end = [], -1
        for gap, count in pairs:
            found.append((end + gap, count))
            end = end + gap + count
        return tuple(found)

    return steps.map(place)


def pushes() -> st.SearchStrategy[Push]:
    return st.builds(
        lambda number, first, flags, names, chunks: Push(
            manifest_id=M,
            object_number=number,
            flags=flags,
            delegates=tuple(names),
            chunks=tuple(
                PushedChunk(index=first + step, data=data, is_compressed=packed)
                for step, (data, packed) in enumerate(chunks)
            ),
        ),
        st.integers(0, OBJECTS_MAX - 1),
        st.integers(0, 1000),
        st.sampled_from([PushFlag.NONE, PushFlag.RELAYER, PushFlag.SITE, PushFlag.ALL]),
        st.lists(st.binary(min_size=8, max_size=8), max_size=5),
        st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.booleans()), min_size=1),
    )


def messages() -> st.SearchStrategy[RelayMessage]:
    roles = st.dictionaries(
        st.integers(0, OBJECTS_MAX - 1), st.sampled_from(list(Role)), max_size=5
    )
    return st.one_of(
        st.builds(
            Ready,
            manifest_id=st.just(M),
            roles=roles.map(lambda found: tuple(sorted(found.items()))),
            is_leaf=st.booleans(),
            site=st.binary(max_size=SITE_BYTES_MAX),
        ),
        st.builds(
            Credit,
            manifest_id=st.just(M),
            firsts=st.sets(st.integers(0, CHUNK_NUMBER_MAX), min_size=1).map(
                lambda found: tuple(sorted(found))
            ),
        ),
        st.builds(Skip, manifest_id=st.just(M), runs=runs()),
        st.builds(Complaint, manifest_id=st.just(M), culprit=st.binary(min_size=1, max_size=64)),
        st.builds(News, manifest_id=st.just(M), runs=runs(), queued_bytes=st.integers(0, 2**40)),
        pushes(),
    )


def body_of(message: RelayMessage) -> bytes:
    return b"".join(encode_relay(message))


@given(messages())
def test_a_message_survives_the_wire(message: RelayMessage) -> None:
    assert decode_relay(body_of(message)) == message


@given(messages(), st.data())
def test_a_cut_message_is_refused(message: RelayMessage, data: st.DataObject) -> None:
    body = body_of(message)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(RemoteProtocolError):
        decode_relay(body[:cut])


@given(messages())
def test_bytes_behind_a_message_are_refused(message: RelayMessage) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_relay(body_of(message) + b"\x00")


@given(st.binary(max_size=300))
def test_noise_is_refused_or_a_message(noise: bytes) -> None:
    for kind in RelayKind:
        body = bytes((kind,)) + noise
        try:
            message = decode_relay(body)
        except RemoteProtocolError:
            continue
        assert body_of(message) == body


def control(kind: RelayKind, fields: dict[int | str, object]) -> bytes:
    return bytes((kind,)) + encode_canonical(fields)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    "body",
    [
        control(RelayKind.READY, {0: M, 1: {0: 9}, 2: False, 3: b""}),
        control(RelayKind.READY, {0: M, 1: {OBJECTS_MAX: 1}, 2: False, 3: b""}),
        control(RelayKind.READY, {0: M, 1: {"a": 1}, 2: False, 3: b""}),
        control(RelayKind.READY, {0: M, 1: [1], 2: False, 3: b""}),
        control(RelayKind.READY, {0: M, 1: {0: 1}, 2: 1, 3: b""}),
        control(RelayKind.READY, {0: M, 1: {0: 1}, 2: False, 3: b"s" * (SITE_BYTES_MAX + 1)}),
        control(RelayKind.READY, {0: M, 1: {0: 1}, 2: False, 3: b"", 4: 0}),
        control(RelayKind.CREDIT, {0: M, 1: []}),
        control(RelayKind.CREDIT, {0: M, 1: [2, 1]}),
        control(RelayKind.CREDIT, {0: M, 1: [CHUNK_NUMBER_MAX + 1]}),
        control(RelayKind.SKIP, {0: M, 1: [0]}),
        control(RelayKind.SKIP, {0: M, 1: [0, 0]}),
        control(RelayKind.SKIP, {0: M, 1: [0, 2, 2, 1]}),
        control(RelayKind.SKIP, {0: M, 1: [5, 1, 0, 1]}),
        control(RelayKind.SKIP, {0: M, 1: [CHUNK_NUMBER_MAX, 2]}),
        control(RelayKind.NEWS, {0: M, 1: [0, 1], 2: 2**40 + 1}),
        control(RelayKind.COMPLAINT, {0: M, 1: b""}),
        control(RelayKind.COMPLAINT, {0: M, 1: b"c" * 65}),
        b"",
        bytes((RelayKind.NEWS + 1,)),
        bytes((RelayKind.READY - 1,)),
    ],
)
def test_one_thing_wrong_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_relay(body)


def push_of(**changes: object) -> Push:
    fields: dict[str, object] = {
        "manifest_id": M,
        "object_number": 0,
        "flags": PushFlag.NONE,
        "delegates": (),
        "chunks": (PushedChunk(index=3, data=b"abc"), PushedChunk(index=4, data=b"d")),
    }
    return Push(**{**fields, **changes})  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (1, 4),
        (1, 0x80),
        (35, 1),
        (36, 1),
        (37, 0),
        (37, 1),
        (37, 3),
        (41, 4),
        (41, 2),
        (45, 4),
        (53, 5),
    ],
)
def test_a_push_with_one_byte_wrong_is_refused(position: int, value: int) -> None:
    body = bytearray(body_of(push_of()))
    assert body[position] != value
    body[position] = value
    with pytest.raises(RemoteProtocolError):
        decode_relay(bytes(body))


def test_a_push_has_consecutive_indices_within_a_component() -> None:
    last = CHUNKS_PER_COMPONENT_MAX - 1
    decode_relay(body_of(push_of(chunks=(PushedChunk(index=last, data=b"x"),))))
    for chunks in (
        (PushedChunk(index=last, data=b"x"), PushedChunk(index=last + 1, data=b"x")),
        (PushedChunk(index=last + 1, data=b"x"),),
        (PushedChunk(index=2, data=b"x"), PushedChunk(index=4, data=b"x")),
        (PushedChunk(index=2, data=b"x"), PushedChunk(index=2, data=b"x")),
        (PushedChunk(index=2, data=b""),),
    ):
        with pytest.raises(RemoteProtocolError):
            decode_relay(body_of(push_of(chunks=chunks)))


def test_bounds_of_a_push_hold_for_the_sender() -> None:
    one = PushedChunk(index=0, data=b"x")
    for push in (
        push_of(chunks=()),
        push_of(chunks=(one,) * (RUN_CHUNKS_MAX + 1)),
        push_of(chunks=(PushedChunk(index=0, data=bytes(CHUNK_BYTES_MAX + 1)),)),
        push_of(delegates=(b"12345678",) * (DELEGATES_MAX + 1)),
    ):
        with pytest.raises(LocalProtocolError):
            encode_relay(push)


def test_the_largest_push_of_one_chunk_fits_a_frame() -> None:
    push = push_of(
        chunks=(PushedChunk(index=0, data=bytes(CHUNK_BYTES_MAX)),),
        delegates=(b"12345678",) * DELEGATES_MAX,
    )
    assert len(body_of(push)) <= EXCHANGE_FRAME_BYTES_MAX


def test_too_many_runs_are_not_sent() -> None:
    many = tuple((2 * number, 1) for number in range(RUNS_MAX + 1))
    with pytest.raises(RemoteProtocolError):
        decode_relay(body_of(Skip(manifest_id=M, runs=many)))


def test_payloads_are_views_of_the_frame() -> None:
    body = body_of(push_of())
    push = decode_relay(body)
    assert isinstance(push, Push)
    assert isinstance(push.chunks[0].data, memoryview)
    assert push.chunks[0].data.obj is body


def test_delegates_are_named_by_eight_bytes() -> None:
    assert delegate_name(b"a" * 32) == b"a" * 8
    assert delegate_name(b"ab") == b"ab" + bytes(6)

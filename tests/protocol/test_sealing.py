"""Sealing fields, rings, statements, messages: one form, every bound, no key for two purposes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cose import sign
from protocol.digest import ChainId, DidId, Digest, sha256
from protocol.encoding import Value, decode_canonical, encode_canonical
from protocol.errors import EncodingError, SignatureError, VerificationError
from protocol.keys import PrivateKey
from protocol.manifest import ChunkerKind, ChunkerParameters, Component
from protocol.sealing import (
    CHUNK_OVERHEAD_BYTES,
    ContentKey,
    RingName,
    Sealing,
    plain_prefix,
    ring_id,
)
from protocol.sealing_messages import (
    RingAnswer,
    RingRequest,
    RingStatus,
    decode_ring_answer,
    decode_ring_request,
)
from protocol.sealing_ring import (
    RING_FILE_BYTES_MAX,
    RING_FILE_TAG,
    RING_MEMBERS_MAX,
    SEALING_KEY_TAG,
    WRAP_BYTES,
    RingFile,
    RingMember,
    SealingKeyStatement,
    parse_ring,
    parse_statement,
    ring_members,
    sign_ring,
    sign_statement,
    wrap_info,
)
from tests.support.strategies import digests, sealings

CHAIN, OTHER_CHAIN = ChainId(sha256(b"chain")), ChainId(sha256(b"other chain"))
KEY, OTHER_KEY = PrivateKey(bytes(32)), PrivateKey(b"\1" * 32)
PUBLISHER = DidId(sha256(b"publisher"))
NAME = RingName(chain=CHAIN, publisher=PUBLISHER, group="fleet", generation=1)
CONTENT = ContentKey(b"\7" * 32, NAME)
FIXED = ChunkerParameters(kind=ChunkerKind.FIXED, minimum=100, average=100, maximum=100)


def member(number: int) -> RingMember:
    did = DidId(sha256(b"member %d" % number))
    return RingMember(did=did, key=b"k" * 32, wrap=b"w" * WRAP_BYTES)


def ring_file(count: int = 2) -> RingFile:
    return RingFile(
        era=0,
        publisher=PUBLISHER,
        group="fleet",
        generation=1,
        version=3,
        check=CONTENT.check(),
        members=ring_members([member(number) for number in range(count)]),
    )


# -- derivation ---------------------------------------------------------------------------------


def test_no_two_purposes_rings_or_components_share_a_derived_key() -> None:
    names = [
        NAME,
        replace(NAME, chain=OTHER_CHAIN),
        replace(NAME, publisher=DidId(sha256(b"another"))),
        replace(NAME, group="fleet2"),
        replace(NAME, generation=2),
    ]
    derived: list[bytes] = []
    for secret in (b"\7" * 32, b"\7" * 31 + b"\6"):
        for name in names:
            key = ContentKey(secret, name)
            derived += [key.check(), key.chunk_key()[:32], key.chunk_key()[32:], key.ring()]
            for nonce in (bytes(16), b"\1" * 16):
                derived.append(key.salt(Sealing(ring=key.ring(), generation=1, nonce=nonce)))
    assert len(set(derived)) == len(derived) == 60


def test_a_key_salts_nothing_of_another_ring() -> None:
    other = ContentKey(b"\7" * 32, replace(NAME, generation=2))
    with pytest.raises(VerificationError, match="another ring"):
        CONTENT.salt(Sealing(ring=other.ring(), generation=2, nonce=bytes(16)))


def test_secrets_are_not_printed() -> None:
    assert CONTENT.secret().hex() not in repr(CONTENT)
    assert repr(CONTENT) == "ContentKey('fleet', generation 1)"


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_and_salts_have_one_length(size: int) -> None:
    with pytest.raises(EncodingError):
        ContentKey(bytes(size), NAME)
    with pytest.raises(EncodingError):
        plain_prefix(bytes(size))


def test_the_salted_prefix_is_pinned() -> None:
    assert plain_prefix(b"s" * 32) == b"\x15swarmd/sealed-plain/1" + b"s" * 32
    assert ring_id(NAME, CONTENT.check()) == CONTENT.ring()
    assert CONTENT.ring().hex() == (
        "4557daeb91414c224ecb8574655b839f45f4acee4aa0cdae6433d21bc747049e"
    )


# -- the manifest's field -----------------------------------------------------------------------


@given(sealings)
def test_sealings_survive_their_encoding(sealing: Sealing) -> None:
    raw = encode_canonical(sealing.to_value())
    assert Sealing.from_value(decode_canonical(raw, bytes_max=128)) == sealing


@pytest.mark.parametrize(
    "change",
    [{0: 0}, {0: 2}, {1: b"short"}, {2: 0}, {2: 2**32}, {3: bytes(15)}, {3: bytes(17)}, {4: 1}],
)
def test_malformed_sealings_are_refused(change: dict[int, object]) -> None:
    value = {0: 1, 1: bytes(32), 2: 1, 3: bytes(16)}
    assert Sealing.from_value(dict(value))  # the form that is changed is a good one
    with pytest.raises(EncodingError):
        Sealing.from_value({**value, **change})  # type: ignore[dict-item]


def component(*, size: int, count: int, chunker: ChunkerParameters = FIXED) -> Component:
    return Component(
        name="a",
        size=size,
        digest=sha256(b"stored"),
        chunker=chunker,
        chunk_count=count,
        recipe_root=sha256(b"root"),
        plain_digest=sha256(b"plain"),
        sealing=Sealing(ring=CONTENT.ring(), generation=1, nonce=bytes(16)),
    )


def test_the_bounds_of_a_sealed_component_count_its_tags() -> None:
    whole = component(size=3 * 116, count=3)
    assert (whole.plain_size, whole.chunk_bytes_max) == (300, 116)
    assert component(size=2 * 116 + 17, count=3).plain_size == 201
    for size, count in ((3 * 116 + 1, 3), (2 * 116 + 16, 3), (16, 1), (17 * 2, 2), (1, 1)):
        with pytest.raises(EncodingError):
            component(size=size, count=count)
    largest = ChunkerParameters(kind=ChunkerKind.FIXED, minimum=1, average=1, maximum=1)
    for maximum, is_allowed in ((2**20 - CHUNK_OVERHEAD_BYTES, True), (2**20, False)):
        chunker = replace(largest, minimum=maximum, average=maximum, maximum=maximum)
        if is_allowed:
            assert component(size=50, count=1, chunker=chunker).chunk_bytes_max == 2**20
        else:
            with pytest.raises(EncodingError, match="once sealed"):
                component(size=50, count=1, chunker=chunker)


def test_a_plain_digest_and_a_sealing_come_together() -> None:
    sealed = component(size=90, count=1)
    for change in ({"plain_digest": None}, {"sealing": None}):
        with pytest.raises(EncodingError, match="others none"):
            replace(sealed, **change)  # type: ignore[arg-type]


# -- statements and ring files ------------------------------------------------------------------


def test_statements_are_signed_for_one_chain_and_purpose() -> None:
    content = SealingKeyStatement(era=0, did=PUBLISHER, key=b"k" * 32)
    signed = sign_statement(content, KEY, CHAIN)
    assert parse_statement(signed.signed.raw).statement == content
    signed.verify(KEY.public, CHAIN)
    as_ring = sign(content.encode(), KEY, tag=RING_FILE_TAG, chain=CHAIN, era=0)
    for raw, key, chain in (
        (signed.signed.raw, OTHER_KEY, CHAIN),
        (signed.signed.raw, KEY, OTHER_CHAIN),
        (as_ring, KEY, CHAIN),
    ):
        with pytest.raises(SignatureError):
            parse_statement(raw).verify(key.public, chain)


@pytest.mark.parametrize(
    "change", [{0: 2}, {1: -1}, {2: b"x"}, {3: [33, bytes(32)]}, {3: [32, bytes(31)]}, {4: 0}]
)
def test_malformed_statements_are_refused(change: dict[int, object]) -> None:
    value = {0: 1, 1: 0, 2: bytes(32), 3: [32, bytes(32)]}

    def signed(content: dict[int, object]) -> bytes:
        payload = encode_canonical(content)  # type: ignore[arg-type]
        return sign(payload, KEY, tag=SEALING_KEY_TAG, chain=CHAIN, era=0)

    assert parse_statement(signed(dict(value)))
    with pytest.raises(EncodingError):
        parse_statement(signed({**value, **change}))


def test_ring_files_are_signed_for_one_chain_and_purpose() -> None:
    signed = sign_ring(ring_file(), KEY, CHAIN)
    parsed = parse_ring(signed.signed.raw)
    assert (parsed.file, parsed.digest) == (ring_file(), sha256(signed.signed.raw))
    parsed.verify(KEY.public, CHAIN)
    assert parsed.file.ring(CHAIN) == CONTENT.ring()
    as_statement = sign(ring_file().encode(), KEY, tag=SEALING_KEY_TAG, chain=CHAIN, era=0)
    for raw, key, chain in (
        (signed.signed.raw, OTHER_KEY, CHAIN),
        (signed.signed.raw, KEY, OTHER_CHAIN),
        (as_statement, KEY, CHAIN),
    ):
        with pytest.raises(SignatureError):
            parse_ring(raw).verify(key.public, chain)


def test_versions_share_a_ring_and_generations_do_not() -> None:
    file = ring_file()
    assert replace(file, version=9).ring(CHAIN) == file.ring(CHAIN)
    for other in (
        replace(file, generation=2),
        replace(file, group="fleet2"),
        replace(file, publisher=DidId(bytes(32))),
        replace(file, check=bytes(32)),
    ):
        assert other.ring(CHAIN) != file.ring(CHAIN)
    assert file.ring(OTHER_CHAIN) != file.ring(CHAIN)


def _without_order(value: dict[int, object]) -> dict[int, object]:
    members = value[8]
    assert isinstance(members, list)
    return {**value, 8: members[::-1]}


def _doubled(value: dict[int, object]) -> dict[int, object]:
    members = value[8]
    assert isinstance(members, list)
    return {**value, 8: [members[0], members[0]]}


BAD_RINGS: list[Callable[[dict[int, object]], dict[int, object]]] = [
    lambda value: {**value, 0: 2},
    lambda value: {**value, 3: "Not A Group"},
    lambda value: {**value, 4: 0},
    lambda value: {**value, 5: 0},
    lambda value: {**value, 5: 2**32},
    lambda value: {**value, 6: 9},
    lambda value: {**value, 7: bytes(31)},
    lambda value: {**value, 8: []},
    lambda value: {**value, 8: [[bytes(32), bytes(32), bytes(79)]]},
    lambda value: {**value, 8: [[bytes(32), bytes(31), bytes(80)]]},
    lambda value: {**value, 8: [[bytes(31), bytes(32), bytes(80)]]},
    lambda value: {**value, 8: [[bytes(32), bytes(32)]]},
    lambda value: {**value, 9: 0},
    lambda value: {key: item for key, item in value.items() if key != 7},
    _without_order,
    _doubled,
]


@pytest.mark.parametrize("spoil", BAD_RINGS)
def test_malformed_rings_are_refused(
    spoil: Callable[[dict[int, object]], dict[int, object]],
) -> None:
    value = cast(dict[int, object], decode_canonical(ring_file().encode(), bytes_max=4096))
    payload = encode_canonical(cast(Value, spoil(dict(value))))
    with pytest.raises(EncodingError):
        parse_ring(sign(payload, KEY, tag=RING_FILE_TAG, chain=CHAIN, era=0))


@pytest.mark.slow
def test_a_full_ring_fits_and_one_more_does_not() -> None:
    full = ring_file(RING_MEMBERS_MAX)
    raw = sign_ring(full, KEY, CHAIN).signed.raw
    assert len(raw) < RING_FILE_BYTES_MAX
    assert parse_ring(raw).file == full
    with pytest.raises(EncodingError, match="4097 members"):
        ring_file(RING_MEMBERS_MAX + 1)


@given(st.binary(max_size=400))
def test_garbage_is_neither_ring_nor_statement_nor_message(data: bytes) -> None:
    readers = (parse_ring, parse_statement, decode_ring_request, decode_ring_answer)
    for read in readers:
        with pytest.raises(EncodingError):
            read(data)


def test_a_wrap_is_for_one_ring_member_and_key() -> None:
    did, key, ring = DidId(bytes(32)), bytes(32), CONTENT.ring()
    infos = {
        wrap_info(NAME, ring, did, key),
        wrap_info(replace(NAME, generation=2), ring, did, key),
        wrap_info(NAME, Digest(bytes(32)), did, key),
        wrap_info(NAME, ring, PUBLISHER, key),
        wrap_info(NAME, ring, did, b"k" * 32),
    }
    assert len(infos) == 5


# -- messages -----------------------------------------------------------------------------------


@given(st.none() | digests, st.integers(0, 2**32 - 1))
def test_requests_survive_their_encoding(ring: Digest | None, version: int) -> None:
    request = RingRequest(ring=ring, version=version)
    assert decode_ring_request(request.encode()) == request


@pytest.mark.parametrize(
    ("status", "size", "is_good"),
    [
        (RingStatus.RING, 1, True),
        (RingStatus.RING, RING_FILE_BYTES_MAX, True),
        (RingStatus.RING, 0, False),
        (RingStatus.KEY, 1024, True),
        (RingStatus.KEY, 1025, False),
        (RingStatus.CURRENT, 0, True),
        (RingStatus.CURRENT, 1, False),
        (RingStatus.UNKNOWN, 0, True),
        (RingStatus.UNKNOWN, 1, False),
    ],
)
def test_answers_carry_what_they_say(status: RingStatus, size: int, is_good: bool) -> None:
    raw = encode_canonical({0: 1, 1: int(status), 2: bytes(size)})
    if is_good:
        answer = RingAnswer(status=status, content=bytes(size))
        assert (answer.encode(), decode_ring_answer(raw)) == (raw, answer)
    else:
        with pytest.raises(EncodingError):
            decode_ring_answer(raw)

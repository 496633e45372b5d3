"""What holds for every wire format, attacked with mutated encodings."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocol.cose import Signed, parse_signed, sign
from protocol.encoding import Value, decode_canonical, encode_canonical
from protocol.errors import EncodingError, SignatureError, VerificationError
from protocol.limits import MIB
from tests.support.loose_cbor import DEVIATIONS, encode_loose, node_count
from tests.support.strategies import (
    CHAIN,
    FORMATS,
    OTHER_CHAIN,
    SIGNED_FORMATS,
    Format,
    few,
    key,
)

pytestmark = pytest.mark.slow
every_format = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
every_signed = pytest.mark.parametrize("form", SIGNED_FORMATS, ids=lambda form: form.name)


def decode_or_refuse(form: Format, data: bytes) -> Any | None:
    """Decodes; None if refused. Any error but a VerificationError fails the test."""
    try:
        return form.decode(data)
    except VerificationError:
        return None


@every_format
@few
@given(data=st.data())
def test_what_was_written_is_read(form: Format, data: st.DataObject) -> None:
    made = data.draw(form.objects)
    raw = form.encode(made)
    assert form.decode(raw) == made
    assert form.encode(form.decode(raw)) == raw


@every_format
@few
@given(data=st.data())
def test_changed_bytes_decode_to_another_object_or_not_at_all(
    form: Format, data: st.DataObject
) -> None:
    made = data.draw(form.objects)
    raw = form.encode(made)
    position = data.draw(st.integers(0, len(raw) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=4))
    changed = {
        "flip": raw[:position] + bytes((raw[position] ^ 1 << noise[0] % 8,)) + raw[position + 1 :],
        "cut": raw[:position],
        "insert": raw[:position] + noise + raw[position:],
        "replace": raw[:position] + noise + raw[position + len(noise) :],
        "append": raw + noise,
        "twice": raw + raw,
    }[data.draw(st.sampled_from(["flip", "cut", "insert", "replace", "append", "twice"]))]
    assume(changed != raw)
    read = decode_or_refuse(form, changed)
    if read is not None:
        assert read != made
        assert form.encode(read) == changed


@every_format
@few
@given(data=st.data())
def test_a_second_encoding_of_the_same_value_is_refused(form: Format, data: st.DataObject) -> None:
    raw = form.encode(data.draw(form.objects))
    value = decode_canonical(raw, bytes_max=4 * MIB, items_max=2**16)
    node = data.draw(st.integers(0, node_count(value) - 1))
    changed = encode_loose(value, node=node, deviation=data.draw(st.sampled_from(DEVIATIONS)))
    assume(changed != raw)
    with pytest.raises(EncodingError):
        form.decode(changed)


@every_signed
@few
@given(data=st.data())
def test_a_second_encoding_of_a_signed_payload_is_refused(
    form: Format, data: st.DataObject
) -> None:
    signed = data.draw(form.objects).signed
    value = decode_canonical(signed.payload, bytes_max=MIB)
    node = data.draw(st.integers(0, node_count(value) - 1))
    payload = encode_loose(value, node=node, deviation=data.draw(st.sampled_from(DEVIATIONS)))
    assume(payload != signed.payload)
    with pytest.raises(EncodingError):
        form.decode(resign(payload))


@every_format
@few
@given(data=st.data(), noise=st.binary(max_size=200))
def test_noise_never_raises_anything_else(form: Format, data: st.DataObject, noise: bytes) -> None:
    decode_or_refuse(form, noise)
    made = form.encode(data.draw(form.objects))
    decode_or_refuse(form, made[:3] + noise)


def resign(payload: bytes, number: int = 1) -> bytes:
    """A COSE_Sign1 around any payload; which tag it is signed for does not matter to parsers."""
    return sign(payload, key(number), tag="swarmd/any/1", chain=CHAIN, era=0)


def _object_map(form: Format, raw: bytes) -> dict[int | str, Value]:
    value = decode_canonical(raw, bytes_max=4 * MIB, items_max=2**16)
    assert isinstance(value, dict)
    return dict(value)


MAP_FORMATS = [
    form for form in FORMATS if not form.is_signed and form.name not in ("join", "ledger-message")
]


@pytest.mark.parametrize("form", [*SIGNED_FORMATS, *MAP_FORMATS], ids=lambda form: form.name)
@few
@given(data=st.data())
def test_unknown_critical_fields_are_refused_and_extensions_kept(
    form: Format, data: st.DataObject
) -> None:
    made = data.draw(form.objects)
    raw = made.signed.payload if form.is_signed else form.encode(made)
    fields = _object_map(form, raw)
    wrap = resign if form.is_signed else bytes
    for unknown in (99, "text"):
        with pytest.raises(EncodingError):
            form.decode(wrap(encode_canonical({**fields, unknown: 1})))
    extended = wrap(encode_canonical({**fields, -1000: [b"later"]}))
    read = form.decode(extended)
    once = ("hello", "ring-", "peers-", "probe-")
    if not form.name.startswith(once):  # never passed on, so never kept
        assert form.encode(read) == extended


@pytest.mark.parametrize("form", [*SIGNED_FORMATS, *MAP_FORMATS], ids=lambda form: form.name)
@few
@given(data=st.data())
def test_each_missing_or_mistyped_field_is_refused(form: Format, data: st.DataObject) -> None:
    made = data.draw(form.objects)
    raw = made.signed.payload if form.is_signed else form.encode(made)
    fields = _object_map(form, raw)
    wrap = resign if form.is_signed else bytes
    optional = {("manifest", 11), ("manifest", 12), ("root", 4), ("group", 4), ("group", 5)}
    optional |= {("policy", number) for number in range(9, 21)}
    for number in fields:
        if isinstance(number, str) or number < 0:
            continue
        wrong: list[Value] = [-1, {"x": 1}, [[[]]], "\x00", b"", 2**62]
        if (form.name, number) not in optional:
            rest = {name: item for name, item in fields.items() if name != number}
            with pytest.raises(EncodingError):
                form.decode(wrap(encode_canonical(rest)))
        refused = sum(
            decode_or_refuse(form, wrap(encode_canonical({**fields, number: item}))) is None
            for item in wrong
        )
        assert refused >= 4, f"field {number} of {form.name} accepts nearly anything"


@every_signed
@few
@given(data=st.data())
def test_signatures_bind_key_chain_era_and_every_byte(form: Format, data: st.DataObject) -> None:
    signed: Signed = data.draw(form.objects).signed
    tag = TAGS[form.name]
    era = _object_map(form, signed.payload)[1]
    assert isinstance(era, int)
    pool = [key(number).public for number in range(32)]
    signer = next(public for public in pool if public.key_id == signed.key_id)
    signed.verify(signer, tag=tag, chain=CHAIN, era=era)
    stranger = next(public for public in pool if public != signer)
    for arguments in (
        (stranger, tag, CHAIN, era),
        (signer, tag, OTHER_CHAIN, era),
        (signer, tag, CHAIN, era ^ 1),
        *((signer, other, CHAIN, era) for other in TAGS.values() if other != tag),
        (signer, tag + "0", CHAIN, era),
    ):
        with pytest.raises(SignatureError):
            signed.verify(arguments[0], tag=arguments[1], chain=arguments[2], era=arguments[3])
    bit = data.draw(st.integers(0, 8 * 64 - 1))
    forged = bytearray(signed.signature)
    forged[bit >> 3] ^= 1 << (bit & 7)
    altered = encode_canonical([signed.protected, {}, signed.payload, bytes(forged)])
    with pytest.raises(SignatureError):
        parse_signed(altered, bytes_max=MIB).verify(signer, tag=tag, chain=CHAIN, era=era)


TAGS = {
    "ring-file": "swarmd/sealing-ring/1",
    "sealing-key-statement": "swarmd/sealing-key/1",
    "manifest": "swarmd/manifest/1",
    "approval": "swarmd/approval/1",
    "transaction": "swarmd/transaction/1",
    "announcement": "swarmd/announcement/1",
    "address-statement": "swarmd/addresses/1",
    "freshness": "swarmd/freshness/1",
    "join": "swarmd/join/1",
    "vote": "swarmd/vote/1",
}

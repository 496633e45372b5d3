"""Signed notes, checkpoints and cosignatures against C2SP's own examples, and forged ones."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import Digest, sha256
from protocol.errors import (
    EncodingError,
    LocalProtocolError,
    SignatureError,
    VerificationError,
)
from protocol.keys import PrivateKey
from protocol.tlog import (
    Checkpoint,
    Note,
    NoteKey,
    NoteSignature,
    SignatureType,
    check_key_name,
    cosign,
    log_origin,
    merge_notes,
    parse_checkpoint,
    parse_note,
    parse_note_key,
    validator_name,
    verify_note,
    verify_witnessed_log,
    verify_witnesses,
)
from tests.support.strategies import CHAIN, key, many

FOO = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
"""The verifier key of the signed-note page's example."""
FOO_NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mF"
    "XmRKuwHjG1Yu72IneyaQM=\n"
).encode()
"""Its note."""
CHECKPOINT = Checkpoint(origin=log_origin(CHAIN, 0), size=7, root=sha256(b"seven"))
NAMES = [f"witness.example.com/w{number}" for number in range(3)]
WITNESSES = [
    NoteKey(name=name, kind=SignatureType.COSIGNATURE, key=key(number + 1).public)
    for number, name in enumerate(NAMES)
]


def cosigned(
    *numbers: int, checkpoint: Checkpoint = CHECKPOINT, time_s: int = 1_700_000_000
) -> Note:
    return Note(
        checkpoint.encode(),
        tuple(
            cosign(checkpoint, NAMES[number], key(number + 1), time_s=time_s) for number in numbers
        ),
    )


def test_the_specifications_own_example_verifies() -> None:
    foo = parse_note_key(FOO)
    assert (foo.name, foo.key_id.hex()) == ("example.com/foo", "530d903a")
    assert foo.encode() == FOO
    note = parse_note(FOO_NOTE)
    assert note.text == "This is an example message.\n"
    assert note.encode() == FOO_NOTE
    (witnessed,) = verify_note(note, [foo])
    assert (witnessed.key, witnessed.time_s) == (foo, None)


def test_a_line_in_the_middle_of_the_text_is_no_signature() -> None:
    text = "one\n\n— not a signature\n\nlast\n"
    note = Note(text, (NoteSignature("a", b"1234", b"x"),))
    assert parse_note(note.encode()) == note


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"text\n",
        b"text\n\n",
        b"text\n\n\xe2\x80\x94 name AAAAAAA=",
        b"text\n\nname AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94  AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 na+me AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 na\xc2\xa0me AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 name AAAA\n",
        b"text\n\n\xe2\x80\x94 name AAAAAA==\n",
        b"text\n\n\xe2\x80\x94 name AAAAAAB=\n",
        b"text\n\n\xe2\x80\x94 name AAAAAAA\n",
        b"text\n\n\xe2\x80\x94 name AAAA AAA=\n",
        b"te\txt\n\n\xe2\x80\x94 name AAAAAAA=\n",
        b"text\r\n\n\xe2\x80\x94 name AAAAAAA=\n",
        b"te\xff\n\n\xe2\x80\x94 name AAAAAAA=\n",
        b"text\n\n" + b"\xe2\x80\x94 name AAAAAAA=\n" * 101,
        b"x" * 65_537,
    ],
)
def test_what_is_no_note_is_refused(raw: bytes) -> None:
    with pytest.raises(EncodingError):
        parse_note(raw)


def test_a_hundred_signatures_are_read() -> None:
    assert len(parse_note(b"text\n\n" + b"\xe2\x80\x94 name AAAAAAA=\n" * 100).signatures) == 100


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com/foo",
        FOO[:-1],
        FOO.replace("530d903a", "530d903b"),
        FOO.replace("530d903a", "530D903A"),
        FOO.replace("example.com/foo", "example.com/fop"),
        FOO.replace("+Aeky", "+Beky"),
        FOO.replace("/foo", "/f oo"),
        "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
    ],
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        parse_note_key(text)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u2003b", "a\nb", "é" * 128])
def test_names_no_line_can_carry_are_refused(name: str) -> None:
    with pytest.raises(EncodingError):
        check_key_name(name)


def test_a_cosignature_round_trips_and_binds_time_and_text() -> None:
    note = parse_note(cosigned(0).encode())
    checkpoint, (witnessed,) = verify_witnesses(note, WITNESSES, 1, origin=CHECKPOINT.origin)
    assert (checkpoint, witnessed.key, witnessed.time_s) == (
        CHECKPOINT,
        WITNESSES[0],
        1_700_000_000,
    )
    (line,) = note.signatures
    later = (int.from_bytes(line.signature[:8], "big") + 1).to_bytes(8, "big")
    forged = replace(line, signature=later + line.signature[8:])
    with pytest.raises(SignatureError):
        verify_note(Note(note.text, (forged,)), WITNESSES)
    larger = replace(CHECKPOINT, size=8).encode()
    with pytest.raises(SignatureError):
        verify_note(Note(larger, note.signatures), WITNESSES)


def test_the_cosigned_message_is_that_of_the_specification() -> None:
    """Spelled out here a second time, byte for byte."""
    line = cosigned(1, time_s=1679315147).signatures[0]
    root = base64.b64encode(CHECKPOINT.root).decode()
    message = f"cosignature/v1\ntime 1679315147\n{CHECKPOINT.origin}\n7\n{root}\n".encode()
    assert line.signature[:8] == (1679315147).to_bytes(8, "big")
    assert line.signature[8:] == key(2).sign(message)
    material = NAMES[1].encode() + b"\n\x04" + key(2).public.raw
    assert line.key_id == sha256(material)[:4]


def test_the_threshold_counts_keys_and_not_lines_or_names() -> None:
    with pytest.raises(VerificationError, match="1 witnesses signed the checkpoint, 2 needed"):
        verify_witnesses(cosigned(0), WITNESSES, 2)
    with pytest.raises(VerificationError, match="2 needed"):
        verify_witnesses(cosigned(0, 0), WITNESSES, 2)
    alias = NoteKey(name="alias", kind=SignatureType.COSIGNATURE, key=key(1).public)
    twice = (*cosigned(0).signatures, cosign(CHECKPOINT, "alias", key(1), time_s=1))
    with pytest.raises(VerificationError, match="2 needed"):
        verify_witnesses(Note(CHECKPOINT.encode(), twice), [*WITNESSES, alias], 2)
    assert len(verify_witnesses(cosigned(0, 2), WITNESSES, 2)[1]) == 2
    with pytest.raises(LocalProtocolError):
        verify_witnesses(cosigned(0), WITNESSES, 0)


def test_unknown_signers_are_passed_over_and_bad_lines_of_known_ones_spoil_the_note() -> None:
    stranger = cosign(CHECKPOINT, "stranger", key(9), time_s=5)
    namesake = cosign(CHECKPOINT, NAMES[0], key(9), time_s=5)
    note = Note(CHECKPOINT.encode(), (stranger, namesake, *cosigned(1).signatures))
    assert [item.key for item in verify_note(note, WITNESSES)] == [WITNESSES[1]]
    with pytest.raises(VerificationError, match="none of 3 known keys"):
        verify_note(Note(note.text, (stranger, namesake)), WITNESSES)
    good = cosigned(1).signatures[0]
    for bad in (
        replace(good, signature=bytes(72)),
        replace(good, signature=good.signature[:71]),
        replace(good, signature=b"\xff" + good.signature[1:]),
    ):
        with pytest.raises(SignatureError):
            verify_note(Note(note.text, (*cosigned(0).signatures, bad)), WITNESSES)


def test_a_checkpoint_of_another_log_does_not_count() -> None:
    other = replace(CHECKPOINT, origin=log_origin(CHAIN, 1))
    with pytest.raises(VerificationError, match="expected"):
        verify_witnesses(cosigned(0, checkpoint=other), WITNESSES, 1, origin=CHECKPOINT.origin)


def test_the_kind_of_a_key_is_part_of_its_id() -> None:
    plain = NoteKey(name=NAMES[0], kind=SignatureType.ED25519, key=key(1).public)
    assert plain.key_id != WITNESSES[0].key_id
    signed = NoteSignature(NAMES[0], plain.key_id, key(1).sign(CHECKPOINT.encode().encode()))
    note = Note(CHECKPOINT.encode(), (signed,))
    assert verify_note(note, [plain])[0].time_s is None
    with pytest.raises(VerificationError):
        verify_note(note, WITNESSES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n1\n",
        "origin\n1\nAAAA",
        f"\n1\n{'A' * 43}=\n",
        f"origin\n01\n{'A' * 43}=\n",
        f"origin\n-1\n{'A' * 43}=\n",
        f"origin\n+1\n{'A' * 43}=\n",
        f"origin\n1_0\n{'A' * 43}=\n",
        f"origin\n\u0661\n{'A' * 43}=\n",
        f"origin\n9223372036854775808\n{'A' * 43}=\n",
        f"origin\n1\n{'A' * 42}==\n",
        f"origin\n1\n{'A' * 43}=\n\n",
        f"origin\n1\n{'A' * 43}=\next",
        f"origin\n1\n{'A' * 42}B=\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        parse_checkpoint(text)


@many
@given(
    size=st.integers(0, 2**63 - 1),
    root=st.binary(min_size=32, max_size=32),
    lines=st.lists(st.text("abc +/", min_size=1), max_size=3),
)
def test_checkpoints_round_trip(size: int, root: bytes, lines: list[str]) -> None:
    checkpoint = Checkpoint(
        origin=log_origin(CHAIN, 3), size=size, root=Digest(root), extensions=tuple(lines)
    )
    assert parse_checkpoint(checkpoint.encode()) == checkpoint


def test_notes_of_one_text_merge_and_others_do_not() -> None:
    merged = merge_notes([cosigned(0, 1), cosigned(1, 2, time_s=99)])
    assert [line.name for line in merged.signatures] == NAMES
    assert merged.signatures[1] == cosigned(1).signatures[0]
    assert len(verify_witnesses(merged, WITNESSES, 3)[1]) == 3
    with pytest.raises(VerificationError):
        merge_notes([cosigned(0), cosigned(0, checkpoint=replace(CHECKPOINT, size=8))])
    with pytest.raises(LocalProtocolError):
        merge_notes([])


def test_validators_have_names_of_their_own() -> None:
    origin = log_origin(CHAIN, 0)
    names = {validator_name(origin, bytes([number]) * 32) for number in range(4)}
    assert len(names) == 4
    assert all(check_key_name(name).startswith(origin) for name in names)
    assert log_origin(CHAIN, 0) != log_origin(CHAIN, 1)


@many
@given(data=st.data())
def test_an_altered_note_counts_for_nothing(data: st.DataObject) -> None:
    raw = bytearray(cosigned(0, 1, 2).encode())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(VerificationError):
        verify_witnesses(parse_note(bytes(raw)), WITNESSES, 3, origin=CHECKPOINT.origin)


def test_a_cosignature_is_no_other_signature_of_ours() -> None:
    """Votes and all else are signed over CBOR arrays; a cosignature begins with a letter."""
    private = PrivateKey(bytes(32))
    line = cosign(CHECKPOINT, "name", private, time_s=0)
    assert (
        private.sign(b"cosignature/v1\ntime 0\n" + CHECKPOINT.encode().encode())
        == (line.signature[8:])
    )


def test_witnesses_count_for_the_log_this_node_has_and_no_other() -> None:
    roots = {7: CHECKPOINT.root, 6: sha256(b"six")}

    def judge(note: Note, size_min: int = 7, roots: dict[int, Digest] = roots) -> Checkpoint:
        return verify_witnessed_log(
            note, WITNESSES, 2, origin=CHECKPOINT.origin, size_min=size_min, root_at=roots.get
        )[0]

    assert judge(cosigned(0, 2)) == CHECKPOINT
    split = replace(CHECKPOINT, root=sha256(b"another seven"))
    for note, size_min, message in (
        (cosigned(0), 7, "2 needed"),
        (cosigned(0, 1), 8, "8 needed"),
        (cosigned(0, 1, checkpoint=replace(CHECKPOINT, size=8)), 7, "more than this node"),
        (cosigned(0, 1, checkpoint=split), 7, "another log"),
    ):
        with pytest.raises(VerificationError, match=message):
            judge(note, size_min)

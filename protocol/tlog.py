"""The log's head as others read it: signed notes, checkpoints and cosignatures of C2SP.

A checkpoint is a signed note (c2sp.org/signed-note) whose text states origin, size and root of an
RFC 6962 tree (c2sp.org/tlog-checkpoint). Validators and outside witnesses sign it as timestamped
cosignatures (c2sp.org/tlog-cosignature): "at this time, the largest tree of that origin I have seen
is this one". Anybody's tools can so watch the log, and a gateway may demand witnesses that no
validator controls. Rules: docs/spec/tlog.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.digest import DIGEST_BYTES, ChainId, Digest
from protocol.encoding import INTEGER_MAX, check_range
from protocol.errors import EncodingError, LocalProtocolError, SignatureError, VerificationError
from protocol.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, PrivateKey, PublicKey
from protocol.limits import KIB

NOTE_BYTES_MAX: Final = 64 * KIB
"""A signed note: a text and a signature line of at most 400 bytes for each of 100 signers."""
NOTE_SIGNATURES_MAX: Final = 100
"""Signature lines read; the specification asks for 16 at least, validators alone may be 32."""
KEY_NAME_BYTES_MAX: Final = 255
"""UTF-8 bytes of a key name or origin: what newer cosignature formats can carry."""
KEY_ID_BYTES: Final = 4
"""Bytes of a note's key id."""
COSIGNATURE_BYTES: Final = 8 + SIGNATURE_BYTES
"""A cosignature: time in seconds, big-endian, and an Ed25519 signature."""
TREE_SIZE_MAX: Final = INTEGER_MAX
"""Entries a checkpoint may claim."""
_DASH: Final = "\N{EM DASH} "
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}")


class SignatureType(IntEnum):
    """What a note's key signs; the numbers are those of c2sp.org/signed-note."""

    ED25519 = 1
    """The text itself: how a log with one key signs its own checkpoints."""
    COSIGNATURE = 4
    """A time and the text: how validators and witnesses sign."""


def check_key_name(name: str) -> str:
    """Checks a key name and returns it: 1 to 255 bytes without space, plus or control characters.

    Raises:
        EncodingError: it is something else.
    """
    is_plain = all(char.isprintable() and not char.isspace() and char != "+" for char in name)
    if not name or not is_plain or len(name.encode("utf-8", "replace")) > KEY_NAME_BYTES_MAX:
        raise EncodingError(f"key name {name[:80]!r} is empty, too long, or holds space or plus")
    return name


def log_origin(chain: ChainId, era: int) -> str:
    """The origin line of a chain's log, unique for chain and era (T10)."""
    return f"swarmd/{chain.hex()}/{era}"


def validator_name(origin: str, did: bytes) -> str:
    """The key name under which a validator cosigns (T14)."""
    return f"{origin}/validator/{did.hex()}"


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_base64(text: str, what: str) -> bytes:
    """Reads standard Base64 with padding, in its one spelling."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise EncodingError(f"{what}: not Base64") from error
    if _to_base64(data) != text:
        raise EncodingError(f"{what}: not the canonical Base64")
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteKey:
    """A public key that signs notes, as a verifier is configured with it."""

    name: str
    """Key name: who signs; a URL without scheme, by custom."""
    kind: SignatureType
    """What its signatures mean."""
    key: PublicKey
    """The Ed25519 key."""

    def __post_init__(self) -> None:
        """Refuses a name that no signature line can carry.

        Raises:
            EncodingError: it is empty, too long, or holds spaces or a plus.
        """
        check_key_name(self.name)

    @property
    def key_id(self) -> bytes:
        """First four bytes of SHA-256(name || newline || type || public key)."""
        return _key_id(self.name, self.kind, self.key.raw)

    def encode(self) -> str:
        """The verifier key (vkey): name+key id+Base64 of type and key."""
        return f"{self.name}+{self.key_id.hex()}+{_to_base64(bytes((self.kind,)) + self.key.raw)}"

    def verify(self, signature: bytes, text: str) -> int | None:
        """Checks this key's signature of a note's text.

        Returns:
            When it was made, seconds since 1970; None for a type without time.

        Raises:
            SignatureError: it does not verify, or has the wrong length.
        """
        if self.kind is SignatureType.ED25519:
            self.key.verify(signature, text.encode())
            return None
        if len(signature) != COSIGNATURE_BYTES:
            raise SignatureError(f"cosignature of {len(signature)} bytes, expected 72")
        time_s = int.from_bytes(signature[:8], "big")
        if time_s > INTEGER_MAX:
            raise SignatureError(f"cosignature of time {time_s}")
        self.key.verify(signature[8:], cosignature_message(text, time_s))
        return time_s


def _key_id(name: str, kind: int, material: bytes) -> bytes:
    return hashlib.sha256(f"{name}\n".encode() + bytes((kind,)) + material).digest()[:KEY_ID_BYTES]


def parse_note_key(text: str) -> NoteKey:
    """Reads a verifier key (vkey) of type Ed25519 or timestamped cosignature.

    Raises:
        EncodingError: malformed, of another type, or with a key id that does not belong to it.
    """
    name, *rest = text.split("+", 2)
    if len(rest) != 2 or not re.fullmatch(r"[0-9a-f]{8}", rest[0]):
        raise EncodingError(f"verifier key {text[:80]!r} is not NAME+8 hex digits+BASE64")
    material = _from_base64(rest[1], "verifier key")
    if len(material) != 1 + PUBLIC_KEY_BYTES or material[0] not in list(SignatureType):
        raise EncodingError("verifier key is neither Ed25519 nor an Ed25519 cosignature key")
    key = NoteKey(name=name, kind=SignatureType(material[0]), key=PublicKey(material[1:]))
    if key.key_id.hex() != rest[0]:
        raise EncodingError(f"verifier key {name!r}: its id is {key.key_id.hex()}, not {rest[0]}")
    return key


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line; nothing about it is verified yet."""

    name: str
    """Name of the key that claims to have signed."""
    key_id: bytes
    """4 bytes; name and id together name the key."""
    signature: bytes
    """What the type of the key says."""

    def encode(self) -> str:
        """The line without its newline."""
        return f"{_DASH}{self.name} {_to_base64(self.key_id + self.signature)}"


@dataclass(frozen=True, slots=True)
class Note:
    """A signed note; believed only after `verify_note` or `verify_witnesses`."""

    text: str
    """What is signed, with the newline at its end."""
    signatures: tuple[NoteSignature, ...]
    """Signature lines in order, at most 100."""

    def encode(self) -> bytes:
        """The note's bytes."""
        lines = "".join(f"{item.encode()}\n" for item in self.signatures)
        return f"{self.text}\n{lines}".encode()


def parse_note(raw: bytes) -> Note:
    """Reads a signed note, without checking a signature.

    Raises:
        EncodingError: malformed, over 64 KiB, or with more than 100 signatures.
    """
    if len(raw) > NOTE_BYTES_MAX:
        raise EncodingError(f"note of {len(raw)} bytes, at most {NOTE_BYTES_MAX}")
    try:
        content = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EncodingError("note is not UTF-8") from error
    if any(char < " " and char != "\n" for char in content):
        raise EncodingError("note holds control characters")
    text, separator, tail = content.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise EncodingError("note lacks signatures after a blank line")
    lines = tail[:-1].split("\n")
    if len(lines) > NOTE_SIGNATURES_MAX:
        raise EncodingError(f"note of {len(lines)} signatures, at most {NOTE_SIGNATURES_MAX}")
    return Note(f"{text}\n", tuple(_parse_signature(line) for line in lines))


def _parse_signature(line: str) -> NoteSignature:
    name, separator, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not separator:
        raise EncodingError("note: a signature line is not DASH NAME BASE64")
    data = _from_base64(encoded, "note signature")
    if len(data) <= KEY_ID_BYTES:
        raise EncodingError("note: a signature is shorter than its key id")
    return NoteSignature(check_key_name(name), data[:KEY_ID_BYTES], data[KEY_ID_BYTES:])


def merge_notes(notes: Iterable[Note]) -> Note:
    """Joins the signatures of notes with one text; of one key the first line stays.

    Raises:
        VerificationError: the texts differ.
        LocalProtocolError: there is no note, or too many signatures.
    """
    merged: dict[tuple[str, bytes], NoteSignature] = {}
    text: str | None = None
    for note in notes:
        if text is not None and note.text != text:
            raise VerificationError("notes of different texts do not merge")
        text = note.text
        for item in note.signatures:
            merged.setdefault((item.name, item.key_id), item)
    if text is None or len(merged) > NOTE_SIGNATURES_MAX:
        raise LocalProtocolError(f"{len(merged)} signatures to merge, expected 1 to 100")
    return Note(text, tuple(merged.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The head of a log: what a note's text says."""

    origin: str
    """Which log; see `log_origin` for ours."""
    size: int
    """Entries of the tree."""
    root: Digest
    """RFC 6962 root over them."""
    extensions: tuple[str, ...] = ()
    """Further lines, opaque; ours has none."""

    def encode(self) -> str:
        """The note text."""
        lines = (self.origin, str(self.size), _to_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


def parse_checkpoint(text: str) -> Checkpoint:
    """Reads a note's text as a checkpoint.

    Raises:
        EncodingError: malformed.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise EncodingError("checkpoint: expected at least three lines, none of them empty")
    origin, size, root, *extensions = lines[:-1]
    if not _DECIMAL.fullmatch(size):
        raise EncodingError(f"checkpoint: size {size[:30]!r} is not a decimal number")
    digest = _from_base64(root, "checkpoint root")
    if len(digest) != DIGEST_BYTES:
        raise EncodingError(f"checkpoint: root of {len(digest)} bytes, expected 32")
    return Checkpoint(
        origin=origin,
        size=check_range(int(size), "checkpoint size", maximum=TREE_SIZE_MAX),
        root=Digest(digest),
        extensions=tuple(extensions),
    )


def cosignature_message(text: str, time_s: int) -> bytes:
    """The bytes that a cosignature of a checkpoint's text signs."""
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def cosign(checkpoint: Checkpoint, name: str, key: PrivateKey, *, time_s: int) -> NoteSignature:
    """Cosigns a checkpoint.

    The caller states that, at that time, no larger tree of this origin was known to it and that
    this one extends all it signed before.

    Args:
        checkpoint: the head.
        name: key name of the signer.
        key: its key.
        time_s: when the statement was true, seconds since 1970.
    """
    check_range(time_s, "cosignature time")
    note_key = NoteKey(name=name, kind=SignatureType.COSIGNATURE, key=key.public)
    signature = key.sign(cosignature_message(checkpoint.encode(), time_s))
    return NoteSignature(name, note_key.key_id, time_s.to_bytes(8, "big") + signature)


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A key that was found to have signed."""

    key: NoteKey
    """Which one."""
    time_s: int | None
    """When, seconds since 1970; None for a type without time."""


def verify_note(note: Note, keys: Sequence[NoteKey]) -> tuple[Witnessed, ...]:
    """Checks the signatures of known keys; lines of unknown keys are passed over.

    Returns:
        The known keys that signed, in the order of `keys`; at least one.

    Raises:
        SignatureError: a line of a known key does not verify.
        VerificationError: no known key signed.
    """
    found: list[Witnessed] = []
    for key in keys:
        lines = [
            item.signature
            for item in note.signatures
            if (item.name, item.key_id) == (key.name, key.key_id)
        ]
        times = [key.verify(signature, note.text) for signature in lines]
        if times:
            found.append(Witnessed(key, times[0]))
    if not found:
        raise VerificationError(f"none of {len(keys)} known keys signed the note")
    return tuple(found)


def verify_witnesses(
    note: Note, keys: Sequence[NoteKey], threshold: int, *, origin: str | None = None
) -> tuple[Checkpoint, tuple[Witnessed, ...]]:
    """Checks that enough distinct witnesses signed a checkpoint: the rule a group may add.

    Witnesses are counted by public key, since a cosignature does not bind the signer's name.

    Args:
        note: the checkpoint's note, untrusted.
        keys: whom to believe.
        threshold: how many of them must have signed, at least 1.
        origin: the log it must be about; None: any.

    Returns:
        The checkpoint, and who signed it.

    Raises:
        VerificationError: no checkpoint, of another log, a bad line of a known key, or too few.
        LocalProtocolError: `threshold` is below 1.
    """
    if threshold < 1:
        raise LocalProtocolError(f"threshold {threshold} asks for no witness at all")
    checkpoint = parse_checkpoint(note.text)
    if origin is not None and checkpoint.origin != origin:
        raise VerificationError(
            f"checkpoint of {checkpoint.origin[:80]!r}, expected {origin[:80]!r}"
        )
    witnesses = verify_note(note, keys)
    count = len({witness.key.key.raw for witness in witnesses})
    if count < threshold:
        raise VerificationError(f"{count} witnesses signed the checkpoint, {threshold} needed")
    return checkpoint, witnesses


def verify_witnessed_log(
    note: Note,
    keys: Sequence[NoteKey],
    threshold: int,
    *,
    origin: str,
    size_min: int,
    root_at: Callable[[int], bytes | None],
) -> tuple[Checkpoint, tuple[Witnessed, ...]]:
    """Checks that witnesses saw the log that this node has, as far as it matters (T18).

    Args:
        note: a cosigned checkpoint, untrusted.
        keys: whom to believe.
        threshold: how many of them must have signed, at least 1.
        origin: this chain's log.
        size_min: entries it must cover, such as the log after the block in question.
        root_at: the root of this node's own log at a size, or None beyond it.

    Returns:
        The checkpoint, and who signed it.

    Raises:
        VerificationError: too few signed, it covers too little, this node is not as far, or the
            witnesses saw another log: a split view, which the note proves to anybody.
    """
    checkpoint, witnesses = verify_witnesses(note, keys, threshold, origin=origin)
    if checkpoint.size < size_min:
        raise VerificationError(f"witnesses saw {checkpoint.size} entries, {size_min} needed")
    own = root_at(checkpoint.size)
    if own is None:
        raise VerificationError(f"witnesses saw {checkpoint.size} entries, more than this node")
    if own != checkpoint.root:
        raise VerificationError(f"witnesses saw another log of {checkpoint.size} entries")
    return checkpoint, witnesses

"""The two files of an enrolment: the token file owners hand out, and the newcomer's request.

The token file is JSON with the owners' tokens and, unless the seat is bound to a key the newcomer
had before, the seat's private key: who has the file has the seat, so it is written as private as a
key. The request is what the newcomer makes of it and any member may submit: its record signed by
all its keys, the tokens, and the holder's signature. There is nothing secret in it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.did import JoinStatement
from protocol.digest import DidId
from protocol.encoding import Fields, decode_canonical, encode_canonical
from protocol.enrolment_token import (
    EnrolmentClaims,
    EnrolmentToken,
    SeatClaim,
    claim_seat,
    confirmation_code,
    parse_token,
    same_seat,
)
from protocol.errors import ConfigError, EncodingError, SignatureError, VerificationError
from protocol.group import OWNERS_MAX
from protocol.keys import PrivateKey, Signer
from protocol.limits import KIB
from swarmd.datadir import (
    PRIVATE_FILE_MODE,
    PUBLIC_FILE_MODE,
    DataDir,
    read_bounded,
    write_atomic,
)
from swarmd.net.address import PeerAddress

ENROLMENT_FILE_KIND: Final = "swarmd/enrolment-token/1"
"""Says what the file is, and its schema."""
TOKEN_FILE_BYTES_MAX: Final = 320 * KIB
"""32 tokens of 4 KiB in hex, and the rest."""
REQUEST_SCHEMA: Final = 1
"""Schema number of a request."""
REQUEST_BYTES_MAX: Final = 18 * KIB
"""What fits a transaction beside its envelope."""
REQUEST_NAME: Final = "enrol.cbor"
"""Name of a request in the newcomer's folder."""
_SEED_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """The content of a token file; tokens verify as their issuers', who need not be owners."""

    tokens: tuple[EnrolmentToken, ...]
    """One token of each owner that signed so far, all for one seat."""
    seat_key: PrivateKey | None
    """Key of the seat; None: the seat is bound to a key of the newcomer."""
    claims: EnrolmentClaims
    """What the tokens say."""

    @classmethod
    def of(cls, tokens: Sequence[EnrolmentToken], seat_key: PrivateKey | None) -> TokenFile:
        """Puts a file together.

        Raises:
            VerificationError: tokens for different seats, one that does not verify, two of one
                owner, or a key that is not the seat's.
        """
        claims = same_seat(tokens)
        for token in tokens:
            token.verify()
        if len({token.claims.issuer.raw for token in tokens}) != len(tokens):
            raise VerificationError("token file: one owner signed twice")
        if seat_key is not None and seat_key.public != claims.holder:
            raise SignatureError("token file: its private key is not the seat's")
        return cls(tokens=tuple(tokens), seat_key=seat_key, claims=claims)

    @property
    def addresses(self) -> tuple[PeerAddress, ...]:
        """Where members may be reached.

        Raises:
            ConfigError: one of them is no address this version can dial.
        """
        return tuple(PeerAddress.parse(text) for text in self.claims.addresses)

    def encode(self) -> bytes:
        """The file's bytes: JSON with what people want to know, then what counts."""
        document = {
            "kind": ENROLMENT_FILE_KIND,
            "chain": self.claims.chain.hex(),
            "groups": list(self.claims.groups),
            "role": self.claims.kind.name.lower(),
            "expires_s": self.claims.expiry_s,
            "tokens": [token.signed.raw.hex() for token in self.tokens],
            "seat_key": None if self.seat_key is None else self.seat_key.seed().hex(),
        }
        return json.dumps(document, indent=2).encode() + b"\n"

    def write(self, path: Path) -> None:
        """Writes or replaces the file, readable by its owner alone.

        Raises:
            StorageError: it cannot be written.
        """
        write_atomic(path.absolute(), self.encode(), mode=PRIVATE_FILE_MODE)


def decode_token_file(data: bytes) -> TokenFile:
    """Reads and checks a token file.

    Raises:
        VerificationError: malformed, tokens that do not verify or belong together, or readable
            fields that differ from what was signed.
    """
    if len(data) > TOKEN_FILE_BYTES_MAX:
        raise EncodingError(f"token file of {len(data)} bytes, at most {TOKEN_FILE_BYTES_MAX}")
    try:
        document = json.loads(data.decode())
        texts, seed = document["tokens"], document["seat_key"]
        if not isinstance(texts, list) or not 1 <= len(texts) <= OWNERS_MAX:
            raise ValueError(f"tokens are not a list of 1 to {OWNERS_MAX}")
        tokens = [parse_token(bytes.fromhex(text)) for text in texts]
        key = None if seed is None else bytes.fromhex(seed)
        if key is not None and len(key) != _SEED_BYTES:
            raise ValueError("seat_key is not 32 bytes")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise EncodingError(f"not a token file: {error}") from None
    file = TokenFile.of(tokens, None if key is None else PrivateKey(key))
    if json.loads(file.encode()) != document:
        raise VerificationError("token file: what it shows differs from what was signed")
    return file


def load_token_file(path: Path) -> TokenFile:
    """Reads and checks the token file at `path`.

    Raises:
        StorageError: it cannot be read.
        VerificationError: it is not a valid token file; the message names it.
    """
    try:
        return decode_token_file(read_bounded(path, bytes_max=TOKEN_FILE_BYTES_MAX))
    except VerificationError as error:
        raise VerificationError(f"{path}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentRequest:
    """What a newcomer asks any member to submit."""

    join: JoinStatement
    """Its record, signed by all its keys."""
    seat: SeatClaim
    """The seat it takes."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical(
            {0: REQUEST_SCHEMA, 1: self.join.to_value(), 2: self.seat.to_value()}
        )

    @property
    def claims(self) -> EnrolmentClaims:
        """What its tokens say; raises EncodingError if they do not belong together."""
        return same_seat([parse_token(raw) for raw in self.seat.tokens])

    @property
    def addresses(self) -> tuple[PeerAddress, ...]:
        """Where members may be reached, as far as this version can dial it."""
        found: list[PeerAddress] = []
        for text in self.claims.addresses:
            with contextlib.suppress(ConfigError):
                found.append(PeerAddress.parse(text))
        return tuple(found)

    @property
    def did(self) -> DidId:
        """The newcomer's name."""
        return self.join.record.did

    @property
    def code(self) -> str:
        """The code that tells this newcomer from others with the same token."""
        return confirmation_code(self.claims, self.did)


def parse_request(data: bytes) -> EnrolmentRequest:
    """Reads a request without checking any signature.

    Raises:
        EncodingError: malformed, or over 18 KiB.
    """
    fields = Fields(decode_canonical(data, bytes_max=REQUEST_BYTES_MAX), "enrolment request")
    fields.constant(0, REQUEST_SCHEMA)
    request = EnrolmentRequest(
        join=JoinStatement.from_value(fields.value(1)),
        seat=SeatClaim.from_value(fields.value(2)),
    )
    if fields.finish():
        raise EncodingError("enrolment request: extensions are not allowed")
    return request


def decode_request(data: bytes) -> EnrolmentRequest:
    """Reads a request and checks that each key of the record signed it.

    Raises:
        EncodingError: malformed, or over 18 KiB.
        SignatureError: a key of the record did not sign.
    """
    request = parse_request(data)
    request.join.verify()
    return request


def make_request(join: JoinStatement, file: TokenFile, node_key: Signer) -> EnrolmentRequest:
    """Takes the seat of a token file for a newcomer.

    Args:
        join: the newcomer's record, signed.
        file: the token.
        node_key: its node key, for a seat that is bound to it.

    Raises:
        ConfigError: the seat is for another role, other groups, or the holder of another key.
    """
    record, claims = join.record, file.claims
    if (record.kind, record.groups) != (claims.kind, claims.groups):
        raise ConfigError(
            f"the token is for a {claims.kind.name.lower()} in {', '.join(claims.groups)}, this "
            f"is a {record.kind.name.lower()} in {', '.join(record.groups) or 'no group'}"
        )
    holder: Signer = node_key if file.seat_key is None else file.seat_key
    try:
        seat = claim_seat(file.tokens, record.did, holder)
    except SignatureError:
        raise ConfigError("the token is bound to a key that this node does not have") from None
    request = EnrolmentRequest(join=join, seat=seat)
    if len(request.encode()) > REQUEST_BYTES_MAX:
        raise ConfigError("too many owners signed this token: the request fits no transaction")
    return request


def load_request(path: Path) -> EnrolmentRequest:
    """Reads the request at `path`.

    Raises:
        StorageError: it cannot be read.
        VerificationError: it is no request whose keys signed it; the message names it.
    """
    try:
        return decode_request(read_bounded(path, bytes_max=REQUEST_BYTES_MAX))
    except VerificationError as error:
        raise VerificationError(f"{path}: {error}") from None


def load_own_request(data: DataDir, did: DidId) -> EnrolmentRequest | None:
    """The request in a node's own folder; None: there is none.

    Raises:
        StorageError: it cannot be read.
        ConfigError: it is damaged, or another node's.
    """
    path = data.path / REQUEST_NAME
    if not path.exists():
        return None
    try:
        request = load_request(path)
        request.claims  # noqa: B018 - reads the tokens
    except VerificationError as error:
        raise ConfigError(f"{error}; make it again, or remove it") from None
    if request.did != did:
        raise ConfigError(f"{path} is the request of another node; remove it")
    return request


def write_request(data: DataDir, request: EnrolmentRequest) -> Path:
    """Writes a request into a node's folder; there is nothing secret in it.

    Raises:
        StorageError: it cannot be written.
    """
    path = data.path / REQUEST_NAME
    write_atomic(path, request.encode(), mode=PUBLIC_FILE_MODE)
    return path

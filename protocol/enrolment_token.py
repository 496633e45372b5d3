"""Enrolment tokens: seats that owners give away before the newcomer's keys exist.

A token is a CBOR Web Token (RFC 8392) in a COSE_Sign1 by one owner's person key. Owners of one seat
sign the same claims, each as its own issuer; the newcomer presents all of them. Every token is
bound to a holder's key (`cnf`, RFC 8747): either a key the newcomer had before, or a seat key whose
private half travels with the token. What enters the ledger is a signature by that key over the
newcomer's name, so that nobody who sees the token there can take the seat with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from protocol.cose import Signed, parse_signed, sign
from protocol.did import SubjectKind, check_groups, did_key_text, parse_did_key, read_groups
from protocol.digest import BlockId, ChainId, DidId, Digest, tagged_digest
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_bytes,
    as_digest,
    as_uint,
    check_text,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError, SignatureError
from protocol.group import OWNERS_MAX
from protocol.keys import SIGNATURE_BYTES, PublicKey, Signer, signing_context
from protocol.limits import KIB

ENROLMENT_TAG: Final = "swarmd/enrol/1"
"""Domain of owners' signatures on tokens."""
SEAT_TAG: Final = "swarmd/seat/1"
"""Domain of the holder's signature that names who takes the seat."""
TOKEN_BYTES_MAX: Final = 4 * KIB
"""A token of one group and three addresses takes about 700 bytes; 16 groups and 8 addresses of the
longest kind about 3.6 KiB."""
SEAT_ID_BYTES: Final = 16
"""Bytes of a seat's id (`cti`): random, so that no two seats meet."""
ADDRESSES_MIN: Final = 3
"""Fewer addresses would let one or two peers decide what a newcomer sees first."""
ADDRESSES_MAX: Final = 8
"""Addresses in one token."""
ADDRESS_BYTES_MAX: Final = 255
"""Bytes of a multiaddr with a DNS name of the greatest length a configuration may hold."""
CODE_DIGITS: Final = 6
"""Digits of a confirmation code."""
_CLAIM_ISSUER: Final = 1
_CLAIM_EXPIRY: Final = 4
_CLAIM_ID: Final = 7
_CLAIM_CONFIRMATION: Final = 8
# Private use (RFC 8392, section 9.1.1: below -65536).
_CLAIM_CHAIN: Final = -65537
_CLAIM_ERA: Final = -65538
_CLAIM_CHECKPOINT: Final = -65539
_CLAIM_ADDRESSES: Final = -65540
_CLAIM_GROUPS: Final = -65541
_CLAIM_KIND: Final = -65542
_CLAIM_CONFIRMED: Final = -65543
# COSE_Key (RFC 9052, section 7; RFC 9053, section 7.2): an OKP key on Ed25519.
_COSE_KEY: Final = 1
_KEY_TYPE: Final = 1
_KEY_TYPE_OKP: Final = 1
_CURVE: Final = -1
_CURVE_ED25519: Final = 6
_KEY_X: Final = -2
_CODE_COST: Final = 2**14
"""scrypt's N with r = 8: 16 MiB and some 40 ms, so that trying all codes' worth of keys takes half
a day of a core instead of a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentClaims:
    """What owners promise about one seat."""

    issuer: PublicKey
    """The owner that signs this token."""
    expiry_s: int
    """Header time after which the seat is void, seconds since 1970."""
    seat_id: bytes
    """16 random bytes that name the seat."""
    holder: PublicKey
    """Whoever signs with this key takes the seat."""
    chain: ChainId
    """Chain it is for."""
    era: int
    """Era it is for."""
    checkpoint: tuple[int, BlockId]
    """Height and id of a final header that the newcomer may start from."""
    addresses: tuple[str, ...]
    """3 to 8 multiaddrs with peer ids where members may be reached."""
    groups: tuple[str, ...]
    """Groups the newcomer joins, all of them, ascending."""
    kind: SubjectKind
    """What the newcomer shall be; never a validator."""
    confirmed: bool
    """Whether an owner of each group must also confirm the newcomer by its code."""

    def __post_init__(self) -> None:
        """Refuses claims that `parse_token` would refuse.

        Raises:
            EncodingError: a bound is not kept, or the seat is a validator's.
        """
        if len(self.seat_id) != SEAT_ID_BYTES:
            raise EncodingError(f"token: seat id of {len(self.seat_id)} bytes, expected 16")
        if not ADDRESSES_MIN <= len(self.addresses) <= ADDRESSES_MAX:
            raise EncodingError(
                f"token: {len(self.addresses)} addresses, expected {ADDRESSES_MIN} to "
                f"{ADDRESSES_MAX}"
            )
        if len(set(self.addresses)) != len(self.addresses):
            raise EncodingError("token: an address is given twice")
        for address in self.addresses:
            check_text(address, "token: address", maximum=ADDRESS_BYTES_MAX, empty=False)
            if "/p2p/" not in address:
                raise EncodingError(f"token: address {address[:80]!r} names no peer")
        check_groups(self.groups)
        if not self.groups:
            raise EncodingError("token: no group")
        if self.kind is SubjectKind.VALIDATOR:
            raise EncodingError("token: validators enter by a change of the validator set only")

    @property
    def seat(self) -> Digest:
        """What is taken once: the same for all tokens with these groups and this id."""
        value: list[Value] = [list(self.groups), self.seat_id]
        return tagged_digest("swarmd/seat-id/1", encode_canonical(value))

    def encode(self) -> bytes:
        """Canonical bytes of the claims set."""
        holder: dict[int | str, Value] = {
            _KEY_TYPE: _KEY_TYPE_OKP,
            _CURVE: _CURVE_ED25519,
            _KEY_X: self.holder.raw,
        }
        return encode_canonical(
            {
                _CLAIM_ISSUER: did_key_text(self.issuer),
                _CLAIM_EXPIRY: self.expiry_s,
                _CLAIM_ID: self.seat_id,
                _CLAIM_CONFIRMATION: {_COSE_KEY: holder},
                _CLAIM_CHAIN: self.chain,
                _CLAIM_ERA: self.era,
                _CLAIM_CHECKPOINT: list(self.checkpoint),
                _CLAIM_ADDRESSES: list(self.addresses),
                _CLAIM_GROUPS: list(self.groups),
                _CLAIM_KIND: int(self.kind),
                _CLAIM_CONFIRMED: self.confirmed,
            }
        )


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """A parsed token with its original bytes; not verified until `verify` was called."""

    claims: EnrolmentClaims
    """The content."""
    signed: Signed
    """The COSE_Sign1 it came in."""

    def verify(self) -> None:
        """Checks that the issuer signed it, for the chain and era it names.

        Whether the issuer is an owner is the caller's question.

        Raises:
            SignatureError: it did not.
        """
        claims = self.claims
        self.signed.verify(claims.issuer, tag=ENROLMENT_TAG, chain=claims.chain, era=claims.era)


def parse_token(raw: bytes) -> EnrolmentToken:
    """Parses a token without checking its signature.

    Raises:
        EncodingError: malformed, over 4 KiB, or a claim that is not known.
    """
    signed = parse_signed(raw, bytes_max=TOKEN_BYTES_MAX)
    fields = Fields(decode_canonical(signed.payload, bytes_max=TOKEN_BYTES_MAX), "token")
    height, block = as_array(fields.value(_CLAIM_CHECKPOINT), "token: checkpoint", size=2)
    claims = EnrolmentClaims(
        issuer=parse_did_key(fields.text(_CLAIM_ISSUER, maximum=80)),
        expiry_s=fields.uint(_CLAIM_EXPIRY),
        seat_id=fields.bytes(_CLAIM_ID, size=SEAT_ID_BYTES),
        holder=_read_holder(fields.value(_CLAIM_CONFIRMATION)),
        chain=ChainId(fields.digest(_CLAIM_CHAIN)),
        era=fields.uint(_CLAIM_ERA),
        checkpoint=(
            as_uint(height, "token: checkpoint's height"),
            BlockId(as_digest(block, "token: checkpoint's header")),
        ),
        addresses=fields.items(
            _CLAIM_ADDRESSES, _read_address, minimum=ADDRESSES_MIN, maximum=ADDRESSES_MAX
        ),
        groups=read_groups(fields, _CLAIM_GROUPS, minimum=1),
        kind=fields.enum(_CLAIM_KIND, SubjectKind),
        confirmed=fields.boolean(_CLAIM_CONFIRMED),
    )
    if fields.finish():
        raise EncodingError("token: a claim that is not known")
    return EnrolmentToken(claims, signed)


def _read_address(value: Value) -> str:
    if not isinstance(value, str):
        raise EncodingError("token: address is not text")
    return value


def _read_holder(value: Value) -> PublicKey:
    """Reads `cnf`: {1: COSE_Key} with an Ed25519 public key and nothing else."""
    confirmation = Fields(value, "token: cnf")
    key = Fields(confirmation.value(_COSE_KEY), "token: COSE_Key")
    key.constant(_KEY_TYPE, _KEY_TYPE_OKP)
    key.constant(_CURVE, _CURVE_ED25519)
    holder = PublicKey(key.bytes(_KEY_X, size=32))
    if key.finish() or confirmation.finish():
        raise EncodingError("token: cnf holds more than one Ed25519 key")
    return holder


def sign_token(claims: EnrolmentClaims, key: Signer) -> EnrolmentToken:
    """Signs claims as their issuer."""
    claims = replace(claims, issuer=key.public)
    raw = sign(claims.encode(), key, tag=ENROLMENT_TAG, chain=claims.chain, era=claims.era)
    return parse_token(raw)


def same_seat(tokens: Sequence[EnrolmentToken]) -> EnrolmentClaims:
    """The claims that all tokens make; they may differ in their issuers only.

    Raises:
        EncodingError: no token, more than 32, or other claims.
    """
    if not 1 <= len(tokens) <= OWNERS_MAX:
        raise EncodingError(f"{len(tokens)} tokens, expected 1 to {OWNERS_MAX}")
    first = tokens[0].claims
    if any(replace(token.claims, issuer=first.issuer) != first for token in tokens):
        raise EncodingError("the tokens are for different seats")
    return first


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatClaim:
    """What a newcomer shows to take a seat."""

    tokens: tuple[bytes, ...]
    """The owners' tokens, original bytes, 1 to 32."""
    proof: bytes
    """Signature of the holder's key over `seat_message`, 64 bytes."""

    def to_value(self) -> Value:
        """The wire form: [[token, ...], proof]."""
        return [list(self.tokens), self.proof]

    @classmethod
    def from_value(cls, value: Value) -> SeatClaim:
        """Reads the wire form without parsing the tokens.

        Raises:
            EncodingError: malformed.
        """
        tokens, proof = as_array(value, "seat claim", size=2)
        if not isinstance(tokens, (list, tuple)) or not 1 <= len(tokens) <= OWNERS_MAX:
            raise EncodingError(f"seat claim: tokens are not a list of 1 to {OWNERS_MAX}")
        return cls(
            tokens=tuple(as_bytes(item, "token", maximum=TOKEN_BYTES_MAX) for item in tokens),
            proof=as_bytes(proof, "seat claim's proof", size=SIGNATURE_BYTES),
        )


def seat_message(claims: EnrolmentClaims, did: DidId) -> bytes:
    """The bytes by which the holder gives the seat to a subject."""
    return signing_context(SEAT_TAG, claims.chain, claims.era) + encode_canonical(
        [claims.seat, did]
    )


def claim_seat(tokens: Sequence[EnrolmentToken], did: DidId, holder: Signer) -> SeatClaim:
    """Takes a seat for a subject.

    Raises:
        EncodingError: the tokens are for different seats.
        SignatureError: `holder` is not the key they name.
    """
    claims = same_seat(tokens)
    if holder.public != claims.holder:
        raise SignatureError("the token is for the holder of another key")
    proof = holder.sign(seat_message(claims, did))
    return SeatClaim(tokens=tuple(token.signed.raw for token in tokens), proof=proof)


def confirmation_code(claims: EnrolmentClaims, did: DidId) -> str:
    """The digits that a newcomer shows and an owner compares, 000000 to 999999.

    They tell apart who stands before the owner from somebody else who uses the same token. They
    are few: who knows both token and the wanted code finds keys with that code by some hundred
    thousand tries, which `_CODE_COST` makes dear, not impossible.
    """
    digest = hashlib.scrypt(
        did, salt=claims.chain + claims.seat, n=_CODE_COST, r=8, p=1, maxmem=2**26, dklen=8
    )
    return f"{int.from_bytes(digest, 'big') % 10**CODE_DIGITS:0{CODE_DIGITS}}"

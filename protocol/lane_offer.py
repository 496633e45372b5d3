"""How a member hands out the key to its bulk lane, and how a lane is claimed with it.

The offer travels on an authenticated control stream; the claim is the first thing said inside the
lane's TLS connection. What both ends say there makes the keys of the records that follow. Rules:
docs/spec/lane.md.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.digest import ChainId, Digest
from protocol.encoding import (
    Fields,
    as_bytes,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.keys import SIGNATURE_BYTES, PublicKey, Signer, signing_context

LANE_TAG: Final = "swarmd/lane/2"
"""Domain of the signature in a claim, and of the keys of records."""
LANE_TOKEN_BYTES: Final = 32
"""Random bytes that name one permission to open a lane."""
LANE_SECRET_BYTES: Final = 32
"""Random bytes that each end adds to the keys of a lane."""
LANE_KEY_BYTES: Final = 32
"""AES-256: as fast as AES-128 on a processor with AES instructions, and since nonces count from 0
under every key, whoever records many lanes gains nothing from their number."""
LANE_CLAIM_BYTES: Final = LANE_TOKEN_BYTES + SIGNATURE_BYTES + LANE_SECRET_BYTES
"""Token, signature and the client's secret, without any frame around them."""
LANE_WELCOME: Final = b"\x01"
"""What begins the answer to a claim that is granted; one that is not ends the connection."""
LANE_WELCOME_BYTES: Final = len(LANE_WELCOME) + LANE_SECRET_BYTES
"""That byte and the server's secret."""
LANE_LIFETIME_S: Final = 30
"""Seconds a token may wait to be used: a stream's round trips and three refused addresses."""
LANE_ADDRESSES_MAX: Final = 4
"""Addresses an offer may name besides the one its reader knows."""
LANE_MESSAGE_BYTES_MAX: Final = 512
"""Bytes of a question or an answer; the largest offer has 170."""
_PORT_MAX: Final = 65535
_ADDRESS_BYTES: Final = (4, 16)


class LaneStatus(IntEnum):
    """What becomes of a question for a lane."""

    OFFERED = 1
    """The offer follows."""
    NONE = 2
    """This node opens none."""
    BUSY = 3
    """Too many tokens wait; later one may be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOffer:
    """Where a lane can be opened, and what proves both ends."""

    port: int
    """TCP port, 1 to 65535."""
    fingerprint: Digest
    """SHA-256 of the certificate (DER) that the lane must show."""
    token: bytes = field(repr=False)
    """32 secret bytes, good for one claim by the peer that was given them."""
    addresses: tuple[str, ...] = ()
    """IPv4 and IPv6 addresses to try after the one the control connection uses, at most 4."""

    def __post_init__(self) -> None:
        """Refuses parts out of bounds; raises EncodingError."""
        if not 0 < self.port <= _PORT_MAX:
            raise EncodingError(f"lane offer: port {self.port}")
        if len(self.token) != LANE_TOKEN_BYTES or len(self.addresses) > LANE_ADDRESSES_MAX:
            raise EncodingError("lane offer: token or addresses out of bounds")


def encode_lane_question() -> bytes:
    """What a member sends to be offered a lane."""
    return encode_canonical({0: 1})


def check_lane_question(data: bytes) -> None:
    """Reads a question.

    Raises:
        EncodingError: malformed.
    """
    fields = Fields(decode_canonical(data, bytes_max=LANE_MESSAGE_BYTES_MAX), "lane question")
    fields.constant(0, 1)
    fields.finish()


def encode_lane_answer(answer: LaneOffer | LaneStatus) -> bytes:
    """An offer, or why there is none."""
    if isinstance(answer, LaneStatus):
        return encode_canonical({0: 1, 1: int(answer)})
    return encode_canonical(
        {
            0: 1,
            1: int(LaneStatus.OFFERED),
            2: answer.port,
            3: answer.fingerprint,
            4: answer.token,
            5: [ipaddress.ip_address(address).packed for address in answer.addresses],
        }
    )


def decode_lane_answer(data: bytes) -> LaneOffer | LaneStatus:
    """Reads an answer.

    Raises:
        EncodingError: malformed or over its bounds.
    """
    fields = Fields(decode_canonical(data, bytes_max=LANE_MESSAGE_BYTES_MAX), "lane answer")
    fields.constant(0, 1)
    status = fields.enum(1, LaneStatus)
    if status is not LaneStatus.OFFERED:
        fields.finish()
        return status
    offer = LaneOffer(
        port=fields.uint(2, maximum=_PORT_MAX, minimum=1),
        fingerprint=fields.digest(3),
        token=fields.bytes(4, size=LANE_TOKEN_BYTES),
        addresses=tuple(
            _address(as_bytes(raw, "lane offer: address"))
            for raw in fields.array(5, maximum=LANE_ADDRESSES_MAX)
        ),
    )
    fields.finish()
    return offer


def _address(raw: bytes) -> str:
    if len(raw) not in _ADDRESS_BYTES:
        raise EncodingError(f"lane offer: address of {len(raw)} bytes, expected 4 or 16")
    return str(ipaddress.ip_address(raw))


def _claimed(token: bytes, fingerprint: Digest, chain: ChainId, era: int) -> bytes:
    return signing_context(LANE_TAG, chain, era) + encode_canonical([token, fingerprint])


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LaneKeys:
    """What protects the records of one lane, AES-256 keys of 32 bytes; never shown."""

    client: bytes
    """For what the client sends."""
    server: bytes
    """For what the server sends."""


def derive_lane_keys(
    token: bytes, fingerprint: Digest, *, client_secret: bytes, server_secret: bytes
) -> LaneKeys:
    """The keys of a lane from what both ends said under TLS (B31).

    The token binds them to this one lane: it serves once, so keys never repeat even where random
    numbers do.
    """
    size = 2 * LANE_KEY_BYTES
    info = LANE_TAG.encode() + token
    kdf = HKDF(algorithm=SHA256(), length=size, salt=fingerprint, info=info)
    keys = kdf.derive(client_secret + server_secret)
    return LaneKeys(client=keys[:LANE_KEY_BYTES], server=keys[LANE_KEY_BYTES:])


def make_lane_claim(
    token: bytes,
    fingerprint: Digest,
    key: Signer,
    *,
    client_secret: bytes,
    chain: ChainId,
    era: int,
) -> bytes:
    """What a client says first: the token, that it holds the key it was given to, and a secret."""
    return token + key.sign(_claimed(token, fingerprint, chain, era)) + client_secret


def check_lane_claim(
    claim: bytes, fingerprint: Digest, key: PublicKey, *, chain: ChainId, era: int
) -> bytes:
    """Checks the signature of a claim whose token was found to belong to `key`.

    Returns:
        The client's secret.

    Raises:
        SignatureError: somebody else makes the claim, or it was made for another lane.
    """
    token, rest = claim[:LANE_TOKEN_BYTES], claim[LANE_TOKEN_BYTES:]
    key.verify(rest[:SIGNATURE_BYTES], _claimed(token, fingerprint, chain, era))
    return rest[SIGNATURE_BYTES:]

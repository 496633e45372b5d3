"""Keys under which anybody could sign, and signatures with a second form, are refused."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol.errors import EncodingError, SignatureError
from protocol.keys import PublicKey
from tests.support.strategies import key

PRIME = 2**255 - 19
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, PRIME) % PRIME
Point = tuple[int, int]


def add(first: Point, second: Point) -> Point:
    """Adds two points of edwards25519 (RFC 8032, section 5.1.4, affine)."""
    (x1, y1), (x2, y2) = first, second
    product = D * x1 * x2 * y1 * y2
    x3 = (x1 * y2 + x2 * y1) * pow(1 + product, -1, PRIME) % PRIME
    y3 = (y1 * y2 + x1 * x2) * pow(1 - product, -1, PRIME) % PRIME
    return x3, y3


def encode(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def torsion() -> list[Point]:
    """The points of order 1, 2, 4 and 8, from one of order 8: L times any full-order point."""
    for y in range(2, 50):
        square = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
        x = pow(square, (PRIME + 3) // 8, PRIME)
        if x * x % PRIME != square:
            x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
        if x * x % PRIME != square:
            continue
        point, power, factor = (0, 1), (x, y), GROUP_ORDER
        while factor:
            point = add(point, power) if factor & 1 else point
            power, factor = add(power, power), factor >> 1
        if add(add(point, point), add(point, point)) != (0, 1):
            multiples = [(0, 1)]
            while len(multiples) < 8:
                multiples.append(add(multiples[-1], point))
            return multiples
    raise AssertionError("no point of order 8 found")


TORSION = torsion()
SECOND_FORMS = [
    (y + PRIME | sign << 255).to_bytes(32, "little") for y in range(19) for sign in (0, 1)
]


def test_there_are_eight_points_of_small_order() -> None:
    assert len(set(TORSION)) == 8


@pytest.mark.parametrize("point", TORSION, ids=lambda point: encode(point).hex()[:8])
def test_every_point_of_small_order_is_refused_with_either_sign(point: Point) -> None:
    raw = encode(point)
    for candidate in (raw, raw[:31] + bytes((raw[31] ^ 0x80,))):
        with pytest.raises(EncodingError, match="small order"):
            PublicKey(candidate)


@pytest.mark.parametrize("raw", SECOND_FORMS, ids=lambda raw: f"{raw[0]:02x}{raw[31]:02x}")
def test_second_encodings_of_a_point_are_refused(raw: bytes) -> None:
    with pytest.raises(EncodingError, match="canonical"):
        PublicKey(raw)


def test_why_the_library_accepts_one_signature_for_every_message() -> None:
    neutral = encode((0, 1))
    signature = neutral + bytes(32)
    for message in (b"approve", b"revoke"):
        Ed25519PublicKey.from_public_bytes(neutral).verify(signature, message)


def test_a_signature_has_no_second_form() -> None:
    made = key(1).sign(b"message")
    scalar = int.from_bytes(made[32:], "little") + GROUP_ORDER
    with pytest.raises(SignatureError):
        key(1).public.verify(made[:32] + scalar.to_bytes(32, "little"), b"message")


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), b"\xff" * 64])
def test_nothing_else_verifies(signature: bytes) -> None:
    with pytest.raises(SignatureError):
        key(1).public.verify(signature, b"message")
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(key(1).public.raw).verify(signature, b"message")

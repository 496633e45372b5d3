"""Canonical CBOR: one byte string for one value (RFC 8949, section 4.2.1).

The value space is small on purpose: integers of 64 bits, byte strings, text, booleans, null,
arrays, and maps with integer or text keys. Floats, tags, indefinite lengths and duplicate keys do
not exist here. Decoding is strict: bounds first, then structure, then `encode(decode(x)) == x`.

Objects are maps with small integer keys. Keys >= 0 are critical: a reader that does not know one
refuses the object. Negative keys are extensions: kept, signed over, and ignored when unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Final, NoReturn, TypeVar

import cbor2

from protocol.digest import DIGEST_BYTES, Digest
from protocol.errors import EncodingError
from protocol.limits import (
    ENCODING_DEPTH_MAX,
    ENCODING_ITEMS_MAX,
    NAME_BYTES_MAX,
    TEXT_BYTES_MAX,
)
from protocol.text import is_identifier, is_plain_text
from protocol.wellformed import check_well_formed

Key = int | str
"""Map keys: small integers for objects, text for free metadata."""
Value = int | bytes | str | bool | None | Sequence["Value"] | Mapping[Key, "Value"]
"""What canonical CBOR can carry."""

INTEGER_MAX: Final = 2**63 - 1
"""Largest integer: fits signed 64 bits, so that SQLite and every language can hold it."""
INTEGER_MIN: Final = -(2**63)
"""Smallest integer."""

T = TypeVar("T")
E = TypeVar("E", bound=IntEnum)
Extensions = Mapping[Key, Value]
"""Fields with negative keys that this version does not know; part of the object all the same."""


def _prepare(value: Value, depth: int) -> object:
    """Checks a value and sorts its maps by encoded key; returns what cbor2 shall write."""
    if depth > ENCODING_DEPTH_MAX:
        raise EncodingError(f"nesting deeper than {ENCODING_DEPTH_MAX}")
    if value is None or isinstance(value, (bool, bytes)):
        return value
    if isinstance(value, int):
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            raise EncodingError(f"integer {value} does not fit 64 bits")
        return value
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return [_prepare(item, depth + 1) for item in value]
    if isinstance(value, (dict, Mapping)):
        for key in value:
            if isinstance(key, bool) or not isinstance(key, (int, str)):
                raise EncodingError(f"map key of type {type(key).__name__}")
        pairs = sorted((cbor2.dumps(key), key) for key in value)
        return {key: _prepare(value[key], depth + 1) for _, key in pairs}
    raise EncodingError(f"type {type(value).__name__} has no canonical encoding")


def encode_canonical(value: Value) -> bytes:
    """Encodes a value; equal values give equal bytes.

    Raises:
        EncodingError: the value holds something outside the value space.
    """
    try:
        return cbor2.dumps(_prepare(value, 0))
    except UnicodeEncodeError as error:
        raise EncodingError(f"text is not encodable: {error.reason}") from error


def decode_canonical(data: bytes, *, bytes_max: int, items_max: int = ENCODING_ITEMS_MAX) -> Value:
    """Decodes untrusted bytes.

    Args:
        data: exactly one encoded value, nothing behind it.
        bytes_max: refuse longer input before looking at it, bytes.
        items_max: refuse more data items before making any object; bounds time and memory.

    Raises:
        EncodingError: too long, too many items, truncated, trailing bytes, outside the value space,
            or not canonical.
    """
    if len(data) > bytes_max:
        raise EncodingError(f"{len(data)} bytes, at most {bytes_max} allowed")
    check_well_formed(data, items_max=items_max)
    try:
        value: Value = cbor2.loads(
            data,
            max_depth=ENCODING_DEPTH_MAX + 1,
            allow_indefinite=False,
            allow_duplicate_keys=False,
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise EncodingError(f"not CBOR of this protocol: {error}") from error
    if encode_canonical(value) != data:
        raise EncodingError("not in canonical form")
    return value


class Fields:
    """Reads one decoded map field by field and, at the end, refuses unknown critical keys.

    Use: `fields = Fields(value, "manifest")`, then `fields.uint(1, ...)` and so on, then
    `fields.finish()`, which returns the extensions. Every failure is an `EncodingError` that names
    the object and the key.
    """

    def __init__(self, value: Value, what: str) -> None:
        """Starts reading `value`, which must be a map; `what` names it in error messages."""
        if not isinstance(value, Mapping):
            raise EncodingError(f"{what}: expected a map, got {type(value).__name__}")
        self._map: Mapping[Key, Value] = value
        self._what = what
        self._seen: dict[int, None] = {}

    def has(self, key: int) -> bool:
        """Tells whether an optional field is present."""
        return key in self._map

    def _take(self, key: int) -> Value:
        self._seen[key] = None
        if key not in self._map:
            raise EncodingError(f"{self._what}: field {key} is missing")
        return self._map[key]

    def _fail(self, key: int, expected: str) -> NoReturn:
        raise EncodingError(f"{self._what}: field {key} is not {expected}")

    def uint(self, key: int, *, maximum: int = INTEGER_MAX, minimum: int = 0) -> int:
        """Reads an integer between `minimum` and `maximum`, both included."""
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, int):
            self._fail(key, "an integer")
        if not minimum <= value <= maximum:
            self._fail(key, f"between {minimum} and {maximum}")
        return value

    def enum(self, key: int, members: type[E]) -> E:
        """Reads one of an enumeration's numbers."""
        number = self.uint(key)
        try:
            return members(number)
        except ValueError:
            self._fail(key, f"a {members.__name__}")

    def identifier(self, key: int) -> str:
        """Reads an identifier; see `check_identifier`."""
        return check_identifier(self.name(key), f"{self._what}: field {key}")

    def constant(self, key: int, expected: int) -> None:
        """Reads an integer that must have one value, such as a schema number."""
        if self.uint(key, minimum=INTEGER_MIN) != expected:
            self._fail(key, f"{expected}")

    def boolean(self, key: int) -> bool:
        """Reads true or false."""
        value = self._take(key)
        if not isinstance(value, bool):
            self._fail(key, "a boolean")
        return value

    def bytes(self, key: int, *, size: int | None = None, maximum: int | None = None) -> bytes:
        """Reads a byte string of exactly `size` or at most `maximum` bytes."""
        value = self._take(key)
        if not isinstance(value, bytes):
            self._fail(key, "a byte string")
        if size is not None and len(value) != size:
            self._fail(key, f"{size} bytes long")
        if maximum is not None and len(value) > maximum:
            self._fail(key, f"at most {maximum} bytes long")
        return value

    def digest(self, key: int) -> Digest:
        """Reads a digest of 32 bytes."""
        return Digest(self.bytes(key, size=DIGEST_BYTES))

    def text(self, key: int, *, maximum: int = TEXT_BYTES_MAX, empty: bool = True) -> str:
        """Reads text of at most `maximum` UTF-8 bytes without control or bidi characters."""
        value = self._take(key)
        if not isinstance(value, str):
            self._fail(key, "text")
        return check_text(value, f"{self._what}: field {key}", maximum=maximum, empty=empty)

    def name(self, key: int) -> str:
        """Reads a name: 1 to 64 bytes of text."""
        return self.text(key, maximum=NAME_BYTES_MAX, empty=False)

    def array(self, key: int, *, maximum: int, minimum: int = 0) -> Sequence[Value]:
        """Reads an array of `minimum` to `maximum` items."""
        value = self._take(key)
        if not isinstance(value, (list, tuple)):
            self._fail(key, "an array")
        if not minimum <= len(value) <= maximum:
            self._fail(key, f"an array of {minimum} to {maximum} items")
        return value

    def items(
        self, key: int, read: Callable[[Value], T], *, maximum: int, minimum: int = 0
    ) -> tuple[T, ...]:
        """Reads an array and each of its items by `read`."""
        return tuple(read(item) for item in self.array(key, maximum=maximum, minimum=minimum))

    def digests(self, key: int, *, maximum: int, minimum: int = 0) -> tuple[Digest, ...]:
        """Reads an array of digests."""
        return self.items(
            key, lambda item: as_digest(item, self._what), maximum=maximum, minimum=minimum
        )

    def value(self, key: int) -> Value:
        """Reads a field of any type; the caller checks it."""
        return self._take(key)

    def optional(self, key: int, read: Callable[[int], T]) -> T | None:
        """Reads a field that may be absent, by one of the other methods."""
        return read(key) if key in self._map else None

    def finish(self) -> Extensions:
        """Refuses unknown critical fields.

        Returns:
            The extensions: unknown fields with negative keys.
        """
        extensions: dict[Key, Value] = {}
        for key, value in self._map.items():
            if not isinstance(key, int):
                raise EncodingError(f"{self._what}: key {key!r} is not an integer")
            if key in self._seen:
                continue
            if key >= 0:
                raise EncodingError(f"{self._what}: unknown critical field {key}")
            extensions[key] = value
        return extensions


def check_text(text: str, what: str, *, maximum: int = TEXT_BYTES_MAX, empty: bool = True) -> str:
    """Checks a text's length and characters and returns it.

    Raises:
        EncodingError: empty where that is not allowed, over `maximum` UTF-8 bytes, or with control,
            format (bidi) or private-use characters, which could deceive a person who reads it.
    """
    if not text and not empty:
        raise EncodingError(f"{what}: empty text")
    if len(text.encode("utf-8", "surrogatepass")) > maximum:
        raise EncodingError(f"{what}: text longer than {maximum} bytes")
    if not is_plain_text(text):
        raise EncodingError(f"{what}: control, bidi, invisible or private-use character in text")
    return text


def check_identifier(text: str, what: str) -> str:
    """Checks an ASCII identifier (`protocol.text.is_identifier`) and returns it.

    Raises:
        EncodingError: it is something else.
    """
    if not is_identifier(text):
        raise EncodingError(f"{what}: {text[:80]!r} is not 1 to 64 of A-Z, a-z, 0-9 and ._+:-")
    return text


def check_range(number: int, what: str, *, maximum: int = INTEGER_MAX, minimum: int = 0) -> int:
    """Checks that an integer lies between `minimum` and `maximum` and returns it.

    Raises:
        EncodingError: it does not.
    """
    if not minimum <= number <= maximum:
        raise EncodingError(f"{what}: {number} is not between {minimum} and {maximum}")
    return number


def check_extensions(extensions: Extensions, what: str) -> None:
    """Refuses extensions that would pass for critical fields.

    Raises:
        EncodingError: a key is not negative.
    """
    if any(isinstance(key, str) or key >= 0 for key in extensions):
        raise EncodingError(f"{what}: keys of extensions are negative integers")


def as_digest(value: Value, what: str) -> Digest:
    """Reads a bare value as a digest of 32 bytes."""
    return Digest(as_bytes(value, what, size=DIGEST_BYTES))


def as_bytes(
    value: Value, what: str, *, size: int | None = None, maximum: int | None = None
) -> bytes:
    """Reads a bare value as a byte string of `size` or at most `maximum` bytes."""
    if not isinstance(value, bytes):
        raise EncodingError(f"{what}: expected a byte string, got {type(value).__name__}")
    if size is not None and len(value) != size:
        raise EncodingError(f"{what}: expected {size} bytes, got {len(value)}")
    if maximum is not None and len(value) > maximum:
        raise EncodingError(f"{what}: {len(value)} bytes, at most {maximum} allowed")
    return value


def as_uint(value: Value, what: str, *, maximum: int = INTEGER_MAX) -> int:
    """Reads a bare value as an integer between 0 and `maximum`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise EncodingError(f"{what}: expected an integer of 0 to {maximum}")
    return value


def as_array(value: Value, what: str, *, size: int) -> Sequence[Value]:
    """Reads a bare value as an array of exactly `size` items."""
    if not isinstance(value, (list, tuple)) or len(value) != size:
        raise EncodingError(f"{what}: expected an array of {size} items")
    return value


def check_sorted_unique(items: Iterable[bytes], what: str) -> None:
    """Refuses a list whose byte strings are not strictly ascending."""
    previous: bytes | None = None
    for item in items:
        if previous is not None and item <= previous:
            raise EncodingError(f"{what}: not strictly ascending")
        previous = item

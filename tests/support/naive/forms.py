"""Small checkers that CDDL lines translate into; each raises `Malformed` or returns the value."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable
from typing import Any

from tests.support.naive.cbor import INTEGER_MAX, Malformed
from tests.support.naive.crypto import read_key

Form = Callable[[Any], Any]
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufdd0-\ufdef"
    "\ufe00-\ufe0f\uffa0\ufff0-\ufff8\ufffe\uffff\U000e0000-\U000e0fff]"
)
_GROUP = re.compile("[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
_IDENTIFIER = re.compile("[A-Za-z0-9]([A-Za-z0-9._+:-]{0,62}[A-Za-z0-9+])?")
_ROLE = re.compile("[a-z][a-z0-9-]{0,31}")


def need(condition: object, what: str = "not of the schema") -> None:
    """Raises unless a condition holds."""
    if not condition:
        raise Malformed(what)


def whole(low: int = 0, high: int = INTEGER_MAX) -> Form:
    """An integer in a range."""

    def check(value: Any) -> int:
        need(type(value) is int and low <= value <= high)
        return int(value)

    return check


def blob(low: int, high: int | None = None) -> Form:
    """Bytes of a length in a range."""

    def check(value: Any) -> bytes:
        need(isinstance(value, bytes) and low <= len(value) <= (low if high is None else high))
        return bytes(value)

    return check


def display(low: int = 1, high: int = 64) -> Form:
    """Display text (P10)."""

    def check(value: Any) -> str:
        need(isinstance(value, str) and low <= len(value.encode()) <= high)
        bad = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
        need(not any(unicodedata.category(c) in bad for c in value))
        need(not _INVISIBLE.search(value))
        need(not any(ord(c) & 0xFFFE == 0xFFFE for c in value))
        return str(value)

    return check


def matches(pattern: re.Pattern[str]) -> Form:
    """Text of a pattern."""

    def check(value: Any) -> str:
        need(isinstance(value, str) and pattern.fullmatch(value))
        return str(value)

    return check


def boolean(value: Any) -> bool:
    """True or false."""
    need(isinstance(value, bool))
    return bool(value)


def anything(value: Any) -> Any:
    """Whatever there is."""
    return value


def maybe(form: Form) -> Form:
    """A form or null."""
    return lambda value: None if value is None else form(value)


def many(form: Form, low: int, high: int) -> Form:
    """An array of one form."""

    def check(value: Any) -> list[Any]:
        need(isinstance(value, list) and low <= len(value) <= high)
        return [form(item) for item in value]

    return check


def row(*forms: Form) -> Form:
    """An array with a form for each place."""

    def check(value: Any) -> list[Any]:
        need(isinstance(value, list) and len(value) == len(forms))
        return [form(item) for form, item in zip(forms, value, strict=True)]

    return check


def fields(
    required: dict[int, Form], optional: dict[int, Form] | None = None, *, open_: bool = True
) -> Form:
    """A map with integer keys; negative ones are extensions if it is open (P7)."""
    possible = {**required, **(optional or {})}

    def check(value: Any) -> dict[int, Any]:
        need(isinstance(value, dict) and all(key in value for key in required))
        for key in value:
            need(type(key) is int and (key in possible or (open_ and key < 0)))
        return {key: possible.get(key, anything)(item) for key, item in value.items()}

    return check


def ascending(items: list[Any]) -> None:
    """Strictly ascending."""
    need(all(one < two for one, two in itertools.pairwise(items)), "order")


uint = whole()
positive = whole(1)
digest = blob(32)
signature = blob(64)
group_name = matches(_GROUP)
identifier = matches(_IDENTIFIER)
role_name = matches(_ROLE)


def key(value: Any) -> list[Any]:
    """A public key on the wire (P20)."""
    read_key(value)
    return list(value)


one = whole(1, 1)

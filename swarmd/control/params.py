"""Reads the parameters of a control request, field by field, with errors a person can act on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Final, NoReturn

from protocol.encoding import INTEGER_MAX, check_text
from protocol.errors import ConfigError, EncodingError
from protocol.limits import TEXT_BYTES_MAX

PATH_CHARACTERS_MAX: Final = 4096
"""PATH_MAX of Linux."""


class Params:
    """Reads each parameter once by a typed method; `finish` then refuses unknown ones.

    Every failure is a `ConfigError` that names the parameter. A parameter that may be absent is
    read behind `has`.
    """

    def __init__(self, params: Mapping[str, object]) -> None:
        """Starts reading `params`."""
        self._params = params
        self._seen: dict[str, None] = {}

    def has(self, name: str) -> bool:
        """Tells whether an optional parameter was given; null counts as absent."""
        self._seen[name] = None
        return self._params.get(name) is not None

    def _take(self, name: str) -> object:
        self._seen[name] = None
        if name not in self._params:
            raise ConfigError(f"parameter {name!r} is missing")
        return self._params[name]

    @staticmethod
    def _fail(name: str, expected: str) -> NoReturn:
        raise ConfigError(f"parameter {name!r} is not {expected}")

    def text(self, name: str, *, maximum: int = TEXT_BYTES_MAX, empty: bool = False) -> str:
        """Reads text of at most `maximum` UTF-8 bytes without control or bidi characters."""
        value = self._take(name)
        if not isinstance(value, str):
            self._fail(name, "text")
        return self._checked_text(name, value, maximum=maximum, empty=empty)

    @staticmethod
    def _checked_text(name: str, text: str, *, maximum: int, empty: bool = False) -> str:
        try:
            return check_text(text, f"parameter {name!r}", maximum=maximum, empty=empty)
        except EncodingError as error:
            raise ConfigError(str(error)) from None

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Reads one of a few words."""
        value = self._take(name)
        if not isinstance(value, str) or value not in choices:
            self._fail(name, f"one of {', '.join(choices)}")
        return value

    def path(self, name: str) -> str:
        """Reads an absolute path; any characters but NUL, since file names are bytes to Linux."""
        value = self._take(name)
        if not isinstance(value, str) or not 0 < len(value) <= PATH_CHARACTERS_MAX:
            self._fail(name, f"a path of 1 to {PATH_CHARACTERS_MAX} characters")
        if not value.startswith("/") or "\0" in value:
            self._fail(name, "an absolute path")
        return value

    def uint(self, name: str, *, minimum: int = 0, maximum: int = INTEGER_MAX) -> int:
        """Reads an integer between `minimum` and `maximum`, both included."""
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, int):
            self._fail(name, "an integer")
        if not minimum <= value <= maximum:
            self._fail(name, f"between {minimum} and {maximum}")
        return value

    def seconds(self, name: str, *, maximum: float) -> float:
        """Reads a duration of 0 to `maximum` seconds."""
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._fail(name, "a number of seconds")
        if not 0 <= value <= maximum:
            self._fail(name, f"between 0 and {maximum:g} seconds")
        return float(value)

    def boolean(self, name: str) -> bool:
        """Reads true or false."""
        value = self._take(name)
        if not isinstance(value, bool):
            self._fail(name, "true or false")
        return value

    def hex_bytes(self, name: str, *, size: int) -> bytes:
        """Reads exactly `size` bytes written as lower-case hex digits."""
        return self._hex(name, self._take(name), minimum=size, maximum=size)

    def hex_list(self, name: str, *, items_max: int, bytes_max: int) -> tuple[bytes, ...]:
        """Reads a list of 1 to `items_max` byte strings of 1 to `bytes_max` bytes, in hex."""
        values = self._list(name, items_max)
        return tuple(self._hex(name, item, minimum=1, maximum=bytes_max) for item in values)

    def _hex(self, name: str, value: object, *, minimum: int, maximum: int) -> bytes:
        allowed = f"{minimum}" if minimum == maximum else f"{minimum} to {maximum}"
        raw = b""
        if isinstance(value, str) and 2 * minimum <= len(value) <= 2 * maximum:
            with contextlib.suppress(ValueError):
                raw = bytes.fromhex(value)
        if not raw or raw.hex() != value:
            self._fail(name, f"{allowed} bytes in lower-case hex")
        return raw

    def _list(self, name: str, items_max: int) -> list[object]:
        value = self._take(name)
        if not isinstance(value, list) or not 1 <= len(value) <= items_max:
            self._fail(name, f"a list of 1 to {items_max} entries")
        return value

    def texts(self, name: str, *, items_max: int, maximum: int = TEXT_BYTES_MAX) -> tuple[str, ...]:
        """Reads a list of 1 to `items_max` texts."""
        texts: list[str] = []
        for item in self._list(name, items_max):
            if not isinstance(item, str):
                self._fail(name, "a list of texts")
            texts.append(self._checked_text(name, item, maximum=maximum))
        return tuple(texts)

    def text_map(self, name: str, *, items_max: int) -> dict[str, str]:
        """Reads an object of at most `items_max` texts by name."""
        value = self._take(name)
        if not isinstance(value, dict) or len(value) > items_max:
            self._fail(name, f"an object of at most {items_max} entries")
        texts: dict[str, str] = {}
        for key, item in value.items():
            if not isinstance(key, str) or not isinstance(item, str):
                self._fail(name, "an object of texts")
            checked = self._checked_text(name, key, maximum=TEXT_BYTES_MAX)
            texts[checked] = self._checked_text(name, item, maximum=TEXT_BYTES_MAX, empty=True)
        return texts

    def finish(self) -> None:
        """Refuses parameters that no method has read.

        Raises:
            ConfigError: there is one; the message names it.
        """
        if unknown := sorted(set(self._params) - set(self._seen)):
            raise ConfigError(f"unknown parameter {unknown[0][:64]!r}")

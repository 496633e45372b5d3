"""PKCS #11 URIs (RFC 7512), as far as they name one key of one token.

Path attributes understood: `token`, `manufacturer`, `model`, `serial`, `object`, `id`, `type`.
Query attributes: `module-path`, `pin-source`. Anything else is refused rather than ignored: a URI
that says more than we look at would name another key than its writer meant. `pin-value` is refused
by name, because a command line can be read by others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from protocol.errors import ConfigError

URI_CHARACTERS_MAX: Final = 1024
"""Longest URI; a token's label has 32 characters, an object's rarely more."""
_PATH_NAMES: Final = ("token", "manufacturer", "model", "serial", "object", "id", "type")
_QUERY_NAMES: Final = ("module-path", "pin-source")
_ALLOWED: Final = re.compile(r"[A-Za-z0-9_.~:\[\]@!$'()*+,=&/?|-]|%[0-9A-Fa-f]{2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pkcs11URI:
    """One key of one token."""

    module: Path
    """Shared library of the device (`module-path`)."""
    token: str | None
    """Label of the token."""
    manufacturer: str | None
    """Of the token."""
    model: str | None
    """Of the token."""
    serial: str | None
    """Of the token."""
    label: str | None
    """Label of the key (`object`)."""
    key_id: bytes | None
    """CKA_ID of the key (`id`)."""
    pin_file: Path | None
    """File whose first line is the PIN (`pin-source=file:...`)."""


def parse_pkcs11_uri(text: str) -> Pkcs11URI:
    """Reads a URI.

    Raises:
        ConfigError: malformed, an attribute that is not understood or given twice, no module, or
            nothing that names a token and a key.
    """
    if len(text) > URI_CHARACTERS_MAX or not text.startswith("pkcs11:"):
        raise ConfigError("--key: not a PKCS #11 URI (pkcs11:token=...;object=...)")
    path, _, query = text.removeprefix("pkcs11:").partition("?")
    names = _attributes(path, ";", _PATH_NAMES)
    options = _attributes(query, "&", _QUERY_NAMES)
    if names.get("type", b"private") != b"private":
        raise ConfigError("--key: the PKCS #11 URI names no private key (type=private)")
    if "module-path" not in options:
        raise ConfigError(
            "--key: the PKCS #11 URI names no module: add ?module-path=/usr/lib/.../module.so"
        )
    if not {"token", "serial"} & names.keys() or not {"object", "id"} & names.keys():
        raise ConfigError("--key: the PKCS #11 URI must name a token and an object or id")
    return Pkcs11URI(
        module=Path(_text(options["module-path"], "module-path")),
        token=_optional(names, "token"),
        manufacturer=_optional(names, "manufacturer"),
        model=_optional(names, "model"),
        serial=_optional(names, "serial"),
        label=_optional(names, "object"),
        key_id=names.get("id"),
        pin_file=_pin_file(options.get("pin-source")),
    )


def _attributes(text: str, separator: str, known: tuple[str, ...]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise ConfigError("--key: a PIN does not belong on a command line; use pin-source")
        if name not in known or not equals or name in found:
            raise ConfigError(
                f"--key: PKCS #11 URI: {part[:40]!r} is malformed, unknown or given twice"
            )
        if "".join(_ALLOWED.findall(value)) != value:
            raise ConfigError(f"--key: PKCS #11 URI: {name!r} holds a character not escaped by %")
        found[name] = unquote_to_bytes(value)
    return found


def _text(value: bytes, name: str) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text:
        raise ConfigError(f"--key: PKCS #11 URI: {name!r} is not text")
    return text


def _optional(values: dict[str, bytes], name: str) -> str | None:
    return _text(values[name], name) if name in values else None


def _pin_file(value: bytes | None) -> Path | None:
    if value is None:
        return None
    text = _text(value, "pin-source").removeprefix("file:")
    if not text.startswith("/"):
        raise ConfigError("--key: PKCS #11 URI: pin-source is not file:/ and an absolute path")
    return Path(text)

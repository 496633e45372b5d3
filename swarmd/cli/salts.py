"""Compares own files with a manifest whose components may be sealed.

Of a sealed component the manifest has a salted digest, which the plain file gives only together
with the salt. Salts come from `--salt`, else from the node, if it holds the key. A wrong salt can
only make the comparison fail, so the node need not be trusted for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from protocol.errors import ConfigError, PolicyError, StorageError
from swarmd.cli.options import call

if TYPE_CHECKING:
    from protocol.digest import ManifestId
    from protocol.manifest import Component, Manifest

_READ_BYTES: Final = 1 << 20


def salt_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--salt NAME=HEX`, passed as `salt_texts`."""
    return click.option(
        "--salt",
        "salt_texts",
        multiple=True,
        metavar="NAME=HEX",
        help="Salt of a sealed component, from swarmd sealing salt [default: asked of the node].",
    )(command)


def parse_salts(texts: tuple[str, ...]) -> dict[str, bytes]:
    """Reads `NAME=HEX` texts: salts by component name.

    Raises:
        ConfigError: one is not of that form, or of another length than a salt.
    """
    salts: dict[str, bytes] = {}
    for text in texts:
        name, _, digits = text.partition("=")
        salts[name] = parse_salt(digits)
    return salts


def parse_salt(digits: str) -> bytes:
    """Reads one salt in hex.

    Raises:
        ConfigError: not hex digits, or of another length than a salt.
    """
    from protocol.sealing import SALT_BYTES

    try:
        salt = bytes.fromhex(digits)
    except ValueError:
        salt = b""
    if len(salt) != SALT_BYTES:
        raise ConfigError(f"--salt: {digits[:80]!r} is not {2 * SALT_BYTES} hex digits")
    return salt


def find_salts(
    directory: Path, manifest_id: ManifestId, manifest: Manifest, texts: tuple[str, ...]
) -> dict[str, bytes]:
    """The salts of all sealed components: those given, the rest from the node.

    Raises:
        PolicyError: neither gives one of them.
        ConfigError: one given is malformed.
    """
    salts = parse_salts(texts)
    sealed = [one.name for one in manifest.components if one.sealing is not None]
    if set(sealed) <= set(salts):
        return salts
    reply = call(directory, "sealing_salts", {"manifest": manifest_id.hex()})
    answered = reply.get("salts") if isinstance(reply, dict) else None
    for name, digits in (answered if isinstance(answered, dict) else {}).items():
        salts.setdefault(str(name), parse_salt(str(digits)))
    if missing := [name for name in sealed if name not in salts]:
        raise PolicyError(
            "sealing.key", f"no salt of the sealed component {missing[0]!r}: give --salt"
        )
    return salts


def find_component(
    manifest: Manifest, path: Path, salts: Mapping[str, bytes], *, stored_too: bool
) -> tuple[Component | None, bytes]:
    """Reads a file once and finds the component that it is.

    Args:
        manifest: with the components.
        path: the file.
        salts: of sealed components, by name; one without is compared as stored only.
        stored_too: whether the ciphertext of a sealed component counts as well.

    Returns:
        The component or None, and the file's unsalted SHA-256.

    Raises:
        StorageError: it cannot be read.
    """
    from protocol.sealing import plain_prefix

    whole = hashlib.sha256()
    salted = {
        one.name: hashlib.sha256(plain_prefix(salts[one.name]))
        for one in manifest.components
        if one.sealing is not None and one.name in salts
    }
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(_READ_BYTES):
                for hasher in (whole, *salted.values()):
                    hasher.update(block)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    for one in manifest.components:
        if (one.sealing is None or stored_too) and whole.digest() == one.digest:
            return one, whole.digest()
        if one.name in salted and salted[one.name].digest() == one.plain_digest:
            return one, whole.digest()
    return None, whole.digest()

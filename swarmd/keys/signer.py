"""What `--key` may name, and how each of it comes to sign.

A path: a key file. `fd:N`: a key on an inherited file descriptor, for whoever keeps keys in a
vault of their own. `pkcs11:...`: a device that signs itself (RFC 7512).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from protocol.errors import ConfigError
from protocol.keys import Signer
from swarmd.keys.key_file import KEY_BYTES_MAX, load_key_file, read_key
from swarmd.keys.passphrase import PassphraseSource, read_descriptor

_DESCRIPTOR_PREFIX: Final = "fd:"
_DESCRIPTOR_MAX: Final = 1_048_576
"""No process of ours has more descriptors; a larger number is a mistyped one."""


def parse_descriptor(text: str) -> int:
    """Reads the number of an inherited file descriptor.

    Raises:
        ConfigError: it is none.
    """
    if not (text.isascii() and text.isdigit()) or int(text[:8]) > _DESCRIPTOR_MAX:
        raise ConfigError(f"{text[:40]!r} is not the number of a file descriptor")
    return int(text)


def open_signer(text: str, passphrases: PassphraseSource) -> Signer:
    """Opens what `--key` names.

    Args:
        text: a path, `fd:N`, or a `pkcs11:` URI.
        passphrases: asked for an encrypted key's passphrase, or a device's PIN.

    Raises:
        ConfigError: a malformed name, or no passphrase for what needs one.
        StorageError: no readable key there.
    """
    if text.startswith("pkcs11:"):
        from swarmd.keys.pkcs11_signer import open_pkcs11

        return open_pkcs11(text, passphrases)
    if text.startswith(_DESCRIPTOR_PREFIX):
        descriptor = parse_descriptor(text.removeprefix(_DESCRIPTOR_PREFIX))
        data = read_descriptor(descriptor, bytes_max=KEY_BYTES_MAX)
        return read_key(data, f"key on file descriptor {descriptor}", passphrases)
    path = Path(text)
    if not path.exists():
        raise ConfigError(f"{text[:200]!r} is no key: neither a file, nor fd:N, nor pkcs11:...")
    return load_key_file(path, passphrases)

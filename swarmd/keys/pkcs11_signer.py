"""Signs with a key that stays in a PKCS #11 device (CKM_EDDSA of PKCS #11 3.0).

By python-pkcs11, the optional extra `swarmd[pkcs11]`. For persons' keys, which sign rarely; the
keys of a node are used too often for a token, and one of them must be known to the transport.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from protocol.errors import ConfigError, EncodingError, SignatureError, StorageError
from protocol.keys import PUBLIC_KEY_BYTES, PublicKey
from swarmd.keys.passphrase import PassphraseSource, from_file
from swarmd.keys.pkcs11_uri import Pkcs11URI, parse_pkcs11_uri

if TYPE_CHECKING:
    import pkcs11

_OCTET_STRING: Final = bytes((0x04, PUBLIC_KEY_BYTES))
"""DER head of CKA_EC_POINT (PKCS #11 3.0, section 2.3.5); some older modules leave it out."""


class Pkcs11Signer:
    """One key of one token, logged in until `close` or the end of the process."""

    def __init__(self, session: pkcs11.Session, private: Any, public: PublicKey) -> None:
        """Signs with `private` in `session`; `open_pkcs11` makes these."""
        self._session = session
        self._private = private
        self._public: Final = public

    def __repr__(self) -> str:
        """Names the public half only."""
        return f"Pkcs11Signer(public={self._public.raw[:4].hex()})"

    @property
    def public(self) -> PublicKey:
        """The key under which the signatures verify."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """Signs exactly `message`, and checks what the device made of it.

        Raises:
            StorageError: the device failed, or its signature does not verify.
        """
        from pkcs11 import Mechanism
        from pkcs11.exceptions import PKCS11Error

        try:
            signature = bytes(self._private.sign(message, mechanism=Mechanism.EDDSA))
            self._public.verify(signature, message)
        except PKCS11Error as error:
            raise StorageError(f"PKCS #11 device: {_reason(error)}") from None
        except SignatureError:
            raise StorageError("PKCS #11 device: its signature does not verify") from None
        return signature

    def close(self) -> None:
        """Logs out; the signer is of no use afterwards."""
        self._session.close()


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def open_pkcs11(text: str, passphrases: PassphraseSource) -> Pkcs11Signer:
    """Logs in to the token that a URI names and finds its key.

    Args:
        text: the URI.
        passphrases: asked for the PIN, unless the URI names a `pin-source`.

    Raises:
        ConfigError: the URI is malformed, or the extra is not installed.
        StorageError: no such module, token or key, or a wrong PIN.
    """
    uri = parse_pkcs11_uri(text)
    try:
        import pkcs11
        from pkcs11.exceptions import PKCS11Error
    except ImportError:
        raise ConfigError(
            "--key pkcs11:... needs python-pkcs11: pip install 'swarmd[pkcs11]'"
        ) from None
    try:
        token = _find_token(pkcs11.lib(str(uri.module)), uri)
    except (PKCS11Error, RuntimeError, OSError) as error:
        raise StorageError(f"PKCS #11 module {uri.module}: {_reason(error)}") from None
    source = passphrases if uri.pin_file is None else from_file(uri.pin_file)
    pin = source(f"PKCS #11 token {token.label}").decode(errors="surrogateescape")
    try:
        session = token.open(user_pin=pin)
    except PKCS11Error as error:
        raise StorageError(f"PKCS #11 token {token.label}: {_reason(error)}") from None
    try:
        return _find_key(session, uri)
    except PKCS11Error as error:
        session.close()
        raise StorageError(f"PKCS #11 token {token.label}: no such key: {_reason(error)}") from None
    except EncodingError as error:
        session.close()
        raise StorageError(f"PKCS #11 token {token.label}: {error}") from None


def _find_token(library: Any, uri: Pkcs11URI) -> pkcs11.Token:
    named = {
        "token_label": uri.token,
        "token_serial": None if uri.serial is None else uri.serial.encode(),
    }
    wanted = {name: value for name, value in named.items() if value is not None}
    tokens: list[pkcs11.Token] = [
        token
        for token in library.get_tokens(**wanted)
        if uri.manufacturer in (None, token.manufacturer_id) and uri.model in (None, token.model)
    ]
    if len(tokens) != 1:
        raise StorageError(f"PKCS #11 module {uri.module}: {len(tokens)} tokens match, expected 1")
    return tokens[0]


def _find_key(session: pkcs11.Session, uri: Pkcs11URI) -> Pkcs11Signer:
    from pkcs11 import Attribute, KeyType, ObjectClass

    named = {"label": uri.label, "id": uri.key_id}
    wanted: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    of_type = {"key_type": KeyType.EC_EDWARDS, **wanted}
    private = session.get_key(object_class=ObjectClass.PRIVATE_KEY, **of_type)
    public: Any = session.get_key(object_class=ObjectClass.PUBLIC_KEY, **of_type)
    point = bytes(public[Attribute.EC_POINT])
    if len(point) == len(_OCTET_STRING) + PUBLIC_KEY_BYTES:
        point = point.removeprefix(_OCTET_STRING)
    return Pkcs11Signer(session, private, PublicKey(point))

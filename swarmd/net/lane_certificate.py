"""The certificate of a lane server: made at its start, known by its digest, gone with it.

Nobody checks names or dates of it; the digest travels on an authenticated stream. Its key lives in
this process only: OpenSSL reads it from memory, or where that is impossible from a file that only
this user can read and that is gone a moment later.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from protocol.digest import Digest

_VALID_FROM: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
"""Gateways may believe it is 1970."""
_VALID_UNTIL: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
"""No known end (RFC 5280, section 4.1.2.5)."""
_PROC_FD: Final = Path("/proc/self/fd")


@dataclass(frozen=True, slots=True)
class LaneIdentity:
    """What a lane server shows."""

    context: ssl.SSLContext
    """TLS 1.3 with the certificate and its key."""
    fingerprint: Digest
    """SHA-256 of the certificate (DER)."""


def make_lane_identity(folder: Path) -> LaneIdentity:
    """Makes a P-256 key and a certificate for it; 2 ms.

    Args:
        folder: of this user alone; used only where a file cannot live in memory.

    Raises:
        OSError: the folder cannot be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    nobody = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(nobody)
        .issuer_name(nobody)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_UNTIL)
        .sign(key, SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    # Tickets would resume sessions without the certificate; they also cost 510 bytes a connection.
    context.num_tickets = 0
    with _short_lived_file(secret + certificate.public_bytes(Encoding.PEM), folder) as path:
        context.load_cert_chain(path)
    der = certificate.public_bytes(Encoding.DER)
    return LaneIdentity(context, Digest(hashlib.sha256(der).digest()))


def client_context() -> ssl.SSLContext:
    """TLS 1.3 that accepts any certificate: its digest is compared by whoever uses it."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(side: int) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


@contextmanager
def _short_lived_file(content: bytes, folder: Path) -> Iterator[Path]:
    """A path under which the content can be read within the block, by this process alone."""
    if hasattr(os, "memfd_create") and _PROC_FD.is_dir():
        number = os.memfd_create("lane", os.MFD_CLOEXEC)
        try:
            os.write(number, content)
            yield _PROC_FD / str(number)
        finally:
            os.close(number)
        return
    # NamedTemporaryFile makes it with mode 0600.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".lane-") as file:
        file.write(content)
        file.flush()
        yield Path(file.name)

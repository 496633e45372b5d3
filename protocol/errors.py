"""The error tree, split by whose fault it is and what the caller should do next.

A service catches `TransportError`, `RemoteProtocolError`, `VerificationError` and `PolicyError` at
its edge and scores the peer; everything else is a defect or an operator's matter and propagates.
"""

from __future__ import annotations


class SwarmError(Exception):
    """Root of every error this project raises on purpose."""


class LocalProtocolError(SwarmError):
    """Our own code used a machine in a way its protocol does not allow: a defect of ours."""


class RemoteProtocolError(SwarmError):
    """The peer broke the protocol: score it and disconnect."""


class VerificationError(SwarmError):
    """Data is not what was promised: discard it, never retry the same bytes."""


class EncodingError(VerificationError):
    """Bytes are not the canonical encoding of the expected type, or exceed a bound."""


class SignatureError(VerificationError):
    """A signature does not verify under the stated key, chain, era and domain."""


class DigestMismatchError(VerificationError):
    """Bytes do not hash to the promised digest.

    Attributes:
        expected: promised digest, 32 bytes.
        actual: computed digest, 32 bytes.
    """

    def __init__(self, what: str, *, expected: bytes, actual: bytes) -> None:
        super().__init__(f"{what}: expected sha256 {expected.hex()}, got {actual.hex()}")
        self.expected = expected
        self.actual = actual


class PolicyError(SwarmError):
    """Well-formed but not allowed.

    Attributes:
        rule: short stable name of the rule that refused, such as `group.unknown`.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{message} [{rule}]")
        self.rule = rule


class NotYetError(PolicyError):
    """Not allowed now, but waiting may help (ledger behind, approvals missing)."""


class TransportError(SwarmError):
    """A connection failed or stalled: retry, perhaps elsewhere."""


class StorageError(SwarmError):
    """Durable storage failed, is full, is damaged or belongs to something else."""


class ConfigError(SwarmError):
    """Configuration or command line is wrong: an operator must mend it."""

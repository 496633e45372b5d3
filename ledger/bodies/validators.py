"""Bodies of `validator.*`, `validators.set`, `gov.parameters` and `gov.upgrade`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.bodies.codec import MapValue, read_approvals
from ledger.records.validators import VERSION_MAX
from ledger.vote import EVIDENCE_BYTES_MAX, Evidence, decode_evidence
from protocol.did import JoinStatement
from protocol.digest import ChainId, DidId, Digest, tagged_digest
from protocol.encoding import Fields, encode_canonical
from protocol.errors import EncodingError, VerificationError
from protocol.genesis import Parameters
from protocol.keys import SIGNATURE_BYTES, PublicKey, signing_context
from protocol.limits import VALIDATORS_MAX, VALIDATORS_MIN

CERTIFY_TAG: Final = "swarmd/certify-key/1"
"""Domain of the signature by which a new vote key shows that its holder has it."""
NEWCOMERS_MAX: Final = (VALIDATORS_MAX - 1) // 3
"""Records in one set change: at most f seats are replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifyKey:
    """`validator.certify`: names the signer's vote key of a coming epoch."""

    epoch: int
    """The epoch, one to four after the current one."""
    key: PublicKey
    """Never used before, by anybody, for anything."""
    proof: bytes
    """64 bytes by `key` over `certify_message`."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.epoch, 1: self.key.to_value(), 2: self.proof}

    @classmethod
    def read(cls, fields: Fields) -> CertifyKey:
        """Reads the wire form; raises EncodingError."""
        return cls(
            epoch=fields.uint(0),
            key=PublicKey.from_value(fields.value(1)),
            proof=fields.bytes(2, size=SIGNATURE_BYTES),
        )


def certify_message(chain: ChainId, era: int, did: DidId, epoch: int) -> bytes:
    """The bytes a new vote key signs: context || [did, epoch]."""
    return signing_context(CERTIFY_TAG, chain, era) + encode_canonical([did, epoch])


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuse:
    """`validator.accuse`: anybody's proof that a validator contradicted itself."""

    evidence: Evidence
    """Two votes, of this epoch or the one before."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.evidence.encoded}

    @classmethod
    def read(cls, fields: Fields) -> Accuse:
        """Reads the wire form; raises EncodingError."""
        try:
            evidence = decode_evidence(fields.bytes(0, maximum=EVIDENCE_BYTES_MAX))
        except EncodingError:
            raise
        except VerificationError as error:
            raise EncodingError(f"evidence: {error}") from error
        return cls(evidence=evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetValidators:
    """`validators.set`: names the seats of the next epoch, by consent of the governance root."""

    members: tuple[DidId, ...]
    """4 to 32 distinct subjects; the position is the index."""
    joins: tuple[JoinStatement, ...]
    """Records of those the ledger does not know, with proof that they hold their keys."""
    approvals: tuple[bytes, ...]
    """VALIDATORS approvals by governance keys, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {
            0: list(self.members),
            1: [join.to_value() for join in self.joins],
            2: list(self.approvals),
        }

    @classmethod
    def read(cls, fields: Fields) -> SetValidators:
        """Reads the wire form; raises EncodingError."""
        members = fields.digests(0, minimum=VALIDATORS_MIN, maximum=VALIDATORS_MAX)
        if len(dict.fromkeys(members)) != len(members):
            raise EncodingError("a subject holds two seats")
        return cls(
            members=tuple(DidId(item) for item in members),
            joins=fields.items(1, JoinStatement.from_value, maximum=NEWCOMERS_MAX),
            approvals=read_approvals(fields, 2),
        )


def members_digest(epoch: int, members: tuple[DidId, ...]) -> Digest:
    """What governance keys approve: the epoch it is decided in, and the successor's seats."""
    return tagged_digest("swarmd/next-validators/1", encode_canonical([epoch, list(members)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SetParameters:
    """`gov.parameters`: changes the chain's numbers from the next epoch on."""

    parameters: Parameters
    """All of them."""
    approvals: tuple[bytes, ...]
    """PARAMETERS approvals by governance keys, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.parameters.to_value(), 1: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> SetParameters:
        """Reads the wire form; raises EncodingError."""
        parameters = Parameters.from_value(fields.value(0))
        return cls(parameters=parameters, approvals=read_approvals(fields, 1))


def parameters_digest(epoch: int, parameters: Parameters) -> Digest:
    """What governance keys approve: the epoch it is decided in, and the numbers."""
    value = encode_canonical([epoch, parameters.to_value()])
    return tagged_digest("swarmd/next-parameters/1", value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """`gov.upgrade`: sets the protocol version from an epoch on."""

    version: int
    """Above the one in force; 0 takes a planned upgrade back."""
    epoch: int
    """First epoch with it, after the current one; 0 with version 0."""
    approvals: tuple[bytes, ...]
    """UPGRADE approvals by governance keys, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.version, 1: self.epoch, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> Upgrade:
        """Reads the wire form; raises EncodingError."""
        return cls(
            version=fields.uint(0, maximum=VERSION_MAX),
            epoch=fields.uint(1),
            approvals=read_approvals(fields, 2),
        )


def upgrade_digest(current: int, version: int, epoch: int) -> Digest:
    """What governance keys approve: the epoch it is decided in, the version, its first epoch."""
    return tagged_digest("swarmd/upgrade/1", encode_canonical([current, version, epoch]))

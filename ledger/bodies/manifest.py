"""Bodies of `manifest.*`."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.bodies.codec import MapValue, read_approvals
from protocol.digest import ManifestId
from protocol.encoding import Fields
from protocol.group import check_group_name
from protocol.limits import MANIFEST_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeManifest:
    """`manifest.propose`: submits a manifest to the owners of its target groups."""

    manifest: bytes
    """The signed manifest, its original bytes."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.manifest}

    @classmethod
    def read(cls, fields: Fields) -> ProposeManifest:
        """Reads the wire form; raises EncodingError."""
        return cls(manifest=fields.bytes(0, maximum=MANIFEST_BYTES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproveManifest:
    """`manifest.approve`: adds owners' approvals in one group."""

    manifest: ManifestId
    """Which manifest."""
    group: str
    """In which group."""
    approvals: tuple[bytes, ...]
    """AUTHORISE approvals, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.manifest, 1: self.group, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> ApproveManifest:
        """Reads the wire form; raises EncodingError."""
        return cls(
            manifest=ManifestId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            approvals=read_approvals(fields, 2),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeManifest:
    """`manifest.revoke`: adds owners' revocations in one group."""

    manifest: ManifestId
    """Which manifest."""
    group: str
    """In which group."""
    approvals: tuple[bytes, ...]
    """REVOKE approvals, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.manifest, 1: self.group, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> RevokeManifest:
        """Reads the wire form; raises EncodingError."""
        return cls(
            manifest=ManifestId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            approvals=read_approvals(fields, 2),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestManifest:
    """`manifest.attest`: adds builders' word that they arrived at the same image."""

    manifest: ManifestId
    """Which manifest."""
    group: str
    """In which group."""
    approvals: tuple[bytes, ...]
    """ATTEST approvals by builders, 1 to 32; they name the image's digest."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.manifest, 1: self.group, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> AttestManifest:
        """Reads the wire form; raises EncodingError."""
        return cls(
            manifest=ManifestId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            approvals=read_approvals(fields, 2),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleManifest:
    """`manifest.settle`: asks to judge again what only waited for time."""

    manifest: ManifestId
    """Which manifest."""
    group: str
    """In which group."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.manifest, 1: self.group}

    @classmethod
    def read(cls, fields: Fields) -> SettleManifest:
        """Reads the wire form; raises EncodingError."""
        return cls(manifest=ManifestId(fields.digest(0)), group=check_group_name(fields.name(1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideManifest:
    """`manifest.override`: lets a release pass pauses and freezes, by those who may amend."""

    manifest: ManifestId
    """Which manifest."""
    group: str
    """In which group."""
    approvals: tuple[bytes, ...]
    """OVERRIDE approvals, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.manifest, 1: self.group, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> OverrideManifest:
        """Reads the wire form; raises EncodingError."""
        return cls(
            manifest=ManifestId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            approvals=read_approvals(fields, 2),
        )

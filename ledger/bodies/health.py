"""Body of `report.health`."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.bodies.codec import MapValue
from ledger.records.health import REPORT_COUNT_MAX
from protocol.digest import ManifestId
from protocol.encoding import Fields
from protocol.group import check_group_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportHealth:
    """`report.health`: what became of a release on the devices behind the signer."""

    manifest: ManifestId
    """Which release."""
    group: str
    """In which group."""
    successes: int
    """Devices that took it and run it, ever; never falls."""
    failures: int
    """Devices on which it failed, ever; never falls."""
    devices: int
    """Devices that run it at present."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {
            0: self.manifest,
            1: self.group,
            2: self.successes,
            3: self.failures,
            4: self.devices,
        }

    @classmethod
    def read(cls, fields: Fields) -> ReportHealth:
        """Reads the wire form; raises EncodingError."""
        return cls(
            manifest=ManifestId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            successes=fields.uint(2, maximum=REPORT_COUNT_MAX),
            failures=fields.uint(3, maximum=REPORT_COUNT_MAX),
            devices=fields.uint(4, maximum=REPORT_COUNT_MAX),
        )

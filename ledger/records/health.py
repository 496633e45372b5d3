"""`h/` and `hs/`: what gateways report of a release, each for itself and together as sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.records.codec import RECORD_SCHEMA, close_record, open_record
from protocol.encoding import encode_canonical

REPORT_COUNT_MAX: Final = 1_000_000
"""Devices, successes or failures one gateway may report of one release: a site's whole fleet."""
SITE_REPORTS_MAX: Final = 100
"""Outcomes of one site that count in a period; beyond it only their ratio does. Ten honest sites
of a hundred devices outweigh one that invents a million."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRecord:
    """`h/<manifest><did><group>`: what one gateway has reported so far (R40)."""

    successes: int = 0
    """Devices behind it that took the release and run it, ever."""
    failures: int = 0
    """Devices behind it on which the release failed, ever."""
    devices: int = 0
    """Devices behind it that run it at present; shown to people, decides nothing."""
    time_ms: int = 0
    """Header time of the newest report, milliseconds."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {
                0: RECORD_SCHEMA,
                1: self.successes,
                2: self.failures,
                3: self.devices,
                4: self.time_ms,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> HealthRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "health")
        record = cls(
            successes=fields.uint(1, maximum=REPORT_COUNT_MAX),
            failures=fields.uint(2, maximum=REPORT_COUNT_MAX),
            devices=fields.uint(3, maximum=REPORT_COUNT_MAX),
            time_ms=fields.uint(4),
        )
        close_record(fields, "health")
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRecord:
    """`hs/<manifest><site><group>`: what all gateways of one site reported in one period (R43)."""

    period: int
    """The rollout's counting period these counts belong to."""
    successes: int = 0
    """Successes reported in it."""
    failures: int = 0
    """Failures reported in it."""

    def counted(self) -> tuple[int, int]:
        """Successes and failures that count: at most `SITE_REPORTS_MAX`, in proportion (R44).

        Failures are rounded up, so that those of a large site never vanish.
        """
        total = self.successes + self.failures
        if total <= SITE_REPORTS_MAX:
            return self.successes, self.failures
        failures = -(-self.failures * SITE_REPORTS_MAX // total)
        return SITE_REPORTS_MAX - failures, failures

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {0: RECORD_SCHEMA, 1: self.period, 2: self.successes, 3: self.failures}
        )

    @classmethod
    def decode(cls, data: bytes) -> SiteRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "site health")
        record = cls(period=fields.uint(1), successes=fields.uint(2), failures=fields.uint(3))
        close_record(fields, "site health")
        return record

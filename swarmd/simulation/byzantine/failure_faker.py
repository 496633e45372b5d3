"""Failure faker: gateways of one site report that a release fails on all their devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ledger.bodies.health import ReportHealth
from protocol.digest import ManifestId
from swarmd.simulation.lab import FLEET, Member

FAILURES = (1, 10, 1000, 1_000_000)
"""Devices on which it failed, as they say, one report after the other."""


class FailureFaker:
    """Speaks for some gateways."""

    def __init__(self, gateways: Sequence[Member]) -> None:
        """Holds their node keys."""
        self._gateways = tuple(gateways)

    def reports(self, manifest: ManifestId) -> Iterator[tuple[Member, ReportHealth]]:
        """All their reports, each worse than the one before."""
        for failures in FAILURES:
            for gateway in self._gateways:
                yield (
                    gateway,
                    ReportHealth(
                        manifest=manifest, group=FLEET, successes=0, failures=failures, devices=0
                    ),
                )

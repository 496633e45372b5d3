"""Slanderer: one owner's gateways, as many as it likes, complain about an honest one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ledger.bodies.defence import Complaint, ReportTamper
from protocol.digest import DidId
from swarmd.simulation.lab import FLEET, Member


class Slanderer:
    """Speaks for some gateways."""

    def __init__(self, gateways: Sequence[Member]) -> None:
        """Holds their node keys."""
        self._gateways = tuple(gateways)

    def reports(self, victims: Sequence[DidId]) -> Iterator[tuple[Member, ReportTamper]]:
        """One report by each gateway about each victim, of every kind in turn."""
        kinds = tuple(Complaint)
        for number, gateway in enumerate(self._gateways):
            for victim in victims:
                yield (
                    gateway,
                    ReportTamper(subject=victim, group=FLEET, complaint=kinds[number % len(kinds)]),
                )

"""The demonstration: the whole job on one machine, with real processes and real firmware."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What a person may choose."""

    validators: int = 4
    """Nodes that order approvals, 4 to 32."""
    gateways: int = 4
    """Nodes that fetch images, at least 1; two malicious members come on top."""
    images: tuple[Path, ...] = ()
    """Old and new version; empty: real firmware by package clients, or generated images."""
    keep: Path | None = None
    """Where the network's folders stay; None: a temporary folder that is removed."""
    json: bool = False
    """Whether stdout is left to the caller, who prints the report as JSON."""


class ImageReport(TypedDict):
    """What became of one image."""

    name: str
    bytes: int
    sha256: str
    manifest: str
    authorised_ms: int
    makespan_s: float
    bytes_fetched: int
    bytes_reused: int


class DemoReport(TypedDict):
    """The outcome; every check is measured from outside the nodes."""

    elapsed_s: float
    validators: int
    gateways: int
    source: str
    images: list[ImageReport]
    checks: dict[str, bool]


def run_demo(options: DemoOptions) -> DemoReport:
    """Runs the demonstration and returns what was measured; processes are always ended.

    Raises:
        ConfigError: the two images are equal, or the folder to keep is not empty.
        TransportError: a node did not start.
    """
    from swarmd.demo.scenario import play

    return play(options)

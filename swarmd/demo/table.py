"""The table at the end of the demonstration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarmd.cli.output import size_text, table

if TYPE_CHECKING:
    from swarmd.demo import DemoReport

_CHECKS = {
    "identical": "every gateway offers exactly the published bytes",
    "unapproved_refused": "an announced but unapproved manifest is refused",
    "liar_convicted": "its own signature convicts who announced it, and nobody else",
    "corrupt_refused": "spoilt chunks are refused and their sender sent away",
    "revoked_stopped": "a revoked image is offered by nobody within a second",
    "crash_survived": "a killed validator and a killed gateway come back",
    "proof_verified": "a proof file convinces offline, and only about its image",
}


def render(report: DemoReport) -> str:
    """The report as text for people."""
    images = table(
        ("image", "size", "authorised in", "on all gateways in", "fetched", "reused"),
        [
            (
                image["name"],
                size_text(image["bytes"]),
                f"{image['authorised_ms']} ms",
                f"{image['makespan_s']:.2f} s",
                size_text(image["bytes_fetched"]),
                size_text(image["bytes_reused"]),
            )
            for image in report["images"]
        ],
    )
    checks = table(
        ("check", "result"),
        [(_CHECKS[name], "ok" if held else "FAILED") for name, held in report["checks"].items()],
    )
    return (
        f"{images}\n\n{checks}\n\n{report['validators']} validators, "
        f"{report['gateways']} gateways, {report['elapsed_s']:.1f} s in all\n"
    )

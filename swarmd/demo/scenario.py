"""The story of the demonstration, step by step, and what is checked on the way.

Every check looks from outside: files, exit codes, and what other processes answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from protocol.errors import TransportError
from swarmd.demo import DemoOptions, DemoReport, ImageReport
from swarmd.demo.firmware import FirmwarePair, obtain_firmware, user_pair
from swarmd.demo.image_cache import default_cache
from swarmd.demo.processes import CLOCK, run_command
from swarmd.demo.rootfs import obtain_rootfs
from swarmd.demo.swarm import Swarm, wait_until
from swarmd.demo.table import render

FETCH_S: Final = 30.0
"""How long a package client may take before the next source is tried, seconds."""
CHECKS: Final = (
    "identical",
    "unapproved_refused",
    "liar_convicted",
    "corrupt_refused",
    "revoked_stopped",
    "crash_survived",
    "proof_verified",
)
"""Names of the checks, in the order of the report."""
REVOKED_S_MAX: Final = 1.0
"""After a revocation is final, offering must have stopped within this, seconds (promise G1)."""


def play(options: DemoOptions) -> DemoReport:
    """Runs the whole story; see `swarmd.demo.run_demo`."""
    started = CLOCK.monotonic()
    pairs = _pairs(options)
    with _folder(options.keep) as folder:
        swarm = Swarm(folder, validators=options.validators, gateways=options.gateways)
        story = Story(swarm, quiet=options.json)
        try:
            story.begin(pairs)
            story.first_release(pairs[0])
            story.second_release(pairs[0])
            story.prove(pairs[0])
            for pair in pairs[1:]:
                story.another_product(pair)
            story.revoke()
        finally:
            swarm.stop()
    report: DemoReport = {
        "elapsed_s": round(CLOCK.monotonic() - started, 2),
        "validators": options.validators,
        "gateways": options.gateways,
        "source": pairs[0].source,
        "images": story.images,
        "checks": {name: story.checks.get(name, False) for name in CHECKS},
    }
    if not options.json:
        sys.stdout.write(render(report))
    return report


def _pairs(options: DemoOptions) -> list[FirmwarePair]:
    if options.images:
        return [user_pair(*options.images)]
    cache = default_cache()
    pairs = [obtain_firmware(cache, timeout_s=FETCH_S)]
    with contextlib.suppress(TransportError):  # one product is enough for the story
        pairs.append(obtain_rootfs(cache, timeout_s=FETCH_S))
    return pairs


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="swarmd-demo-") as name:
        yield Path(name) / "network"


class Story:
    """Plays the steps on a swarm and collects what was measured."""

    def __init__(self, swarm: Swarm, *, quiet: bool) -> None:
        """Plays on `swarm`; `quiet` leaves stdout alone."""
        self._swarm = swarm
        self._out = sys.stderr if quiet else sys.stdout
        self.images: list[ImageReport] = []
        self.checks: dict[str, bool] = {}
        self._kept_spoilt = True
        self._steps = 0

    def _say(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()

    def _step(self, text: str) -> None:
        self._steps += 1
        self._say(f"{self._steps}. {text}")

    def begin(self, pairs: list[FirmwarePair]) -> None:
        """Starts every process."""
        swarm = self._swarm
        self._say(
            f"Starting {len(swarm.validators)} validators, 1 publisher, {len(swarm.gateways)} "
            "gateways and 2 malicious members, each a process of its own."
        )
        for pair in pairs:
            kind = "generated images" if pair.source == "generated" else "real firmware"
            self._say(f"Images: {pair.name} {pair.old_version} and {pair.new_version} ({kind}).")
        swarm.start([path for pair in pairs for path in (pair.old, pair.new)])

    # -- releases ------------------------------------------------------------------------------

    def first_release(self, pair: FirmwarePair) -> None:
        """Proposal, a lie about it, two approvals, a corrupter as the only source, distribution."""
        swarm = self._swarm
        self._step(f"The publisher proposes {pair.name} {pair.old_version}.")
        manifest = swarm.publish(pair.old, pair.name, pair.old_version)
        digest = _digest(pair.old)
        self._say("   A malicious member announces it as authorised. No owner has approved it.")
        self.checks["unapproved_refused"] = self._is_refused(manifest, digest)
        self._say(
            "   Every gateway asked its own ledger and refused. The liar had signed its word:"
        )
        self.checks["liar_convicted"] = self._is_convicted()
        self._say("   that convicted it in the ledger, and nobody takes anything from it any more.")
        self._step("Two of three owners approve; the validators order it. The publisher is away:")
        self._say("   the only source is another malicious member, each chunk with one bit wrong.")
        swarm.publisher.stop()
        self._distribute(pair, manifest, is_new=False, meanwhile=self._find_corrupter)
        # Seen by `_find_corrupter`: a ban that is minutes old may have left the newest receipts.
        nobody_fooled = not self._kept_spoilt
        self.checks["corrupt_refused"] = nobody_fooled and all(
            swarm.is_offered(node, digest) for node in swarm.gateways
        )
        self._say("   Every gateway found it out by hash, kept nothing and sent it away. Then the")
        self._say("   publisher came back, and every gateway got the image.")

    def _find_corrupter(self) -> None:
        """Waits until every gateway has sent the corrupter away; then the publisher returns."""
        swarm = self._swarm
        wait_until(self._all_banned, "the corrupter is found out")
        self._kept_spoilt = any(
            swarm.status(node)["store"]["written_bytes"] for node in swarm.gateways
        )
        swarm.publisher.start()
        swarm.publisher.wait_ready()

    def _is_refused(self, manifest: str, digest: str) -> bool:
        swarm = self._swarm

        def noticed() -> bool:
            return all(
                swarm.offences(node).get("false_announcement", 0) > 0 for node in swarm.gateways
            )

        wait_until(noticed, "the false announcement is noticed")
        target = swarm.liar.directory / "stolen.bin"
        first = str(swarm.gateways[0].directory)
        fetched = run_command("fetch", manifest, "-o", str(target), "-C", first)
        return (
            fetched.returncode in (1, 3)
            and not target.exists()
            and not any(swarm.is_offered(node, digest) for node in swarm.gateways)
        )

    def _is_convicted(self) -> bool:
        swarm = self._swarm

        def convicted() -> bool:
            return all(
                swarm.convictions(node) == {swarm.liar.name: "false_announcement"}
                for node in swarm.gateways
            )

        wait_until(convicted, "the liar is convicted")
        return convicted()

    def _all_banned(self) -> bool:
        return all(
            any(entry["detail"] == "banned: bad_chunk" for entry in self._swarm.receipts(node))
            for node in self._swarm.gateways
        )

    def _distribute(
        self,
        pair: FirmwarePair,
        manifest: str,
        *,
        is_new: bool,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Two approvals, an incident, then waits for every gateway; measures and reports."""
        swarm = self._swarm
        image = pair.new if is_new else pair.old
        before = swarm.transfer()
        swarm.decide("approve", 0, manifest, image)
        asked = CLOCK.monotonic()
        swarm.decide("approve", 1, manifest, image)
        for node in swarm.gateways:
            swarm.wait(node, manifest, "authorised")
        authorised = CLOCK.monotonic()
        meanwhile()
        for node in swarm.gateways:
            swarm.wait(node, manifest, "complete")
        makespan_s = CLOCK.monotonic() - authorised
        after = swarm.transfer()
        self.images.append(
            {
                "name": f"{pair.name} {pair.new_version if is_new else pair.old_version}",
                "bytes": image.stat().st_size,
                "sha256": _digest(image),
                "manifest": manifest,
                "authorised_ms": round((authorised - asked) * 1000),
                "makespan_s": round(makespan_s, 3),
                "bytes_fetched": max(0, after.fetched - before.fetched),
                "bytes_reused": max(0, after.reused - before.reused),
            }
        )
        same = all(swarm.is_offered(node, _digest(image)) for node in swarm.gateways)
        self.checks["identical"] = self.checks.get("identical", True) and same

    def second_release(self, pair: FirmwarePair) -> None:
        """A new version while a validator and a gateway lose power and come back."""
        swarm = self._swarm
        validator, gateway = swarm.validators[1], swarm.gateways[-1]
        self._step(f"{pair.name} {pair.new_version} follows. In the middle, {validator.name} and")
        self._say(f"   {gateway.name} are killed (SIGKILL) and come back.")
        validator.kill()
        manifest = swarm.publish(pair.new, pair.name, pair.new_version)
        self._distribute(pair, manifest, is_new=True, meanwhile=self._crash_gateway)
        self.checks["crash_survived"] = self._is_back(manifest, _digest(pair.new))
        report = self.images[-1]
        self._say(
            f"   All are back. Of {report['bytes'] * len(swarm.gateways)} bytes, "
            f"{report['bytes_reused']} came from the old version, without the network."
        )

    def _crash_gateway(self) -> None:
        gateway, validator = self._swarm.gateways[-1], self._swarm.validators[1]
        self._swarm.kill_gateway(gateway)
        for node in (gateway, validator):
            node.start()
        for node in (gateway, validator):
            node.wait_ready()

    def _is_back(self, manifest: str, digest: str) -> bool:
        swarm = self._swarm
        validator, gateway = swarm.validators[1], swarm.gateways[-1]

        def votes() -> bool:
            status = swarm.status(validator)
            others = [swarm.status(node)["height"] for node in swarm.validators]
            consensus = status["consensus"] or {}
            return bool(consensus.get("may_vote")) and status["height"] == max(others)

        wait_until(votes, "the killed validator votes again")
        swarm.wait(gateway, manifest, "complete")
        return votes() and swarm.is_offered(gateway, digest)

    def another_product(self, pair: FirmwarePair) -> None:
        """Two versions of one more product, without incidents."""
        self._step(f"A larger product: {pair.name} {pair.old_version}, then {pair.new_version}.")
        for is_new in (False, True):
            image, version = (
                (pair.new, pair.new_version) if is_new else (pair.old, pair.old_version)
            )
            manifest = self._swarm.publish(image, pair.name, version)
            self._distribute(pair, manifest, is_new=is_new)

    # -- proof and revocation ------------------------------------------------------------------

    def prove(self, pair: FirmwarePair) -> None:
        """A proof file convinces a checker without a network, and only about the right image."""
        swarm = self._swarm
        self._step("A proof file shows offline who authorised the new version.")
        folder = swarm.lab.genesis.parent
        proof, genesis = folder / "release.proof", str(swarm.lab.genesis)
        manifest = self.images[-1]["manifest"]
        swarm.command("prove", manifest, "-o", str(proof), "-C", str(swarm.gateways[0].directory))
        good = run_command("verify", str(pair.new), "--proof", str(proof), "--genesis", genesis)
        bad = run_command("verify", str(pair.old), "--proof", str(proof), "--genesis", genesis)
        self.checks["proof_verified"] = (good.returncode, bad.returncode) == (0, 1)

    def revoke(self) -> None:
        """Two owners take the first version back; every gateway stops offering it."""
        swarm = self._swarm
        first, second = self.images[0], self.images[1]
        self._step(f"Two of three owners revoke {first['name']}.")
        for owner in (1, 2):
            swarm.decide("revoke", owner, first["manifest"])
        for node in swarm.gateways:
            swarm.wait(node, first["manifest"], "revoked")
        try:
            wait_until(
                lambda: not any(swarm.is_offered(n, first["sha256"]) for n in swarm.gateways),
                "offering stops",
                REVOKED_S_MAX,
            )
            stopped = True
        except TransportError:
            stopped = False
        kept = all(swarm.is_offered(node, second["sha256"]) for node in swarm.gateways)
        self.checks["revoked_stopped"] = stopped and kept
        self._say("   No gateway offers it any more; the new version is still there.\n")


def _digest(image: Path) -> str:
    return hashlib.sha256(image.read_bytes()).hexdigest()

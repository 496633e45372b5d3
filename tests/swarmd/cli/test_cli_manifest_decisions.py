"""`swarmd attest`, `override` and `settle` against the real desks over a real chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.transition.envelope import judge_transaction
from ledger.transition.kind import Body
from protocol.calendar import HOUR_MS
from protocol.digest import TransactionId, sha256
from protocol.image import image_digest
from protocol.keys import PrivateKey
from protocol.limits import TRANSACTION_LIFETIME_MS_MAX
from protocol.manifest import Component, SignedManifest
from protocol.sealing import Sealing, plain_prefix
from swarmd.datadir import DataDir
from swarmd.decision import decode_decision
from swarmd.keys.key_writer import write_key_file
from swarmd.ledger_host import LedgerHost
from swarmd.services.policy_desk import PolicyDesk
from swarmd.services.release_desk import ReleaseDesk
from tests.support.contracts import AUDITOR, BUILDERS, OWNERS, SITE, site_group, site_policy
from tests.support.control_daemon import ControlDaemon
from tests.support.ledger import DEFAULT_CHUNKER, GENESIS_MS, advance, make_lab
from tests.swarmd.cli.conftest import Run

IMAGE, BOOT = b"image 1", b"a boot loader"
SOAK_MS = 4 * HOUR_MS


class LabSubmission:
    """Puts what is submitted into a block at once, or says what the ledger would say."""

    def __init__(self) -> None:
        """A site whose policy asks for two builders and a soak; one manifest waits there."""
        policy = site_policy(attestations=2, soak_ms=SOAK_MS)
        self.lab = make_lab(groups=(site_group(policy),))
        self.chain = self.lab.open_chain()
        self.host = LedgerHost(self.chain, lambda: GENESIS_MS)
        self.manifest = self.propose(self.lab.manifest(groups=(SITE,)))

    def propose(self, manifest: SignedManifest) -> SignedManifest:
        advance(self.lab, self.chain, [self.lab.propose(manifest)])
        return manifest

    async def submit(self, body: Body) -> TransactionId:
        valid_until_ms = self.chain.head.time_ms + TRANSACTION_LIFETIME_MS_MAX - HOUR_MS
        gateway = self.lab.gateways[0]
        signed = self.lab.transaction(
            gateway,
            body,
            nonce=self.chain.state.account(gateway.did).nonce,
            valid_until_ms=valid_until_ms,
        )
        height, time_ms = self.chain.head.height + 1, self.chain.head.time_ms + 1000
        judge_transaction(
            self.chain.state, signed, self.lab.context(height=height, time_ms=time_ms)
        )
        advance(self.lab, self.chain, [signed])
        return signed.transaction_id

    async def wait_final(self, _transaction: TransactionId, _timeout_s: float) -> int:
        return self.chain.head.height

    def record(self, manifest: SignedManifest | None = None) -> ManifestRecord:
        found = self.chain.state.manifest((manifest or self.manifest).manifest_id, SITE)
        assert found is not None
        return found

    def methods(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        def now_ms() -> int:
            return self.chain.head.time_ms

        desks = (
            ReleaseDesk(self.host, self, None, now_ms),  # type: ignore[arg-type]
            PolicyDesk(self.host, now_ms),
        )
        methods: dict[str, Callable[[dict[str, Any]], Any]] = {
            name: lambda params, call=call: call(params, None)  # type: ignore[misc]
            for desk in desks
            for name, call in desk.handlers().items()
        }
        return {**methods, "submit_decision": self._submit_decision}

    async def _submit_decision(self, params: dict[str, Any]) -> Any:
        decision = decode_decision(bytes.fromhex(params["decision"][0]))
        transaction = await self.submit(decision.body())
        return {
            "kind": decision.kind,
            "height": self.chain.head.height,
            "transaction": transaction.hex(),
        }


@pytest.fixture
def ledger() -> LabSubmission:
    return LabSubmission()


@pytest.fixture(autouse=True)
def daemon(node: DataDir, ledger: LabSubmission) -> Iterator[ControlDaemon]:
    node.genesis.write_bytes(ledger.lab.genesis.encode())
    with ControlDaemon(ledger.methods()).running(node.control_socket) as running:
        yield running


@pytest.fixture
def act(swarmd: Run, node: DataDir, ledger: LabSubmission, tmp_path: Path) -> Callable[..., Any]:
    """Runs a command about a manifest with some keys."""

    def key_file(key: PrivateKey) -> Path:
        path = tmp_path / f"{key.public.raw.hex()[:12]}.key"
        if not path.exists():
            write_key_file(path, key)
        return path

    def run(command: str, *arguments: object, by: tuple[PrivateKey, ...] = (), **about: Any) -> Any:
        manifest: SignedManifest = about.get("manifest", ledger.manifest)
        keys = [part for key in by for part in ("--key", key_file(key))]
        return swarmd(command, manifest.manifest_id.hex(), *arguments, "-C", node.path, *keys)

    return run


def built(tmp_path: Path, content: bytes, name: str = "build.img") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_two_builders_attest_and_time_does_the_rest(
    act: Callable[..., Any], ledger: LabSubmission, tmp_path: Path
) -> None:
    image = built(tmp_path, IMAGE)
    for owner in OWNERS[:2]:
        assert act("approve", "--yes", by=(owner,)).code == 0
    early = act("settle")
    assert (early.code, "policy.attestations" in early.err) == (3, True)
    for builder in BUILDERS:
        ended = act("attest", "--image", image, "--yes", "--json", by=(builder,))
        assert ended.code == 0, ended.err
        assert ended.document["image"] == image_digest(ledger.manifest.manifest).hex()
        assert ended.document["groups"] == [SITE]
        assert ledger.record().status is ManifestStatus.PROPOSED
    assert len(ledger.record().attesters) == 2
    again = act("attest", "--image", image, "--yes", by=(BUILDERS[0],))
    assert (again.code, "approval.duplicate" in again.err) == (1, True)
    early = act("settle", "--group", SITE)
    assert (early.code, "policy.soak" in early.err) == (3, True)
    advance(ledger.lab, ledger.chain, after_ms=SOAK_MS)
    ended = act("settle", "--json")
    assert ended.code == 0, ended.err
    assert ended.document["groups"] == [SITE]
    assert ledger.record().status is ManifestStatus.AUTHORISED
    for arguments in ((), ("--group", SITE), ("--group", "elsewhere")):
        late = act("settle", *arguments)
        assert (late.code, "manifest.settled" in late.err) == (1, True), late.err


def test_nothing_is_signed_unless_every_component_is_the_same(
    act: Callable[..., Any], ledger: LabSubmission, daemon: ControlDaemon, tmp_path: Path
) -> None:
    salt = bytes(range(32))
    boot = Component(
        name="boot",
        size=len(BOOT) + 16,
        digest=sha256(b"sealed boot loader"),
        plain_digest=sha256(plain_prefix(salt) + BOOT),
        sealing=Sealing(ring=sha256(b"ring"), generation=1, nonce=bytes(16)),
        chunker=DEFAULT_CHUNKER,
        chunk_count=1,
        recipe_root=sha256(b"recipe"),
    )
    single = ledger.manifest.manifest
    manifest = ledger.propose(
        ledger.lab.manifest(sequence=2, groups=(SITE,), components=(boot, *single.components))
    )
    image, plain_boot = built(tmp_path, IMAGE), built(tmp_path, BOOT, "boot.img")
    other = built(tmp_path, IMAGE + b"!", "other.img")
    sealed = built(tmp_path, b"sealed boot loader", "sealed.img")
    for files, said in (
        ((other,), "is not that of boot, firmware"),
        ((image, other), "is not that of boot, firmware"),
        ((image,), "no file is boot"),
        ((image, sealed), "is not that of boot, firmware"),  # what was packed, not what was built
    ):
        arguments = [part for file in files for part in ("--image", file)]
        salted = ("--salt", f"boot={salt.hex()}")
        ended = act("attest", *arguments, *salted, "--yes", by=(BUILDERS[0],), manifest=manifest)
        assert ended.code == 1
        assert said in ended.err
    assert daemon.params_of("submit_approvals") == []
    arguments = ["--image", image, "--image", plain_boot, "--yes"]
    other_salt = act(
        "attest", *arguments, f"--salt=boot={bytes(32).hex()}", by=BUILDERS[:1], manifest=manifest
    )
    assert (other_salt.code, "is not that of boot" in other_salt.err) == (1, True)
    for bad in ("boot=", "boot=00", "boot=" + "g" * 64):
        ended = act("attest", *arguments, "--salt", bad, by=(BUILDERS[0],), manifest=manifest)
        assert (ended.code, "hex digits" in ended.err) == (2, True)
    arguments += ["--salt", f"boot={salt.hex()}"]
    ended = act("attest", *arguments, by=(BUILDERS[0],), manifest=manifest)
    assert ended.code == 0, ended.err
    assert len(ledger.record(manifest).attesters) == 1
    assert act("attest", "--yes", by=(BUILDERS[0],)).code == 2  # no build, nothing to compare


@pytest.mark.parametrize("key", [AUDITOR, OWNERS[0]])
def test_only_builders_attest(act: Callable[..., Any], tmp_path: Path, key: PrivateKey) -> None:
    image = built(tmp_path, IMAGE)
    ended = act("attest", "--image", image, "--yes", by=(key,))
    assert (ended.code, "approval.owner" in ended.err) == (1, True)
    asked = act("attest", "--image", image, by=(BUILDERS[0],))
    assert (asked.code, "nobody to ask" in asked.err) == (2, True)


def test_attestations_of_another_image_go_no_further(
    act: Callable[..., Any], ledger: LabSubmission, daemon: ControlDaemon, tmp_path: Path
) -> None:
    other = ledger.propose(ledger.lab.manifest(sequence=2, groups=(SITE,)))
    image = built(tmp_path, b"image 2")
    assert act("attest", "--image", image, "--yes", by=(BUILDERS[0],), manifest=other).code == 0
    (sent,) = daemon.params_of("submit_approvals")
    with pytest.raises(Exception, match="about something else"):
        _now(daemon.methods["submit_approvals"]({**sent, "manifest": _id(ledger.manifest)}))


def _id(manifest: SignedManifest) -> str:
    return manifest.manifest_id.hex()


def _now(awaitable: Any) -> Any:
    """Runs what waits for nothing before it refuses."""
    return awaitable.send(None)


def test_owners_override_together_or_by_a_file(
    act: Callable[..., Any], swarmd: Run, node: DataDir, ledger: LabSubmission, tmp_path: Path
) -> None:
    alone = act("override", "--yes", by=(OWNERS[0],))
    assert (alone.code, "approval.threshold" in alone.err) == (1, True)
    assert act("override", "--group", "elsewhere", "--yes", by=OWNERS[:2]).code == 1
    ended = act("override", "--group", SITE, "--yes", "--json", by=tuple(OWNERS[:2]))
    assert ended.code == 0, ended.err
    assert ended.document["kind"] == "manifest.override"
    assert ledger.record().is_override
    assert ledger.record().status is ManifestStatus.PROPOSED
    second = ledger.propose(ledger.lab.manifest(sequence=2, groups=(SITE,)))
    file = tmp_path / "o.decision"
    assert act("override", "-o", file, by=(), manifest=second).code == 0
    for key in OWNERS[:2]:
        path = tmp_path / f"{key.public.raw.hex()[:12]}.key"
        if not path.exists():
            write_key_file(path, key)
        assert swarmd("gov", "sign", file, "--key", path, "--yes").code == 0
    assert not ledger.record(second).is_override
    ended = swarmd("gov", "submit", file, "-C", node.path)
    assert ended.code == 0, ended.err
    assert ledger.record(second).is_override

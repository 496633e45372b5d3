"""`publish`, `approve`, `revoke`: the owner judges signed bytes, and signs here."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.approval import Action, parse_approval, verify_threshold
from protocol.did import did_key_text
from protocol.digest import ChainId, PolicyId, sha256
from protocol.errors import NotYetError, PolicyError
from protocol.limits import TRANSACTION_LIFETIME_MS_MAX
from protocol.manifest import SignedManifest
from swarmd.cli.judgement import GroupView, ManifestView, owned_groups
from swarmd.datadir import DataDir
from swarmd.enrolment import new_key
from swarmd.entropy import SeededEntropy
from swarmd.keys.key_writer import write_key_file
from tests.support.control_daemon import ControlDaemon
from tests.support.ledger import FLEET, GENESIS_MS, Lab, make_key, make_lab, owner_keys
from tests.swarmd.cli.conftest import Ended, Run

IMAGE = b"firmware 2"


@pytest.fixture
def manifest(ledger_lab: Lab) -> SignedManifest:
    return ledger_lab.manifest(sequence=2, image=IMAGE, metadata={"ticket": "A-7"})


def reply_about(lab: Lab, manifest: SignedManifest) -> dict[str, Any]:
    """What an honest daemon answers to `manifest`."""
    group = lab.genesis.group(FLEET)
    assert group is not None
    owners = [{"name": name, "key": did_key_text(key)} for key, name in group.owner_root.owners]
    return {
        "manifest": manifest.manifest_id.hex(),
        "raw": manifest.signed.raw.hex(),
        "chain": lab.chain_id.hex(),
        "era": 0,
        "now_ms": GENESIS_MS + 5000,
        "publisher": "did:swarm:x",
        "groups": [
            {
                "group": FLEET,
                "status": "proposed",
                "policy": lab.policy_id().hex(),
                "approve_threshold": 2,
                "revoke_threshold": 1,
                "owners": owners,
                "approvals": ["owner-9"],
                "revocations": [],
                "latest": {"manifest": "00" * 32, "version": "1.1", "sequence": 1, "size": 4},
            }
        ],
    }


@pytest.fixture
def daemon(node: DataDir, ledger_lab: Lab, manifest: SignedManifest) -> Iterator[ControlDaemon]:
    methods = {
        "manifest": lambda _params: reply_about(ledger_lab, manifest),
        "submit_approvals": lambda _params: {"transactions": ["ab"], "height": 9},
    }
    with ControlDaemon(methods).running(node.control_socket) as running:
        yield running


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "owner.key"
    write_key_file(path, owner_keys(FLEET)[0])
    return path


def submitted(daemon: ControlDaemon) -> dict[str, Any]:
    (params,) = daemon.params_of("submit_approvals")
    return params


@pytest.mark.parametrize(
    ("command", "action"), [("approve", Action.AUTHORISE), ("revoke", Action.REVOKE)]
)
def test_an_owner_signs_what_counts(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, ledger_lab: Lab, manifest: SignedManifest,
    key: Path, command: str, action: Action,
) -> None:  # fmt: skip
    ended = swarmd(command, manifest.manifest_id.hex(), "-C", node.path, "--key", key, "--yes")
    assert ended.code == 0, ended.err
    params = submitted(daemon)
    assert (params["manifest"], params["action"]) == (
        manifest.manifest_id.hex(),
        action.name.lower(),
    )
    group = ledger_lab.genesis.group(FLEET)
    assert group is not None
    (raw,) = (bytes.fromhex(text) for text in params["approvals"])
    single = dataclasses.replace(group.owner_root, threshold=1)
    verify_threshold(
        [raw], root=single, threshold=1, chain=ledger_lab.chain_id, era=0, action=action,
        subject=manifest.manifest_id, group=FLEET, policy=ledger_lab.policy_id(),
    )  # fmt: skip
    until = parse_approval(raw).approval.valid_until_ms
    assert until == GENESIS_MS + 5000 + TRANSACTION_LIFETIME_MS_MAX
    assert f"{'approved' if command == 'approve' else 'revoked'} by you in fleet" in ended.out


def test_the_owner_sees_what_is_signed(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, manifest: SignedManifest, key: Path
) -> None:
    ended = swarmd("approve", manifest.manifest_id.hex(), "-C", node.path, "--key", key, "--yes")
    for text in (
        manifest.manifest_id.hex(), "pump", "1.2 (sequence 2)", "A-7", sha256(IMAGE).hex(),
        "version 1.1 (sequence 1), this one is 6 B larger", "2 of 3 owners must approve",
        "so far          owner-9",
    ):  # fmt: skip
        assert text in ended.err


def test_json_is_one_document(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, manifest: SignedManifest, key: Path
) -> None:
    ended = swarmd(
        "approve", manifest.manifest_id.hex(), "-C", node.path, "--key", key, "--yes", "--json"
    )
    assert ended.err == ""
    assert ended.document == {
        "manifest": manifest.manifest_id.hex(),
        "action": "authorise",
        "groups": [FLEET],
        "transactions": ["ab"],
        "height": 9,
    }


def test_the_private_key_does_not_reach_the_daemon(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, manifest: SignedManifest, key: Path
) -> None:
    swarmd("approve", manifest.manifest_id.hex(), "-C", node.path, "--key", key, "--yes")
    assert owner_keys(FLEET)[0].seed().hex() not in str(daemon.requests)
    assert str(key) not in str(daemon.requests)


def test_the_right_image_is_recognised_and_a_wrong_one_stops_everything(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, manifest: SignedManifest, key: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    image = tmp_path / "image.bin"
    image.write_bytes(IMAGE + b"!")
    arguments = ["approve", manifest.manifest_id.hex(), "-C", node.path, "--key", key, "--yes"]
    refused = swarmd(*arguments, "--image", image)
    assert refused.code == 1
    assert "is not that of firmware" in refused.err
    assert not daemon.params_of("submit_approvals")
    image.write_bytes(IMAGE)
    accepted = swarmd(*arguments, "--image", image)
    assert accepted.code == 0
    assert "is component firmware: same sha256" in accepted.err
    assert submitted(daemon)


def ask(monkeypatch: pytest.MonkeyPatch, swarmd: Run, answer: str, *arguments: object) -> Ended:
    """Runs a command at a terminal where a person types `answer`."""
    terminal = io.TextIOWrapper(io.BytesIO(answer.encode()))
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", terminal)
    return swarmd(*arguments)


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 130)])
def test_a_person_at_a_terminal_is_asked(
    monkeypatch: pytest.MonkeyPatch, swarmd: Run, node: DataDir, daemon: ControlDaemon,
    manifest: SignedManifest, key: Path, answer: str, code: int,
) -> None:  # fmt: skip
    ended = ask(
        monkeypatch, swarmd, answer,
        "approve", manifest.manifest_id.hex(), "-C", node.path, "--key", key,
    )  # fmt: skip
    assert "approve in fleet?" in ended.err
    assert ended.code == code
    assert len(daemon.params_of("submit_approvals")) == (code == 0)


def test_without_a_terminal_only_yes_signs(
    monkeypatch: pytest.MonkeyPatch, swarmd: Run, node: DataDir, daemon: ControlDaemon,
    manifest: SignedManifest, key: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    ended = swarmd("approve", manifest.manifest_id.hex(), "-C", node.path, "--key", key)
    assert ended.code == 2
    assert "add --yes" in ended.err
    assert not daemon.params_of("submit_approvals")


def test_a_key_that_owns_nothing_here_is_refused(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, manifest: SignedManifest, tmp_path: Path
) -> None:
    path = tmp_path / "stranger.key"
    write_key_file(path, new_key(SeededEntropy(5)))
    ended = swarmd("approve", manifest.manifest_id.hex(), "-C", node.path, "--key", path, "--yes")
    assert (ended.code, ended.reason) == (
        1,
        "this key is not an owner of fleet [approval.owner]",
    )


def test_an_owner_may_decide_for_one_group_only(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, manifest: SignedManifest, key: Path
) -> None:
    arguments = ["approve", manifest.manifest_id.hex(), "-C", node.path, "--key", key, "--yes"]
    assert "owner of other" in swarmd(*arguments, "--group", "other").reason
    assert swarmd(*arguments, "--group", FLEET).code == 0


def another_manifest(reply: dict[str, Any], lab: Lab) -> None:
    reply["raw"] = lab.manifest(sequence=3).signed.raw.hex()


def another_chain(reply: dict[str, Any], lab: Lab) -> None:
    reply["chain"] = ChainId(sha256(b"another")).hex()


def invented_group(reply: dict[str, Any], lab: Lab) -> None:
    reply["groups"][0]["group"] = "another"


def truncated(reply: dict[str, Any], lab: Lab) -> None:
    del reply["groups"][0]["policy"]


def bad_policy(reply: dict[str, Any], lab: Lab) -> None:
    reply["groups"][0]["policy"] = "00"


def bad_raw(reply: dict[str, Any], lab: Lab) -> None:
    reply["raw"] = "zz"


def no_raw(reply: dict[str, Any], lab: Lab) -> None:
    del reply["raw"]


def unknown_group(reply: dict[str, Any], lab: Lab) -> None:
    reply["groups"] = [{"group": FLEET, "status": "unknown"}]


@pytest.mark.parametrize(
    "lie",
    [another_manifest, another_chain, invented_group, truncated, bad_policy, bad_raw, no_raw,
     unknown_group],
)  # fmt: skip
def test_a_lying_daemon_gets_no_signature(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, ledger_lab: Lab, manifest: SignedManifest,
    key: Path, lie: Any,
) -> None:  # fmt: skip
    reply = reply_about(ledger_lab, manifest)
    lie(reply, ledger_lab)
    daemon.methods["manifest"] = lambda _params: reply
    ended = swarmd("approve", manifest.manifest_id.hex(), "-C", node.path, "--key", key, "--yes")
    assert ended.code == 1
    assert ended.reason
    assert not daemon.params_of("submit_approvals")


def test_an_older_release_is_pointed_out(
    swarmd: Run, node: DataDir, daemon: ControlDaemon, ledger_lab: Lab, manifest: SignedManifest,
    key: Path,
) -> None:  # fmt: skip
    reply = reply_about(ledger_lab, manifest)
    reply["groups"][0]["latest"] = {"version": "9\x1b[0m", "sequence": 9, "size": 4096}
    daemon.methods["manifest"] = lambda _params: reply
    ended = swarmd("approve", manifest.manifest_id.hex(), "-C", node.path, "--key", key, "--yes")
    assert "4.0 KiB smaller; THIS ONE IS OLDER" in ended.err
    assert "9\\x1b[0m" in ended.err
    reply["groups"][0]["latest"] = {"manifest": manifest.manifest_id.hex()}
    ended = swarmd("revoke", manifest.manifest_id.hex(), "-C", node.path, "--key", key, "--yes")
    assert "latest release  this one" in ended.err
    reply["groups"][0]["latest"] = None
    ended = swarmd("revoke", manifest.manifest_id.hex(), "-C", node.path, "--key", key, "--yes")
    assert "this is the first" in ended.err
    assert "1 of 3 owners must revoke" in ended.err
    assert "so far          nobody" in ended.err


def test_publish_prints_the_manifest_id(swarmd: Run, node: DataDir, tmp_path: Path) -> None:
    image = tmp_path / "image.bin"
    image.write_bytes(IMAGE)
    published = {
        "manifest": "ab" * 32, "sequence": 3, "transaction": "cd" * 32, "size": 1000,
        "patches": [],
    }  # fmt: skip
    daemon = ControlDaemon({"publish": lambda _params: published})
    daemon.progress = [{"stage": "cutting", "bytes": 1, "total": 2}]
    with daemon.running(node.control_socket):
        ended = swarmd(
            "publish", image, "-C", node.path, "--product", "pump", "--version", "2",
            "--group", "fleet", "--group", "bench", "--sequence", 3, "--metadata", "ticket=A=7",
        )  # fmt: skip
        as_json = swarmd(
            "publish", image, "-C", node.path, "--product", "pump", "--version", "2",
            "--group", "fleet", "--json",
        )  # fmt: skip
    assert (ended.code, ended.out, ended.err) == (0, f"{'ab' * 32}\n", "")
    assert as_json.document == published
    assert daemon.params_of("publish") == [
        {
            "path": str(image),
            "product": "pump",
            "version": "2",
            "groups": ["fleet", "bench"],
            "sequence": 3,
            "metadata": {"ticket": "A=7"},
            "patch_from": ["latest"],
        },
        {
            "path": str(image),
            "product": "pump",
            "version": "2",
            "groups": ["fleet"],
            "patch_from": ["latest"],
        },
    ]


def test_publish_says_what_became_of_patches(swarmd: Run, node: DataDir, tmp_path: Path) -> None:
    image, old = tmp_path / "image.bin", tmp_path / "old.bin"
    image.write_bytes(IMAGE)
    old.write_bytes(IMAGE)
    patches = [
        {"from": "11" * 32, "bytes": 25_000, "chunks_bytes": 150_000, "published": True},
        {"from": "22" * 32, "bytes": 900_000, "chunks_bytes": 900_000, "published": False},
    ]
    published = {"manifest": "ab" * 32, "size": 1_000_000, "patches": patches}
    arguments = ["publish", image, "-C", node.path, "--product", "p", "--version", "2",
                 "--group", "fleet"]  # fmt: skip
    daemon = ControlDaemon({"publish": lambda _params: published})
    with daemon.running(node.control_socket):
        ended = swarmd(*arguments, "--patch-from", old, "--patch-from", "CD" * 32)
        without = swarmd(*arguments, "--no-patch")
        both = swarmd(*arguments, "--no-patch", "--patch-from", old)
        neither = swarmd(*arguments, "--patch-from", tmp_path / "absent")
    assert ended.out == f"{'ab' * 32}\n"
    assert "patch from image 11111111: 24.4 KiB, 2.5 % of the image" in ended.err
    assert "patch from image 22222222: 878.9 KiB, 90.0 %: not published" in ended.err
    assert without.code == 0
    assert (both.code, neither.code) == (2, 2)
    assert "contradict" in both.err
    assert "neither a file nor a manifest id" in neither.err
    first, second = daemon.params_of("publish")
    assert first["patch_from"] == [str(old), "cd" * 32]
    assert "patch_from" not in second


def test_publish_waits_for_the_owners_and_says_not_yet(
    swarmd: Run, node: DataDir, tmp_path: Path
) -> None:
    image = tmp_path / "image.bin"
    image.write_bytes(IMAGE)
    arguments = ["publish", image, "-C", node.path, "--product", "p", "--version", "2",
                 "--group", "fleet", "--wait", "--timeout", "5"]  # fmt: skip

    def late(_params: object) -> object:
        raise NotYetError("wait.timeout", "not authorised within 5 s")

    methods = {"publish": lambda _params: {"manifest": "ab" * 32, "patches": []}, "wait": late}
    with ControlDaemon(methods).running(node.control_socket) as daemon:
        ended = swarmd(*arguments)
        assert ended.code == 3
        assert "not authorised within 5 s" in ended.err
        daemon.methods["wait"] = lambda _params: {"height": 8}
        done = swarmd(*arguments, "--json")
    assert done.document == {"manifest": "ab" * 32, "patches": [], "authorised": {"height": 8}}
    assert daemon.params_of("wait")[0] == {
        "manifest": "ab" * 32,
        "for": "authorised",
        "timeout_s": 5.0,
    }


def test_metadata_needs_a_name(swarmd: Run, node: DataDir) -> None:
    ended = swarmd(
        "publish", __file__, "-C", node.path, "--product", "p", "--version", "2",
        "--group", "g", "--metadata", "=x",
    )  # fmt: skip
    assert (ended.code, ended.reason) == (2, "--metadata: '=x' is not NAME=TEXT")


def test_holders_of_roles_may_approve_and_nothing_else() -> None:
    auditor, owner, nobody = (make_key(name) for name in ("auditor", "an owner", "nobody"))
    group = GroupView(
        name="fleet",
        status="proposed",
        policy=PolicyId(bytes(32)),
        approve_threshold=1,
        revoke_threshold=1,
        owners={did_key_text(owner.public): "owner"},
        others={did_key_text(auditor.public): "auditor"},
        approvals=(),
        revocations=(),
        latest=None,
    )
    lab = make_lab()
    view = ManifestView(
        manifest_id=lab.manifest().manifest_id,
        manifest=lab.manifest().manifest,
        chain=lab.chain_id,
        era=0,
        now_ms=0,
        publisher="p",
        groups=(group,),
    )
    for action in (Action.AUTHORISE, Action.REVOKE):
        assert owned_groups(view, owner, (), action) == (group,)
        with pytest.raises(PolicyError, match="not an owner"):
            owned_groups(view, nobody, (), action)
    assert owned_groups(view, auditor, (), Action.AUTHORISE) == (group,)
    with pytest.raises(PolicyError, match="not an owner"):
        owned_groups(view, auditor, (), Action.REVOKE)

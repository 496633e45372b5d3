"""`swarmd sealing`, `bundle`, `fetch` of sealed images, with a daemon that answers by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import PolicyError
from swarmd.datadir import DataDir
from tests.support.control_daemon import ControlDaemon
from tests.swarmd.cli.conftest import Run

RING, MANIFEST = "ab" * 32, "cd" * 32
PLAIN = b"the plain image"


def kept(path: Path, data: bytes) -> dict[str, Any]:
    """A file of the daemon's, as its answers name it."""
    path.write_bytes(data)
    return {"path": str(path), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def asked(swarmd: Run, node: DataDir, methods: dict[str, Any], *arguments: object) -> Any:
    """Runs a command beside a daemon; returns how it ended, and the daemon."""
    daemon = ControlDaemon({name: (lambda _p, a=a: _answer(a)) for name, a in methods.items()})
    with daemon.running(node.control_socket):
        ended = swarmd(*arguments, "-C", node.path, "--json")
    return ended, daemon


def _answer(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


def test_a_sealing_key_is_shown_or_saved(swarmd: Run, node: DataDir, tmp_path: Path) -> None:
    methods = {"sealing_key": {"statement": "0102"}}
    ended, _ = asked(swarmd, node, methods, "sealing", "key")
    assert (ended.code, ended.document) == (0, {"statement": "0102"})
    target = tmp_path / "gw.seal"
    ended, _ = asked(swarmd, node, methods, "sealing", "key", "-o", target)
    assert (ended.code, target.read_bytes()) == (0, b"\1\2")
    assert ended.document["file"] == str(target)


def test_a_ring_is_made_of_files_and_what_was_asked(
    swarmd: Run, node: DataDir, tmp_path: Path
) -> None:
    member = tmp_path / "gw.seal"
    member.write_bytes(b"\1\2")
    made = {"ring": RING, "group": "fleet", "generation": 2, "version": 1, "members": ["a"]}
    methods = {
        "sealing_ring": made,
        "sealing_export": kept(tmp_path / "daemon.ring", b"ring file"),
    }
    target = tmp_path / "fleet.ring"
    ended, daemon = asked(
        swarmd, node, methods, "sealing", "ring", "fleet", "--member", member, "--remove",
        "did:swarm:x", "--reachable", "--new-generation", "-o", target,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert daemon.params_of("sealing_ring") == [
        {
            "group": "fleet",
            "members": ["0102"],
            "remove": ["did:swarm:x"],
            "reachable": True,
            "new_generation": True,
        }
    ]
    assert target.read_bytes() == b"ring file"
    assert ended.document["file"] == str(target)


def test_rings_are_imported_exported_listed_and_forgotten(
    swarmd: Run, node: DataDir, tmp_path: Path
) -> None:
    source = tmp_path / "fleet.ring"
    source.write_bytes(b"ring")
    ended, daemon = asked(
        swarmd, node, {"sealing_import": {"new": True}}, "sealing", "import", source
    )
    assert (ended.code, daemon.params_of("sealing_import")) == (0, [{"path": str(source)}])
    right = kept(tmp_path / "daemon.ring", b"ring file")
    target = tmp_path / "out.ring"
    ended, _ = asked(
        swarmd, node, {"sealing_export": right}, "sealing", "export", RING, "-o", target
    )
    assert (ended.code, target.read_bytes()) == (0, b"ring file")
    target.unlink()
    wrong = {**right, "sha256": RING}
    ended, _ = asked(
        swarmd, node, {"sealing_export": wrong}, "sealing", "export", RING, "-o", target
    )
    assert (ended.code, target.exists()) == (1, False)
    ended, _ = asked(swarmd, node, {"sealing_rings": []}, "sealing", "show")
    assert (ended.code, ended.document) == (0, [])
    ended, daemon = asked(swarmd, node, {"sealing_forget": {}}, "sealing", "forget", RING)
    assert (ended.code, daemon.params_of("sealing_forget")) == (0, [{"ring": RING}])
    answer = {"salts": {"image": RING}}
    ended, _ = asked(swarmd, node, {"sealing_salts": answer}, "sealing", "salt", MANIFEST)
    assert (ended.code, ended.document) == (0, answer)


@pytest.mark.parametrize("is_right", [True, False])
def test_an_opened_image_is_private_and_given_back_whatever_happens(
    swarmd: Run, node: DataDir, tmp_path: Path, is_right: bool
) -> None:
    answer = {**kept(tmp_path / "copy", PLAIN), "ticket": "1-ab"}
    if not is_right:
        answer["sha256"] = RING
    target = tmp_path / "image"
    ended, daemon = asked(
        swarmd, node, {"fetch": answer, "fetch_done": {}}, "fetch", MANIFEST, "-o", target
    )
    assert ended.code == (0 if is_right else 1)
    assert target.exists() is is_right
    if is_right:
        assert target.stat().st_mode & 0o777 == 0o600
    assert daemon.params_of("fetch_done") == [{"ticket": "1-ab"}]
    ended, daemon = asked(
        swarmd, node, {"fetch": kept(tmp_path / "copy", PLAIN)},
        "fetch", MANIFEST, "-o", target, "--sealed",
    )  # fmt: skip
    assert (ended.code, daemon.params_of("fetch")) == (0, [{"manifest": MANIFEST, "sealed": True}])
    assert target.stat().st_mode & 0o777 == 0o644


def test_publish_names_the_ring(swarmd: Run, node: DataDir, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(PLAIN)
    ended, daemon = asked(
        swarmd, node, {"publish": {"manifest": MANIFEST, "patches": []}},
        "publish", image, "--product", "p", "--version", "1", "--group", "fleet",
        "--seal", "fleet/2",
    )  # fmt: skip
    assert (ended.code, daemon.params_of("publish")[0]["seal"]) == (0, "fleet/2")


# -- bundles ------------------------------------------------------------------------------------


def test_a_have_file_is_copied_whole(swarmd: Run, node: DataDir, tmp_path: Path) -> None:
    answer = {**kept(tmp_path / "daemon.have", b"have"), "height": 4, "chunks": 7}
    target = tmp_path / "gw.have"
    ended, _ = asked(swarmd, node, {"bundle_wanted": answer}, "bundle", "wanted", "-o", target)
    assert (ended.code, target.read_bytes()) == (0, b"have")
    assert ended.document == {"file": str(target), "height": 4, "chunks": 7}


def test_a_bundle_without_images_carries_blocks_alone(
    swarmd: Run, node: DataDir, tmp_path: Path
) -> None:
    from swarmd.bundle_format import SectionKind, SectionReader

    plan = {"chain": RING, "era": 0, "height": 0, "checkpoint": None, "manifests": []}
    methods = {"bundle_plan": plan, "bundle_blocks": {"last": 0, "blocks": ""}}
    target = tmp_path / "out.bundle"
    ended, daemon = asked(swarmd, node, methods, "bundle", "export", "-o", target)
    assert ended.code == 0, ended.err
    assert daemon.params_of("bundle_plan") == [{}]
    with target.open("rb") as file:
        reader = SectionReader(file)
        assert [reader.next().kind for _ in range(2)] == [SectionKind.HEAD, SectionKind.END]
    ended, daemon = asked(swarmd, node, methods, "bundle", "export", MANIFEST, "-o", target)
    assert daemon.params_of("bundle_plan") == [{"manifests": [MANIFEST]}]
    bad = tmp_path / "bad.have"
    bad.write_bytes(b"something else")
    ended, daemon = asked(swarmd, node, methods, "bundle", "export", "-o", target, "--for", bad)
    assert (ended.code, daemon.requests) == (1, [])
    assert "not a have-file" in ended.err


def test_an_export_follows_no_link(swarmd: Run, node: DataDir, tmp_path: Path) -> None:
    plan = {"chain": RING, "era": 0, "height": 0, "checkpoint": None, "manifests": []}
    methods = {"bundle_plan": plan, "bundle_blocks": {"last": 0, "blocks": ""}}
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "out.bundle.part").symlink_to(victim)
    ended, _ = asked(swarmd, node, methods, "bundle", "export", "-o", tmp_path / "out.bundle")
    assert (ended.code, victim.read_bytes()) == (1, b"precious")


def test_an_import_names_the_file_and_says_why_not(
    swarmd: Run, node: DataDir, tmp_path: Path
) -> None:
    source = tmp_path / "in.bundle"
    source.write_bytes(b"bundle")
    ended, daemon = asked(
        swarmd, node, {"bundle_import": {"blocks": 3}}, "bundle", "import", source
    )
    assert (ended.code, ended.document) == (0, {"blocks": 3})
    assert daemon.params_of("bundle_import") == [{"path": str(source)}]
    refusal = PolicyError("bundle.gap", "its blocks begin at 9")
    ended, _ = asked(swarmd, node, {"bundle_import": refusal}, "bundle", "import", source)
    assert (ended.code, "bundle.gap" in ended.err) == (1, True)

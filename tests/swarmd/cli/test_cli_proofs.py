"""`fetch`, `prove`, `verify`: bytes that are the right ones, and proofs that hold offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ledger.proof_make import make_proof
from protocol.digest import sha256
from protocol.errors import EncodingError, StorageError
from protocol.manifest import SignedManifest
from swarmd import file_copy
from swarmd.cli.verify import age_text
from swarmd.clock import SystemClock
from swarmd.datadir import DataDir
from swarmd.proof_file import PROOF_FILE_BYTES_MAX, ProofFile, decode_proof_file
from tests.support.control_daemon import ControlDaemon
from tests.support.ledger import FLEET, GENESIS_MS, Lab, advance, authorise, make_lab
from tests.support.loose_cbor import encode_loose
from tests.support.proofs import make_world
from tests.swarmd.cli.conftest import Run

IMAGE = b"the firmware"


@pytest.fixture(scope="module")
def authorised(ledger_lab: Lab) -> tuple[SignedManifest, bytes]:
    """An authorised manifest and its proof, from a real chain."""
    manifest = ledger_lab.manifest(sequence=41, image=IMAGE)
    chain = ledger_lab.open_chain()
    authorise(ledger_lab, chain, manifest)
    advance(ledger_lab, chain)
    return manifest, make_proof(chain, manifest.manifest_id, FLEET)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "rootfs.img"
    path.write_bytes(IMAGE)
    return path


@pytest.fixture
def proof_path(
    swarmd: Run, node: DataDir, tmp_path: Path, authorised: tuple[SignedManifest, bytes]
) -> Path:
    manifest, proof = authorised
    path = tmp_path / "rootfs.proof"
    answer = {"proof": proof.hex(), "group": FLEET, "height": 3}
    with ControlDaemon({"prove": lambda _params: answer}).running(node.control_socket) as daemon:
        ended = swarmd(
            "prove", manifest.manifest_id.hex(), "-o", path, "-C", node.path,
            "--group", FLEET, "--json",
        )  # fmt: skip
    assert ended.code == 0, ended.err
    assert ended.document == {
        "manifest": manifest.manifest_id.hex(),
        "file": str(path),
        "group": FLEET,
        "height": 3,
    }
    assert daemon.params_of("prove") == [{"manifest": manifest.manifest_id.hex(), "group": FLEET}]
    return path


def test_one_file_and_one_digest_are_enough(
    swarmd: Run, image: Path, proof_path: Path, ledger_lab: Lab,
    authorised: tuple[SignedManifest, bytes],
) -> None:  # fmt: skip
    chain = ledger_lab.chain_id.hex()
    ended = swarmd("verify", image, "--proof", proof_path, "--genesis", chain, "--json")
    assert ended.code == 0, ended.err
    document = ended.document
    assert document["verified"] is True
    assert document["manifest"] == authorised[0].manifest_id.hex()
    assert document["sha256"] == sha256(IMAGE).hex()
    assert (document["product"], document["sequence"]) == ("pump", 41)
    assert document["anchor"] == {"chain": chain, "name": "lab"}
    assert len(document["approvers"]) == 2
    assert document["height"] == 3
    assert document["time_ms"] == GENESIS_MS + 3000
    now_s = SystemClock().wall_ms() // 1000
    assert abs(document["age_s"] - (now_s - document["time_ms"] // 1000)) <= 2


def test_the_genesis_may_be_a_file(
    swarmd: Run, image: Path, proof_path: Path, node: DataDir, ledger_lab: Lab
) -> None:
    ended = swarmd("verify", image, "--proof", proof_path, "--genesis", node.genesis)
    assert ended.code == 0, ended.err
    assert f"anchor     chain {ledger_lab.chain_id.hex()} (lab)" in ended.out
    assert "as of      block 3, 2023-11-14 22:13:23 UTC" in ended.out
    assert "(2 needed)" in ended.out


def test_another_image_is_refused(
    swarmd: Run, image: Path, proof_path: Path, node: DataDir
) -> None:
    image.write_bytes(IMAGE + b"!")
    ended = swarmd("verify", image, "--proof", proof_path, "--genesis", node.genesis, "--json")
    assert ended.code == 1
    assert "is no component of the manifest" in ended.document["error"]["message"]


def test_a_genesis_that_is_not_the_trusted_one_is_refused(
    swarmd: Run, image: Path, proof_path: Path, ledger_lab: Lab
) -> None:
    digest = bytearray(ledger_lab.chain_id)
    digest[0] ^= 1
    ended = swarmd("verify", image, "--proof", proof_path, "--genesis", digest.hex())
    assert ended.code == 1
    assert "genesis in the proof file: expected sha256" in ended.reason


def test_an_embedded_genesis_of_another_chain_does_not_help_a_forger(
    swarmd: Run, image: Path, tmp_path: Path, authorised: tuple[SignedManifest, bytes],
    ledger_lab: Lab,
) -> None:  # fmt: skip
    other = make_lab(validators=5)
    path = tmp_path / "forged.proof"
    path.write_bytes(ProofFile(other.genesis.encode(), authorised[1]).encode())
    for trusted in (ledger_lab.chain_id, other.chain_id):
        ended = swarmd("verify", image, "--proof", path, "--genesis", trusted.hex())
        assert (ended.code, ended.out) == (1, "")


@pytest.mark.parametrize("trusted", ["nonsense", "ab" * 31, "zz" * 32])
def test_what_is_neither_file_nor_digest_is_a_usage_error(
    swarmd: Run, image: Path, proof_path: Path, trusted: str
) -> None:
    ended = swarmd("verify", image, "--proof", proof_path, "--genesis", trusted)
    assert ended.code == 2
    assert "neither a file nor 64 hex digits" in ended.reason


def test_an_old_proof_is_refused_if_asked(
    swarmd: Run, image: Path, proof_path: Path, node: DataDir
) -> None:
    arguments = ("--proof", proof_path, "--genesis", node.genesis, "--max-age")
    assert swarmd("verify", image, *arguments, 10**6).code == 0
    ended = swarmd("verify", image, *arguments, "24")
    assert (ended.code, ended.out) == (1, "")
    assert "proof.age" in ended.reason
    assert swarmd("verify", *arguments, "24").code == 1


@pytest.mark.parametrize(
    ("arguments", "params"),
    [
        (("--receipt", 3), {"receipt": 3}),
        (("--did", "cd" * 32), {"did": "cd" * 32}),
        (("--transaction", "EF" * 32), {"transaction": "ef" * 32}),
        (("--absent", "m/" + "ab" * 32 + "/fleet"), {"absent": [f"6d2f{'ab' * 32}666c656574"]}),
        (("--absent", "g/fleet"), {"absent": ["672f666c656574"]}),
        (("ab" * 32, "--core"), {"manifest": "ab" * 32, "core": True}),
    ],
)
def test_other_things_are_proved_too(
    swarmd: Run, node: DataDir, tmp_path: Path, arguments: tuple[object, ...], params: object
) -> None:
    world = make_world()
    answer = {"proof": world.files["receipt"].hex(), "height": 3}
    target = tmp_path / "any.proof"
    with ControlDaemon({"prove": lambda _params: answer}).running(node.control_socket) as daemon:
        ended = swarmd("prove", *arguments, "-o", target, "-C", node.path)
    assert ended.code == 0, ended.err
    assert daemon.params_of("prove") == [params]


@pytest.mark.parametrize(
    "arguments", [(), ("ab" * 32, "--receipt", 1), ("--receipt", 1, "--core"), ("--absent", "x")]
)
def test_one_thing_is_proved_at_a_time(
    swarmd: Run, node: DataDir, tmp_path: Path, arguments: tuple[object, ...]
) -> None:
    ended = swarmd("prove", *arguments, "-o", tmp_path / "any.proof", "-C", node.path)
    assert ended.code == 2
    assert not (tmp_path / "any.proof").exists()


def test_any_proof_is_shown_without_an_image(swarmd: Run, tmp_path: Path) -> None:
    world = make_world()
    path, genesis = tmp_path / "every.proof", tmp_path / "genesis.cbor"
    genesis.write_bytes(world.lab.genesis.encode())
    path.write_bytes(ProofFile(genesis.read_bytes(), world.files["everything"]).encode())
    ended = swarmd("verify", "--proof", path, "--genesis", genesis, "--json")
    assert ended.code == 0, ended.err
    shown = ended.document
    assert {item["status"] for item in shown["manifests"]} == {"authorised"}
    assert [item["index"] for item in shown["receipts"]] == [0, 3]
    assert shown["entries"][0]["entry"] == world.anchored.signed.raw.hex()
    assert shown["facts"][b"x/nothing".hex()] is None


def test_the_embedded_genesis_counts_even_beside_a_trusted_file(
    swarmd: Run, image: Path, proof_path: Path, node: DataDir
) -> None:
    data = bytearray(proof_path.read_bytes())
    data[40] ^= 1
    proof_path.write_bytes(data)
    assert swarmd("verify", image, "--proof", proof_path, "--genesis", node.genesis).code == 1


@pytest.mark.slow
def test_every_flipped_byte_of_the_proof_is_noticed(
    swarmd: Run, image: Path, proof_path: Path, ledger_lab: Lab
) -> None:
    """A sample of positions, every region of the file; the ledger's own tests try all of them."""
    original = proof_path.read_bytes()
    for position in range(0, len(original), len(original) // 23):
        spoilt = bytearray(original)
        spoilt[position] ^= 0x01
        proof_path.write_bytes(spoilt)
        ended = swarmd(
            "verify", image, "--proof", proof_path, "--genesis", ledger_lab.chain_id.hex()
        )
        assert (ended.code, ended.out) == (1, ""), position


def test_a_proof_file_round_trips() -> None:
    file = ProofFile(b"genesis", b"proof")
    assert decode_proof_file(file.encode()) == file


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xa0",
        ProofFile(b"g", b"p").encode()[:-1],
        ProofFile(b"g", b"p").encode() + b"\x00",
        b"\xa3\x00\x02\x01\x41g\x02\x41p",
        b"\xa4\x00\x01\x01\x41g\x02\x41p\x03\x00",
        b"\xa4\x00\x01\x01\x41g\x02\x41p\x20\x00",
        bytes(PROOF_FILE_BYTES_MAX + 1),
        encode_loose({0: 1, 1: b"g", 2: b"p"}, node=0, deviation="indefinite"),
    ],
)
def test_what_is_no_proof_file_is_refused(data: bytes) -> None:
    with pytest.raises(EncodingError):
        decode_proof_file(data)


@pytest.mark.parametrize(
    ("age_s", "text"),
    [
        (-1, "in the future: this machine's clock is behind"),
        (0, "0 seconds ago"),
        (119, "119 seconds ago"),
        (120, "2 minutes ago"),
        (7200, "2 hours ago"),
        (86_400 * 9, "9 days ago"),
    ],
)
def test_ages_are_written_for_people(age_s: int, text: str) -> None:
    assert age_text(age_s) == text


def fetch_answer(path: Path, **changes: Any) -> dict[str, Any]:
    return {"path": str(path), "sha256": sha256(IMAGE).hex(), "size": len(IMAGE), **changes}


@pytest.mark.parametrize("options", [[], ["--component", "rootfs"]])
def test_fetch_saves_the_image(
    swarmd: Run, node: DataDir, image: Path, tmp_path: Path, options: list[str]
) -> None:
    target = tmp_path / "saved.img"
    target.write_bytes(b"old")
    daemon = ControlDaemon({"fetch": lambda _params: fetch_answer(image)})
    with daemon.running(node.control_socket):
        ended = swarmd("fetch", "ab" * 32, "-o", target, "-C", node.path, "--json", *options)
    assert ended.document == {
        "manifest": "ab" * 32,
        "file": str(target),
        "size": len(IMAGE),
        "sha256": sha256(IMAGE).hex(),
    }
    assert target.read_bytes() == IMAGE
    assert target.stat().st_mode & 0o777 == 0o644
    wanted = {"component": "rootfs"} if options else {}
    assert daemon.params_of("fetch") == [{"manifest": "ab" * 32, **wanted}]


@pytest.mark.parametrize("changes", [{"sha256": "00" * 32}, {"size": 3}, {"size": 10**9}])
def test_wrong_bytes_never_appear_under_the_name(
    swarmd: Run, node: DataDir, image: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    methods = {"fetch": lambda _params: fetch_answer(image, **changes)}
    with ControlDaemon(methods).running(node.control_socket):
        ended = swarmd("fetch", "ab" * 32, "-o", folder / "saved.img", "-C", node.path)
    assert (ended.code, ended.out) == (1, "")
    assert list(folder.iterdir()) == []


def test_a_copy_that_fails_leaves_the_old_file(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "saved.img"
    target.write_bytes(b"old")

    def disk_full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_copy.os, "fsync", disk_full)
    with pytest.raises(StorageError, match="No space left"):
        file_copy.copy_verified(image, target, digest=sha256(IMAGE), size=len(IMAGE))
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir() if "saved" in path.name) == ["saved.img"]


def test_fetch_into_a_missing_folder_is_one_line(
    swarmd: Run, node: DataDir, image: Path, tmp_path: Path
) -> None:
    with ControlDaemon({"fetch": lambda _params: fetch_answer(image)}).running(node.control_socket):
        ended = swarmd("fetch", "ab" * 32, "-o", tmp_path / "no" / "x", "-C", node.path)
    assert ended.code == 1
    assert "No such file or directory" in ended.reason

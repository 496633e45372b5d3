"""The second reader of proof files: it accepts what the first accepts, and nothing else."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.proof_verify import verify_authorisation, verify_proof
from protocol.digest import sha256, verify_digest
from protocol.errors import VerificationError
from protocol.genesis import Genesis
from swarmd.proof_file import ProofFile, decode_proof_file
from tests.support.proofs import IMAGE, ProofWorld, make_epoch_proof, make_world

EXAMPLE = Path(__file__).parents[2] / "examples" / "verify_proof.py"
VECTOR = Path(__file__).parents[1] / "vectors" / "ledger" / "proof.json"
LINES_MAX = 300


@pytest.fixture(scope="module")
def world() -> ProofWorld:
    return make_world()


@pytest.fixture(scope="module")
def files(world: ProofWorld) -> dict[str, bytes]:
    """Every kind of proof file, as `swarmd prove` writes it."""
    genesis = world.lab.genesis.encode()
    made = {name: ProofFile(genesis, proof).encode() for name, proof in world.files.items()}
    return {**made, "epochs": ProofFile(genesis, make_epoch_proof(world)).encode()}


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """The names of the example, run as a file."""
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture(scope="module")
def accepts(example: dict[str, Any], world: ProofWorld) -> Callable[[bytes], bool]:
    def judge(data: bytes) -> bool:
        try:
            example["verify"](data, world.lab.chain_id)
        except example["REFUSALS"]:
            return False
        return True

    return judge


def swarmd_accepts(data: bytes, genesis: Genesis) -> bool:
    """What `swarmd verify` does with a file, apart from the image."""
    try:
        file = decode_proof_file(data)
        verify_digest("genesis", file.genesis, genesis.chain)  # and is then the one at hand
        verify_proof(file.proof, genesis)
    except VerificationError:
        return False
    return True


def test_it_is_short_and_imports_nothing_of_ours() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.count("\n") <= LINES_MAX
    found = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert found - set(sys.stdlib_module_names) == {"cryptography"}


def test_both_accept_every_kind(
    files: dict[str, bytes], world: ProofWorld, accepts: Callable[[bytes], bool]
) -> None:
    for name, data in files.items():
        assert swarmd_accepts(data, world.lab.genesis), name
        assert accepts(data), name


def test_both_see_the_same_things(
    files: dict[str, bytes], world: ProofWorld, example: dict[str, Any]
) -> None:
    for name, data in files.items():
        shown = example["verify"](data, world.lab.chain_id)
        truth = verify_proof(decode_proof_file(data).proof, world.lab.genesis)
        assert (shown["height"], shown["time_ms"]) == (truth.height, truth.time_ms), name
        assert dict(shown["facts"]) == truth.facts
        assert [item.get("owners") for item in shown["manifests"]] == [
            None if item.consent is None else list(item.consent.approvers)
            for item in truth.manifests
        ]
        assert [entry.get(2) for entry in shown["entries"]] == [e.entry for e in truth.entries]
        assert [receipt[2] for receipt in shown["receipts"]] == [r.entry for r in truth.receipts]


def test_images_are_told_apart(
    files: dict[str, bytes], world: ProofWorld, example: dict[str, Any]
) -> None:
    check, chain = example["verify"], world.lab.chain_id
    assert check(files["image"], chain, sha256(IMAGE))["height"] == world.chain.head.height
    for name, image in (("image", b"other"), ("core", IMAGE), ("revoked", b"image 0")):
        with pytest.raises(example["REFUSALS"]):
            check(files[name], chain, sha256(image))
        proof = decode_proof_file(files[name]).proof
        with pytest.raises(VerificationError):
            verify_authorisation(proof, world.lab.genesis, sha256(image))


def test_another_digest_is_refused(files: dict[str, bytes], example: dict[str, Any]) -> None:
    with pytest.raises(example["REFUSALS"]):
        example["verify"](files["image"], sha256(b"another chain"))


def is_another_truth(altered: bytes, original: bytes, genesis: Genesis) -> bool:
    """Whether a file states the absence of another key: true, and all that alteration can reach.

    Nothing stands under the keys beside an absent one either; whoever asks names the key.
    """
    before = verify_proof(decode_proof_file(original).proof, genesis)
    after = verify_proof(decode_proof_file(altered).proof, genesis)
    changed = dict(before.facts.items() ^ after.facts.items())
    return bool(changed) and set(changed.values()) == {None}


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize(
    "kind",
    ["image", "governed", "epochs", "everything", "core", "receipt", "transaction", "absent"],
)
def test_every_byte_counts_for_both(
    kind: str,
    files: dict[str, bytes],
    world: ProofWorld,
    accepts: Callable[[bytes], bool],
) -> None:
    """A bit of every byte of the proof, another one at each; the genesis is one hash, so few."""
    data, genesis = files[kind], world.lab.genesis
    start = len(data) - len(decode_proof_file(data).proof)
    for position in (*range(0, start, 211), *range(start - 4, len(data))):
        altered = bytearray(data)
        altered[position] ^= 1 << position % 8
        verdict = accepts(bytes(altered))
        assert verdict == swarmd_accepts(bytes(altered), genesis), position
        assert not verdict or is_another_truth(bytes(altered), data, genesis), position


@pytest.mark.slow
def test_truncated_and_extended_files_are_refused_by_both(
    files: dict[str, bytes], world: ProofWorld, accepts: Callable[[bytes], bool]
) -> None:
    for data in files.values():
        for altered in [*(data[:cut] for cut in range(0, len(data), 499)), data + b"\x00", b""]:
            assert not accepts(altered)
            assert not swarmd_accepts(altered, world.lab.genesis)


@pytest.mark.slow
@settings(max_examples=300)
@given(data=st.data())
def test_both_agree_on_spliced_files(
    data: st.DataObject,
    files: dict[str, bytes],
    world: ProofWorld,
    accepts: Callable[[bytes], bool],
) -> None:
    """Parts cut from one file and put into another: whatever comes out, both say the same."""
    names = sorted(files)
    target = files[data.draw(st.sampled_from(names))]
    source = files[data.draw(st.sampled_from(names))]
    inside = len(decode_proof_file(target).proof)
    begin = len(target) - data.draw(st.integers(0, inside))
    end = data.draw(st.integers(begin, min(len(target), begin + 200)))
    first = len(source) - data.draw(st.integers(0, len(decode_proof_file(source).proof)))
    piece = source[first : first + data.draw(st.integers(0, 200))]
    spliced = target[:begin] + piece + target[end:]
    verdict, genesis = accepts(spliced), world.lab.genesis
    assert verdict == swarmd_accepts(spliced, genesis)
    assert not verdict or spliced in (target, source) or is_another_truth(spliced, target, genesis)


@pytest.mark.slow
def test_it_runs_as_a_program(files: dict[str, bytes], world: ProofWorld, tmp_path: Path) -> None:
    proof, image = tmp_path / "proof", tmp_path / "image"
    proof.write_bytes(files["image"])
    image.write_bytes(IMAGE)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    ended = run(proof, world.lab.chain_id.hex(), image)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["manifests"][0]["owners"] == ["owner-1", "owner-0"]
    image.write_bytes(b"other")
    ended = run(proof, world.lab.chain_id.hex(), image)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "refused" in ended.stderr
    assert run(proof).returncode == 1
    assert "owner-0" in run().stdout


def test_it_accepts_the_pinned_vector(example: dict[str, Any]) -> None:
    pinned = json.loads(VECTOR.read_text(encoding="utf-8"))
    genesis, proof, image = (bytes.fromhex(pinned[key]) for key in ("genesis", "proof", "image"))
    shown = example["verify"](ProofFile(genesis, proof).encode(), sha256(genesis), sha256(image))
    assert shown["manifests"][0]["owners"]


def test_its_pinned_file_is_the_pinned_vector(example: dict[str, Any]) -> None:
    pinned = json.loads(VECTOR.read_text(encoding="utf-8"))
    genesis, proof = bytes.fromhex(pinned["genesis"]), bytes.fromhex(pinned["proof"])
    shown = bytes.fromhex(example["PINNED"].read_text("ascii"))
    assert shown == ProofFile(genesis, proof).encode()
    assert bytes.fromhex(example["PINNED_DIGEST"]) == sha256(genesis)

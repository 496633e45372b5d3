"""A node's keys are replaced in steps that a power cut may interrupt anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.bodies.subject import rotation_message
from protocol.did import KeyPurpose, SubjectKind, next_keys_digest
from protocol.digest import ChainId, sha256
from protocol.errors import StorageError
from protocol.keys import PublicKey
from swarmd.config import Config
from swarmd.datadir import DataDir
from swarmd.enrolment import KEY_NAMES, NodePlan, create_node
from swarmd.entropy import SeededEntropy
from swarmd.key_rotation import (
    RotationTarget,
    install_rotation,
    make_rotation,
    require_prepared,
)
from swarmd.keys.key_file import is_encrypted_file, load_key_file
from swarmd.keys.key_writer import replace_key_file
from swarmd.keys.passphrase import no_passphrase
from swarmd.keys.sealing_key import SEALING_KEY_NAME

PASSPHRASE = b"correct horse battery staple"
PURPOSES = (KeyPurpose.TRANSPORT, KeyPurpose.NODE)


@pytest.fixture
def node(tmp_path: Path) -> tuple[DataDir, RotationTarget]:
    """A gateway's folder and what is to be rotated in it."""
    data = DataDir(tmp_path / "gw")
    plan = NodePlan(kind=SubjectKind.GATEWAY, name="gw")
    join = create_node(data, plan, Config(), SeededEntropy(1))
    target = RotationTarget(
        chain=ChainId(sha256(b"chain")),
        era=0,
        did=join.record.did,
        sequence=0,
        purposes=PURPOSES,
    )
    return data, target


def keys(data: DataDir, prefix: str = "") -> list[PublicKey]:
    return [
        load_key_file(data.key_path(prefix + KEY_NAMES[purpose]), lambda _what: PASSPHRASE).public
        for purpose in PURPOSES
    ]


def test_each_generation_moves_up_by_one(node: tuple[DataDir, RotationTarget]) -> None:
    data, target = node
    following = keys(data, "next-")
    body = make_rotation(data, target, no_passphrase, SeededEntropy(2))
    assert [key for _, key in body.keys] == following
    coming = keys(data, "coming-")
    pairs = tuple(zip(PURPOSES, coming, strict=True))
    assert body.next_keys == next_keys_digest(pairs)
    message = rotation_message(
        target.chain, 0, target.did, sequence=1, keys=body.keys, next_keys=body.next_keys
    )
    for (_, key), signature in zip(body.keys, body.signatures, strict=True):
        key.verify(signature, message)
    assert install_rotation(data, PURPOSES) == 2
    assert (keys(data), keys(data, "next-")) == (following, coming)
    assert install_rotation(data, PURPOSES) == 0


def test_an_interrupted_rotation_goes_on_with_the_same_keys(
    node: tuple[DataDir, RotationTarget],
) -> None:
    data, target = node
    first = make_rotation(data, target, no_passphrase, SeededEntropy(2))
    data.key_path("coming-node").unlink()  # the second was not written any more
    again = make_rotation(data, target, no_passphrase, SeededEntropy(3))
    assert again.keys == first.keys
    assert again.next_keys != first.next_keys
    assert make_rotation(data, target, no_passphrase, SeededEntropy(4)) == again


@pytest.mark.parametrize("steps", range(4))
def test_an_interrupted_installation_is_finished(
    node: tuple[DataDir, RotationTarget], monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The power fails after any number of the four changes that installing two keys takes."""
    import swarmd.key_rotation as module

    data, target = node
    following = keys(data, "next-")
    make_rotation(data, target, no_passphrase, SeededEntropy(2))
    coming = keys(data, "coming-")
    left = [steps]

    class PowerCutError(Exception):
        pass

    def step() -> None:
        if left[0] == 0:
            raise PowerCutError
        left[0] -= 1

    write, sync = module.write_atomic, module.sync_directory

    def cut_write(path: Path, raw: bytes) -> None:
        step()
        write(path, raw)

    def cut_sync(path: Path) -> None:
        step()
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomic", cut_write)
        patch.setattr(module, "sync_directory", cut_sync)
        with pytest.raises(PowerCutError):
            install_rotation(data, PURPOSES)
    install_rotation(data, PURPOSES)
    assert (keys(data), keys(data, "next-")) == (following, coming)


def test_encrypted_keys_stay_encrypted(node: tuple[DataDir, RotationTarget]) -> None:
    data, target = node
    data.key_path(SEALING_KEY_NAME).unlink()  # not an identity: it is not rotated
    for path in data.keys.glob("*.key"):
        replace_key_file(path, load_key_file(path), PASSPHRASE)
    make_rotation(data, target, lambda _what: PASSPHRASE, SeededEntropy(2))
    install_rotation(data, PURPOSES)
    assert all(is_encrypted_file(path) for path in data.keys.glob("*.key"))


def test_nothing_is_finished_that_was_not_begun(node: tuple[DataDir, RotationTarget]) -> None:
    data, _ = node
    with pytest.raises(StorageError, match="no rotation was begun here"):
        require_prepared(data, PURPOSES)

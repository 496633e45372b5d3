"""Replaces a node's keys by those it committed to, so that no power cut leaves it without either.

Three generations lie in `keys/` while it lasts: current keys, `next-*` that the record commits to,
and `coming-*` that it will commit to. First the coming keys are made; then the ledger is asked;
only when the rotation is final does each next key become current and each coming key next. Every
step can be repeated. Vote keys are no part of it: copies of them would outlive their epoch (E23).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.bodies.subject import RotateKeys, rotation_message
from protocol.did import KeyPurpose, Keys, next_keys_digest, rotating
from protocol.digest import ChainId, DidId, Digest
from protocol.errors import StorageError
from protocol.keys import PrivateKey
from swarmd.datadir import DataDir, storage_errors, sync_directory, write_atomic
from swarmd.enrolment import KEY_NAMES, new_key
from swarmd.entropy import Entropy
from swarmd.keys.key_file import is_encrypted_file
from swarmd.keys.key_writer import replace_key_file, write_key_file
from swarmd.keys.passphrase import PassphraseSource, read_private

ROTATED_NAME: Final = "rotated"
"""File in `keys/` that says that they are not those of the join file any more."""
_KEY_FILE_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationTarget:
    """Whose keys are replaced, and where the ledger stands."""

    chain: ChainId
    """Chain of the ledger."""
    era: int
    """Era of the ledger."""
    did: DidId
    """The node."""
    sequence: int
    """Key changes of the node so far."""
    purposes: tuple[KeyPurpose, ...]
    """What the keys of its record are for, ascending."""


def _coming(purpose: KeyPurpose) -> str:
    return f"coming-{KEY_NAMES[purpose].value}"


def make_rotation(
    data: DataDir, target: RotationTarget, passphrases: PassphraseSource, entropy: Entropy
) -> RotateKeys:
    """Makes the keys after the next ones, durably, and the body that puts the next ones in force.

    Coming keys that an interrupted rotation left are used again.

    Raises:
        StorageError: a key is missing or unreadable, or cannot be written.
        ConfigError: a key is encrypted and there is no passphrase.
    """
    following: list[tuple[KeyPurpose, PrivateKey]] = []
    coming: list[tuple[KeyPurpose, PrivateKey]] = []
    for purpose in rotating(target.purposes):
        name = KEY_NAMES[purpose]
        following.append((purpose, data.load_key(name.next, passphrases)))
        path = data.key_path(_coming(purpose))
        if not path.exists():
            next_path = data.key_path(name.next)
            sealed = is_encrypted_file(next_path)
            secret = passphrases(f"key {next_path}") if sealed else None
            write_key_file(path, new_key(entropy), secret)
        coming.append((purpose, data.load_key(_coming(purpose), passphrases)))
    keys = _public(following)
    next_keys = next_keys_digest(_public(coming))
    message = rotation_message(
        target.chain,
        target.era,
        target.did,
        sequence=target.sequence + 1,
        keys=keys,
        next_keys=next_keys,
    )
    return RotateKeys(
        did=target.did,
        keys=keys,
        next_keys=next_keys,
        signatures=tuple(key.sign(message) for _, key in following),
    )


def make_fresh_keys(
    data: DataDir, target: RotationTarget, passphrases: PassphraseSource, entropy: Entropy
) -> tuple[list[tuple[KeyPurpose, PrivateKey]], Digest]:
    """Makes next keys that nobody committed to, and coming ones, for a node that is recovered.

    The next keys of before are replaced: who still has them should rotate instead.

    Returns:
        The private keys that shall rule, and the commitment to the ones after them.

    Raises:
        StorageError: a key is missing, or cannot be written.
        ConfigError: a key is encrypted and there is no passphrase.
    """
    fresh: list[tuple[KeyPurpose, PrivateKey]] = []
    coming: list[tuple[KeyPurpose, PrivateKey]] = []
    for purpose in rotating(target.purposes):
        path = data.key_path(KEY_NAMES[purpose].next)
        sealed = path.exists() and is_encrypted_file(path)
        secret = passphrases(f"key {path}") if sealed else None
        fresh.append((purpose, new_key(entropy)))
        coming.append((purpose, new_key(entropy)))
        replace_key_file(path, fresh[-1][1], secret)
        replace_key_file(data.key_path(_coming(purpose)), coming[-1][1], secret)
    return fresh, next_keys_digest(_public(coming))


def _public(keys: list[tuple[KeyPurpose, PrivateKey]]) -> Keys:
    return tuple((purpose, key.public) for purpose, key in keys)


def install_rotation(data: DataDir, purposes: tuple[KeyPurpose, ...]) -> int:
    """Puts the next keys in the place of the current ones, and the coming ones in theirs.

    To be called once the rotation is final, and again after a crash.

    Returns:
        How many keys were replaced; 0: there was no rotation to finish.

    Raises:
        StorageError: a file cannot be read or written; calling again goes on from there.
    """
    replaced = 0
    for purpose in rotating(purposes):
        name = KEY_NAMES[purpose]
        coming, following = data.key_path(_coming(purpose)), data.key_path(name.next)
        if not coming.exists():
            continue
        # As bytes, so that nobody has to decrypt what only changes its place.
        raw = read_private(following, f"key {following}", bytes_max=_KEY_FILE_BYTES_MAX)
        write_atomic(data.key_path(name), raw)
        with storage_errors(f"cannot replace {following}"):
            coming.replace(following)
            sync_directory(data.keys)
        replaced += 1
    if replaced:
        write_atomic(data.keys / ROTATED_NAME, b"join.json shows the first keys\n")
    return replaced


def require_prepared(data: DataDir, purposes: tuple[KeyPurpose, ...]) -> None:
    """Checks that a rotation was begun in this folder.

    Raises:
        StorageError: it was not.
    """
    if not any(data.key_path(_coming(purpose)).exists() for purpose in purposes):
        raise StorageError(f"{data.path}: no rotation was begun here")

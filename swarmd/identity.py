"""Who a node is: its DID, its role, and the private keys that role needs."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.did import SubjectKind
from protocol.digest import DidId
from protocol.errors import ConfigError
from protocol.genesis import Genesis
from protocol.keys import PrivateKey
from protocol.sealing_ring import SEALING_KEY_BYTES
from swarmd.datadir import DataDir, KeyName
from swarmd.enrolment import load_join
from swarmd.entropy import SystemEntropy
from swarmd.keys.key_file import is_encrypted_file, load_sealing_key
from swarmd.keys.key_writer import write_key_file
from swarmd.keys.passphrase import PassphraseSource, no_passphrase
from swarmd.keys.sealing_key import SEALING_KEY_NAME, SealingKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a node is."""

    did: DidId
    """Its name."""
    kind: SubjectKind
    """Its role."""
    node_key: PrivateKey
    """Signs transactions, announcements, receipts."""
    transport_key: PrivateKey
    """Proves it to peers."""
    person_key: PrivateKey | None
    """Publishers only."""
    sealing_key: SealingKey
    """Opens content keys that were wrapped to this node."""
    # Vote keys change with the epochs: `swarmd.epoch_keys` holds them.


def load_identity(
    data: DataDir,
    did: DidId,
    kind: SubjectKind,
    passphrases: PassphraseSource = no_passphrase,
) -> Identity:
    """Reads the keys a role needs.

    Args:
        data: the node's folder.
        did: its name.
        kind: its role.
        passphrases: asked for encrypted keys.

    Raises:
        StorageError: a key is missing, unreadable, open to others, or the passphrase is wrong.
        ConfigError: a key is encrypted and there is no passphrase.
    """
    is_publisher = kind is SubjectKind.PUBLISHER
    return Identity(
        did=did,
        kind=kind,
        node_key=data.load_key(KeyName.NODE, passphrases),
        transport_key=data.load_key(KeyName.TRANSPORT, passphrases),
        person_key=data.load_key(KeyName.PERSON, passphrases) if is_publisher else None,
        sealing_key=_sealing_key(data, passphrases),
    )


def _sealing_key(data: DataDir, passphrases: PassphraseSource) -> SealingKey:
    """Reads the sealing key; makes one for a folder from before there were any."""
    path = data.key_path(SEALING_KEY_NAME)
    if not path.exists():
        is_encrypted = is_encrypted_file(data.key_path(KeyName.NODE))
        passphrase = passphrases(f"key {path}") if is_encrypted else None
        key = SealingKey(SystemEntropy().token(SEALING_KEY_BYTES))
        write_key_file(path, key, passphrase)
    return load_sealing_key(path, passphrases)


def own_subject(data: DataDir, genesis: Genesis) -> tuple[DidId, SubjectKind]:
    """Who this directory's join file says the node is.

    Raises:
        ConfigError: the join file is missing or damaged.
    """
    record = load_join(data.join).record
    known = genesis.record(record.did)
    if known is not None and known.kind is not record.kind:
        raise ConfigError(f"{data.join}: genesis has another role for this node")
    return record.did, record.kind

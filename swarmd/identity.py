"""Who a node is: its DID, its role, and the private keys that role needs."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.did import SubjectKind
from protocol.digest import DidId
from protocol.errors import ConfigError
from protocol.genesis import Genesis
from protocol.keys import PrivateKey
from swarmd.datadir import DataDir, KeyName
from swarmd.enrolment import load_join
from swarmd.keys.passphrase import PassphraseSource, no_passphrase


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
    )


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

"""Makes the keys of a node where it will run, and the public join file that admits it.

`swarmd init` makes a data directory with current keys and the ones committed to for the first
rotation. What leaves the machine is `join.json`: the node's record, signed by each of its keys, and
where peers may reach it. Private keys never leave.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.did import (
    JOIN_TAG,
    DidRecord,
    JoinStatement,
    KeyPurpose,
    Keys,
    SubjectKind,
    did_key_text,
    next_keys_digest,
    rotating,
    sign_join,
)
from protocol.errors import (
    ConfigError,
    EncodingError,
    VerificationError,
)
from protocol.keys import PrivateKey
from protocol.limits import KIB
from swarmd.config import Config
from swarmd.config_template import render_config
from swarmd.datadir import PUBLIC_FILE_MODE, DataDir, KeyName, read_bounded, write_new
from swarmd.entropy import Entropy
from swarmd.keys.pem import encode_pem
from swarmd.keys.sealing_key import SEALING_KEY_NAME, SealingKey
from swarmd.net.address import PeerAddress, PeerKey

JOIN_SCHEMA: Final = 1
"""Schema number of a join file."""
JOIN_BYTES_MAX: Final = 32 * KIB
"""A record in hex, four signatures and eight addresses take about 7 KiB."""
ADDRESSES_MAX: Final = 8
"""Addresses one node may name."""
SEED_BYTES: Final = 32
"""Entropy of an Ed25519 key (RFC 8032)."""

KEY_NAMES: Final = {
    KeyPurpose.TRANSPORT: KeyName.TRANSPORT,
    KeyPurpose.NODE: KeyName.NODE,
    KeyPurpose.VALIDATOR: KeyName.VALIDATOR,
    KeyPurpose.PERSON: KeyName.PERSON,
}
"""File of the key of each purpose, in a node's `keys/` folder."""
ROLE_PURPOSES: Final = {
    SubjectKind.VALIDATOR: (KeyPurpose.TRANSPORT, KeyPurpose.NODE, KeyPurpose.VALIDATOR),
    SubjectKind.GATEWAY: (KeyPurpose.TRANSPORT, KeyPurpose.NODE),
    SubjectKind.PUBLISHER: (KeyPurpose.TRANSPORT, KeyPurpose.NODE, KeyPurpose.PERSON),
}
"""Keys each kind of node has, in the order of its record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinFile:
    """The content of a join file; made by `create_node` or checked by `decode_join`."""

    statement: JoinStatement
    """The record, signed by each of its keys."""
    record: DidRecord
    """The decoded record."""
    addresses: tuple[PeerAddress, ...]
    """Where peers may reach the node; empty if it only calls others. Not signed: a wrong address
    leads to a peer that cannot prove the key."""

    @property
    def role(self) -> str:
        """`validator`, `gateway` or `publisher`."""
        return self.record.kind.name.lower()

    def encode(self) -> bytes:
        """The file's bytes: JSON that people may read and pass on."""
        document = {
            "schema": JOIN_SCHEMA,
            "kind": JOIN_TAG,
            "name": self.record.name,
            "role": self.role,
            "groups": list(self.record.groups),
            "keys": {purpose.name.lower(): did_key_text(key) for purpose, key in self.record.keys},
            "addresses": [address.multiaddr for address in self.addresses],
            "record": self.statement.record_bytes.hex(),
            "signatures": [signature.hex() for signature in self.statement.signatures],
        }
        return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def decode_join(data: bytes) -> JoinFile:
    """Reads and checks a join file.

    Raises:
        VerificationError: malformed, a signature that does not verify, an address of another key,
            or readable fields that differ from the signed record.
    """
    if len(data) > JOIN_BYTES_MAX:
        raise EncodingError(f"join file of {len(data)} bytes, at most {JOIN_BYTES_MAX}")
    try:
        document = json.loads(data.decode())
        texts = document["addresses"]
        signatures = tuple(bytes.fromhex(text) for text in document["signatures"])
        record_bytes = bytes.fromhex(document["record"])
        if not isinstance(texts, list) or len(texts) > ADDRESSES_MAX:
            raise ValueError(f"addresses are not a list of at most {ADDRESSES_MAX}")
        addresses = tuple(PeerAddress.parse(str(text)) for text in texts)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise EncodingError(f"not a join file: {error}") from None
    statement = JoinStatement(record_bytes=record_bytes, signatures=signatures)
    join = JoinFile(statement=statement, record=statement.verify(), addresses=addresses)
    if join.record.kind not in ROLE_PURPOSES:
        raise VerificationError(f"join file of a {join.role}, expected one of a node")
    if json.loads(join.encode()) != document:
        raise VerificationError("join file: what it shows differs from the record that was signed")
    transport = join.record.key(KeyPurpose.TRANSPORT)
    assert transport is not None, "every kind of node has a transport key"
    if any(address.peer != transport.raw for address in addresses):
        raise VerificationError("join file: an address names another peer than the record's key")
    return join


def load_join(path: Path) -> JoinFile:
    """Reads and checks the join file at `path`.

    Raises:
        StorageError: it cannot be read.
        VerificationError: it is not a valid join file; the message names it.
    """
    try:
        return decode_join(read_bounded(path, bytes_max=JOIN_BYTES_MAX))
    except VerificationError as error:
        raise VerificationError(f"{path}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """What a node shall be."""

    kind: SubjectKind
    """Validator, gateway or publisher."""
    name: str
    """For people, 1 to 64 bytes."""
    groups: tuple[str, ...] = ()
    """Device groups it belongs to, in any order."""
    reachable: tuple[tuple[str, int], ...] = ()
    """Hosts and ports that peers may dial, for the join file."""


def role_of(text: str) -> SubjectKind:
    """Reads a role's name.

    Raises:
        ConfigError: it names no kind of node.
    """
    roles = {kind.name.lower(): kind for kind in ROLE_PURPOSES}
    if text not in roles:
        raise ConfigError(f"role {text[:40]!r}, expected one of {', '.join(roles)}")
    return roles[text]


def create_node(directory: DataDir, plan: NodePlan, config: Config, entropy: Entropy) -> JoinFile:
    """Makes a data directory with keys, configuration and join file.

    Args:
        directory: where; missing or empty.
        plan: what the node shall be.
        config: its settings; written with comments.
        entropy: makes the keys.

    Returns:
        The join file, also written as `join.json`.

    Raises:
        StorageError: the directory is not empty or cannot be written.
        ConfigError: name, group or address is not valid.
    """
    purposes = ROLE_PURPOSES[plan.kind]
    current = [new_key(entropy) for _ in purposes]
    following = [new_key(entropy) for _ in rotating(purposes)]
    join = _make_join(plan, current, following)
    directory.create()
    for purpose, key in zip(purposes, current, strict=True):
        write_new(directory.key_path(KEY_NAMES[purpose]), key.to_pem())
    for purpose, key in zip(rotating(purposes), following, strict=True):
        write_new(directory.key_path(KEY_NAMES[purpose].next), key.to_pem())
    sealing = SealingKey(entropy.token(SEED_BYTES))
    write_new(directory.key_path(SEALING_KEY_NAME), encode_pem(sealing, None))
    write_new(directory.join, join.encode(), mode=PUBLIC_FILE_MODE)
    # Last, since a directory counts as a node's once it has a configuration.
    write_new(directory.config, render_config(config).encode())
    return join


def _make_join(
    plan: NodePlan, current: Sequence[PrivateKey], following: Sequence[PrivateKey]
) -> JoinFile:
    purposes = ROLE_PURPOSES[plan.kind]
    try:
        record = DidRecord(
            kind=plan.kind,
            name=plan.name,
            keys=_public(purposes, current),
            next_keys=next_keys_digest(_public(rotating(purposes), following)),
            groups=tuple(sorted(plan.groups, key=str.encode)),
        )
        peer = PeerKey(current[0].public.raw)
        join = JoinFile(
            statement=sign_join(record, current),
            record=record,
            addresses=tuple(
                PeerAddress(peer=peer, host=host, port=port) for host, port in plan.reachable
            ),
        )
        # What nobody could read back must not be written: names and groups are checked here.
        return decode_join(join.encode())
    except VerificationError as error:
        raise ConfigError(f"node {plan.name[:64]!r}: {error}") from None


def _public(purposes: Sequence[KeyPurpose], keys: Sequence[PrivateKey]) -> Keys:
    return tuple((purpose, key.public) for purpose, key in zip(purposes, keys, strict=True))


def new_key(entropy: Entropy) -> PrivateKey:
    """Makes a private key."""
    return PrivateKey(entropy.token(SEED_BYTES))

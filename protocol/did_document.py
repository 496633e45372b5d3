"""DID documents (W3C DID Core 1.0) derived from what the ledger says about a subject.

A document is a function of the subject's record and nothing else: whoever checked a state proof of
the record derives the same document, so that no resolver need be trusted. Keys are verification
methods of type Multikey; what each may be used for follows from its purpose. There are no service
entries, since the ledger holds no addresses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.did import KeyPurpose, Keys, did_key_text, did_text
from protocol.digest import BlockId, ChainId, DidId
from protocol.keys import PublicKey

JSONValue = str | int | bool | None | Sequence["JSONValue"] | Mapping[str, "JSONValue"]
"""What a document is made of."""
CONTEXTS: Final = ("https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1")
"""JSON-LD contexts of DID Core 1.0 and of Multikey (Controlled Identifiers 1.0)."""
CONTENT_TYPE: Final = "application/did+ld+json"
"""Representation of the documents (DID Core 1.0, section 6.3)."""
_RELATIONSHIPS: Final[Mapping[KeyPurpose, tuple[str, ...]]] = {
    KeyPurpose.TRANSPORT: ("authentication",),
    KeyPurpose.NODE: ("assertionMethod", "capabilityInvocation"),
    KeyPurpose.VALIDATOR: ("assertionMethod",),
    KeyPurpose.PERSON: ("assertionMethod", "capabilityInvocation"),
}
"""What a key of each purpose may be used for: the handshake; announcements, receipts and
transactions; votes; manifests and approvals."""
_RELATIONSHIP_NAMES: Final = ("authentication", "assertionMethod", "capabilityInvocation")
_SUSPENDED_RELATIONSHIPS: Final = ("authentication",)
"""A suspended subject may still prove who it is, and read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectFacts:
    """What the ledger says about a subject as of one final header."""

    chain: ChainId
    """The chain."""
    did: DidId
    """Who."""
    keys: Keys
    """Its keys."""
    status: str
    """`active`, `suspended` or `revoked`."""
    rotations: int
    """How often its keys were replaced."""
    height: int
    """Height of the header."""
    block_id: BlockId
    """Id of the header."""
    time_ms: int
    """Time of the header, milliseconds since 1970."""


def multibase(key: PublicKey) -> str:
    """The Multikey form of an Ed25519 key: base58btc of its multicodec, `z6Mk...`."""
    return did_key_text(key).removeprefix("did:key:")


def did_document(facts: SubjectFacts) -> dict[str, JSONValue]:
    """Derives a subject's document.

    A revoked subject's has no keys. Verification methods are named by their key, so that a name
    never means another key after a rotation.
    """
    subject = did_text(facts.chain, facts.did)
    document: dict[str, JSONValue] = {"@context": list(CONTEXTS), "id": subject}
    if facts.status == "revoked":
        return document
    transport = next((key for have, key in facts.keys if have is KeyPurpose.TRANSPORT), None)
    if transport is not None:
        document["alsoKnownAs"] = [did_key_text(transport)]
    document["verificationMethod"] = [
        {
            "id": f"{subject}#{multibase(key)}",
            "type": "Multikey",
            "controller": subject,
            "publicKeyMultibase": multibase(key),
        }
        for _, key in facts.keys
    ]
    allowed = _SUSPENDED_RELATIONSHIPS if facts.status == "suspended" else _RELATIONSHIP_NAMES
    for name in allowed:
        methods: list[JSONValue] = [
            f"{subject}#{multibase(key)}"
            for purpose, key in facts.keys
            if name in _RELATIONSHIPS[purpose]
        ]
        if methods:
            document[name] = methods
    return document


def resolution_result(facts: SubjectFacts) -> dict[str, JSONValue]:
    """The whole answer of a resolver (DID Core 1.0, section 7.1).

    `versionId` counts key changes. When a record was written or last changed is not part of it, so
    there is no `created` or `updated`; `anchor` says as of which final header the answer holds.
    """
    return {
        "didDocument": did_document(facts),
        "didDocumentMetadata": {
            "versionId": str(facts.rotations),
            "deactivated": facts.status == "revoked",
            "status": facts.status,
            "anchor": {
                "chain": facts.chain.hex(),
                "height": facts.height,
                "block": facts.block_id.hex(),
                "timeMs": facts.time_ms,
            },
        },
        "didResolutionMetadata": {"contentType": CONTENT_TYPE},
    }


def did_key_document(key: PublicKey) -> dict[str, JSONValue]:
    """The document of a bare Ed25519 key (did:key method): it may do everything a key may."""
    subject = did_key_text(key)
    method = f"{subject}#{multibase(key)}"
    document: dict[str, JSONValue] = {
        "@context": list(CONTEXTS),
        "id": subject,
        "verificationMethod": [
            {
                "id": method,
                "type": "Multikey",
                "controller": subject,
                "publicKeyMultibase": multibase(key),
            }
        ],
    }
    for name in _RELATIONSHIP_NAMES:
        document[name] = [method]
    return document

"""Makes the vectors of `tests/vectors/protocol/` from fixed seeds.

`python -m tests.support.protocol_vectors` writes them anew; a test compares them with what is
committed. Changing a vector changes a format: it needs an entry in `docs/CHANGELOG.md`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from protocol.announcement import ANNOUNCEMENT_TAG, Announcement, sign_announcement
from protocol.approval import APPROVAL_TAG, Action, Approval, sign_approval
from protocol.catchup import (
    FRESHNESS_TAG,
    BlocksAnswer,
    BlocksRequest,
    Freshness,
    FreshnessAnswer,
    FreshnessRequest,
    HeadAnswer,
    HeadRequest,
    LedgerMessage,
    encode_ledger_message,
    sign_freshness,
)
from protocol.cose import Signed, signature_input
from protocol.did import (
    DidRecord,
    JoinStatement,
    KeyPurpose,
    SubjectKind,
    did_key_text,
    did_text,
    next_keys_digest,
    rotating,
    sign_join,
)
from protocol.digest import (
    BlockId,
    ChainId,
    DidId,
    ManifestId,
    TransactionId,
    sha256,
    tagged_digest,
)
from protocol.encoding import Value, encode_canonical
from protocol.genesis import Genesis, Parameters
from protocol.group import DAY_MS, Group, OwnerRoot, Policy
from protocol.hello import Hello, HelloAnswer, HelloStatus
from protocol.keys import PrivateKey, signing_context
from protocol.manifest import (
    MANIFEST_TAG,
    ChunkerKind,
    ChunkerParameters,
    Component,
    Manifest,
    PatchReference,
    sign_manifest,
)
from protocol.sealing import Sealing
from protocol.submit_messages import (
    Refusal,
    SubmitAnswer,
    SubmitBatchAnswer,
    SubmitBatchRequest,
    SubmitRequest,
)
from protocol.transaction import TRANSACTION_TAG, Transaction, sign_transaction

DIRECTORY: Final = Path(__file__).parents[1] / "vectors" / "protocol"
"""Where the files are."""
TIME_MS: Final = 1_767_225_600_000
"""2026-01-01T00:00:00Z, the time of the example chain's genesis."""
_PURPOSES: Final = {
    SubjectKind.VALIDATOR: (KeyPurpose.TRANSPORT, KeyPurpose.NODE, KeyPurpose.VALIDATOR),
    SubjectKind.GATEWAY: (KeyPurpose.TRANSPORT, KeyPurpose.NODE),
    SubjectKind.PUBLISHER: (KeyPurpose.TRANSPORT, KeyPurpose.NODE, KeyPurpose.PERSON),
    SubjectKind.PERSON: (KeyPurpose.PERSON,),
}


def key(name: str) -> PrivateKey:
    """The private key whose seed is SHA-256 of `swarmd vector key: <name>`."""
    return PrivateKey(sha256(f"swarmd vector key: {name}".encode()))


def _join(kind: SubjectKind, name: str, *groups: str) -> JoinStatement:
    keys = [key(f"{name}/{purpose.name.lower()}") for purpose in _PURPOSES[kind]]
    pairs = [
        tuple(
            (purpose, key(f"{name}/{purpose.name.lower()}{suffix}").public) for purpose in purposes
        )
        for suffix, purposes in (("", _PURPOSES[kind]), ("/next", rotating(_PURPOSES[kind])))
    ]
    record = DidRecord(
        kind=kind, name=name, keys=pairs[0], next_keys=next_keys_digest(pairs[1]), groups=groups
    )
    return sign_join(record, keys)


def _root(threshold: int, *names: str) -> OwnerRoot:
    owners = sorted((key(name).public, name) for name in names)
    return OwnerRoot(version=1, threshold=threshold, owners=tuple(owners))


def example_group() -> Group:
    """Group `edge`: two of alice, bob and carol."""
    return Group(
        name="edge",
        owner_root=_root(2, "alice", "bob", "carol"),
        policy=Policy(
            approve_threshold=2,
            revoke_threshold=2,
            amend_threshold=2,
            enrol_threshold=1,
            amend_delay_ms=DAY_MS,
            offer_freshness_ms=3 * DAY_MS,
            serve_freshness_ms=7 * DAY_MS,
        ),
    )


def example_genesis() -> Genesis:
    """Four validators, a publisher and a gateway."""
    validators = [_join(SubjectKind.VALIDATOR, f"validator-{index}") for index in range(4)]
    others = [
        _join(SubjectKind.PUBLISHER, "publisher", "edge"),
        _join(SubjectKind.GATEWAY, "gateway", "edge"),
    ]
    return Genesis(
        name="example",
        era=0,
        time_ms=TIME_MS,
        parameters=Parameters(),
        validators=tuple(join.record.did for join in validators),
        joins=tuple(sorted([*validators, *others], key=lambda join: join.record.did)),
        groups=(example_group(),),
        governance_root=_root(2, "governor-1", "governor-2", "governor-3"),
    )


def example_manifest(publisher: DidId) -> Manifest:
    """One component of every optional field, one without."""
    return Manifest(
        era=0,
        publisher=publisher,
        product="gateway-os",
        version="2.1.0 „Möwe“",
        sequence=21,
        groups=("edge",),
        components=(
            Component(
                name="rootfs",
                size=40_000,
                digest=sha256(b"rootfs"),
                chunker=ChunkerParameters(
                    kind=ChunkerKind.FASTCDC, minimum=4096, average=16384, maximum=65536
                ),
                chunk_count=3,
                recipe_root=sha256(b"recipe of rootfs"),
                plain_digest=sha256(b"plain rootfs"),
                sealing=Sealing(ring=sha256(b"ring"), generation=2, nonce=bytes(range(32, 48))),
                vendor_id=bytes(range(16)),
                class_id=bytes(range(16, 32)),
            ),
            Component(
                name="bootloader",
                size=1500,
                digest=sha256(b"bootloader"),
                chunker=ChunkerParameters(
                    kind=ChunkerKind.FIXED, minimum=1024, average=1024, maximum=1024
                ),
                chunk_count=2,
                recipe_root=sha256(b"recipe of bootloader"),
                patches=(
                    PatchReference(
                        base=sha256(b"bootloader before"),
                        size=300,
                        digest=sha256(b"patch"),
                        chunker=ChunkerParameters(
                            kind=ChunkerKind.FIXED, minimum=1024, average=1024, maximum=1024
                        ),
                        chunk_count=1,
                        recipe_root=sha256(b"recipe of patch"),
                    ),
                ),
            ),
        ),
        expires_ms=TIME_MS + 365 * DAY_MS,
        stepping_stones=(ManifestId(sha256(b"stone")),),
        dependencies=(("modem", 3),),
        sbom_digest=sha256(b"sbom"),
        suit_digest=sha256(b"suit"),
        metadata={"note": "свежая", "b": ""},
    )


def _plain(kind: str, raw: bytes, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "bytes": raw.hex(), **more}


def _signed(kind: str, signed: Signed, signer: str, tag: str, chain: ChainId) -> dict[str, Any]:
    context = signing_context(tag, chain, 0)
    return {
        "kind": kind,
        "bytes": signed.raw.hex(),
        "sha256": sha256(signed.raw).hex(),
        "signer": signer,
        "tag": tag,
        "era": 0,
        "payload": signed.payload.hex(),
        "to_be_signed": signature_input(signed.protected, context, signed.payload).hex(),
        "signature": signed.signature.hex(),
    }


def _keys() -> dict[str, Any]:
    names = ("alice", "bob", "carol", "publisher/person", "gateway/node", "validator-0/validator")
    entries = {
        name: {
            "seed": key(name).seed().hex(),
            "public": key(name).public.raw.hex(),
            "key_id": key(name).public.key_id.hex(),
            "did_key": did_key_text(key(name).public),
        }
        for name in names
    }
    return {"keys": entries}


def _identities() -> dict[str, Any]:
    genesis = example_genesis()
    group = example_group()
    subjects = [
        _plain(
            "record",
            join.record_bytes,
            name=join.record.name,
            did=join.record.did.hex(),
            did_text=did_text(genesis.chain, join.record.did),
            signatures=[signature.hex() for signature in join.signatures],
        )
        for join in genesis.joins
    ]
    return {
        "subjects": subjects,
        "group": _plain("group", group.encode()),
        "policy": _plain("policy", group.policy.encode(), policy_id=group.policy.policy_id.hex()),
        "genesis": _plain("genesis", genesis.encode(), chain=genesis.chain.hex()),
    }


def _objects() -> dict[str, Any]:
    genesis, group = example_genesis(), example_group()
    chain = genesis.chain
    dids = {join.record.name: join.record.did for join in genesis.joins}
    manifest = sign_manifest(example_manifest(dids["publisher"]), key("publisher/person"), chain)
    entries = [_signed("manifest", manifest.signed, "publisher/person", MANIFEST_TAG, chain)]
    for action, owner in ((Action.AUTHORISE, "alice"), (Action.REVOKE, "bob")):
        approval = Approval(
            era=0,
            action=action,
            subject=sha256(manifest.signed.raw),
            group=group.name,
            policy=group.policy.policy_id,
            valid_until_ms=TIME_MS + DAY_MS,
        )
        made = sign_approval(approval, key(owner), chain)
        entries.append(_signed("approval", made.signed, owner, APPROVAL_TAG, chain))
    transaction = Transaction(
        era=0,
        signer=dids["gateway"],
        nonce=0,
        valid_until_ms=TIME_MS + DAY_MS,
        kind="manifest.propose",
        body={0: manifest.signed.raw, -1: ["an extension"]},
    )
    sent = sign_transaction(transaction, key("gateway/node"), chain)
    entries.append(_signed("transaction", sent.signed, "gateway/node", TRANSACTION_TAG, chain))
    for about in (manifest.manifest_id, None):
        announcement = Announcement(
            era=0,
            author=dids["gateway"],
            topic=f"/swarmd/{chain.hex()}/group/edge/1",
            manifest=about,
            height=7,
            block_id=BlockId(sha256(b"header 7")),
        )
        said = sign_announcement(announcement, key("gateway/node"), chain)
        entries.append(
            _signed("announcement", said.signed, "gateway/node", ANNOUNCEMENT_TAG, chain)
        )
    freshness = Freshness(
        era=0,
        validator=0,
        epoch=1,
        height=7,
        block_id=BlockId(sha256(b"header 7")),
        nonces=sha256(b"nonces"),
        time_ms=TIME_MS,
    )
    stated = sign_freshness(freshness, key("validator-0/validator"), chain)
    entries.append(
        _signed("freshness", stated.signed, "validator-0/validator", FRESHNESS_TAG, chain)
    )
    return {"chain": chain.hex(), "objects": entries}


def _messages() -> dict[str, Any]:
    digest = sha256(b"digest")
    hello = Hello(era=0, epoch=1, height=7, did=DidId(digest), membership=b"proof")
    answers = {
        "welcome": HelloAnswer(status=HelloStatus.WELCOME, epoch_steps=(b"step",), hello=hello),
        "refused": HelloAnswer(status=HelloStatus.REFUSED, epoch_steps=(), hello=None),
    }
    ledger: dict[str, LedgerMessage] = {
        "head-request": HeadRequest(),
        "head-answer": HeadAnswer(header=b"header", certificate=b"certificate"),
        "blocks-request": BlocksRequest(from_height=8),
        "blocks-answer": BlocksAnswer(blocks=(b"block 8", b"block 9"), certificate=b"certificate"),
        "blocks-answer-empty": BlocksAnswer(blocks=(), certificate=b""),
        "submit-request": SubmitRequest(transaction=b"transaction"),
        "submit-answer": SubmitAnswer(transaction_id=TransactionId(digest)),
        "freshness-request": FreshnessRequest(nonce=bytes(range(32)), relay=True),
        "freshness-answer": FreshnessAnswer(statements=((b"statement", 1, (digest,), 2),)),
        "refusal": Refusal(rule="height.unknown", message="not that far yet", may_retry=True),
        "submit-batch-request": SubmitBatchRequest(transactions=(b"transaction", b"another")),
        "submit-batch-answer": SubmitBatchAnswer(
            refusals=(None, Refusal(rule="tx.nonce", message="nonce 7 is used", may_retry=False))
        ),
    }
    entries = [_plain("hello", hello.encode(), name="hello")]
    entries += [
        _plain("hello-answer", answer.encode(), name=name) for name, answer in answers.items()
    ]
    entries += [
        _plain("ledger-message", encode_ledger_message(message), name=name)
        for name, message in ledger.items()
    ]
    return {"messages": entries}


def _refused() -> dict[str, Any]:
    policy = example_group().policy.encode()
    cases = {
        "empty input": b"",
        "bytes behind the value": policy + b"\x00",
        "truncated": policy[:-1],
        "a long integer": policy.replace(b"\x00\x01\x01", b"\x00\x18\x01\x01", 1),
        "an indefinite map": b"\xbf" + policy[1:] + b"\xff",
        "a tag": b"\xd9\xd9\xf7" + policy,
        "a float": policy.replace(b"\x00\x01\x01", b"\x00\xf9\x3c\x00\x01", 1),
        "keys out of order": b"\xa9\x01\x02\x00\x01" + policy[5:],
        "a repeated key": b"\xaa\x00\x01" + policy[1:],
        "an unknown critical field": b"\xaa" + policy[1:] + b"\x18\x63\x00",
        "a text key": b"\xaa" + policy[1:] + b"\x61\x61\x00",
        "schema 2": policy.replace(b"\x00\x01\x01", b"\x00\x02\x01", 1),
        "a million empty arrays": b"\x9a\x00\x0f\x42\x40" + b"\x80" * 64,
    }
    accepted = policy.replace(b"\xa9", b"\xaa", 1) + b"\x20\x61x"
    return {
        "kind": "policy",
        "accepted": {"as it is": policy.hex(), "with an extension": accepted.hex()},
        "refused": {reason: raw.hex() for reason, raw in cases.items()},
        "public_keys_refused": {
            "neutral element": (1).to_bytes(32, "little").hex(),
            "order 2": (2**255 - 20).to_bytes(32, "little").hex(),
            "order 4": bytes(32).hex(),
            "order 8": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "y not reduced": (2**255 - 19 + 3).to_bytes(32, "little").hex(),
        },
    }


def _encoding() -> dict[str, Any]:
    values: list[Value] = [
        0, 23, 24, 255, 256, 65535, 65536, 2**32, 2**63 - 1, -1, -24, -25, -(2**63),
        b"", b"\x00" * 24, "", "é", True, False, None, [], [1, [2]], {},
        {10: 1, 100: 2, -1: 3, "b": 4, "aa": 5, "": 6},
    ]  # fmt: skip
    digests = {
        tag: tagged_digest(tag, b"data").hex() for tag in ("swarmd/did/1", "swarmd/policy/1")
    }
    return {
        "canonical": [{"value": repr(one), "bytes": encode_canonical(one).hex()} for one in values],
        "tagged_digests_of_data": digests,
        "signing_context": signing_context("swarmd/x/1", ChainId(bytes(32)), 1).hex(),
    }


def build() -> dict[str, dict[str, Any]]:
    """Every file's content by name."""
    return {
        "encoding.json": _encoding(),
        "keys.json": _keys(),
        "identities.json": _identities(),
        "objects.json": _objects(),
        "messages.json": _messages(),
        "refused.json": _refused(),
    }


def render(content: dict[str, Any]) -> str:
    """The text of one file."""
    return json.dumps(content, indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    for file_name, document in build().items():
        (DIRECTORY / file_name).write_text(render(document), encoding="utf-8")

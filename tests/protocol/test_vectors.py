"""The pinned vectors: reproduced from their seeds, and read as an outsider would."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocol.announcement import parse_announcement
from protocol.approval import parse_approval
from protocol.catchup import decode_ledger_message, parse_freshness
from protocol.cose import parse_signed
from protocol.did import JoinStatement, decode_record, did_text
from protocol.digest import ChainId, sha256
from protocol.errors import EncodingError
from protocol.genesis import decode_genesis
from protocol.group import decode_group, decode_policy
from protocol.hello import decode_hello, decode_hello_answer
from protocol.keys import PrivateKey, PublicKey
from protocol.manifest import parse_manifest
from protocol.transaction import parse_transaction
from tests.support import protocol_vectors

FILES = ("encoding.json", "keys.json", "identities.json", "objects.json", "messages.json")
PARSERS: dict[str, Any] = {
    "manifest": parse_manifest,
    "approval": parse_approval,
    "transaction": parse_transaction,
    "announcement": parse_announcement,
    "freshness": parse_freshness,
    "hello": decode_hello,
    "hello-answer": decode_hello_answer,
    "ledger-message": decode_ledger_message,
}


def committed(name: str) -> dict[str, Any]:
    text = (protocol_vectors.DIRECTORY / name).read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


@pytest.mark.parametrize("name", [*FILES, "refused.json"])
def test_the_generator_reproduces_every_file(name: str) -> None:
    text = (protocol_vectors.DIRECTORY / name).read_text(encoding="utf-8")
    assert protocol_vectors.render(protocol_vectors.build()[name]) == text


def test_no_file_is_without_a_generator() -> None:
    found = {path.name for path in protocol_vectors.DIRECTORY.glob("*.json")}
    assert found == set(protocol_vectors.build())


def test_keys() -> None:
    for entry in committed("keys.json")["keys"].values():
        made = PrivateKey(bytes.fromhex(entry["seed"])).public
        assert made == PublicKey(bytes.fromhex(entry["public"]))
        assert made.key_id.hex() == entry["key_id"]


def test_signed_objects_verify_under_their_keys() -> None:
    document, keys = committed("objects.json"), committed("keys.json")["keys"]
    chain = ChainId(bytes.fromhex(document["chain"]))
    assert {entry["kind"] for entry in document["objects"]} == set(list(PARSERS)[:5])
    for entry in document["objects"]:
        raw = bytes.fromhex(entry["bytes"])
        public = PublicKey(bytes.fromhex(keys[entry["signer"]]["public"]))
        assert PARSERS[entry["kind"]](raw).signed.payload.hex() == entry["payload"]
        assert sha256(raw).hex() == entry["sha256"]
        public.verify(bytes.fromhex(entry["signature"]), bytes.fromhex(entry["to_be_signed"]))
        parse_signed(raw, bytes_max=len(raw)).verify(
            public, tag=entry["tag"], chain=chain, era=entry["era"]
        )


def test_identities_and_genesis() -> None:
    document = committed("identities.json")
    genesis = decode_genesis(bytes.fromhex(document["genesis"]["bytes"]))
    assert genesis.chain.hex() == document["genesis"]["chain"]
    assert genesis.groups == (decode_group(bytes.fromhex(document["group"]["bytes"])),)
    policy = decode_policy(bytes.fromhex(document["policy"]["bytes"]))
    assert policy.policy_id.hex() == document["policy"]["policy_id"]
    for entry in document["subjects"]:
        raw = bytes.fromhex(entry["bytes"])
        signatures = tuple(bytes.fromhex(one) for one in entry["signatures"])
        record = JoinStatement(record_bytes=raw, signatures=signatures).verify()
        assert record == decode_record(raw)
        assert record.did.hex() == entry["did"]
        assert did_text(genesis.chain, record.did) == entry["did_text"]


def test_messages() -> None:
    for entry in committed("messages.json")["messages"]:
        PARSERS[entry["kind"]](bytes.fromhex(entry["bytes"]))


@pytest.mark.parametrize("reason", committed("refused.json")["refused"])
def test_what_must_be_refused(reason: str) -> None:
    raw = bytes.fromhex(committed("refused.json")["refused"][reason])
    assert raw.hex() not in committed("refused.json")["accepted"].values()
    with pytest.raises(EncodingError):
        decode_policy(raw)


def test_what_must_be_accepted_beside_it() -> None:
    for raw in committed("refused.json")["accepted"].values():
        assert decode_policy(bytes.fromhex(raw)).encode().hex() == raw


def test_keys_that_must_be_refused() -> None:
    for raw in committed("refused.json")["public_keys_refused"].values():
        with pytest.raises(EncodingError):
            PublicKey(bytes.fromhex(raw))

"""The relay's messages are pinned, and are what the CDDL says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from protocol.relay_messages import Push, RelayKind, decode_relay, encode_relay
from tests.support.relay_vectors import MESSAGES, PATH, render

CDDL = (Path(__file__).parents[2] / "docs" / "spec" / "swarmd.cddl").read_text(encoding="utf-8")


def bodies() -> dict[str, bytes]:
    return {v["name"]: bytes.fromhex(v["frame_body"]) for v in json.loads(render())["messages"]}


def test_the_vectors_are_what_the_code_writes() -> None:
    assert PATH.read_text(encoding="ascii") == render()


def test_every_vector_decodes_to_the_message_it_stands_for() -> None:
    assert list(bodies()) == list(MESSAGES)
    for name, body in bodies().items():
        assert decode_relay(body) == MESSAGES[name], name
        assert b"".join(encode_relay(decode_relay(body))) == body, name
    assert {body[0] for body in bodies().values()} == {int(kind) for kind in RelayKind}


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, m in MESSAGES.items() if not isinstance(m, Push)])
def test_every_map_fits_its_rule(name: str) -> None:
    pycddl = pytest.importorskip("pycddl", reason="needs pycddl")
    plain = re.sub(r"bytes \.cbor [a-z-]+", "bytes", CDDL)
    body = bodies()[name]
    rule = name.split("-", maxsplit=1)[0]
    pycddl.Schema(f"root = {rule}\n{plain}").validate_cbor(body[1:])

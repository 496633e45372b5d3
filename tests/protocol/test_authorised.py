"""`AuthorisedManifest`: its invariants, and the one place that builds it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from protocol.authorised import AuthorisedManifest
from protocol.digest import BlockId, DidId, PolicyId, sha256
from protocol.errors import LocalProtocolError
from protocol.manifest import DEFAULT_CHUNKER, Component, Manifest, sign_manifest
from tests.support.strategies import CHAIN, key

DIGEST = sha256(b"x")
SIGNED = sign_manifest(
    Manifest(
        era=0,
        publisher=DidId(DIGEST),
        product="p",
        version="1",
        sequence=1,
        groups=("edge", "lab"),
        components=(
            Component(
                name="c",
                size=1,
                digest=DIGEST,
                chunker=DEFAULT_CHUNKER,
                chunk_count=1,
                recipe_root=DIGEST,
            ),
        ),
    ),
    key(1),
    CHAIN,
)


def authorised(**changes: Any) -> AuthorisedManifest:
    values = {
        "signed": SIGNED,
        "groups": ("edge",),
        "policies": (PolicyId(DIGEST),),
        "approvers": (("alice", "bob"),),
        "height": 5,
        "block_id": BlockId(DIGEST),
    }
    return AuthorisedManifest(**{**values, **changes})


def test_it_names_its_manifest() -> None:
    assert authorised().manifest_id == SIGNED.manifest_id
    assert authorised().manifest == SIGNED.manifest


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": (), "policies": (), "approvers": ()},
        {"groups": ("edge", "lab")},
        {"policies": ()},
        {"approvers": ()},
        {"approvers": ((),)},
        {"groups": ("other",)},
    ],
)
def test_a_verdict_without_groups_policies_or_approvers_is_a_defect(changes: Any) -> None:
    with pytest.raises(LocalProtocolError):
        authorised(**changes)


@pytest.mark.slow
def test_only_the_authority_builds_it() -> None:
    root = Path(__file__).parents[2]
    packages = ("protocol", "chunks", "ledger", "swarmd")
    sources = [path for package in packages for path in (root / package).rglob("*.py")]
    builders = {
        path.relative_to(root).as_posix()
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and "AuthorisedManifest" in ast.unparse(node.func)
    }
    assert builders <= {"swarmd/authority.py"}

"""A release whose authorisation is a proof file: a ledger certifies it, whoever fetches it checks.

A lab's validators commit the manifest in real blocks; what is written beside an image is the
genesis document and one proof file, as an operator would take them offline.
"""

from __future__ import annotations

from pathlib import Path

from ledger.proof_make import make_proof
from ledger.proof_verify import verify_authorisation
from protocol.authorised import AuthorisedManifest
from protocol.digest import sha256
from protocol.genesis import Genesis, decode_genesis
from protocol.manifest import Component
from tests.support.ledger import FLEET, advance, authorise, make_lab

GENESIS = "fw.genesis"
PROOF = "fw.proof"


def write_proved(folder: Path, component: Component) -> None:
    """Authorises a release of one component in a new chain; writes genesis and proof."""
    lab = make_lab()
    chain = lab.open_chain()
    manifest = lab.manifest(components=(component,))
    authorise(lab, chain, manifest)
    advance(lab, chain)
    (folder / PROOF).write_bytes(make_proof(chain, manifest.manifest_id, FLEET))
    (folder / GENESIS).write_bytes(lab.genesis.encode())


def read_proved(folder: Path) -> tuple[Genesis, AuthorisedManifest]:
    """Checks certificate, state, owners' consent and the manifest; gives what they authorise."""
    genesis = decode_genesis((folder / GENESIS).read_bytes())
    shown = verify_authorisation((folder / PROOF).read_bytes(), genesis)
    authorised = AuthorisedManifest(
        signed=shown.signed,
        groups=(shown.group,),
        policies=(shown.policy.policy_id,),
        approvers=(shown.approvers,),
        height=shown.height,
        block_id=shown.header.block_id,
    )
    return genesis, authorised


def proof_digest(folder: Path) -> bytes:
    """Names a proof, for keys that both ends derive."""
    return sha256((folder / PROOF).read_bytes())

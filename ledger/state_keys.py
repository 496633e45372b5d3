"""Keys of the state tree: a short prefix, then parts of fixed or stated length.

No key is a prefix of another of its kind, and no two kinds share a prefix up to the first slash, so
that each key can be read in one way only. docs/spec/ledger.md lists them.
"""

from __future__ import annotations

from protocol.approval import Action
from protocol.digest import DidId, Digest, ManifestId, PolicyId
from protocol.keys import PublicKey

GOVERNANCE_KEY = b"c/governance"
"""The governance root."""
EPOCH_KEY = b"c/epoch"
"""The current epoch: its start, the chain's parameters, and what is decided for the next one."""
CHECKPOINT_KEY = b"c/checkpoint"
"""The newest checkpoint of the governance root."""
ERA_KEY = b"c/era"
"""How the current era began; absent in the first."""


def subject_key(did: DidId) -> bytes:
    """`d/<did>`: a subject's current record."""
    return b"d/" + did


def account_key(did: DidId) -> bytes:
    """`n/<did>`: a signer's nonces and shares."""
    return b"n/" + did


def attributes_key(did: DidId, group: str) -> bytes:
    """`at/<did><group>`: what a group's owners certify of a subject."""
    return b"at/" + did + group.encode()


def seat_key(seat: Digest) -> bytes:
    """`se/<seat>`: a seat of an enrolment token that was taken."""
    return b"se/" + seat


def holder_key(key: PublicKey) -> bytes:
    """`k/<public key>`: the subject that holds, or once held, a key."""
    return b"k/" + key.raw


def group_key(group: str) -> bytes:
    """`g/<group>`: a group's owner root and policies."""
    return b"g/" + group.encode()


def origin_key(group: str) -> bytes:
    """`o/<group>`: a group's original bytes, which governance approved."""
    return b"o/" + group.encode()


def policy_key(policy: PolicyId) -> bytes:
    """`p/<policy id>`: a policy's bytes."""
    return b"p/" + policy


def manifest_key(manifest: ManifestId, group: str) -> bytes:
    """`m/<manifest id><group>`: a manifest's standing in one group."""
    return b"m/" + manifest + group.encode()


def latest_key(group: str, product: str) -> bytes:
    """`l/<group>/<product>`: the newest release; group names hold no slash."""
    return b"l/" + group.encode() + b"/" + product.encode()


def approval_key(subject: Digest, action: Action, key_id: Digest, group: str) -> bytes:
    """`ap/<subject><action><key id><group>`: one owner's approval, action as one byte."""
    return b"ap/" + subject + bytes((action,)) + key_id + group.encode()


def facts_key(manifest: ManifestId) -> bytes:
    """`mf/<manifest id>`: what rules may ask of a manifest's content."""
    return b"mf/" + manifest


def events_key(group: str) -> bytes:
    """`ev/<group>`: when a group lately proposed, authorised and revoked manifests."""
    return b"ev/" + group.encode()


def placement_key(group: str) -> bytes:
    """`gp/<group>`: a group's parent and selector; absent: neither."""
    return b"gp/" + group.encode()


def children_key(parent: str | None) -> bytes:
    """`gc/<group>`: its child groups; `gc/` those groups without parent that have a selector."""
    return b"gc/" + ("" if parent is None else parent).encode()


def rotation_key(group: str, version: int) -> bytes:
    """`or/<group>/<version>`: how a group came to this owner root; 8 bytes big-endian."""
    return b"or/" + group.encode() + b"/" + version.to_bytes(8, "big")


def tenant_key(group: str) -> bytes:
    """`t/<group>`: what the gateways of a group have used up."""
    return b"t/" + group.encode()


def open_key(publisher: DidId, group: str) -> bytes:
    """`op/<publisher><group>`: manifests that wait for owners."""
    return b"op/" + publisher + group.encode()


def anchor_key(did: DidId) -> bytes:
    """`a/<did>`: the newest anchor of a node's receipt log."""
    return b"a/" + did


def evidence_key(epoch: int, signer: int) -> bytes:
    """`e/<epoch><signer>`: a validator's conviction; 8 bytes big-endian and one byte."""
    return b"e/" + epoch.to_bytes(8, "big") + bytes((signer,))


def validator_key(did: DidId) -> bytes:
    """`vk/<did>`: a validator's certified keys, and whether it was convicted."""
    return b"vk/" + did


def validators_key(epoch: int) -> bytes:
    """`v/<epoch>`: the validator set of an epoch; 8 bytes big-endian."""
    return b"v/" + epoch.to_bytes(8, "big")


def rollout_key(manifest: ManifestId, group: str) -> bytes:
    """`ro/<manifest id><group>`: how far a release has come in a group."""
    return b"ro/" + manifest + group.encode()


def health_key(manifest: ManifestId, did: DidId, group: str) -> bytes:
    """`h/<manifest id><did><group>`: what one gateway reported of a release."""
    return b"h/" + manifest + did + group.encode()


def site_health_key(manifest: ManifestId, site: Digest, group: str) -> bytes:
    """`hs/<manifest id><site><group>`: what the gateways of one site reported of a release."""
    return b"hs/" + manifest + site + group.encode()


def pauses_key(group: str | None) -> bytes:
    """`em/<group>`: emergency pauses of a group; `em/` those of the whole chain."""
    return b"em/" + ("" if group is None else group).encode()


def quarantine_key(did: DidId, group: str) -> bytes:
    """`q/<did><group>`: what a subject may not do with images in a group."""
    return b"q/" + did + group.encode()


def opinion_key(did: DidId, group: str) -> bytes:
    """`r/<did><group>`: what other owners of a group think of a subject."""
    return b"r/" + did + group.encode()


def tally_key(group: str) -> bytes:
    """`qd/<group>`: how many of a group opinion has put into quarantine lately."""
    return b"qd/" + group.encode()


def census_key(group: str) -> bytes:
    """`gm/<group>`: how many active peers a group has."""
    return b"gm/" + group.encode()


def self_conviction_key(did: DidId) -> bytes:
    """`cv/<did>`: a subject whose own signatures contradict each other."""
    return b"cv/" + did


def capabilities_key(did: DidId, group: str) -> bytes:
    """`cap/<did><group>`: a subject's capabilities in a group."""
    return b"cap/" + did + group.encode()


def issue_key(capability: Digest) -> bytes:
    """`ci/<capability id>`: what became of a capability."""
    return b"ci/" + capability


def split_manifest_key(key: bytes) -> tuple[ManifestId, str]:
    """Reads a key made by `manifest_key`."""
    return ManifestId(key[2:34]), key[34:].decode()


def split_evidence_key(key: bytes) -> tuple[int, int]:
    """Reads a key made by `evidence_key`: (epoch, index of the validator)."""
    return int.from_bytes(key[2:10], "big"), key[10]

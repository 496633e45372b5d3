from __future__ import annotations

from ledger.records import ManifestStatus
from tests.support.ledger import FLEET, advance, make_lab


def test_main_job():
    lab = make_lab()
    chain, follower = lab.open_chain(), lab.open_chain()
    manifest = lab.manifest()
    advance(lab, chain, [lab.propose(manifest)])
    result = advance(lab, chain, [lab.approve(manifest.manifest_id)])
    assert result.manifests[0].record.status is ManifestStatus.AUTHORISED
    advance(lab, chain, [lab.revoke(manifest.manifest_id)])
    from ledger.block import decode_block
    raws, certificate = chain.blocks(1, 10**6)
    follower.follow([decode_block(r) for r in raws], certificate)
    assert follower.head == chain.head
    assert follower.manifest_record(manifest.manifest_id, FLEET).status is ManifestStatus.REVOKED

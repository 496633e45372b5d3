"""What independent builders attest: the content of a release, whoever packed it.

Two builds of one source agree on the plain bytes of each component and on nothing else: not on how
they were sealed, cut or signed. So the digest names components and their plain bytes only (K45).
Of sealed components the manifest has a salted digest, lest it confirm guesses: whoever attests one
is told the salt and hashes the own build under it.
"""

from __future__ import annotations

from typing import Final

from protocol.digest import Digest, tagged_digest
from protocol.encoding import Value, encode_canonical
from protocol.manifest import Manifest

IMAGE_TAG: Final = "swarmd/image/1"
"""Domain of the digest that ATTEST approvals name."""


def image_digest(manifest: Manifest) -> Digest:
    """Digest of [product, [[component name, plain digest], ...]], ascending by name."""
    components = sorted(
        (component.name, component.plain_digest or component.digest)
        for component in manifest.components
    )
    named: list[Value] = [[name, digest] for name, digest in components]
    return tagged_digest(IMAGE_TAG, encode_canonical([manifest.product, named]))

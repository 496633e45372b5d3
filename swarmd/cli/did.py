"""`swarmd did`: who a DID is, and what owners decide about it."""

from __future__ import annotations

from typing import Final

import click

from swarmd.cli.lazy import Entry, LazySubgroup
from swarmd.cli.options import examples

COMMANDS: Final[dict[str, Entry]] = {
    "resolve": Entry("did_resolve", "Show a DID document, with proof."),
    "verify": Entry("did_resolve", "Check a proof of a DID, offline."),
    "rotate": Entry("did_rotate", "Replace a node's keys by those it committed to."),
    "offer-keys": Entry("did_recover", "Draft: new keys for a node that lost its own."),
    "sign-keys": Entry("did_recover", "Agree to new keys, as an owner or of governance."),
    "recover": Entry("did_recover", "Hand new keys that were agreed to to a node."),
    "claim": Entry("did_recover", "Put new keys in force, a day after their recovery."),
    "suspend": Entry("did_decide", "Draft: leave a subject nothing but reading."),
    "resume": Entry("did_decide", "Draft: end a suspension."),
    "revoke": Entry("did_decide", "Draft: end a subject for good."),
    "certify": Entry("did_decide", "Draft: state a subject's attributes in a group."),
    "sign": Entry("did_sign", "Agree to a draft, as an owner."),
    "submit": Entry("did_sign", "Hand a draft that enough owners signed to a node."),
}
"""Commands of the group, in the order of `--help`."""


@click.group(
    cls=LazySubgroup,
    entries=COMMANDS,
    epilog=examples(
        "swarmd did resolve did:swarm:0ce67565:mfrgg... -C lab/gateway-1 --proof gw.proof",
        "swarmd did suspend did:swarm:0ce67565:mfrgg... --group fleet -C lab/gateway-1 \\",
        "       -o gw.decision",
        "swarmd did sign gw.decision --key ada.key",
        "swarmd did submit gw.decision -C lab/gateway-1",
    ),
)
def did() -> None:
    """Resolve DIDs to documents, and decide about subjects as owners of their groups.

    A decision is a file: drafted at a node, signed by one owner after the other on machines of
    their own, and handed to any node once enough have signed.
    """

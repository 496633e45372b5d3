"""`swarmd override`: owners let one release pass freezes and emergency pauses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from protocol.errors import ConfigError, PolicyError
from swarmd.cli.contract_draft import draft_options, finish
from swarmd.cli.options import call, examples, manifest_argument
from swarmd.cli.output import Output


@click.command(
    epilog=examples(
        "swarmd override 3f2a... --group fleet -C lab/gateway-1 \\",
        "       --key lab/keys/owner-1.key --key lab/keys/owner-2.key",
        "swarmd override 3f2a... --group fleet -C lab/gateway-1 -o o.decision",
    )
)
@manifest_argument
@click.option("--group", metavar="GROUP", help="In which group [default: the only target group].")
@draft_options
def override(
    output: Output, manifest: str, group: str | None, directory: Path, **options: Any
) -> None:
    """Let a release pass freezes and pauses, as owners.

    Takes as many owners as may change the policy. It approves nothing: approvals, attestations,
    soak and the policy's rule hold as before. Write a file with -o for owners who are elsewhere.
    """
    from ledger.bodies.manifest import OverrideManifest
    from protocol.digest import ManifestId
    from swarmd.cli.judgement import read_view
    from swarmd.datadir import open_data_dir

    chain = open_data_dir(directory).load_genesis().chain
    reply = call(directory, "manifest", {"manifest": manifest})
    view = read_view(reply, ManifestId(bytes.fromhex(manifest)), chain)
    names = [one.name for one in view.groups]
    if group is None and len(names) != 1:
        raise ConfigError(f"which group? --group, one of {', '.join(names)}")
    found = next((one for one in view.groups if group in (None, one.name)), None)
    if found is None:
        raise PolicyError("group.unknown", f"the manifest does not target {group!r}")
    output.note(f"{view.manifest.product} {view.manifest.version}, {found.status} in {found.name}")
    # A manifest is judged under the policy of its proposal, and its override names that one.
    facts = {**reply, "policy_id": found.policy.hex()}
    body = OverrideManifest(manifest=view.manifest_id, group=found.name, approvals=())
    finish(output, body, facts, directory=directory, **options)

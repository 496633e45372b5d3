"""`swarmd keys`: keys of people, and what is public about any key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarmd.cli.options import examples, json_option, pass_output
from swarmd.cli.output import Output, table

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON


@click.group()
def keys() -> None:
    """Make or show keys of people and nodes."""


@keys.command("new", epilog=examples("swarmd keys new ada.key --name ada"))
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--name", help="The holder's name, for the network plan [default: FILE's name].")
@json_option
@pass_output
def keys_new(output: Output, file: Path, name: str | None) -> None:
    """Make the key of a person: an owner, an approver, or a governor.

    FILE holds the private key, readable by you alone; keep it off the nodes. What is printed is
    public and goes into the plan of a network.
    """
    from protocol.did import did_key_text
    from swarmd.enrolment import new_key, write_person_key
    from swarmd.entropy import SystemEntropy

    key = new_key(SystemEntropy())
    write_person_key(file, key)
    holder = file.stem if name is None else name
    text = did_key_text(key.public)
    output.note(f'private key written to {file}; in a plan: ["{holder}", "{text}"]')
    output.result({"file": str(file.absolute()), "name": holder, "did_key": text}, text)


@keys.command("show", epilog=examples("swarmd keys show ada.key", "swarmd keys show lab/gateway-1"))
@click.argument("path", type=click.Path(exists=True, path_type=Path), metavar="FILE|DIR")
@json_option
@pass_output
def keys_show(output: Output, path: Path) -> None:
    """Show the public side of a key file, or of all keys of a node's folder."""
    if path.is_dir():
        _show_node(output, path)
        return
    from protocol.did import did_key_text
    from swarmd.datadir import load_key

    text = did_key_text(load_key(path).public)
    output.result({"file": str(path.absolute()), "did_key": text}, text)


def _show_node(output: Output, path: Path) -> None:
    from protocol.did import did_key_text
    from protocol.keys import PublicKey
    from swarmd.datadir import KeyName, open_data_dir
    from swarmd.net.address import PeerKey, peer_id_text

    directory = open_data_dir(path)
    public: dict[str, PublicKey] = {}
    for name in (text for key in KeyName for text in (key.value, key.next)):
        if directory.key_path(name).exists():
            public[name] = directory.load_key(name).public
    dids: dict[str, JSON] = {name: did_key_text(key) for name, key in public.items()}
    peer = peer_id_text(PeerKey(public[KeyName.TRANSPORT].raw))
    rows = [[name, str(did)] for name, did in dids.items()]
    document: JSON = {"directory": str(directory.path), "peer": peer, "keys": dids}
    output.result(document, f"{table(['key', 'did:key'], rows)}\n\npeer {peer}")

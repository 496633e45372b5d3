"""`swarmd keys`: keys of people, how keys lie on disk, and what is public about any key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protocol.errors import ConfigError
from swarmd.cli.key_options import chosen_passphrases, passphrase_options
from swarmd.cli.options import examples, json_option, pass_output
from swarmd.cli.output import Output, table

if TYPE_CHECKING:
    from protocol.keys import PublicKey
    from swarmd.control.protocol import JSON
    from swarmd.datadir import DataDir


@click.group()
def keys() -> None:
    """Make or show keys of people and nodes, and encrypt them where they lie."""


@keys.command(
    "new",
    epilog=examples("swarmd keys new ada.key --name ada", "swarmd keys new ada.key --encrypt"),
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--name", help="The holder's name, for the network plan [default: FILE's name].")
@click.option("--encrypt", is_flag=True, help="Encrypt the key under a passphrase.")
@passphrase_options
@json_option
@pass_output
def keys_new(
    output: Output,
    file: Path,
    name: str | None,
    encrypt: bool,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
) -> None:
    """Make the key of a person: an owner, an approver, or a governor.

    FILE holds the private key, readable by you alone; keep it off the nodes. What is printed is
    public and goes into the plan of a network.
    """
    from protocol.did import did_key_text
    from swarmd.enrolment import new_key
    from swarmd.entropy import SystemEntropy
    from swarmd.keys.key_writer import write_key_file

    asked = encrypt or passphrase_file is not None or passphrase_fd is not None
    passphrase = _new_passphrase(file, passphrase_file, passphrase_fd) if asked else None
    key = new_key(SystemEntropy())
    write_key_file(file, key, passphrase)
    holder = file.stem if name is None else name
    text = did_key_text(key.public)
    how = "encrypted private key" if asked else "private key"
    output.note(f'{how} written to {file}; in a plan: ["{holder}", "{text}"]')
    document: JSON = {
        "file": str(file.absolute()),
        "name": holder,
        "did_key": text,
        "encrypted": asked,
    }
    output.result(document, text)


def _new_passphrase(path: Path, passphrase_file: Path | None, passphrase_fd: int | None) -> bytes:
    from swarmd.keys.passphrase import choose_source, new_from_prompt
    from swarmd.keys.pem import check_new_passphrase

    source = choose_source(
        file=passphrase_file, descriptor=passphrase_fd, otherwise=new_from_prompt
    )
    return check_new_passphrase(source(f"key {path}"))


@keys.command("show", epilog=examples("swarmd keys show ada.key", "swarmd keys show lab/gateway-1"))
@click.argument("path", metavar="FILE|DIR|fd:N|pkcs11:...")
@passphrase_options
@json_option
@pass_output
def keys_show(
    output: Output, path: str, passphrase_file: Path | None, passphrase_fd: int | None
) -> None:
    """Show the public side of a key, or of all keys of a node's folder."""
    from protocol.did import did_key_text
    from swarmd.keys.key_file import is_encrypted_file
    from swarmd.keys.signer import open_signer

    passphrases = chosen_passphrases(passphrase_file, passphrase_fd)
    place = Path(path)
    if place.is_dir():
        _show_node(output, place, passphrase_file, passphrase_fd)
        return
    text = did_key_text(open_signer(path, passphrases).public)
    document: dict[str, JSON] = {"did_key": text}
    if place.is_file():
        document |= {"file": str(place.absolute()), "encrypted": is_encrypted_file(place)}
    output.result(document, text)


def _show_node(
    output: Output, path: Path, passphrase_file: Path | None, passphrase_fd: int | None
) -> None:
    from protocol.did import did_key_text
    from swarmd.datadir import KeyName, open_data_dir
    from swarmd.keys.key_file import is_encrypted_file, load_sealing_key
    from swarmd.keys.passphrase import remembered
    from swarmd.keys.sealing_key import SEALING_KEY_NAME
    from swarmd.net.address import PeerKey, peer_id_text

    directory = open_data_dir(path)
    passphrases = remembered(chosen_passphrases(passphrase_file, passphrase_fd))
    public: dict[str, PublicKey] = {}
    encrypted: list[str] = []
    for name in _key_names(directory):
        public[name] = directory.load_key(name, passphrases).public
        if is_encrypted_file(directory.key_path(name)):
            encrypted.append(name)
    sealing = directory.key_path(SEALING_KEY_NAME)
    sealing_key = load_sealing_key(sealing, passphrases).public.hex() if sealing.exists() else None
    if sealing_key is not None and is_encrypted_file(sealing):
        encrypted.append(SEALING_KEY_NAME)
    dids: dict[str, JSON] = {name: did_key_text(key) for name, key in public.items()}
    peer = peer_id_text(PeerKey(public[KeyName.TRANSPORT].raw))
    rows = [[name, str(did)] for name, did in dids.items()]
    if sealing_key is not None:
        rows.append([SEALING_KEY_NAME, f"X25519 {sealing_key}"])
    document: JSON = {
        "directory": str(directory.path),
        "peer": peer,
        "keys": dids,
        "sealing_key": sealing_key,
        "encrypted": list(encrypted),
    }
    output.result(document, f"{table(['key', 'did:key'], rows)}\n\npeer {peer}")


def _key_names(directory: DataDir) -> list[str]:
    from swarmd.datadir import KeyName

    names = [text for key in KeyName for text in (key.value, key.next)]
    names += sorted(path.stem for path in directory.keys.glob(f"{KeyName.VALIDATOR}-*.key"))
    return [name for name in names if directory.key_path(name).exists()]


def _key_paths(path: Path) -> list[Path]:
    """The key files that a command is about: one, or those of a node's folder."""
    from swarmd.datadir import open_data_dir

    if not path.is_dir():
        return [path]
    directory = open_data_dir(path)
    if directory.lock_holder() is not None:
        raise ConfigError(f"{path} is in use by a daemon; stop it first")
    return sorted(directory.keys.glob("*.key"))  # vote keys of later epochs among them


@keys.command(
    "encrypt",
    epilog=examples(
        "swarmd keys encrypt ada.key",
        "swarmd keys encrypt /var/lib/swarmd --passphrase-file /run/secret",
    ),
)
@click.argument("path", type=click.Path(exists=True, path_type=Path), metavar="FILE|DIR")
@passphrase_options
@json_option
@pass_output
def keys_encrypt(
    output: Output, path: Path, passphrase_file: Path | None, passphrase_fd: int | None
) -> None:
    """Encrypt a key file, or all keys of a node's folder, under a passphrase.

    The old content may survive in free blocks of the disk: rotate a key that was exposed. A node
    with encrypted keys needs the passphrase at every start (see swarmd run).
    """
    from swarmd.keys.key_file import is_encrypted_file, load_any_key_file
    from swarmd.keys.key_writer import replace_key_file

    clear = [file for file in _key_paths(path) if not is_encrypted_file(file)]
    loaded = [(file, load_any_key_file(file)) for file in clear]
    if loaded:
        passphrase = _new_passphrase(path, passphrase_file, passphrase_fd)
        for file, key in loaded:
            replace_key_file(file, key, passphrase)
    _report(output, "encrypted", clear)


@keys.command("decrypt", epilog=examples("swarmd keys decrypt ada.key"))
@click.argument("path", type=click.Path(exists=True, path_type=Path), metavar="FILE|DIR")
@passphrase_options
@json_option
@pass_output
def keys_decrypt(
    output: Output, path: Path, passphrase_file: Path | None, passphrase_fd: int | None
) -> None:
    """Write a key file, or all keys of a node's folder, in clear again."""
    from swarmd.keys.key_file import is_encrypted_file, load_any_key_file
    from swarmd.keys.key_writer import replace_key_file
    from swarmd.keys.passphrase import remembered

    passphrases = remembered(chosen_passphrases(passphrase_file, passphrase_fd))
    sealed = [file for file in _key_paths(path) if is_encrypted_file(file)]
    # All of them are opened before any is written: a wrong passphrase changes nothing.
    for file, key in [(file, load_any_key_file(file, passphrases)) for file in sealed]:
        replace_key_file(file, key, None)
    _report(output, "decrypted", sealed)


def _report(output: Output, done: str, files: list[Path]) -> None:
    document: JSON = {done: [str(file.absolute()) for file in files]}
    output.result(document, "\n".join(f"{done} {file}" for file in files) or "nothing to do")

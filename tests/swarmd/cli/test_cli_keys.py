"""`swarmd keys`: encrypted keys, and how commands and daemons get their passphrase."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.did import parse_did_key
from swarmd.datadir import DataDir, load_key, write_new
from swarmd.enrolment import load_join
from swarmd.keys.key_file import is_encrypted_file
from tests.swarmd.cli.conftest import Run

PASSPHRASE = b"correct horse battery staple"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with a passphrase."""
    path = tmp_path / "passphrase"
    write_new(path, PASSPHRASE + b"\n")
    return path


def descriptor(data: bytes) -> int:
    """The reading end of a pipe that holds `data`."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return reading


def test_an_encrypted_key_is_made_shown_and_decrypted(
    swarmd: Run, tmp_path: Path, secret: Path
) -> None:
    path = tmp_path / "ada.key"
    made = swarmd("keys", "new", path, "--passphrase-file", secret)
    assert (made.code, "encrypted private key written" in made.err) == (0, True)
    public = parse_did_key(made.out.strip())
    assert is_encrypted_file(path)
    shown = swarmd("keys", "show", path, "--passphrase-fd", descriptor(PASSPHRASE), "--json")
    assert (shown.document["did_key"], shown.document["encrypted"]) == (made.out.strip(), True)
    assert swarmd("keys", "decrypt", path, "--passphrase-file", secret).code == 0
    assert load_key(path).public == public
    assert swarmd("keys", "encrypt", path, "--passphrase-file", secret).out.startswith("encrypted")
    assert swarmd("keys", "encrypt", path, "--passphrase-file", secret).out == "nothing to do\n"
    assert load_key(path, lambda _what: PASSPHRASE).public == public


def test_a_wrong_passphrase_is_one_line_and_changes_nothing(
    swarmd: Run, tmp_path: Path, secret: Path
) -> None:
    path = tmp_path / "ada.key"
    swarmd("keys", "new", path, "--passphrase-file", secret)
    before = path.read_bytes()
    for command in ("show", "decrypt"):
        ended = swarmd("keys", command, path, "--passphrase-fd", descriptor(b"wrong"))
        assert (ended.code, ended.out) == (1, "")
        assert ended.reason == f"key {path}: wrong passphrase, or damaged"
    assert path.read_bytes() == before


def test_without_a_terminal_a_passphrase_must_be_given(
    swarmd: Run, tmp_path: Path, secret: Path
) -> None:
    path = tmp_path / "ada.key"
    assert swarmd("keys", "new", path, "--encrypt").code == 2
    assert not path.exists()
    swarmd("keys", "new", path, "--passphrase-file", secret)
    ended = swarmd("keys", "show", path)
    assert (ended.code, "no terminal to ask at" in ended.reason) == (2, True)
    both = swarmd("keys", "show", path, "--passphrase-file", secret, "--passphrase-fd", 0)
    assert (both.code, "exclude each other" in both.reason) == (2, True)


def test_a_short_passphrase_makes_no_key(swarmd: Run, tmp_path: Path) -> None:
    path = tmp_path / "ada.key"
    ended = swarmd("keys", "new", path, "--passphrase-fd", descriptor(b"short"))
    assert (ended.code, path.exists()) == (2, False)
    assert "passphrase of 5 bytes" in ended.reason


def test_all_keys_of_a_node_are_encrypted_together(
    swarmd: Run, tmp_path: Path, secret: Path
) -> None:
    folder = tmp_path / "gw"
    swarmd("init", folder, "--role", "gateway")
    files = sorted((folder / "keys").glob("*.key"))
    assert len(swarmd("keys", "encrypt", folder, "--passphrase-file", secret).out.split("\n")) == 6
    assert all(is_encrypted_file(file) for file in files)
    shown = swarmd("keys", "show", folder, "--passphrase-file", secret, "--json").document
    assert sorted(shown["encrypted"]) == sorted(file.stem for file in files)
    for purpose, key in load_join(folder / "join.json").record.keys:
        assert parse_did_key(shown["keys"][purpose.name.lower()]) == key
    doctor = swarmd("doctor", "-C", folder, "--json").document
    (keys,) = [check for check in doctor["checks"] if check["check"] == "keys"]
    assert (keys["ok"], "2 keys are encrypted" in keys["detail"]) == (True, True)
    before = [file.read_bytes() for file in files]
    wrong = swarmd("keys", "decrypt", folder, "--passphrase-fd", descriptor(b"wrong"))
    assert (wrong.code, [file.read_bytes() for file in files]) == (1, before)
    with DataDir(folder).lock():
        held = swarmd("keys", "decrypt", folder, "--passphrase-file", secret)
        assert (held.code, "in use by a daemon" in held.reason) == (2, True)


@pytest.mark.slow
def test_a_daemon_with_encrypted_keys_says_what_it_needs(
    swarmd: Run, tmp_path: Path, secret: Path
) -> None:
    lab = tmp_path / "lab"
    made = swarmd("network", "create", lab, "--validators", 4, "--gateways", 1)
    assert made.code == 0
    swarmd("keys", "encrypt", lab / "gateway-1", "--passphrase-file", secret)
    command = [sys.executable, "-m", "swarmd", "run", "-C", str(lab / "gateway-1")]
    environment = {**os.environ, "CREDENTIALS_DIRECTORY": ""}
    for options, passing, code, reason in (
        ([], b"", 2, "give --passphrase-file FILE or --passphrase-fd N"),
        (["--passphrase-fd", "0"], b"wrong", 1, "wrong passphrase, or damaged"),
    ):
        ended = subprocess.run(
            [*command, *options],
            input=passing,
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == code
        (line,) = [line for line in ended.stderr.decode().splitlines() if line[:7] == "swarmd:"]
        assert reason in line

"""Keys at rest: PKCS#8 PEM, modes, passphrases and where these come from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from protocol.errors import ConfigError, EncodingError, StorageError
from protocol.keys import PrivateKey
from swarmd.datadir import write_new
from swarmd.keys.key_file import load_key_file
from swarmd.keys.key_writer import replace_key_file, write_key_file
from swarmd.keys.passphrase import (
    CREDENTIAL_NAME,
    choose_source,
    from_credential,
    from_descriptor,
    from_file,
    from_prompt,
    no_passphrase,
    remembered,
)
from swarmd.keys.pem import (
    PASSPHRASE_BYTES_MAX,
    PASSPHRASE_BYTES_MIN,
    decode_pem,
    encode_pem,
    is_encrypted,
)
from swarmd.keys.signer import open_signer, parse_descriptor

KEY = PrivateKey(bytes(range(32)))
PASSPHRASE = b"correct horse battery staple"


def pipe_with(data: bytes) -> int:
    """The reading end of a pipe that holds `data`."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return reading


def test_an_encrypted_key_comes_back_under_its_passphrase_only() -> None:
    data = encode_pem(KEY, PASSPHRASE)
    assert is_encrypted(data)
    assert KEY.seed() not in data
    assert decode_pem(data, PASSPHRASE).public == KEY.public
    for wrong in (b"wrong horse battery staple", b"", PASSPHRASE + b" "):
        with pytest.raises(EncodingError, match=r"^wrong passphrase, or damaged$"):
            decode_pem(data, wrong)
    with pytest.raises(EncodingError, match="no passphrase was given"):
        decode_pem(data, None)


def test_two_files_of_one_key_share_no_salt() -> None:
    assert encode_pem(KEY, PASSPHRASE) != encode_pem(KEY, PASSPHRASE)


def test_the_format_is_pbes2_with_what_the_documentation_says() -> None:
    """Pins ADR 0007: PBKDF2-HMAC-SHA256, 2,048 rounds, 16 bytes of salt, AES-256-CBC."""
    from base64 import b64decode

    der = b64decode(b"".join(encode_pem(KEY, PASSPHRASE).split(b"\n")[1:-2]))
    for part in (
        "06092a864886f70d01050d",  # PBES2
        "06092a864886f70d01050c",  # PBKDF2
        "02020800",  # 2,048
        "06082a864886f70d0209",  # hmacWithSHA256
        "060960864801650304012a",  # aes-256-cbc
        "3024",  # its parameters: a salt of 16 bytes among them
    ):
        assert bytes.fromhex(part) in der


@pytest.mark.parametrize("options", [["-scrypt"], ["-iter", "20000", "-v2prf", "hmacWithSHA512"]])
def test_keys_that_openssl_made_harder_to_guess_are_read(
    tmp_path: Path, options: list[str]
) -> None:
    clear, sealed = tmp_path / "clear", tmp_path / "sealed"
    write_key_file(clear, KEY)
    made = subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", clear, "-out", sealed, "-passout", "stdin", *options],
        input=PASSPHRASE,
        capture_output=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert decode_pem(sealed.read_bytes(), PASSPHRASE).public == KEY.public


@pytest.mark.parametrize("size", [0, 1, PASSPHRASE_BYTES_MIN - 1, PASSPHRASE_BYTES_MAX + 1])
def test_new_passphrases_are_of_a_useful_length(size: int) -> None:
    with pytest.raises(ConfigError, match=f"passphrase of {size} bytes, expected 16 to 1023"):
        encode_pem(KEY, b"x" * size)
    for fitting in (PASSPHRASE_BYTES_MIN, PASSPHRASE_BYTES_MAX):
        assert decode_pem(encode_pem(KEY, b"x" * fitting), b"x" * fitting).public == KEY.public


def test_every_altered_byte_of_an_encrypted_key_is_noticed_or_harmless() -> None:
    data = encode_pem(KEY, PASSPHRASE)
    for index in range(0, len(data), 3):
        altered = data[:index] + bytes((data[index] ^ 0x01,)) + data[index + 1 :]
        try:
            key = decode_pem(altered, PASSPHRASE)
        except EncodingError:
            continue
        # CBC authenticates nothing: another seed may come out, which is another public key.
        assert (key.public == KEY.public) == (key.seed() == KEY.seed())


def test_other_keys_and_other_forms_are_told() -> None:
    curve = derive_private_key(7, SECP256R1())
    pem = curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(EncodingError, match="not an Ed25519 key"):
        decode_pem(pem, None)
    for raw in (KEY.seed(), KEY.seed().hex().encode(), b"-----BEGIN OPENSSH PRIVATE KEY-----\n"):
        with pytest.raises(EncodingError, match=r"convert other forms with: openssl pkcs8 -topk8"):
            decode_pem(raw, None)
    with pytest.raises(EncodingError, match="not readable"):
        decode_pem(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", None)


def test_a_key_file_is_private_from_its_first_moment(tmp_path: Path) -> None:
    path = tmp_path / "ada.key"
    write_key_file(path, KEY, PASSPHRASE)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key_file(path, lambda _what: PASSPHRASE).public == KEY.public
    for mode in (0o640, 0o604, 0o620, 0o601):
        path.chmod(mode)
        with pytest.raises(StorageError, match=rf"mode {mode:04o}\); mend it with: chmod 600"):
            load_key_file(path, lambda _what: PASSPHRASE)


def test_another_form_replaces_the_old_one_or_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "ada.key"
    write_key_file(path, KEY)
    with pytest.raises(ConfigError):
        replace_key_file(path, KEY, b"short")
    assert load_key_file(path).public == KEY.public
    replace_key_file(path, KEY, PASSPHRASE)
    with pytest.raises(ConfigError, match=r"key .*ada\.key is encrypted: give --passphrase-file"):
        load_key_file(path)
    with pytest.raises(StorageError, match=r"key .*ada\.key: wrong passphrase"):
        load_key_file(path, lambda _what: b"wrong")
    assert list(tmp_path.iterdir()) == [path]


def test_nobody_is_asked_for_the_passphrase_of_a_clear_key(tmp_path: Path) -> None:
    path = tmp_path / "ada.key"
    write_key_file(path, KEY)
    assert load_key_file(path, no_passphrase).public == KEY.public


@pytest.mark.parametrize("data", [PASSPHRASE, PASSPHRASE + b"\n", PASSPHRASE + b"\r\n"])
def test_a_passphrase_is_one_line_of_a_descriptor_or_a_private_file(
    tmp_path: Path, data: bytes
) -> None:
    source = from_descriptor(pipe_with(data))
    assert [source("a"), source("b")] == [PASSPHRASE, PASSPHRASE]
    path = tmp_path / "passphrase"
    write_new(path, data)
    assert from_file(path)("a") == PASSPHRASE
    path.chmod(0o644)
    with pytest.raises(StorageError, match="may be read by others"):
        from_file(path)("a")


@pytest.mark.parametrize("data", [b"", b"\n", b"a\nb", b"x" * (PASSPHRASE_BYTES_MAX + 1)])
def test_anything_but_one_line_is_no_passphrase(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ConfigError, match="expected one line"):
        from_descriptor(pipe_with(data))("a")
    path = tmp_path / "passphrase"
    write_new(path, data)
    with pytest.raises(ConfigError, match="expected one line"):
        from_file(path)("a")


def test_descriptors_that_are_closed_or_endless_are_refused() -> None:
    with pytest.raises(StorageError, match="file descriptor 999: Bad file descriptor"):
        from_descriptor(999)("a")
    with pytest.raises(StorageError, match=f"over {PASSPHRASE_BYTES_MAX + 2} bytes"):
        from_descriptor(pipe_with(b"x" * 5000))("a")


def test_the_service_managers_credential_is_used_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert from_credential() is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert from_credential() is None
    assert choose_source(file=None, descriptor=None, otherwise=no_passphrase) is no_passphrase
    (tmp_path / CREDENTIAL_NAME).write_bytes(PASSPHRASE + b"\n")
    assert choose_source(file=None, descriptor=None, otherwise=no_passphrase)("a") == PASSPHRASE
    other = pipe_with(b"another passphrase")
    assert choose_source(file=None, descriptor=other, otherwise=no_passphrase)("a") != PASSPHRASE


def test_two_sources_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        choose_source(file=tmp_path, descriptor=3, otherwise=no_passphrase)


def test_without_a_terminal_nobody_is_asked() -> None:
    with pytest.raises(ConfigError, match="no terminal to ask at"):
        from_prompt("key ada.key")


def test_a_source_is_asked_once_for_many_keys() -> None:
    asked: list[str] = []

    def source(what: str) -> bytes:
        asked.append(what)
        return PASSPHRASE

    passphrases = remembered(source)
    assert [passphrases("a"), passphrases("b")] == [PASSPHRASE, PASSPHRASE]
    assert asked == ["a"]


def test_a_key_may_come_by_descriptor() -> None:
    signer = open_signer(f"fd:{pipe_with(KEY.to_pem())}", no_passphrase)
    assert signer.public == KEY.public
    KEY.public.verify(signer.sign(b"message"), b"message")
    sealed = pipe_with(encode_pem(KEY, PASSPHRASE))
    assert open_signer(f"fd:{sealed}", lambda _what: PASSPHRASE).public == KEY.public
    with pytest.raises(StorageError, match="over 4096 bytes"):
        open_signer(f"fd:{pipe_with(b'x' * 5000)}", no_passphrase)
    with pytest.raises(StorageError, match=r"key on file descriptor \d+: no PKCS#8 PEM"):
        open_signer(f"fd:{pipe_with(b'')}", no_passphrase)


@pytest.mark.parametrize("text", ["", "x", "-1", "٣", "99999999", "3 ", "1" * 400])
def test_what_is_no_descriptor_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not the number of a file descriptor"):
        parse_descriptor(text)


def test_what_names_no_key_is_a_mistake_of_the_command_line(tmp_path: Path) -> None:
    for text in (str(tmp_path / "ada.key"), "pkcs12:ada", "fd"):
        with pytest.raises(ConfigError, match="neither a file, nor fd:N"):
            open_signer(text, no_passphrase)

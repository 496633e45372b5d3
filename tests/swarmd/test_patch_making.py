"""Files named as bases of patches: only regular ones, and only as much of them as there was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chunks.byte_source import FileSource
from protocol.errors import ConfigError, StorageError
from swarmd import patch_making
from swarmd.patch_making import _cut_base, _file_base
from tests.chunks.chunk_images import FIXED_1000


def test_a_pipe_a_device_and_a_folder_are_no_base(tmp_path: Path) -> None:
    """A pipe without a writer held the thread, and every later release, for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path, tmp_path / "absent"):
        with pytest.raises(StorageError):
            FileSource(path)
        with pytest.raises(ConfigError):
            _file_base(path)


def test_a_base_that_grows_or_is_too_large_takes_no_memory_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "base"
    path.write_bytes(bytes(5000))
    with FileSource(path) as source:
        digest, recipe = _cut_base(source, path, FIXED_1000)
        assert (recipe.size_bytes, recipe.chunk_count, len(digest)) == (5000, 5, 32)
        monkeypatch.setattr(patch_making, "CHUNKS_PER_COMPONENT_MAX", 4)
        with pytest.raises(ConfigError, match="over 4 chunks"):
            _cut_base(source, path, FIXED_1000)
        monkeypatch.setattr(patch_making, "IMAGE_BYTES_MAX", 4999)
        with pytest.raises(ConfigError, match="5000 bytes"):
            _cut_base(source, path, FIXED_1000)
        monkeypatch.undo()
        with path.open("ab") as file:
            file.write(bytes(1))
        with pytest.raises(ConfigError, match="being changed"):
            _cut_base(source, path, FIXED_1000)

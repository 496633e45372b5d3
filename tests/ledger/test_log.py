from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.log import Log, decode_log
from protocol.digest import sha256
from protocol.encoding import encode_canonical
from protocol.errors import EncodingError
from protocol.merkle import EMPTY_ROOT, leaf_hash, merkle_root


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_incremental_root_equals_that_of_the_whole_tree(entries):
    leaves = [leaf_hash(entry) for entry in entries]
    log = Log()
    for count, leaf in enumerate(leaves, start=1):
        log = log.append(leaf)
        assert (log.size, log.root) == (count, merkle_root(leaves[:count]))
    assert log == Log().extend(leaves)
    assert len(log.frontier) == len(leaves).bit_count()
    assert decode_log(log.encode()) == log


def test_empty_log_has_the_empty_root_and_versions_do_not_change():
    empty = Log()
    longer = empty.append(sha256(b"x"))
    assert (empty.size, empty.root) == (0, EMPTY_ROOT)
    assert longer.root == sha256(b"x")


@pytest.mark.parametrize(
    "value",
    [
        {0: 2, 1: [bytes(32), bytes(32)]},
        {0: 1, 1: []},
        {0: 1, 1: [bytes(31)]},
        {0: 1, 1: [bytes(32)], 2: 0},
        {0: 1, 1: [bytes(32)], -1: 0},
        {0: -1, 1: []},
    ],
)
def test_malformed_logs_are_refused(value):
    with pytest.raises(EncodingError):
        decode_log(encode_canonical(value))

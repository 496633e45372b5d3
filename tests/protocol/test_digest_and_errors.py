"""Digests with and without a domain, and the error tree that services rely on."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import errors
from protocol.digest import ZERO_DIGEST, sha256, short, tagged_digest, verify_digest
from protocol.errors import DigestMismatchError, PolicyError, SwarmError, VerificationError


def test_a_digest_of_the_standard() -> None:
    # FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(b"abc").hex() == expected
    assert sha256(memoryview(b"abc")).hex() == sha256(bytearray(b"abc")).hex() == expected


tags = st.text(st.characters(codec="ascii"), max_size=20)


@given(first=st.tuples(tags, st.binary(max_size=8)), second=st.tuples(tags, st.binary(max_size=8)))
def test_domains_never_run_into_data(first: tuple[str, bytes], second: tuple[str, bytes]) -> None:
    assert (tagged_digest(*first) == tagged_digest(*second)) == (first == second)


def test_the_form_of_a_tagged_digest() -> None:
    assert tagged_digest("ab", b"c") == hashlib.sha256(b"\x02abc").digest()


def test_a_domain_of_256_bytes_is_our_defect() -> None:
    with pytest.raises(AssertionError):
        tagged_digest("a" * 256, b"")


def test_a_mismatch_carries_the_evidence() -> None:
    verify_digest("chunk", b"abc", sha256(b"abc"))
    with pytest.raises(DigestMismatchError, match="chunk") as caught:
        verify_digest("chunk", b"abd", sha256(b"abc"))
    assert caught.value.expected == sha256(b"abc")
    assert caught.value.actual == sha256(b"abd")


def test_short_names_are_eight_digits() -> None:
    assert short(sha256(b"abc")) == "ba7816bf"
    assert bytes(32) == ZERO_DIGEST


def test_all_errors_have_one_root_and_say_so() -> None:
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert issubclass(kind, SwarmError)
            assert name.endswith("Error")
            assert kind.__doc__


def test_untrusted_data_and_rules_are_told_apart() -> None:
    assert issubclass(errors.EncodingError, VerificationError)
    assert issubclass(errors.SignatureError, VerificationError)
    assert issubclass(errors.NotYetError, PolicyError)
    assert not issubclass(errors.PolicyError, VerificationError)


def test_a_policy_error_names_its_rule() -> None:
    error = PolicyError("group.unknown", "no such group")
    assert error.rule == "group.unknown"
    assert "group.unknown" in str(error)

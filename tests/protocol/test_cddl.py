"""The CDDL describes what the code writes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.strategies import FORMATS, Format, few

CDDL = (Path(__file__).parents[2] / "docs" / "spec" / "swarmd.cddl").read_text(encoding="utf-8")
RULES = re.findall(r"^([a-z][a-z0-9-]*)(?:<[a-z]+>)? =", CDDL, re.MULTILINE)
NAMES = {form.name: f"signed-{form.name}" for form in FORMATS if form.is_signed}
NAMES["root"] = "owner-root"
BUILT_IN = {"any", "bool", "bytes", "int", "nint", "null", "text", "size", "cbor", "content"}


def test_every_rule_is_defined_once_and_every_name_is_defined() -> None:
    assert [name for name, count in Counter(RULES).items() if count > 1] == []
    bare = re.sub(r";.*", "", CDDL)
    labels = set(re.findall(r"([a-z][a-z-]*):", bare))
    used = set(re.findall(r"[a-z][a-z0-9-]*", bare))
    assert used - set(RULES) - labels - BUILT_IN == set()


def test_every_format_has_a_rule() -> None:
    assert {NAMES.get(form.name, form.name) for form in FORMATS} <= set(RULES)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@few
@given(data=st.data())
def test_what_the_code_writes_fits_its_rule(form: Format, data: st.DataObject) -> None:
    pycddl = pytest.importorskip("pycddl", reason="needs pycddl")
    plain = re.sub(r"bytes \.cbor [a-z-]+", "bytes", CDDL)  # the checker trips over .cbor in arrays
    made = data.draw(form.objects)
    rule = NAMES.get(form.name, form.name)
    pycddl.Schema(f"root = {rule}\n{plain}").validate_cbor(form.encode(made))
    if form.is_signed:
        pycddl.Schema(f"root = {form.name}\n{plain}").validate_cbor(made.signed.payload)

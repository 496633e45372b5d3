"""The rules of `tests.support.source_rules`, applied to the tree and tried on offenders."""

from __future__ import annotations

import warnings

import pytest

from tests.support.source_rules import (
    ADVICE,
    EXCEPTIONS,
    RULES,
    is_excepted,
)
from tests.support.source_tree import SourceFile, source_files


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_the_tree_keeps_the_rule(rule: str) -> None:
    offences = [offence for source in source_files() for offence in RULES[rule](source)]
    assert not offences, f"{RULES[rule].__doc__}\n" + "\n".join(offences)


OFFENDERS = [
    ("function_length", "swarmd/a.py", "def f():\n" + "    x = 1\n" * 70),
    ("file_length", "swarmd/a.py", "x = 1\n" * 801),
    ("line_length", "docs/a.py", "x = '" + "a" * 96 + "'\n"),
    ("positional_parameters", "ledger/a.py", "def f(self, a, b, c, d, e, f): ...\n"),
    ("docstrings", "chunks/a.py", "x = 1\n"),
    ("docstrings", "chunks/a.py", '"""M."""\ndef f(): ...\n'),
    ("docstrings", "chunks/a.py", '"""M."""\nclass A:\n    """A."""\n    def f(self): ...\n'),
    ("clock", "swarmd/a.py", "import time\ntime.time()\n"),
    ("clock", "swarmd/a.py", "from time import monotonic as m\nm()\n"),
    ("clock", "swarmd/a.py", "from datetime import datetime\ndatetime.now()\n"),
    ("clock", "swarmd/a.py", "import datetime as d\nd.datetime.now()\n"),
    ("entropy", "swarmd/a.py", "import random\nrandom.random()\n"),
    ("entropy", "swarmd/a.py", "from os import urandom\nurandom(3)\n"),
    ("entropy", "swarmd/a.py", "import secrets\nsecrets.token_bytes(3)\n"),
    ("entropy", "swarmd/a.py", "Ed25519PrivateKey.generate()\n"),
    ("swallowed_errors", "swarmd/a.py", "try:\n    f()\nexcept:\n    raise\n"),
    ("swallowed_errors", "swarmd/a.py", "try:\n    f()\nexcept Exception:\n    pass\n"),
    (
        "swallowed_errors",
        "swarmd/a.py",
        "try:\n    f()\nexcept (OSError, Exception):\n    return\n",
    ),
    ("swallowed_errors", "swarmd/a.py", "try:\n    f()\nexcept BaseException:\n    g()\n"),
    ("entropy", "swarmd/simulation/a.py", "import random\nrandom.Random()\n"),
    ("entropy", "swarmd/simulation/a.py", "import numpy\nnumpy.random.default_rng()\n"),
    (
        "swallowed_errors",
        "swarmd/a.py",
        "import contextlib\nwith contextlib.suppress(Exception):\n    f()\n",
    ),
    ("set_order", "ledger/a.py", "for x in {1, 2}:\n    f(x)\n"),
    ("set_order", "ledger/a.py", "y = [f(x) for x in set(z)]\n"),
    ("set_order", "protocol/a.py", "y = list(set(z) | other)\n"),
    ("set_order", "protocol/a.py", "y = [*{x for x in z}]\n"),
    ("floats", "ledger/a.py", "x = 0.5\n"),
    ("floats", "ledger/a.py", "x = a / b\n"),
    ("file_access", "ledger/a.py", "import sqlite3\n"),
    ("file_access", "chunks/a.py", "open('x')\n"),
    ("file_access", "protocol/a.py", "path.read_bytes()\n"),
    ("file_access", "protocol/a.py", "import os\nos.replace('a', 'b')\n"),
    ("authority", "swarmd/services/a.py", "AuthorisedManifest(x)\n"),
    ("authority", "ledger/a.py", "from m import AuthorisedManifest as A\nA(x)\n"),
    (
        "authority",
        "swarmd/a.py",
        "import dataclasses\ndataclasses.replace(authorised, manifest=other)\n",
    ),
    ("sleeping_tests", "tests/a.py", "import time\ntime.sleep(1)\n"),
    ("sleeping_tests", "tests/a.py", "import trio\nasync def test_a():\n    await trio.sleep(1)\n"),
    ("plain_asserts", "tests/a.py", "from unittest import mock\n"),
]


@pytest.mark.parametrize(("rule", "path", "text"), OFFENDERS)
def test_the_rule_finds_an_offender(rule: str, path: str, text: str) -> None:
    assert list(RULES[rule](SourceFile(path, text)))


LAWFUL = [
    ("function_length", "swarmd/a.py", 'def f():\n    """' + "a\n" * 80 + '"""\n    x = 1\n'),
    ("clock", "swarmd/clock.py", "import time\ntime.time()\n"),
    ("clock", "tests/a.py", "import time\ntime.monotonic()\n"),
    ("entropy", "swarmd/entropy.py", "import secrets\nsecrets.token_bytes(3)\n"),
    (
        "swallowed_errors",
        "swarmd/a.py",
        "try:\n    f()\nexcept BaseException:\n    g()\n    raise\n",
    ),
    ("entropy", "swarmd/simulation/a.py", "import random\nrandom.Random(seed)\n"),
    ("entropy", "swarmd/simulation/a.py", "import numpy\nnumpy.random.default_rng(1)\n"),
    ("swallowed_errors", "swarmd/a.py", "try:\n    f()\nexcept Exception:\n    log(1)\n"),
    ("swallowed_errors", "swarmd/a.py", "try:\n    f()\nexcept OSError:\n    pass\n"),
    ("set_order", "ledger/a.py", "for x in sorted({1, 2}):\n    f(x)\n"),
    ("set_order", "swarmd/a.py", "for x in {1, 2}:\n    f(x)\n"),
    ("floats", "ledger/a.py", "x = a // b\n"),
    ("file_access", "chunks/file_store.py", "open('x')\n"),
    ("file_access", "swarmd/a.py", "open('x')\n"),
    ("authority", "swarmd/authority.py", "AuthorisedManifest(x)\n"),
    (
        "sleeping_tests",
        "tests/a.py",
        "import trio\nasync def test_a(autojump_clock):\n    await trio.sleep(1)\n",
    ),
    ("sleeping_tests", "tests/a.py", "import trio\nasync def test_a():\n    await trio.sleep(0)\n"),
]


@pytest.mark.parametrize(("rule", "path", "text"), LAWFUL)
def test_the_rule_lets_lawful_code_pass(rule: str, path: str, text: str) -> None:
    assert not list(RULES[rule](SourceFile(path, text)))


def test_every_rule_was_tried_on_an_offender() -> None:
    assert {rule for rule, _, _ in OFFENDERS} == set(RULES)


def test_exceptions_are_for_named_rules_and_no_wider_than_a_folder() -> None:
    assert set(EXCEPTIONS) == {
        "clock",
        "entropy",
        "seeded",
        "floats",
        "authority",
        "sleep",
        "files",
    }
    for patterns in EXCEPTIONS.values():
        assert not {"*", "swarmd/*", "ledger/*", "chunks/*", "protocol/*"} & set(patterns)
    assert not is_excepted("clock", "swarmd/clock_skew.py")


@pytest.mark.parametrize("advice", ADVICE)
def test_shortfalls_are_listed(advice: str) -> None:
    """Warns, one line for each aim, so that the summary of every run names what falls short."""
    found = [offence for source in source_files() for offence in ADVICE[advice](source)]
    if found:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            text = f"{ADVICE[advice].__doc__} Short of it: {len(found)}\n" + "\n".join(found[:20])
            warnings.warn(text, stacklevel=1)


def test_advice_finds_what_falls_short() -> None:
    unexplained = '@dataclass(frozen=True)\nclass A:\n    """A."""\n    field: int\n'
    assert list(ADVICE["field_docstrings"](SourceFile("chunks/a.py", unexplained)))
    explained = unexplained + '    """Bytes."""\n'
    assert not list(ADVICE["field_docstrings"](SourceFile("chunks/a.py", explained)))
    assert list(ADVICE["long_files"](SourceFile("chunks/a.py", "x = 1\n" * 501)))

"""What commands print, and that nothing in it can act on a terminal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmd.cli.output import Output, describe, plain, size_text, table
from swarmd.control.protocol import ErrorCode, Failure


@pytest.mark.slow
@given(st.text())
def test_nothing_shown_can_act_on_a_terminal(text: str) -> None:
    assert plain(text).isprintable() or plain(text) == ""


def test_escapes_are_shown_as_what_they_are() -> None:
    assert plain("a\x1b[31m\nb\u202e") == "a\\x1b[31m\\nb\\u202e"
    assert plain("Gerät 7") == "Gerät 7"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 * 1024, "1.5 MiB"),
     (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB"), (5 << 50, "5120.0 TiB")],
)  # fmt: skip
def test_sizes_are_written_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


def test_a_table_is_aligned() -> None:
    assert table(["a", "name"], [["1", "x\n"], ["222", ""]]) == "a    name\n1    x\\n\n222"


def test_any_result_can_be_described() -> None:
    document = {
        "height": 7,
        "alarm": None,
        "fresh": True,
        "groups": ["a", "b\x07"],
        "store": {"images": 1},
        "empty": {},
        "peers": [{"name": "x", "height": 1}, {"name": "y", "groups": ["a"], "more": {"k": 1}}],
    }
    assert describe(document).split("\n") == [
        "height  7",
        "alarm   -",
        "fresh   yes",
        "groups  a, b\\x07",
        "store:",
        "  images  1",
        "empty   {}",
        "peers:",
        "  name  height  groups  more",
        "  x     1       -       -",
        '  y     -       a       {"k": 1}',
    ]
    assert describe([]) == "-"
    assert describe("text") == "text"


def test_progress_without_a_terminal_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Output().progress("image") as show:
        show({"stage": "cutting", "bytes": 1, "total": 2})
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_draws_and_survives_odd_fields(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with Output().progress("image\x1b") as show:
        show({"stage": "cutting\x1b", "bytes": 1, "total": 2})
        show({"stage": 7, "bytes": "x", "total": None})
    assert "\x1b]" not in capsys.readouterr().out


def test_failures_are_one_document_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.json = True
    output.note("not shown")
    output.failure(Failure(ErrorCode.REFUSED, "a.rule", "no\nway"))
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["rule"] == "a.rule"
    assert captured.err == "swarmd: no\\nway\n"

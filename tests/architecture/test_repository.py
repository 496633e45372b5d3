"""What the repository holds and must not hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.source_tree import ROOT, project_files

# Spelled in pieces, so that this file does not offend against itself.
FOREIGN = re.compile(
    "|".join(
        (
            r"(?<![\w.])/" + r"work(?:/|\b)(?![\w-])",
            r"(?<![\w.])/" + r"root/",
            r"(?<![\w.])/" + r"home/[a-z]",
            r"/" + r"tmp/venv",
            r"py" + r"pi\.org",
            r"files\.python" + r"hosted",
            r"deb\." + r"debian\.org",
            r"registry\." + r"npmjs",
            r"--index" + r"-url|--extra-index" + r"-url",
        )
    )
)
"""Paths of one machine, and hosts of registries: what a user's configuration decides."""
TEXT_BYTES_MAX = 2_000_000
"""Larger files are data; the repository should have none."""


def offences(path: Path) -> list[str]:
    if path.stat().st_size > TEXT_BYTES_MAX:
        return [f"{path.relative_to(ROOT)}: larger than {TEXT_BYTES_MAX} bytes"]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return [f"{path.relative_to(ROOT)}: a binary; nothing of the kind is committed"]
    return [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for number, line in enumerate(lines, start=1)
        if (match := FOREIGN.search(line))
    ]


@pytest.mark.slow
def test_no_file_names_a_machine_a_registry_or_is_binary() -> None:
    found = [each for path in project_files() for each in offences(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "cd /" + "work/main",
        "https://py" + "pi.org/simple",
        "--extra-index" + "-url x",
        "deb http://deb." + "debian.org/debian",
    ],
)
def test_the_search_finds_an_offender(text: str) -> None:
    assert FOREIGN.search(text)


@pytest.mark.parametrize("text", ["/var/lib/swarmd", "net/work/of", "the network /workers"])
def test_the_search_lets_lawful_text_pass(text: str) -> None:
    assert not FOREIGN.search(text)


@pytest.mark.parametrize(
    "name",
    [
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
        ".ci/run",
        "docs/CHANGELOG.md",
        "docs/glossary.md",
        "docs/contributing.md",
    ],
)
def test_the_repository_holds(name: str) -> None:
    assert (ROOT / name).is_file()


def test_the_changelog_has_an_entry_for_what_is_not_released() -> None:
    text = (ROOT / "docs" / "CHANGELOG.md").read_text(encoding="utf-8")
    _, _, unreleased = text.partition("## [Unreleased]")
    assert "\n- " in unreleased.split("\n## ")[0]


def test_decisions_are_numbered_without_gaps_in_form() -> None:
    names = sorted(path.name for path in (ROOT / "docs" / "adr").glob("*.md"))
    assert names
    for name in names:
        assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", name), name
        text = (ROOT / "docs" / "adr" / name).read_text(encoding="utf-8")
        missing = [
            each
            for each in ("Context", "Options", "Decision", "Consequences")
            if f"## {each}" not in text
        ]
        assert not missing, f"{name} lacks {missing}"
    assert len({name[:4] for name in names}) == len(names), f"a number is used twice: {names}"


def test_every_pin_carries_hashes_and_no_host() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[a-z0-9])", "\n" + text)[1:]
    assert len(entries) > 30
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+ ", entry), entry[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry[:80]
    assert "://" not in text


def examples() -> list[str]:
    return sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", examples())
def test_the_example_runs(name: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip(), "an example says what it shows"


def test_the_pins_satisfy_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"(?m)^([a-z0-9._-]+)==(\S+)", text))
    asked = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        asked += extra
    for line in asked:
        requirement = Requirement(line)
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{line} is not pinned: make lock"
        assert requirement.specifier.contains(pin), f"{line} but {pin} is pinned: make lock"


def test_every_runtime_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    record = (ROOT / "docs" / "adr" / "0002-dependencies.md").read_text(encoding="utf-8")
    for line in project["dependencies"]:
        assert f"| {Requirement(line).name} |" in record, f"{line}: explain it in ADR 0002"

"""The import law: swarmd -> chunks | ledger -> protocol, and nothing impure below swarmd."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib

import pytest

from tests.support.source_tree import PACKAGES, ROOT


@pytest.mark.slow
def test_the_contracts_of_pyproject_hold() -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as c; c()",
            "--no-cache",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_contracts_cover_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert sorted(project["tool"]["importlinter"]["root_packages"]) == sorted(PACKAGES)
    assert sorted(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == sorted(
        PACKAGES
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_carries_the_marker_that_the_entry_point_checks(package: str) -> None:
    text = (ROOT / package / "__init__.py").read_text(encoding="utf-8")
    assert '__project__ = "swarmd"' in text, f"{package}/__init__.py lacks the project marker"


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / "swarmd" / "__main__.py").exists(), reason="the entry point does not exist yet"
)
def test_the_entry_point_does_not_import_the_network_library() -> None:
    # Importing libp2p takes half a second, which would be felt at every command.
    program = "import sys, swarmd.__main__; sys.exit('libp2p' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"import libp2p where it is needed\n{result.stderr}"

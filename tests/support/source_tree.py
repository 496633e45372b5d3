"""The project's own source, parsed once for all architecture tests."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
"""Root of the repository."""
PACKAGES: Final = ("swarmd", "chunks", "ledger", "protocol")
"""The four packages of the distribution."""
CODE_FOLDERS: Final = (*PACKAGES, "tests", "examples", "benchmarks", ".ci")
"""Where Python source lies."""


@dataclass(frozen=True)
class SourceFile:
    """One Python file."""

    path: str
    """Path from the root, with slashes."""

    text: str
    """Its text."""

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text, filename=self.path)

    @property
    def package(self) -> str:
        """Its first folder."""
        return self.path.split("/", 1)[0]

    @cached_property
    def imported(self) -> dict[str, str]:
        """What each name stands for that an import binds: `sleep` -> `trio.sleep`."""
        names: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    bound = alias.asname or alias.name.split(".", 1)[0]
                    names[bound] = alias.name if alias.asname else bound
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        return names

    def qualified(self, node: ast.expr) -> str | None:
        """The full dotted name of an expression such as `time.time`, imports resolved."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        parts.append(self.imported.get(node.id, node.id))
        return ".".join(reversed(parts))

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        """Every call whose function has a dotted name."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and (name := self.qualified(node.func)):
                yield node, name

    def where(self, node: ast.AST) -> str:
        """`path:line`, as editors understand it."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}"


@cache
def source_files(*folders: str) -> tuple[SourceFile, ...]:
    """All Python files below the folders (default: everywhere), sorted by path."""
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in folders or CODE_FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if "__pycache__" not in path.parts
    ]
    return tuple(
        SourceFile(path, (ROOT / path).read_text(encoding="utf-8")) for path in sorted(found)
    )


@cache
def project_files() -> tuple[Path, ...]:
    """Every file that belongs to the project: tracked by git, or new and not ignored."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0:
        names = sorted(name for name in listing.stdout.decode().split("\0") if name)
        return tuple(ROOT / name for name in names if (ROOT / name).is_file())
    # An unpacked source archive has no git: take the folders that an archive holds.
    folders = (*CODE_FOLDERS, "docs")
    below = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    return tuple(
        sorted(
            path
            for path in (*below, *ROOT.glob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        )
    )

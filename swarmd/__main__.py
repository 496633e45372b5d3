"""The entry point of the `swarmd` command and of `python -m swarmd`.

Keeps imports to what `--help` needs; subcommands load the rest.
"""

from __future__ import annotations

import importlib
import sys

_PACKAGES = ("protocol", "chunks", "ledger")


def _check_packages() -> str | None:
    """Names the first of our packages that another project's package hides, or None."""
    for name in _PACKAGES:
        module = importlib.import_module(name)
        if getattr(module, "__project__", None) != "swarmd":
            return f"package {name!r} is not swarmd's but {getattr(module, '__file__', '?')}"
    return None


def main() -> None:
    """Runs the command line and exits with its code."""
    if problem := _check_packages():
        sys.stderr.write(f"swarmd: {problem}; install swarmd in an environment of its own\n")
        sys.exit(1)
    from swarmd.cli.main import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

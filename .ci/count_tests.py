"""Prints "N passed, N failed, N skipped" from a JUnit file of pytest.

Usage: `python .ci/count_tests.py junit.xml`; exit status 1 if a test failed or none ran.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Prints the counts; returns the exit status."""
    path = Path(arguments[0])
    if not path.exists():
        print("0 passed, 1 failed (pytest wrote no report)")
        return 1
    total = failed = skipped = 0
    for suite in ET.parse(path).getroot().iter("testsuite"):
        total += int(suite.get("tests", "0"))
        failed += int(suite.get("failures", "0")) + int(suite.get("errors", "0"))
        skipped += int(suite.get("skipped", "0"))
    passed = max(total - failed - skipped, 0)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

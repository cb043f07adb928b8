"""What the tests of workers share."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from workplace import Workplace

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")


def run_with(place: Workplace, faults: dict[str, Any]) -> tuple[int, dict[str, Any], str]:
    """Run the program to its end, with its constants for impatient tests; return exit code, account and stderr."""
    result = place.execute(
        "--report", "report.json", faults={"constants": {"BACKSTOP_S": 1, "STAT_S": 1, "KILL_S": 2}, **faults}
    )
    return result.returncode, json.loads((place.folder / "report.json").read_text(encoding="utf-8")), result.stderr

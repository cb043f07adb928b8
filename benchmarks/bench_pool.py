"""The local pool's throughput of two checkouts, side by side: python benchmarks/bench_pool.py BEFORE AFTER.

Each round runs the program of both checkouts once, in turn, with a fake CLAP and two workers, on the same short files
of different sizes. The time is that between two lines of the log: from the end of the self-test to the last commit.
Prints files a second of each round, the medians, and their ratio.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 44_100
STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) .*?: (.*)$", re.MULTILINE)


def make_files(folder: Path, count: int) -> None:
    """Write decaying tones of 0.1 s and more, no two of the same size, so that none is hashed as a possible copy."""
    folder.mkdir()
    for number in range(count):
        time_s = np.arange(RATE_HZ // 10 + 40 * number) / RATE_HZ
        tone = 0.5 * np.sin(2 * np.pi * (100 + 5 * number) * time_s) * np.exp(-8 * time_s)
        soundfile.write(folder / f"kick_{number:04}.wav", tone, RATE_HZ)


def rate(checkout: Path, files: Path, count: int, workers: int) -> float:
    """Run the program of a checkout over all files, and return files a second."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        flags = ["--input", files, "--database", out / "a.db", "--stems", out / "stems", "--log-file", out / "log"]
        flags += ["--quarantine", out / "quarantine", "--model-cache", out / "cache", "--workers", workers, "-q"]
        command = [sys.executable, checkout / "tests" / "support" / "driver.py", *flags]
        environment = {**os.environ, "TEST_FAULTS": json.dumps({"measure": True})}
        subprocess.run([str(part) for part in command], cwd=out, env=environment, check=True)
        log = (out / "log").read_text(encoding="utf-8")
    assert f"{count} inserted" in log, log[-500:]
    return count / (moment(log, " rows written") - moment(log, "the decoders work"))


def moment(log: str, text: str) -> float:
    """Return when the last line with `text` was logged, in seconds."""
    date, milliseconds = [(date, ms) for date, ms, line in STAMP.findall(log) if text in line][-1]
    return datetime.datetime.fromisoformat(date).timestamp() + int(milliseconds) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--files", type=int, default=150)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_files(Path(name) / "files", options.files)
        rates: list[list[float]] = [[], []]
        print("round  before   after   files a second", flush=True)
        for number in range(options.rounds):
            # In turn, each first in every other round.
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                checkout = (options.before, options.after)[which].resolve()
                rates[which].append(rate(checkout, Path(name) / "files", options.files, options.workers))
            print(f"{number + 1:5}  {rates[0][-1]:6.1f}  {rates[1][-1]:6.1f}", flush=True)
    before, after = map(statistics.median, rates)
    print(f"median {before:6.1f}  {after:6.1f}   ratio {after / before:.3f}")


if __name__ == "__main__":
    main()

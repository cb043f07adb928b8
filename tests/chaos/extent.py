"""How much chaos: a little in `make test`, all of it by `make chaos`, by CHAOS=long; SEED=… throws other dice."""

from __future__ import annotations

import os

LONG = os.environ.get("CHAOS") == "long"
SEED = int(os.environ.get("SEED") or 4)

KILLS = 24 if LONG else 6  # a sixth of them of the parent alone
KILLED_FILES = 200 if LONG else 60
RESTORE_KILLS = 8 if LONG else 2
FORGET_KILLS = 12 if LONG else 3
HOURS_OF_SILENCE = 3.0 if LONG else 0.35  # over MAX_ANALYSIS_S; 242 MB as float32, where a worker may have 100 MB
HOURS_OF_AAC = 7.5 if LONG else 0.1  # max_duration_s is at most 8
MINUTES_OF_NOISE = 20 if LONG else 12  # 138 MB
FUZZED_FILES = 4_800 if LONG else 100


def say(*lines: str) -> None:
    """Print what the long version found; `make test` stays quiet."""
    if LONG:
        print("", *lines, sep="\n", flush=True)

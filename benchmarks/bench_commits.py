"""What committing and checkpointing cost a run: python benchmarks/bench_commits.py DIR --checkpoint FILE.

Runs the program in this process on the audio files of DIR, in batches of --batch-windows, and prints the share of the
run's time that commits, checkpoints and the run's end take. With --rows, the database holds that many invented rows
before: then the pages of the indexes that a batch changes are far apart. With --per-second instead of DIR, no audio is
decoded: batches of 96 rows are written at that pace for 30 s, which a run on a GPU may reach.
All that is written is written to a folder of its own, which is removed (--folder chooses where it lies).
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import bench_scale
from bench_run import REPOSITORY

sys.path.insert(0, str(REPOSITORY))

from prepare_dataset_sql import DatasetPreparer
from stem_dataset.config import load_config
from stem_dataset.database.journal import Journal
from stem_dataset.database.stems import Database

PACED_S = 30
BATCH_ROWS = 96
SECONDS: defaultdict[str, float] = defaultdict(float)
CALLS: Counter[str] = Counter()


def measure_calls() -> None:
    """Count the seconds of each part; a checkpoint is a part of the commit before it, and is counted once."""
    for owner, name in ((Database, "insert"), (Journal, "_checkpoint"), (Journal, "end"), (Journal, "begin")):
        real = getattr(owner, name)

        def timed(*arguments: object, real: object = real, name: str = name) -> object:
            inner_s = SECONDS["_checkpoint"] + SECONDS["begin"]
            started_s = time.perf_counter()
            try:
                return real(*arguments)  # type: ignore[operator]
            finally:
                total_s = time.perf_counter() - started_s
                SECONDS[name] += total_s - (SECONDS["_checkpoint"] + SECONDS["begin"] - inner_s)
                CALLS[name] += 1

        setattr(owner, name, timed)


def fill(database: Path, rows: int) -> None:
    """Put invented rows into the database, as a library that was imported before."""
    with contextlib.closing(Database(database)) as filled:
        for batch in bench_scale.rows(database.parent / "former", rows, 5_000):
            filled.insert(batch, bench_scale.PROVENANCE)


def write_at_pace(database: Path, per_second: float) -> float:
    """Write batches of rows at a pace; return the seconds."""
    started_s = time.perf_counter()
    with contextlib.closing(Database(database)) as paced:
        batches = bench_scale.rows(database.parent / "new", int(PACED_S * per_second), BATCH_ROWS)
        for number, batch in enumerate(batches):
            while time.perf_counter() < started_s + number * BATCH_ROWS / per_second:
                time.sleep(0.01)
                paced.journal.checkpoint_if_due()
            paced.insert(batch, bench_scale.PROVENANCE)
    return time.perf_counter() - started_s


def run(folder: Path, options: argparse.Namespace) -> float:
    """Run the program on a copy of the audio; return the seconds."""
    shutil.copytree(options.folder_of_audio, folder / "stems")
    outputs = {name: folder / "out" / name for name in ("stems", "quarantine")}
    settings = {
        "input": folder / "stems",
        "database": folder / "out" / "stems.db",
        "log_file": folder / "out" / "log",
        "checkpoint": options.checkpoint,
        "model_cache": options.model_cache,
        "batch_windows": options.batch_windows,
        **outputs,
    }
    summary = DatasetPreparer(load_config(REPOSITORY / "config.yaml", settings), show_progress=False).run()
    print(summary)
    return summary.seconds


@contextlib.contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        yield Path(name)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder_of_audio", type=Path, nargs="?", help="audio; it is copied, not touched")
    parser.add_argument("--checkpoint", help="as for the program")
    parser.add_argument("--model-cache", type=Path, default=None)
    parser.add_argument("--batch-windows", type=int, default=96)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--per-second", type=float, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args(argv)
    with scratch(options.folder) as folder:
        (folder / "out").mkdir()
        if options.rows:
            fill(folder / "out" / "stems.db", options.rows)
        measure_calls()
        database = folder / "out" / "stems.db"
        seconds = write_at_pace(database, options.per_second) if options.per_second else run(folder, options)
        for name in CALLS:
            print(f"{name.strip('_'):11} {CALLS[name]:6} times, {SECONDS[name]:8.3f} s")
        total_s = sum(SECONDS.values())
        print(f"together    {total_s:.3f} of {seconds:.1f} s, {total_s / seconds:.2%}; {options.rows} rows before")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
